"""Bringing a Hub repository's checkpoint into the Hub's cache: config first, weights only once it is accepted."""

from __future__ import annotations

import glob
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.constants import HF_HUB_OFFLINE
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, OfflineModeIsEnabled

from ...core.side_files import INDEX, REPLACED, SINGLE, is_carried
from ...core.strict_json import parse_json_object
from ..files import read_small
from .errors import fetching

ConfigCheck = Callable[[Mapping[str, Any]], object]


def download(repo_id: str, revision: str | None, check: ConfigCheck) -> tuple[Path, tuple[str, ...]]:
    """Fetch what a bake needs of `repo_id`; the snapshot's folder, and the names of all files on the Hub.

    `check` sees config.json before anything large is fetched, and may refuse by raising. Honours ``HF_TOKEN``,
    ``HF_HOME``, ``HF_ENDPOINT`` and ``HF_HUB_OFFLINE`` (then the cache must have it; the names are empty).

    Raises:
        InputError: no such repository, revision or access; not in the cache while offline.
        EmobakeError: the Hub or the network failed.
    """
    with fetching(repo_id, revision, "has no config.json; it is not a transformers checkpoint"):
        return _download(repo_id, revision, check)


def download_file(repo_id: str, name: str, revision: str | None, *, kind: str) -> Path:
    """Fetch one file of `repo_id` into the Hub's cache; `kind` says what a repository without it is not.

    Raises:
        InputError, EmobakeError: as `download`.
    """
    with fetching(repo_id, revision, f"has no {name}; it is not a {kind}"):
        return Path(hf_hub_download(repo_id, name, revision=revision))


def card_text(repo_id: str, revision: str | None) -> str:
    """The model card of `repo_id`; empty when it has none, or while offline it is not in the cache.

    Raises:
        InputError, EmobakeError: as `download`.
    """
    with fetching(repo_id, revision, "has no model card"):
        try:
            card = Path(hf_hub_download(repo_id, "README.md", revision=revision))
        except EntryNotFoundError as error:
            if isinstance(error, LocalEntryNotFoundError) and not HF_HUB_OFFLINE:
                raise  # The network's fault, not the repository's.
            return ""
        return read_small(card, f"{repo_id}/README.md").decode("utf-8", "replace")


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
