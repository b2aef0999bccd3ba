"""Bringing a Hub repository's checkpoint into the Hub's cache: config first, weights only once it is accepted."""

from __future__ import annotations

import contextlib
import glob
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.constants import HF_HUB_OFFLINE
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.tqdm import disable_progress_bars

from .errors import EmobakeError, InputError
from .headers import parse_json_object
from .side_files import INDEX, REPLACED, SINGLE, is_carried
from .sources import read_small

ConfigCheck = Callable[[Mapping[str, Any]], object]


def download(repo_id: str, revision: str | None, check: ConfigCheck) -> tuple[Path, tuple[str, ...]]:
    """Fetch what a bake needs of `repo_id`; the snapshot's folder, and the names of all files on the Hub.

    `check` sees config.json before anything large is fetched, and may refuse by raising. Honours ``HF_TOKEN``,
    ``HF_HOME``, ``HF_ENDPOINT`` and ``HF_HUB_OFFLINE`` (then the cache must have it; the names are empty).

    Raises:
        InputError: no such repository, revision or access; not in the cache while offline.
        EmobakeError: the Hub or the network failed.
    """
    with _refusals(repo_id, revision, "has no config.json; it is not a transformers checkpoint"):
        return _download(repo_id, revision, check)


def download_file(repo_id: str, name: str, revision: str | None, *, kind: str) -> Path:
    """Fetch one file of `repo_id` into the Hub's cache; `kind` says what a repository without it is not.

    Raises:
        InputError, EmobakeError: as `download`.
    """
    with _refusals(repo_id, revision, f"has no {name}; it is not a {kind}"):
        return Path(hf_hub_download(repo_id, name, revision=revision))


def card_text(repo_id: str, revision: str | None) -> str:
    """The model card of `repo_id`; empty when it has none, or while offline it is not in the cache.

    Raises:
        InputError, EmobakeError: as `download`.
    """
    with _refusals(repo_id, revision, "has no model card"):
        try:
            card = Path(hf_hub_download(repo_id, "README.md", revision=revision))
        except EntryNotFoundError as error:
            if isinstance(error, LocalEntryNotFoundError) and not HF_HUB_OFFLINE:
                raise  # The network's fault, not the repository's.
            return ""
        return read_small(card, f"{repo_id}/README.md").decode("utf-8", "replace")


def quiet_library() -> None:
    """Off a terminal, no bars, nor a word on each attempt: our one line comes when the library has given up."""
    if not sys.stderr.isatty():
        disable_progress_bars()
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)


@contextlib.contextmanager
def _refusals(repo_id: str, revision: str | None, missing: str) -> Iterator[None]:
    """Turn what the library raises into one line; `missing` is said of a file that the repository does not have."""
    quiet_library()
    try:
        yield
    except HFValidationError:
        raise InputError(f"{repo_id}: neither a folder here nor a valid Hub id (owner/name)") from None
    except GatedRepoError:
        raise InputError(
            f"{repo_id}: is gated; ask for access at https://huggingface.co/{repo_id} and set HF_TOKEN"
        ) from None
    except RevisionNotFoundError:
        raise InputError(f"{repo_id}: has no revision {revision!r}") from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled):
        raise InputError(
            f"{repo_id}: no such folder, and the Hub cannot be reached nor is it in the cache; "
            "check the name, the connection and HF_HUB_OFFLINE"
        ) from None
    except RepositoryNotFoundError:
        raise InputError(f"{repo_id}: no such folder, nor such a model on the Hub (if private, set HF_TOKEN)") from None
    except EntryNotFoundError:
        raise InputError(f"{repo_id}: {missing}") from None
    except EmobakeError:
        raise
    except Exception as error:  # of the HTTP library, beside the Hub's own
        reason = " ".join(str(error).split())[:200]
        raise EmobakeError(f"{repo_id}: could not be fetched ({reason}); run again to go on where it stopped") from None


def _download(repo_id: str, revision: str | None, check: ConfigCheck) -> tuple[Path, tuple[str, ...]]:
    path = Path(hf_hub_download(repo_id, "config.json", revision=revision))
    check(parse_json_object(path.read_bytes(), f"{repo_id}/config.json"))
    # The cache names a snapshot's folder by its commit: from here on a moving branch no longer matters.
    commit = path.parent.name
    try:
        names = tuple(HfApi().list_repo_files(repo_id, revision=commit))
    except OfflineModeIsEnabled:
        return path.parent, ()
    except Exception:
        # The HTTP library's own errors, whichever it is. What is in the cache is as good as ever.
        if not any((path.parent / name).exists() for name in (SINGLE, INDEX)):
            raise
        return path.parent, ()
    wanted = [name for name in names if is_carried(name) or name.lower() in REPLACED]
    if SINGLE in names:
        wanted.append(SINGLE)
    elif INDEX in names:
        index = Path(hf_hub_download(repo_id, INDEX, revision=commit)).read_bytes()
        weight_map = parse_json_object(index, f"{repo_id}/{INDEX}").get("weight_map")
        shards = set(map(str, weight_map.values())) if isinstance(weight_map, dict) else set()
        wanted += sorted(shards & set(names))
    patterns = [glob.escape(name) for name in wanted]
    return Path(snapshot_download(repo_id, revision=commit, allow_patterns=patterns)), names
