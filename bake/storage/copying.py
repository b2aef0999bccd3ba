"""Carrying one file over: reflink, kernel-side copy, hardlink or symlink; editing the copy; putting one together."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Literal

import numpy as np

from ..core.plan import Assemble, Edit, Rows, Span

LinkMode = Literal["auto", "reflink", "copy", "hardlink", "symlink"]
LINK_MODES: tuple[LinkMode, ...] = ("auto", "reflink", "copy", "hardlink", "symlink")

_CHUNK = 64 * 2**20
_PAGE = 4096
# As much as one call takes: on ext4, calls for 64 or 256 MB at a time took half as long again.
_SPAN = 2**31 - _PAGE
_FICLONE = 0x40049409  # linux/fs.h; the standard library has no name for it
# What a file system, an old kernel or a pair of file systems answers that cannot do the quick way.
_CANNOT = (
    errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTTY, errno.EBADF, errno.ETXTBSY, errno.EPERM,
)  # fmt: skip

Progress = Callable[[int], None]
"""Called with the number of bytes done since the last call."""


def carry(source: Path, target: Path, mode: LinkMode, progress: Progress) -> None:
    """Make `target`, which does not exist, hold the bytes of `source`, whose links are followed.

    ``auto`` is reflink where the file system can, else a kernel-side copy.

    Raises:
        OSError: as the system says it; ``EOPNOTSUPP`` for a reflink that the file system cannot make.

    """
    source = source.resolve()
    if mode == "symlink":
        target.symlink_to(source)
        return
    if mode == "hardlink":
        target.hardlink_to(source)
        return
    if mode in ("auto", "reflink") and _reflink(source, target):
        progress(source.stat().st_size)
        return
    if mode == "reflink":
        raise OSError(errno.EOPNOTSUPP, "this file system cannot reflink", str(target))
    _copy(source, target, progress)


def apply(edits: Iterable[Edit], target: Path) -> None:
    """Overwrite the file `target` in the places that the edits name."""
    with target.open("r+b") as stream:
        for edit in edits:
            stream.seek(edit.offset)
            stream.write(edit.data)


def assemble(file: Assemble, target: Path, progress: Progress) -> None:
    """Make `target`, which does not exist, of the parts of `file`, in memory of a few megabytes.

    Raises:
        OSError: as the system says it; `errno.EIO` when a source ends too early.

    """
    with contextlib.ExitStack() as opened, target.open("xb", buffering=0) as writer:
        readers = {
            part.source: opened.enter_context(open(part.source, "rb"))  # noqa: PTH123
            for part in file.parts
            if not isinstance(part, bytes)
        }
        for part in file.parts:
            if isinstance(part, bytes):
                _write_all(writer, part)
            elif isinstance(part, Span):
                _copy_span(readers[part.source], writer, part, progress)
            else:
                _copy_pieces(readers[part.source], writer, part, progress)


def _write_all(writer: IO[bytes], data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[writer.write(view) :]


def _too_short(part: Span | Rows) -> OSError:
    return OSError(errno.EIO, "it became shorter while it was copied; run again", part.source)


def _copy_span(reader: IO[bytes], writer: IO[bytes], part: Span, progress: Progress) -> None:
    """In the kernel where it can: quickest where both files have the data at the same place of a page."""
    position, end = part.offset, part.offset + part.size
    if hasattr(os, "copy_file_range"):
        try:
            while position < end:
                # A page's end first: from there on, a file system that shares pages can.
                wanted = min(-position % _PAGE or _SPAN, end - position)
                count = os.copy_file_range(reader.fileno(), writer.fileno(), wanted, offset_src=position)
                if not count:
                    raise _too_short(part)
                position += count
                progress(count)
        except OSError as error:
            if error.errno not in _CANNOT or position != part.offset:
                raise
    if position < end:
        _copy_pieces(reader, writer, part, progress)


def _copy_pieces(reader: IO[bytes], writer: IO[bytes], part: Span | Rows, progress: Progress) -> None:
    for piece in read_part(reader, part):
        _write_all(writer, piece)
        progress(len(piece))


def read_part(reader: IO[bytes], part: Span | Rows) -> Iterator[bytes]:
    """The bytes of a part, a few megabytes at a time.

    Raises:
        OSError: `errno.EIO` when the source, which `reader` reads, ends too early.

    """
    group, row = (len(part.order), part.row) if isinstance(part, Rows) else (1, 1)
    at_once = max(1, 2**22 // (group * row)) * group * row
    reader.seek(part.offset)
    for start in range(0, part.size, at_once):
        data = reader.read(min(at_once, part.size - start))
        if len(data) != min(at_once, part.size - start):
            raise _too_short(part)
        if isinstance(part, Rows):
            data = np.frombuffer(data, np.uint8).reshape(-1, group, row)[:, list(part.order)].tobytes()
        yield data


def _reflink(source: Path, target: Path) -> bool:
    try:
        import fcntl
    except ImportError:
        return False
    with source.open("rb") as reader, target.open("xb") as writer:
        try:
            fcntl.ioctl(writer.fileno(), _FICLONE, reader.fileno())
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
        else:
            return True
    target.unlink()
    return False


def _copy(source: Path, target: Path, progress: Progress) -> None:
    with source.open("rb") as reader, target.open("xb") as writer:
        if hasattr(os, "copy_file_range"):
            try:
                while count := os.copy_file_range(reader.fileno(), writer.fileno(), _CHUNK):
                    progress(count)
            except OSError as error:
                if error.errno not in _CANNOT or os.lseek(writer.fileno(), 0, os.SEEK_CUR) != 0:
                    raise
            else:
                return
        shutil.copyfileobj(reader, writer, 2**22)
        progress(writer.tell())
