"""Downloads into the Hub's cache: the config first, weights only once the config is accepted.

Honours ``HF_TOKEN``, ``HF_HOME``, ``HF_ENDPOINT`` and ``HF_HUB_OFFLINE`` (then the cache must have the files).
"""

from __future__ import annotations

import glob
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download, snapshot_download, try_to_load_from_cache
from huggingface_hub.constants import HF_HUB_OFFLINE
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, OfflineModeIsEnabled

from ...core.limits import MAX_SMALL, MAX_VECTORS
from ...core.names import is_inside
from ...core.side_files import INDEX, REPLACED, SINGLE, is_carried, single_file
from ...core.strict_json import parse_json_object
from ...errors import BrokenFileError, InputError
from ..files import advertised, check_content, read_small
from ..http import bounded, quiet_library
from .errors import fetching

_ADAPTER, _ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def download_config(repo_id: str, revision: str | None) -> Path:
    """Fetch config.json. Its folder is the snapshot of one commit, whose hash is the folder's name.

    Raises:
        InputError: no such repository, revision or access; no config.json; not in the cache while offline.
        HubError: the Hub or the network failed.
    """
    with fetching(repo_id, revision, "has no config.json; it is not a transformers checkpoint"):
        return _download_small(repo_id, "config.json", revision)


def download_checkpoint(repo_id: str, snapshot: Path) -> tuple[str, ...]:
    """Fetch what a bake needs besides the config into the folder `snapshot`; return all file names on the Hub.

    The names are empty while offline, and when the Hub does not answer but the cache has the weights.

    Raises:
        InputError, HubError: as `download_config`.
    """
    commit = snapshot.name
    with fetching(repo_id, commit, "a listed file is no longer there; run again"):
        try:
            with bounded(f"{repo_id}: its list of files", bytes=MAX_SMALL):
                names = tuple(HfApi().list_repo_files(repo_id, revision=commit))
        except OfflineModeIsEnabled:
            return ()
        except Exception:  # From the HTTP library, whichever it is. The cache is as good as ever.
            weights = (snapshot / INDEX).exists() or (snapshot / _ADAPTER_WEIGHTS).exists()
            if not weights and not single_file([path.name for path in snapshot.iterdir()]):
                raise
            return ()
        if outside := [name for name in names if not is_inside(name)]:
            raise BrokenFileError(f"{repo_id}: lists a file {outside[0][:120]!r}, which cannot be one of its own")
        needed = _needed(repo_id, commit, names)
        new = [name for name in needed if not (snapshot / name).exists()]
        # Its listing is asked for in this thread, its files in others, which have no budget.
        with bounded(f"{repo_id}: its list of files", bytes=MAX_SMALL):
            snapshot_download(repo_id, revision=commit, allow_patterns=[glob.escape(name) for name in needed])
        # Once, as they come: later bakes do not read the weights a second time. Small files are always checked.
        for name in new:
            check_content(snapshot / name, advertised(snapshot / name), f"{repo_id}/{name}")
    return names


def holds_adapter(repo_id: str, revision: str | None) -> bool:
    """True if a repository is an adapter's, and no whole model's; False if it cannot be looked at."""
    quiet_library()
    try:
        with bounded(f"{repo_id}: its list of files", bytes=MAX_SMALL):
            there = [HfApi().file_exists(repo_id, _ADAPTER, revision=revision)]
            there += [HfApi().file_exists(repo_id, name, revision=revision) for name in (SINGLE, INDEX) if there[0]]
            return there[0] and not any(there[1:])
    except OfflineModeIsEnabled:
        return isinstance(try_to_load_from_cache(repo_id, _ADAPTER, revision=revision), str)
    except Exception:  # From the HTTP library. Whoever opens the repository next says what is wrong.
        return False


def download_adapter(repo_id: str, revision: str | None) -> Path:
    """Fetch an adapter; returns the folder of its commit.

    Raises:
        InputError, HubError: as `download_config`.
    """
    with fetching(repo_id, revision, f"has no {_ADAPTER}; it is not an adapter"):
        snapshot = _download_small(repo_id, _ADAPTER, revision).parent
    listed = download_checkpoint(repo_id, snapshot)
    if "adapter_model.bin" in listed and _ADAPTER_WEIGHTS not in listed:
        raise InputError(f"{repo_id}/adapter_model.bin: is a pickle, which is never loaded; save it as safetensors")
    return snapshot


def download_file(repo_id: str, name: str, revision: str | None, *, kind: str) -> Path:
    """Fetch one file; `kind` is the noun for a repository that has the file.

    Raises:
        InputError, HubError: as `download_config`.
    """
    missing = f"has no {name}; it is not a {kind}"
    with fetching(repo_id, revision, missing), bounded(f"{repo_id}/{name}", bytes=MAX_VECTORS, seconds=3600):
        return _download(repo_id, name, revision)


def card_text(repo_id: str, revision: str | None) -> str:
    """Fetch a model card; empty if there is none, or if it is not in the cache while offline.

    Raises:
        InputError, HubError: as `download_config`.
    """
    with fetching(repo_id, revision, "has no model card"):
        try:
            card = _download_small(repo_id, "README.md", revision)
        except EntryNotFoundError as error:
            if isinstance(error, LocalEntryNotFoundError) and not HF_HUB_OFFLINE:
                raise  # The network failed; the repository may well have a card.
            return ""
        return read_small(card, f"{repo_id}/README.md").decode("utf-8", "replace")


def _download(repo_id: str, name: str, revision: str | None) -> Path:
    """Fetch a file, and compare it with the digest that the Hub gave."""
    path = Path(hf_hub_download(repo_id, name, revision=revision))
    check_content(path, advertised(path), f"{repo_id}/{name}")
    return path


def _download_small(repo_id: str, name: str, revision: str | None) -> Path:
    with bounded(f"{repo_id}/{name}", bytes=MAX_SMALL):
        return _download(repo_id, name, revision)


def _needed(repo_id: str, commit: str, names: tuple[str, ...]) -> list[str]:
    wanted = [name for name in names if is_carried(name) or name.lower() in REPLACED]
    if single := single_file(names):
        return [*wanted, single]
    if _ADAPTER in names and _ADAPTER_WEIGHTS in names:
        return [*wanted, _ADAPTER, _ADAPTER_WEIGHTS]
    if INDEX not in names:
        return wanted
    name = f"{repo_id}/{INDEX}"
    index = read_small(_download_small(repo_id, INDEX, commit), name)
    weight_map = parse_json_object(index, name).get("weight_map")
    shards = set(map(str, weight_map.values())) if isinstance(weight_map, dict) else set()
    return [*wanted, *sorted(shards & set(names))]
