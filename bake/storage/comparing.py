"""Comparing the files of an output with planned ones, in memory of a few megabytes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from ..core.plan import Fill, Piece, PlannedFile
from ..core.side_files import is_housekeeping
from ..errors import InputError
from .copying import new_chunks, read_piece
from .files import Sources, read_small, sha256_of

_MAX_FILES = 20_000


@dataclass(frozen=True)
class Comparison:
    """A file beside the planned one."""

    same: bool | None
    """None if only fetching it could tell."""
    offset: int | None = None
    """The first byte that differs, if known."""


class OutputFiles(Protocol):
    """The files of an output, in a folder or in a commit on the Hub."""

    @property
    def means(self) -> str:
        """The way in which files are compared, for messages; empty for a comparison of all bytes."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """Path with ``/`` -> bytes. A folder without files, or behind a link, ends in ``/``."""

    def read(self, name: str) -> bytes:
        """Read a small file whole."""

    def digest(self, name: str) -> str:
        """sha256 of a small file."""

    def weight_digest(self, name: str) -> str:
        """sha256 of a weight file; empty if unknown without reading it."""

    def compare(self, file: PlannedFile) -> Comparison:
        """Compare the file of the planned one's name with it."""


@dataclass(frozen=True, eq=False)
class FolderFiles:
    """Files in a folder, and the folders that their bytes are compared with."""

    folder: Path
    base: Sources | None = None
    names: tuple[str, ...] | None = None
    """The files that belong to the output; None: all in the folder and below it."""
    means: str = ""

    @cached_property
    def sizes(self) -> Mapping[str, int]:
        """Path with ``/`` -> bytes."""
        if self.names is not None:
            return {name: (self.folder / name).stat().st_size for name in self.names}
        return _sizes(self.folder)

    def read(self, name: str) -> bytes:
        """Read a small file whole; InputError for a pipe and the like."""
        path = self.folder / name
        if not path.is_file():
            raise InputError(f"{path}: is not a file")
        return read_small(path)

    def digest(self, name: str) -> str:
        """sha256 of a small file; empty for a link that leads nowhere, a pipe and the like."""
        path = self.folder / name
        return sha256_of(path) if path.is_file() else ""

    def weight_digest(self, name: str) -> str:
        """Empty: a weight file is not read for its digest alone."""
        return ""

    def compare(self, file: PlannedFile) -> Comparison:
        """Compare byte by byte. A file that is the base's own, by a link, is not read."""
        try:
            return self._compare(file)
        except OSError as error:
            raise InputError(
                f"{error.filename or self.folder / file.name}: cannot be read ({error.strerror})"
            ) from None

    def _compare(self, file: PlannedFile) -> Comparison:
        path = self.folder / file.name
        if not path.is_file():
            return Comparison(False)
        assert self.base is not None or file.action == "write"  # The caller has looked.
        if file.action == "carry" and path.samefile(self._locate(file.source)):
            return Comparison(True)
        position = 0
        with path.open("rb") as reader:
            for wanted in (chunk for piece in file.pieces for chunk in self._chunks(piece)):
                found = reader.read(len(wanted))
                if found != wanted:
                    return Comparison(False, position + _first_difference(found, wanted))
                position += len(wanted)
            return Comparison(False, position) if reader.read(1) else Comparison(True)

    def _chunks(self, piece: Piece) -> Iterator[bytes]:
        """The bytes of a piece."""
        if isinstance(piece, bytes | Fill):
            yield from new_chunks(piece)
            return
        with self._locate(piece.source).open("rb") as source:
            yield from read_piece(source, piece)

    def _locate(self, source: str) -> Path:
        return (self.base or Sources(self.folder)).locate(source)


def _first_difference(found: bytes, wanted: bytes) -> int:
    """Index of the first byte that differs; the shorter length if one begins with the other."""
    pairs = enumerate(zip(found, wanted, strict=False))
    return next((index for index, (ours, theirs) in pairs if ours != theirs), min(len(found), len(wanted)))


def _sizes(folder: Path) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for root, folders, names in os.walk(folder, followlinks=False):
        place = Path(root).relative_to(folder)
        folders[:] = sorted(name for name in folders if not is_housekeeping(f"{(place / name).as_posix()}/"))
        paths = {(place / name).as_posix(): Path(root, name) for name in sorted(names)}
        # A broken link counts as a file, which the plan does not have.
        sizes |= {
            name: path.lstat().st_size if not path.is_file() else path.stat().st_size for name, path in paths.items()
        }
        sizes |= {f"{(place / name).as_posix()}/": 0 for name in folders if Path(root, name).is_symlink()}
        if not folders and not names and root != str(folder):
            sizes[f"{place.as_posix()}/"] = 0
        if len(sizes) > _MAX_FILES:
            raise InputError(f"{folder}: holds more than {_MAX_FILES} files; this is not an output of emobake")
    return {name: size for name, size in sizes.items() if not is_housekeeping(name)}
