"""A commit on the Hub, read without downloading its weights: names, digests, small files, and ranges of the large."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download, hf_hub_url
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status  # type: ignore[attr-defined]

from ..._version import __version__
from ...core.tensors import ReadAt
from ...errors import BrokenFileError, EmobakeError
from .errors import retrying

_AHEAD = 16 * 2**10
"""Bytes that are asked for at a file's beginning. The header of a shard of a large model takes a few thousand."""
_HEADER = 8
"""Where a safetensors file's header begins."""
_MAX_HEADER = 25_000_000
"""Bytes. The limit that huggingface_hub sets as well; several headers are in memory at a time."""
_WHOLE = 64 * 2**20
"""Bytes up to which a file is fetched whole once anything beyond its header is wanted."""


@dataclass(frozen=True)
class RemoteFile:
    """One file of a commit on the Hub."""

    path: str
    size: int
    """In bytes."""
    blob: str
    """The id that git gives to what is stored in the repository: the content, or the pointer to it."""
    sha256: str = ""
    """Digest of the content, for what is kept as a large file; empty for what git itself holds."""


@dataclass(frozen=True, eq=False)
class Snapshot:
    """One commit of a model repository on the Hub."""

    repo_id: str
    commit: str
    files: Mapping[str, RemoteFile]
    private: bool = False
    gated: bool = False


def api() -> HfApi:
    """The library's client, which says who is asking. Honours ``HF_TOKEN`` and ``HF_ENDPOINT``."""
    return HfApi(library_name="emobake", library_version=__version__)


def take_snapshot(repo_id: str, revision: str | None) -> Snapshot:
    """What the repository holds at `revision` (a branch, tag or commit; None is ``main``), by two or more requests.

    Raises what the library raises, and `BrokenFileError` for a name that leads out of the repository.
    """
    hub = api()
    info = hub.model_info(repo_id, revision=revision)
    # From here on a moving branch no longer matters.
    commit = str(info.sha)
    tree = hub.list_repo_tree(repo_id, revision=commit, recursive=True)
    files = {entry.path: _remote(entry) for entry in tree if isinstance(entry, RepoFile)}
    for path in files:
        if any(part in ("", ".", "..") for part in path.split("/")) or "\\" in path:
            raise BrokenFileError(f"{repo_id}: lists a file {path[:120]!r}, which cannot be one of its own")
    return Snapshot(repo_id, commit, files, bool(info.private), bool(info.gated))


def _remote(entry: RepoFile) -> RemoteFile:
    return RemoteFile(entry.path, entry.size, entry.blob_id, entry.lfs.sha256 if entry.lfs else "")


def fetch(snapshot: Snapshot, path: str) -> Path:
    """The file at `path` of the commit, in the Hub's cache, fetched if need be. Raises what the library raises."""
    return Path(retrying()(hf_hub_download, snapshot.repo_id, path, revision=snapshot.commit))


def fetch_all(snapshot: Snapshot) -> Path:
    """The folder in the Hub's cache with every file of the commit. Raises what the library raises."""
    places = [fetch(snapshot, path) for path in snapshot.files if not path.startswith(".git")]
    return next(place for place in places if place.name == "emobake.json").parent


def _ranges(snapshot: Snapshot, path: str) -> ReadAt:
    """What reads any bytes of a file on the Hub.

    The library's `parse_safetensors_file_metadata` is not used: it keeps neither the length of the header, without
    which no tensor can be found in the file, nor the name that stands twice, takes in the whole file where a server
    ignores the range, and tries once.
    """
    url = hf_hub_url(snapshot.repo_id, path, revision=snapshot.commit)
    name, size = f"{snapshot.repo_id}/{path}", snapshot.files[path].size
    ahead = b""

    def read(offset: int, length: int) -> bytes:
        nonlocal ahead
        end = min(offset + length, size)
        if offset >= end:
            return b""
        if end <= _AHEAD:
            ahead = ahead or _range(url, name, 0, min(_AHEAD, size))
            return ahead[offset:end]
        if offset == _HEADER and length > _MAX_HEADER:
            raise BrokenFileError(f"{name}: claims a header of {length} bytes, too many to be fetched; bake with --out")
        if offset == _HEADER or size > _WHOLE:
            return _range(url, name, offset, end)
        with fetch(snapshot, path).open("rb") as file:
            file.seek(offset)
            return file.read(end - offset)

    return read


class _CutError(Exception):
    """A range came shorter than it was asked for."""


def _range(url: str, name: str, start: int, end: int) -> bytes:
    # Compressed, a length would say nothing.
    headers = build_hf_headers(library_name="emobake", library_version=__version__) | {
        "Range": f"bytes={start}-{end - 1}",
        "Accept-Encoding": "identity",
    }
    content = bytearray()
    try:
        for attempt in retrying(also=lambda error: isinstance(error, _CutError)):
            with attempt, get_session().stream("GET", url, headers=headers, follow_redirects=True) as response:
                if response.status_code not in (200, 206):
                    response.read()
                    hf_raise_for_status(response)
                if response.status_code == 200 and start:
                    raise EmobakeError(f"{name}: the Hub's storage does not serve parts of files; bake with --out")
                content.clear()
                for chunk in response.iter_raw():
                    content += chunk
                    if len(content) >= end - start:
                        break  # A server that ignores the range would send all of it.
                if len(content) < end - start:
                    raise _CutError
    except _CutError:
        raise EmobakeError(f"{name}: the connection ends before the bytes asked for; run again") from None
    return bytes(content[: end - start])
