"""A commit on the Hub, read without downloading its weights: names, digests, small files, ranges of large files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from huggingface_hub import CommitOperationCopy, HfApi, hf_hub_download, hf_hub_url
from huggingface_hub import __version__ as _library
from huggingface_hub.hf_api import RepoFile

from ..._version import __version__
from ...core.limits import MAX_FILES, MAX_SMALL
from ...core.names import is_inside
from ...core.tensors import ReadAt
from ...errors import BrokenFileError, HubError
from ..files import check_content, git_blob_id
from ..http import bounded, build_hf_headers, get, reason, retrying

COPIES = "src_repo_id" in {field.name for field in fields(CommitOperationCopy)}
"""True if huggingface_hub can have files copied from one repository to another, as it can since 1.17."""
_AHEAD = 16 * 2**10
"""Bytes of the first request to a file. The header of a shard of a large model takes a few thousand."""
_HEADER = 8
"""Offset of a safetensors file's header."""
_MAX_HEADER = 25_000_000
"""Bytes. The limit of huggingface_hub as well; several headers are in memory at a time."""
_WHOLE = 64 * 2**20
"""Bytes up to which a file is fetched whole once anything beyond its header is needed."""


@dataclass(frozen=True)
class RemoteFile:
    """One file of a commit on the Hub."""

    path: str
    size: int
    """Bytes."""
    blob: str
    """Git's id of the stored content, which for a large file is a pointer."""
    sha256: str = ""
    """Digest of a large file's content; empty for files that git itself stores."""

    @property
    def digest(self) -> str:
        """Digest of the content, as `emobake.storage.files.check_content` takes it."""
        return self.sha256 or self.blob


@dataclass(frozen=True, eq=False)
class Snapshot:
    """One commit of a model repository on the Hub."""

    repo_id: str
    commit: str
    files: Mapping[str, RemoteFile]
    private: bool = False
    gated: bool = False


def api() -> HfApi:
    """The library's client, with our name as user agent. Honours ``HF_TOKEN`` and ``HF_ENDPOINT``."""
    return HfApi(library_name="emobake", library_version=__version__)


def take_snapshot(repo_id: str, revision: str | None) -> Snapshot:
    """List a repository at `revision` (a branch, tag or commit; None is ``main``), by two or more requests.

    Raises the library's errors, and `BrokenFileError` for a file name that leads out of the repository.
    """
    with bounded(f"{repo_id}: its list of files", bytes=MAX_SMALL):
        return _take_snapshot(api(), repo_id, revision)


def _take_snapshot(hub: HfApi, repo_id: str, revision: str | None) -> Snapshot:
    info = hub.model_info(repo_id, revision=revision)
    # From here on the commit is fixed, even if the branch moves.
    commit = str(info.sha)
    files: dict[str, RemoteFile] = {}
    for number, entry in enumerate(hub.list_repo_tree(repo_id, revision=commit, recursive=True)):
        if number > 2 * MAX_FILES or len(files) > MAX_FILES:
            raise BrokenFileError(f"{repo_id}: lists more than {MAX_FILES} files; it is not a model's repository")
        if isinstance(entry, RepoFile):
            files[entry.path] = _remote(entry)
    for path in files:
        if not is_inside(path):
            raise BrokenFileError(f"{repo_id}: lists a file {path[:120]!r}, which cannot be one of its own")
    return Snapshot(repo_id, commit, files, bool(info.private), bool(info.gated))


def find_snapshot(repo_id: str, revision: str) -> tuple[Snapshot | None, str]:
    """The commit `revision` of a base, or None; and the reason why its files cannot be copied, or nothing.

    Empty arguments give None without a request.
    """
    if not repo_id or not revision:
        return None, ""
    try:
        return retrying()(take_snapshot, repo_id, revision), no_copies(repo_id)
    except Exception as error:  # From the HTTP library. A broken network shows again in the caller's own requests.
        return None, f"{repo_id}: its commit {revision[:12]} cannot be read ({reason(error)})"


def no_copies(repo_id: str) -> str:
    """The reason why this huggingface_hub cannot have files of `repo_id` copied; empty if it can."""
    return "" if COPIES else f"{repo_id}: huggingface_hub {_library} cannot have its files copied (1.17 or later can)"


