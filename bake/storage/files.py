"""Reading files, whole or in part, with every failure as an error of ours."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from ..core.limits import MAX_SMALL
from ..core.strict_json import parse_json_object
from ..core.tensors import ReadAt, WeightFile
from ..errors import BrokenFileError, InputError, OutputError

_CHUNK = 2**22


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Turn the system's error for an impossible path (a link to itself, a name too long) into an `InputError`."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror})") from None
    except RuntimeError as error:
        if "loop" not in str(error):  # The wording of pathlib before Python 3.13.
            raise
        raise InputError(f"{error}; remove the link") from None


@dataclass(frozen=True, eq=False)
class Files:
    """The files of a checkpoint, in a folder or in a commit on the Hub."""

    name: str
    """Name of the place in messages."""
    sizes: Mapping[str, int]
    """Path with ``/`` -> bytes. A folder that is skipped whole ends in ``/``."""
    small: Callable[[str], bytes]
    """Reads a small file whole; raises `InputError` if it cannot."""
    read_at: Callable[[str], ReadAt]
    """Opens a file for reading any of its bytes."""
    weight: Callable[[str], WeightFile]
    """Describes a weight file, with its digest where it is known."""
    digest: Callable[[str], str]
    """Computes the sha256 of a small file."""
    repo_id: str = ""
    revision: str = ""
    """Commit, if the files come from the Hub."""

    def json(self, name: str) -> dict[str, Any] | None:
        """Read the JSON object in the small file `name`; None if there is no such file."""
        return parse_json_object(self.small(name), f"{self.name}/{name}") if name in self.sizes else None

    def jsons(self, names: Iterable[str]) -> dict[str, Mapping[str, Any]]:
        """Read the JSON objects in those of the small files `names` that there are."""
        return {name: found for name in names if (found := self.json(name)) is not None}


@dataclass(frozen=True)
class Sources:
    """The folders from which planned files are made: that of the base, and those of others by their names."""

    folder: Path
    others: Mapping[str, Path] = field(default_factory=dict)
    """First part of a source's name -> folder to which the rest is relative."""

    def locate(self, source: str) -> Path:
        """Path of the file `source`."""
        first, _, rest = source.partition("/")
        return self.others[first] / rest if rest and first in self.others else self.folder / source


@dataclass(frozen=True)
class Stamps:
    """Device, inode, bytes and time of change of files, by which a later look finds that one has changed."""

    found: Mapping[Path, tuple[int, int, int, int]] = field(default_factory=dict)

    @classmethod
    def of(cls, paths: Iterable[Path]) -> Stamps:
        """Look at files; links are followed.

        Raises:
            InputError: one cannot be looked at.
        """
        with reading():
            return cls({path: _stamp(path) for path in paths})

    def __or__(self, other: Stamps) -> Stamps:
        """Both; a file in both has the stamp of `other`."""
        return Stamps({**self.found, **other.found})

    def check(self, outcome: str = "nothing was kept") -> None:
        """Look again; `outcome` tells what became of the run.

        Raises:
            OutputError: a file was changed, replaced or removed.
        """
        for path, stamp in self.found.items():
            try:
                same = _stamp(path) == stamp
            except OSError:
                same = False
            if not same:
                raise OutputError(f"{path}: changed while it was used; {outcome}. Run again once it is at rest")


UNSTAMPED = Stamps()
"""No files."""


