"""Reading files, whole or in part, with every failure as an error of ours."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.strict_json import parse_json_object
from ..core.tensors import ReadAt
from ..errors import BrokenFileError, InputError

MAX_SMALL = 256 * 2**20
"""Bytes. No known config, index or vector file comes near it; a larger one is refused unread."""
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
    sha256: Callable[[str], str]
    """Digest of a weight file; empty if unknown without reading the whole file."""
    digest: Callable[[str], str]
    """Computes the sha256 of a small file."""
    repo_id: str = ""
    revision: str = ""
    """Commit, if the files come from the Hub."""

    def json(self, name: str) -> dict[str, Any] | None:
        """Read the JSON object in the small file `name`; None if there is no such file."""
        return parse_json_object(self.small(name), f"{self.name}/{name}") if name in self.sizes else None


def read_small(path: Path, name: str | None = None) -> bytes:
    """Read a whole file of at most `MAX_SMALL` bytes; `name` is its name in messages, by default `path`.

    Raises:
        InputError: missing, unreadable or too large.
    """
    name = name or str(path)
    try:
        size = path.stat().st_size
        if size > MAX_SMALL:
            raise BrokenFileError(f"{name}: {size} bytes are too many for this kind of file")
        return path.read_bytes()
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
            with path.open("rb") as file:
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
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
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
    match = re.search(r"/models--([^/]+)/snapshots/([0-9a-f]{40})$", folder.absolute().as_posix())
    return (match[1].replace("--", "/", 1), match[2]) if match else ("", "")
