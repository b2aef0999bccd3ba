"""Fetching published sets and queries into the cache, at a pinned commit and checked by their git ids."""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import replace
from importlib import resources
from pathlib import Path
from urllib.parse import quote

from ..core.limits import MAX_SMALL
from ..errors import BrokenFileError, EmobakeError, HubError, InputError, OutputError, VectorError
from ..storage.files import git_blob_id, read_small
from .formats.published import parse_published
from .registry import PublishedFile, RegisteredSet, registry
from .write import write_set


def cache_folder() -> Path:
    """The folder of fetched sets: ``$EMOBAKE_CACHE``, else ``emobake`` in the user's cache folder."""
    if given := os.environ.get("EMOBAKE_CACHE"):
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "emobake"


def is_cached(entry: RegisteredSet) -> bool:
    """True if `pull` need not fetch anything."""
    return bool(entry.shipped) or _cached(entry).is_file()


def pull(entry: RegisteredSet) -> Path:
    """Return the set's file in our single-file form: shipped, in the cache, or fetched into it.

    Raises:
        InputError: neither in the cache nor to be fetched, because ``HF_HUB_OFFLINE`` is set.
        BrokenFileError, VectorError: the content is not what was published.
        HubError: the network failed. OutputError: the cache cannot be written.
    """
    if entry.shipped:
        return Path(str(resources.files("emobake.vectors_data") / entry.shipped))
    path = _cached(entry)
    if path.is_file():
        return path
    files = ((emotion, file.path.rpartition("/")[2], _fetch(file)) for emotion, file in entry.files.items())
    found = parse_published(files, entry.name)
    if (found.layers, found.hidden) != (entry.layers, entry.hidden_size):
        raise VectorError(f"{entry.name}: has {found.layers} layers x {found.hidden}, not as the registry says")
    found = replace(found, base_model=entry.base_model, source=entry.source, license=entry.license)
    _make(path.parent)
    write_set(found, path, overwrite=True)
    return path


def pull_queries(name: str) -> bytes:
    """Return the published query set `name`, from the cache or fetched into it.

    Raises:
        InputError, BrokenFileError, HubError, OutputError: as `pull`.
    """
    entry = next(entry for entry in registry().queries if entry.name == name)
    path = cache_folder() / f"{entry.name}-{entry.file.blob[:8]}.json"
    if path.is_file():
        return read_small(path)
    content = _fetch(entry.file)
    _make(path.parent)
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(content)
        Path(file.name).replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror})") from None
    return content


def _cached(entry: RegisteredSet) -> Path:
    # The name depends on the content, so that another version of the registry does not use the file.
    state = hashlib.sha256(repr(sorted((e, f.blob) for e, f in entry.files.items())).encode()).hexdigest()
    return cache_folder() / f"{entry.name}-{state[:8]}.safetensors"


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made ({error.strerror}); set EMOBAKE_CACHE to another folder") from None


def _fetch(file: PublishedFile) -> bytes:
    from huggingface_hub.constants import HF_HUB_OFFLINE

    from ..storage.http import bounded, http_stream_backoff, quiet_library, reason

    quiet_library()
    name = f"{file.repository}/{file.path}"
    if HF_HUB_OFFLINE:
        raise InputError(f"{name}: is not in the cache ({cache_folder()}), and HF_HUB_OFFLINE is set")
    endpoint = os.environ.get("EMOBAKE_RAW_ENDPOINT") or "https://raw.githubusercontent.com"
    url = f"{endpoint.rstrip('/')}/{file.repository}/{file.commit}/{quote(file.path)}"
    content = bytearray()
    try:
        # Without the Hub's token: this is another host.
        with bounded(name), http_stream_backoff("GET", url, timeout=30, max_retries=3) as response:
            response.raise_for_status()
            for chunk in response.iter_bytes():
                content += chunk
                if len(content) > MAX_SMALL:
                    raise BrokenFileError(f"{name}: is larger than {MAX_SMALL} bytes; it is not what was published")
    except EmobakeError:
        raise
    except Exception as error:  # From the HTTP library.
        raise HubError(f"{name}: could not be fetched from {endpoint} ({reason(error)}); try again later") from None
    if git_blob_id(bytes(content)) != file.blob:
        raise BrokenFileError(f"{name}: what {endpoint} sent is not the file that was published (its git id differs)")
    return bytes(content)
