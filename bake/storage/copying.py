"""Making one file: a whole file carried over by reflink, kernel-side copy or link; or a file of pieces."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from ..core.outputs import LinkMode
from ..core.plan import Fill, Moved, Piece, Rows, Span, Strip, UnitRows, WiderRows, Woven, new_size, sources_of
from ..core.progress import Advance, no_advance
from ..core.tensors import FLOATS, encode

_CHUNK = 64 * 2**20
_READ = 2**22
_PAGE = 4096
# The most that one call takes: on ext4, calls of 64 or 256 MB took half as long again.
_SPAN = 2**31 - _PAGE
_FICLONE = 0x40049409  # From linux/fs.h; the standard library has no name for it.
# Answers of a file system, an old kernel or a pair of file systems that cannot copy the quick way.
_CANNOT = (
    errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTTY, errno.EBADF, errno.ETXTBSY, errno.EPERM,
)  # fmt: skip


def carry(source: Path, target: Path, mode: LinkMode, advance: Advance = no_advance) -> None:
    """Make the new file `target` hold the bytes of `source`; links in `source` are followed.

    ``reflink`` shares blocks until one side changes; ``copy`` copies in the kernel; ``auto`` is reflink where the
    file system can, else copy. ``hardlink`` and ``symlink`` share the file itself: a later change of either changes
    both. ``link`` is reflink where the file system can, else hardlink.

    Raises:
        OSError: as the system raises it; ``EOPNOTSUPP`` for a reflink that the file system cannot make.
    """
    source = source.resolve()
    if mode == "symlink":
        target.symlink_to(source)
        return
    if mode == "hardlink":
        target.hardlink_to(source)
        return
    if mode in ("auto", "link", "reflink") and _reflink(source, target):
        advance(source.stat().st_size)
        return
    if mode == "link":
        target.hardlink_to(source)
        return
    if mode == "reflink":
        raise OSError(errno.EOPNOTSUPP, "this file system cannot reflink", str(target))
    _copy(source, target, advance)


def link_beside(target: Path, name: str, home: Path | None = None) -> None:
    """Make the new entry `target` a link to the file `name` beside it, or else a second name of that file.

    The file is beside `target` already, or in `home`, the folder in which `target` will be.

    Raises:
        OSError: as the system raises it; a copy is never made.
    """
    try:
        target.symlink_to(name)
    except OSError:  # A file system without symbolic links.
        beside = target.with_name(name)
        target.hardlink_to(beside if home is None or beside.exists() else home / name)


def overwrite(pieces: Sequence[Piece], target: Path) -> None:
    """Write the new bytes of `pieces` into the file `target`, which holds their other bytes already."""
    position = 0
    with target.open("r+b") as stream:
        for piece in pieces:
            if isinstance(piece, bytes):
                stream.seek(position)
                stream.write(piece)
            position += len(piece) if isinstance(piece, bytes) else piece.size


def write_pieces(
    pieces: Sequence[Piece], target: Path, locate: Callable[[str], Path], advance: Advance = no_advance
) -> None:
    """Make the new file `target` of `pieces`, in memory of a few megabytes; `locate` finds a source's path.

    Raises:
        OSError: as the system raises it; `errno.EIO` if a source ends too early.
    """
    with contextlib.ExitStack() as opened, target.open("xb", buffering=0) as writer:
        readers = {source: opened.enter_context(locate(source).open("rb")) for source in sorted(sources_of(pieces))}
        for piece in pieces:
            if isinstance(piece, bytes | Fill):
                for chunk in new_chunks(piece):
                    _write_all(writer, chunk)
            elif isinstance(piece, Span):
                _copy_span(readers[piece.source], writer, piece, advance)
            else:
                _copy_chunks(readers[piece.source], writer, piece, advance)


def new_chunks(piece: bytes | Fill) -> Iterator[bytes]:
    """New bytes, a few megabytes at a time."""
    if isinstance(piece, bytes):
        yield from (piece[start : start + _READ] for start in range(0, len(piece), _READ))
        return
    left = piece.size
    while left:
        chunk = piece.chunk(min(left, _READ))
        yield chunk
        left -= len(chunk)


def read_piece(reader: IO[bytes], piece: Moved) -> Iterator[bytes]:
    """Read a piece from its source, a few megabytes at a time.

    Raises:
        OSError: `errno.EIO` if the source ends too early.
    """
    if isinstance(piece, Woven):
        yield from _read_woven(reader, piece)
        return
    reader.seek(piece.offset)
    if isinstance(piece, WiderRows):
        yield from _read_wider(reader, piece)
        return
    group, row, total = (1, 1, piece.size)
    if isinstance(piece, Rows):
        group, row, total = piece.grouped, piece.row, piece.row * piece.count
    elif isinstance(piece, UnitRows):
        row = piece.row
    at_once = max(1, _READ // (group * row)) * group * row
    for start in range(0, total, at_once):
        data = _read_exactly(reader, min(at_once, total - start), piece)
        if isinstance(piece, Rows):
            data = np.frombuffer(data, np.uint8).reshape(-1, group, row)[:, list(piece.order)].tobytes()
        elif isinstance(piece, UnitRows):
            data = _normalized(data, piece)
        yield data


def tails_of(piece: WiderRows, start: int, stop: int) -> np.ndarray:
    """New ends of the rows ``[start, stop)``: bytes ``[rows, len(tail)]``."""
    own = np.frombuffer(piece.own, np.uint8).reshape(piece.count, -1)[start:stop]
    tails = np.tile(np.frombuffer(piece.tail, np.uint8), (stop - start, 1))
    tails[:, piece.place : piece.place + own.shape[1]] = own
    return tails


def reads_back(written: IO[bytes], piece: Piece) -> bool:
    """True if the new bytes of a piece are those of `written` from its position on."""
    if isinstance(piece, bytes | Fill):
        return all(written.read(len(chunk)) == chunk for chunk in new_chunks(piece))
    if isinstance(piece, Woven):
        return not piece.new or _reads_back_woven(written, piece)
    if not isinstance(piece, WiderRows):
        return True
    row = piece.kept + len(piece.tail)
    at_once = max(1, _READ // row)
    for start in range(0, piece.count, at_once):
        stop = min(piece.count, start + at_once)
        rows = np.frombuffer(written.read((stop - start) * row), np.uint8)
        if rows.size != (stop - start) * row:
            return False
        if not np.array_equal(rows.reshape(-1, row)[:, piece.kept :], tails_of(piece, start, stop)):
            return False
    return True


def _read_wider(reader: IO[bytes], piece: WiderRows) -> Iterator[bytes]:
    at_once = max(1, _READ // max(piece.row, piece.kept + len(piece.tail)))
    for start in range(0, piece.count, at_once):
        stop = min(piece.count, start + at_once)
        data = _read_exactly(reader, (stop - start) * piece.row, piece)
        rows = np.frombuffer(data, np.uint8).reshape(-1, piece.row)[:, : piece.kept]
        yield np.hstack([rows, tails_of(piece, start, stop)]).tobytes()


def _read_woven(reader: IO[bytes], piece: Woven) -> Iterator[bytes]:
    windows = _windows(piece)
    at_once = max(1, _READ // max([piece.size // piece.count, *(window.stride for window in windows)]))
    for start in range(0, piece.count, at_once):
        stop = min(piece.count, start + at_once)
        blocks = [_window(reader, piece, window, start, stop) for window in windows]
        parts = []
        for strip in piece.strips:
            if isinstance(strip, bytes):
                parts.append(_new_parts(piece, strip)[start:stop])
                continue
            # Each strip lies in one of the windows.
            number = next(n for n, window in enumerate(windows) if _holds(window, strip))
            first = strip.offset - windows[number].offset
            parts.append(blocks[number][:, first : first + strip.size])
        yield np.hstack(parts).tobytes()


def _windows(piece: Woven) -> list[Strip]:
    """Strips of the source that hold those of a piece: neighbours are read at once, not each by itself."""
    windows: list[Strip] = []
    strips = [strip for strip in piece.strips if isinstance(strip, Strip)]
    for strip in sorted(strips, key=lambda strip: (strip.stride, strip.offset)):
        last = windows[-1] if windows else None
        end = strip.offset + strip.size
        if last is not None and last.stride == strip.stride and end <= last.offset + last.stride:
            windows[-1] = Strip(last.offset, last.stride, max(last.size, end - last.offset))
        else:
            windows.append(strip)
    return windows


def _holds(window: Strip, strip: Strip) -> bool:
    end = strip.offset + strip.size
    return window.stride == strip.stride and window.offset <= strip.offset and end <= window.offset + window.size


def _window(reader: IO[bytes], piece: Woven, window: Strip, start: int, stop: int) -> np.ndarray:
    """Bytes of a window in the groups ``[start, stop)``: ``[groups, window.size]``."""
    count, stride = stop - start, window.stride
    reader.seek(window.offset + start * stride)
    if count == 1:
        return np.frombuffer(_read_exactly(reader, window.size, piece), np.uint8).reshape(1, -1)
    data = np.zeros(count * stride, np.uint8)
    whole = (count - 1) * stride + window.size
    data[:whole] = np.frombuffer(_read_exactly(reader, whole, piece), np.uint8)
    return data.reshape(count, stride)[:, : window.size]


def _new_parts(piece: Woven, strip: bytes) -> np.ndarray:
    """New bytes of each group: ``[groups, bytes]``."""
    return np.frombuffer(strip, np.uint8).reshape(piece.count, -1)


def _reads_back_woven(written: IO[bytes], piece: Woven) -> bool:
    group = piece.size // piece.count
    at_once = max(1, _READ // group)
    for start in range(0, piece.count, at_once):
        stop, place = min(piece.count, start + at_once), 0
        rows = np.frombuffer(written.read((stop - start) * group), np.uint8)
        if rows.size != (stop - start) * group:
            return False
        for strip in piece.strips:
            size = strip.size if isinstance(strip, Strip) else len(strip) // piece.count
            found = rows.reshape(-1, group)[:, place : place + size]
            if isinstance(strip, bytes) and not np.array_equal(found, _new_parts(piece, strip)[start:stop]):
                return False
            place += size
    return True


def _normalized(data: bytes, piece: UnitRows) -> bytes:
    """Rows divided by their norms; a row of zeros stays one."""
    kind = FLOATS[piece.dtype]
    rows = np.frombuffer(data, kind).reshape(-1, piece.row // kind.itemsize).astype(np.float32)
    norms = np.linalg.norm(rows, axis=1, keepdims=True).astype(kind).astype(np.float32)
    return encode(rows / np.maximum(norms, np.float32(1e-12)), piece.dtype)


def _read_exactly(reader: IO[bytes], size: int, piece: Moved) -> bytes:
    data = reader.read(size)
    if len(data) != size:
        raise _too_short(piece)
    return data


def _write_all(writer: IO[bytes], data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[writer.write(view) :]


def _too_short(piece: Moved) -> OSError:
    return OSError(errno.EIO, "it became shorter while it was copied; run again", piece.source)


def _copy_span(reader: IO[bytes], writer: IO[bytes], span: Span, advance: Advance) -> None:
    """Copy in the kernel where it can: quickest where both files have the data at the same place of a page."""
    position, end = span.offset, span.offset + span.size
    if hasattr(os, "copy_file_range"):
        try:
            while position < end:
                # First up to the end of a page: from there on, a file system that shares pages can share them.
                wanted = min(-position % _PAGE or _SPAN, end - position)
                count = os.copy_file_range(reader.fileno(), writer.fileno(), wanted, offset_src=position)
                if not count:
                    raise _too_short(span)
                position += count
                advance(count)
        except OSError as error:
            if error.errno not in _CANNOT or position != span.offset:
                raise
    if position < end:
        _copy_chunks(reader, writer, span, advance)


def _copy_chunks(reader: IO[bytes], writer: IO[bytes], piece: Moved, advance: Advance) -> None:
    carried = piece.size - new_size(piece)
    for chunk in read_piece(reader, piece):
        _write_all(writer, chunk)
        advance(len(chunk) * carried // piece.size)


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


def _copy(source: Path, target: Path, advance: Advance) -> None:
    with source.open("rb") as reader, target.open("xb") as writer:
        if hasattr(os, "copy_file_range"):
            try:
                while count := os.copy_file_range(reader.fileno(), writer.fileno(), _CHUNK):
                    advance(count)
            except OSError as error:
                if error.errno not in _CANNOT or os.lseek(writer.fileno(), 0, os.SEEK_CUR) != 0:
                    raise
            else:
                return
        shutil.copyfileobj(reader, writer, _READ)
        advance(writer.tell())