def fetch(snapshot: Snapshot, path: str) -> Path:
    """Fetch one file of the commit into the Hub's cache, and compare it with its listed digest.

    Raises the library's errors, and `BrokenFileError` for other bytes.
    """
    place = Path(retrying()(hf_hub_download, snapshot.repo_id, path, revision=snapshot.commit))
    check_content(place, snapshot.files[path].digest, f"{snapshot.repo_id}/{path}")
    return place


def fetch_small(snapshot: Snapshot, path: str) -> Path:
    """Fetch a small file of the commit, as `fetch`.

    Raises:
        BrokenFileError: the commit lists it with too many bytes. HubError: the server sends more than that.
    """
    name, size = f"{snapshot.repo_id}/{path}", snapshot.files[path].size
    if size > MAX_SMALL:
        raise BrokenFileError(f"{name}: {size} bytes are too many for this kind of file")
    with bounded(name, bytes=MAX_SMALL):
        return fetch(snapshot, path)


def fetch_all(snapshot: Snapshot) -> Path:
    """Fetch every file of the commit into the Hub's cache; returns the folder. Raises the library's errors."""
    places = {path: fetch(snapshot, path) for path in snapshot.files if not path.startswith(".git")}
    return next(place for path, place in places.items() if "/" not in path).parent


def open_ranges(snapshot: Snapshot, path: str) -> ReadAt:
    """Open a file of the commit for reading any of its bytes, by range requests.

    `parse_safetensors_file_metadata` of the library is not used: it drops the header's length, without which no tensor
    can be found in the file, accepts repeated names, reads the whole file where a server ignores the range, and tries
    only once.
    """
    url = hf_hub_url(snapshot.repo_id, path, revision=snapshot.commit)
    name, size = f"{snapshot.repo_id}/{path}", snapshot.files[path].size
    ahead, whole = b"", None

    def read(offset: int, length: int) -> bytes:
        nonlocal ahead, whole
        end = min(offset + length, size)
        if offset >= end:
            return b""
        if end <= _AHEAD:
            if not ahead:
                ahead = _range(url, name, 0, min(_AHEAD, size))
                if len(ahead) == size:
                    _check_bytes(ahead, snapshot.files[path].digest, name)
            return ahead[offset:end]
        if offset == _HEADER and length > _MAX_HEADER:
            raise BrokenFileError(f"{name}: claims a header of {length} bytes, too many to be fetched; bake with `out`")
        if offset == _HEADER or size > _WHOLE:
            return _range(url, name, offset, end)
        whole = whole or fetch(snapshot, path)
        with whole.open("rb") as file:
            file.seek(offset)
            return file.read(end - offset)

    return read


def _check_bytes(content: bytes, digest: str, name: str) -> None:
    found = hashlib.sha256(content).hexdigest() if len(digest) == 64 else git_blob_id(content)
    if digest and found != digest:
        raise BrokenFileError(
            f"{name}: its bytes are not those that the Hub lists (digest {digest[:12]}...); run again"
        )


def _remote(entry: RepoFile) -> RemoteFile:
    return RemoteFile(entry.path, entry.size, entry.blob_id, entry.lfs.sha256 if entry.lfs else "")


class _CutError(Exception):
    """A range came shorter than requested."""


def _range(url: str, name: str, start: int, end: int) -> bytes:
    headers = build_hf_headers(library_name="emobake", library_version=__version__)
    headers["Range"] = f"bytes={start}-{end - 1}"
    content = bytearray()
    try:
        with bounded(name):
            _collect(content, url, name, headers, start, end)
    except _CutError:
        raise HubError(f"{name}: the connection ended too early; run again") from None
    return bytes(content[: end - start])


def _collect(content: bytearray, url: str, name: str, headers: dict[str, str], start: int, end: int) -> None:
    for attempt in retrying(also=lambda error: isinstance(error, _CutError)):
        with attempt, get(url, headers) as (status, chunks):
            if status == 200 and start:
                raise HubError(f"{name}: the Hub's storage does not serve parts of files; bake with `out`")
            content.clear()
            for chunk in chunks:
                content += chunk
                if len(content) >= end - start:
                    break  # A server that ignores the range would send the whole file.
            if len(content) < end - start:
                raise _CutError
