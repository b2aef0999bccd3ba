"""Opening the checkpoint that a bake reads, and small files.

A checkpoint is read from `Files`, which a folder is here and a commit on the Hub in `emobake.hub_files`.
"""

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

MAX_JSON = 256 * 2**20
"""Bytes. No config, index or vector file known comes near it; a larger one is refused unread."""


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Turn what the system says of an impossible path (a link to itself, a name too long) into an `InputError`."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror})") from None
    except RuntimeError as error:
        if "loop" not in str(error):  # pathlib's word before Python 3.13
            raise
        raise InputError(f"{error}; remove the link") from None


def read_small(path: Path, name: str) -> bytes:
    """A whole file that has no business being large.

    Raises:
        InputError: it is not there, may not be read, or is larger than `MAX_JSON`.

    """
    try:
        size = path.stat().st_size
        if size > MAX_JSON:
            raise BrokenFileError(f"{name}: {size} bytes are too many for this kind of file")
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{name}: not found") from None
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror})") from None


@dataclass(frozen=True, eq=False)
class Files:
    """The files of a checkpoint, in a folder or in a commit on the Hub."""

    name: str
    """How messages call the place."""
    sizes: Mapping[str, int]
    """Path with ``/`` -> bytes. A folder that is skipped whole ends in ``/``."""
    small: Callable[[str], bytes]
    """The content of a small file; raises `InputError` when it cannot be read."""
    read_at: Callable[[str], ReadAt]
    """What reads any bytes of a file."""
    sha256: Callable[[str], str]
    """Digest of a weight file; empty when it is not known without reading the whole file."""
    repo_id: str = ""
    revision: str = ""
    """Commit hash, where the files come from the Hub."""

    def json(self, name: str) -> dict[str, Any] | None:
        """The JSON object in the small file `name`; None when there is no such file."""
        return parse_json_object(self.small(name), f"{self.name}/{name}") if name in self.sizes else None


def sha256_of(path: Path) -> str:
    """Digest of a file, read in pieces."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(2**22):
                digest.update(chunk)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    return digest.hexdigest()


def git_blob_id(content: bytes) -> str:
    """Git's name for a file of this content, by which the Hub and GitHub know small files."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def read_at(path: Path) -> ReadAt:
    """What reads any bytes of the file `path`; an `InputError` when the system will not."""

    def read(offset: int, length: int) -> bytes:
        try:
            with path.open("rb") as file:
                file.seek(offset)
                return file.read(length)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from None

    return read


def cached_id(folder: Path) -> tuple[str, str]:
    """The Hub id and commit that a folder of the Hub's cache stands for; empty for any other folder."""
    match = re.search(r"/models--([^/]+)/snapshots/([0-9a-f]{40})$", folder.absolute().as_posix())
    return (match[1].replace("--", "/", 1), match[2]) if match else ("", "")