def _stamp(path: Path) -> tuple[int, int, int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def open_file(path: Path) -> BinaryIO:
    """Open a file for reading. A pipe, socket or device is never waited for.

    Raises:
        InputError: `path` is something else than a file. OSError: as the system raises it.
    """

    def opener(name: str, flags: int) -> int:
        descriptor = os.open(name, flags | getattr(os, "O_NONBLOCK", 0))
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise InputError(f"{path}: is not a file (a folder, pipe or device); give a file")
        return descriptor

    return open(path, "rb", opener=opener)  # Path.open takes no opener.


def leads_out(path: Path, folder: Path) -> bool:
    """True if `path`, in `folder`, is a link to a place outside of it.

    Whoever made the folder can name any file of this machine by a link, and an output is published. The Hub's cache
    keeps its files in ``blobs``, beside the folders of the commits, which have links to them.
    """
    if not path.is_symlink():
        return False
    target, homes = path.resolve(), [folder.resolve()]
    if repository := _cached_repository(homes[0]):
        # Since version 2 of huggingface_hub, a blob may be a link into a store of all repositories. These folders must
        # be real ones: a folder that was made to look like a cache could have links in their place.
        homes += [repository / "blobs", repository.parent / "blobs"]
    return not any(home in target.parents for home in homes)


def advertised(path: Path) -> str:
    """Digest by which the Hub named the content of `path`, a file of a commit in its cache; empty for other files.

    64 digits are a sha256, 40 are git's id. Nobody has compared it with the content: `check_content` does.
    """
    folder = next((parent for parent in path.absolute().parents if _cached_repository(parent)), None)
    if folder is None or not path.is_symlink():
        return ""
    # The first link alone: a store of all repositories has other names.
    blob = path.parent / path.readlink()
    is_blob = blob.parent.resolve() == (folder.parents[1] / "blobs").resolve()
    return blob.name if is_blob and re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", blob.name) else ""


def check_content(path: Path, digest: str, name: str) -> None:
    """Compare a file with its `digest` on the Hub: a sha256 or git's id, or empty if there is none.

    Raises:
        BrokenFileError: the content is another one. InputError: the file cannot be read.
    """
    if digest and digest != (sha256_of(path) if len(digest) == 64 else _git_id_of(path)):
        raise BrokenFileError(
            f"{name}: its bytes are not those that the Hub lists (digest {digest[:12]}...); remove {path.resolve()} "
            "and run again, to fetch it once more"
        )


def _cached_repository(folder: Path) -> Path | None:
    """The repository's folder in the Hub's cache if `folder` is that of one of its commits; else None."""
    cached = folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--")
    return folder.parent.parent if cached else None


def read_small(path: Path, name: str | None = None, *, most: int = MAX_SMALL) -> bytes:
    """Read a whole file of at most `most` bytes; `name` is its name in messages, by default `path`.

    Raises:
        InputError: missing, unreadable, too large, or changing meanwhile.
    """
    name = name or str(path)
    try:
        with open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > most:
                raise BrokenFileError(f"{name}: {size} bytes are too many for this kind of file")
            content = file.read(size + 1)  # Not more: memory is taken for all that is asked for.
        if len(content) != size:
            raise InputError(f"{name}: changes while it is read; run again once it is at rest")
        return content
    except FileNotFoundError:
        raise InputError(f"{name}: not found") from None
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror})") from None


def read_json(path: Path) -> dict[str, Any]:
    """Read a small file that holds a JSON object.

    Raises:
        InputError: as `read_small`; BrokenFileError: not a JSON object.
    """
    return parse_json_object(read_small(path), str(path))


def read_at(path: Path) -> ReadAt:
    """Open the file `path` for reading any of its bytes; reading raises `InputError` when the system refuses."""

    def read(offset: int, length: int) -> bytes:
        try:
            with open_file(path) as file:
                file.seek(offset)
                return file.read(length)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from None

    return read


def sha256_of(path: Path) -> str:
    """Digest of a file, read in pieces.

    Raises:
        InputError: the file cannot be read.
    """
    return _digest_of(path, lambda size: hashlib.sha256())


def _git_id_of(path: Path) -> str:
    return _digest_of(path, lambda size: hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False))


def _digest_of(path: Path, start: Callable[[int], hashlib._Hash]) -> str:
    try:
        with open_file(path) as file:
            digest = start(os.fstat(file.fileno()).st_size)
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    return digest.hexdigest()


def git_blob_id(content: bytes) -> str:
    """Git's id for a file of this content, by which the Hub and GitHub name small files."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def cached_id(folder: Path) -> tuple[str, str]:
    """Hub id and commit of a snapshot folder in the Hub's cache; empty for any other folder."""
    match = re.search(r"/models--([\w.-]+)/snapshots/([0-9a-f]{40})$", folder.absolute().as_posix())
    return (match[1].replace("--", "/", 1), match[2]) if match else ("", "")
