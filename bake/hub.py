"""Bringing a Hub repository's checkpoint into the Hub's cache: config first, weights only once it is accepted."""

from __future__ import annotations

import glob
import logging
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, hf_hub_download, snapshot_download
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

ConfigCheck = Callable[[Mapping[str, Any]], object]


def download(repo_id: str, revision: str | None, check: ConfigCheck) -> tuple[Path, tuple[str, ...]]:
    """Fetch what a bake needs of `repo_id`; the snapshot's folder, and the names of all files on the Hub.

    `check` sees config.json before anything large is fetched, and may refuse by raising. Honours ``HF_TOKEN``,
    ``HF_HOME``, ``HF_ENDPOINT`` and ``HF_HUB_OFFLINE`` (then the cache must have it; the names are empty).

    Raises:
        InputError: no such repository, revision or access; not in the cache while offline.
        EmobakeError: the Hub or the network failed.
    """
    if not sys.stderr.isatty():
        disable_progress_bars()
        # What it says of each attempt; our one line comes when it has given up.
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        return _download(repo_id, revision, check)
    except HFValidationError:
        raise InputError(f"{repo_id}: neither a folder here nor a valid model id (owner/name)") from None
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
        raise InputError(f"{repo_id}: has no config.json; it is not a transformers checkpoint") from None
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
