"""The inverse of a plan: the pieces of an output of which the files of its base are made again.

Every byte of the base that the output holds is taken from there, wherever a route has put it; the others are kept. So
the inverse needs to know no route.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .plan import Fill, Piece, Rows, Span, Strip, UnitRows, WiderRows, Woven, piece_size

Read = Callable[[str, int, int], bytes]
"""``read(file, offset, size)`` returns bytes of a file of the base."""
_READ = 2**22
"""Bytes of rows that are compared at once."""


class IrreversibleError(Exception):
    """The base cannot be made again of the output; the message is a clause that says why."""


@dataclass(frozen=True)
class _Run:
    """Bytes of the base that an output has in one run: `size` from `start` on, at `offset` of `source`."""

    start: int
    size: int
    source: str
    offset: int


@dataclass(frozen=True)
class _Region:
    """Bytes of the base that an output has in parts: from `start` on, `count` groups of `group` bytes."""

    start: int
    group: int
    count: int

    @property
    def size(self) -> int:
        return self.group * self.count


@dataclass(frozen=True)
class _Part:
    """Bytes ``[start, start + size)`` of each group of a region, in the output at `strip` of `source`."""

    start: int
    source: str
    strip: Strip

    @property
    def end(self) -> int:
        return self.start + self.strip.size

    def after(self, place: int) -> _Part:
        """Bytes of the part from `place` of a group on."""
        cut = max(0, place - self.start)
        strip = replace(self.strip, offset=self.strip.offset + cut, size=self.strip.size - cut)
        return replace(self, start=self.start + cut, strip=strip)


def invert(
    outputs: Iterable[tuple[str, Sequence[Piece]]], sizes: Mapping[str, int], read: Read, most: int
) -> dict[str, tuple[Piece, ...]]:
    """Find the pieces of outputs of which the files of their base are made again.

    Args:
        outputs: name of each output, and the pieces of the base that it is made of.
        sizes: file of the base -> bytes, for those that are to be made again.
        read: reads what no output has.
        most: bytes that may be kept for want of an output that has them.

    Returns:
        File of the base -> `Span` and `Woven` pieces of the outputs, and bytes.

    Raises:
        IrreversibleError: a value was rounded, or more than `most` bytes are in no output.
    """
    runs: dict[str, list[_Run]] = {}
    regions: dict[str, dict[_Region, list[_Part]]] = {}
    for name, pieces in outputs:
        position = 0
        for piece in pieces:
            if not piece_size(piece):
                continue
            if isinstance(piece, Span):
                runs.setdefault(piece.source, []).append(_Run(piece.offset, piece.size, name, position))
            elif isinstance(piece, Rows | WiderRows):
                found = _rows(piece, name, position) if isinstance(piece, Rows) else _wider(piece, name, position, read)
                region, parts = found
                regions.setdefault(piece.source, {}).setdefault(region, []).extend(parts)
            elif isinstance(piece, UnitRows):
                raise IrreversibleError("rows of a matrix were divided by their norms, which rounds them")
            else:
                assert isinstance(piece, bytes | Fill)  # No planner weaves.
            position += piece_size(piece)
    kept = _Kept(read, most)
    return {
        file: tuple(_made(file, size, runs.get(file, []), regions.get(file, {}), kept)) for file, size in sizes.items()
    }


def _rows(piece: Rows, name: str, position: int) -> tuple[_Region, list[_Part]]:
    """The region of `Rows`, and its parts in an output."""
    row, out = piece.row, piece.row * len(piece.order)
    parts: list[_Part] = []
    for place, number in enumerate(piece.order):
        last = parts[-1] if parts else None
        if last is not None and last.end == number * row:
            parts[-1] = replace(last, strip=replace(last.strip, size=last.strip.size + row))
        else:
            parts.append(_Part(number * row, name, Strip(position + place * row, out, row)))
    return _Region(piece.offset, row * piece.grouped, piece.count // piece.grouped), parts


def _wider(piece: WiderRows, name: str, position: int, read: Read) -> tuple[_Region, list[_Part]]:
    """The region of `WiderRows`, and its parts in an output."""
    kept = _Part(0, name, Strip(position, piece.kept + len(piece.tail), piece.kept))
    return _Region(piece.offset, piece.row, piece.count), [kept, *_unchanged(piece, name, position, read)]


def _unchanged(piece: WiderRows, name: str, position: int, read: Read) -> Iterator[_Part]:
    """Further parts of rows whose end was replaced: all but their own bytes, if that is what they had before.

    So it is where an earlier bake has made the column.
    """
    tail, own = piece.tail, len(piece.own) // piece.count
    if piece.kept == piece.row or piece.kept + len(tail) != piece.row:
        return
    at_once = max(1, _READ // piece.row)
    wanted = np.frombuffer(tail, np.uint8)
    others = np.ones(len(tail), bool)
    others[piece.place : piece.place + own] = False
    for start in range(0, piece.count, at_once):
        count = min(at_once, piece.count - start)
        data = read(piece.source, piece.offset + start * piece.row, count * piece.row)
        rows = np.frombuffer(data, np.uint8)
        if rows.size != count * piece.row:
            raise IrreversibleError(f"{piece.source} ends too early")
        if not (rows.reshape(count, piece.row)[:, piece.kept :] == wanted)[:, others].all():
            return
    for start, end in ((piece.kept, piece.kept + piece.place), (piece.kept + piece.place + own, piece.row)):
        if end > start:
            yield _Part(start, name, Strip(position + start, piece.row, end - start))


@dataclass
class _Kept:
    """Reads the bytes that no output has."""

    read: Read
    left: int

    def take(self, file: str, start: int, size: int) -> bytes:
        """Read `size` bytes from `start` on."""
        self.left -= size
        if self.left < 0:
            raise IrreversibleError(f"more of {file} is not in the output than can be kept beside it")
        data = self.read(file, start, size)
        if len(data) != size:
            raise IrreversibleError(f"{file} ends too early")
        return data


def _made(
    file: str, size: int, runs: Sequence[_Run], regions: Mapping[_Region, Sequence[_Part]], kept: _Kept
) -> Iterator[Piece]:
    """Yield the pieces of one file; neighbours are joined."""
    last: Piece = b""
    for piece in _pieces(file, size, runs, regions, kept):
        if isinstance(last, bytes) and isinstance(piece, bytes):
            last += piece
        elif (
            isinstance(last, Span)
            and isinstance(piece, Span)
            and (last.source, last.offset + last.size) == (piece.source, piece.offset)
        ):
            last = replace(last, size=last.size + piece.size)
        else:
            if piece_size(last):
                yield last
            last = piece
    if piece_size(last):
        yield last


def _pieces(
    file: str, size: int, runs: Sequence[_Run], regions: Mapping[_Region, Sequence[_Part]], kept: _Kept
) -> Iterator[Piece]:
    position = 0
    places: list[_Run | _Region] = [*runs, *regions]
    # Of those that begin together, the one that reaches furthest; what it covers is skipped.
    for found in sorted(places, key=lambda one: (one.start, -one.size)):
        end = found.start + found.size
        # A part of a region cannot be taken: it is kept like what no output has.
        if end <= position or (isinstance(found, _Region) and found.start < position):
            continue
        if found.start > position:
            yield kept.take(file, position, found.start - position)
            position = found.start
        if isinstance(found, _Run):
            yield Span(found.source, found.offset + position - found.start, end - position)
        else:
            yield from _woven(file, found, regions[found], kept)
        position = end
    if position < size:
        yield kept.take(file, position, size - position)


def _woven(file: str, region: _Region, parts: Sequence[_Part], kept: _Kept) -> Iterator[Piece]:
    """Yield the pieces of a region."""
    strips: list[Strip | bytes] = []
    place, source = 0, parts[0].source
    for part in sorted(parts, key=lambda part: (part.start, -part.strip.size)):
        # Parts of two files cannot be woven.
        if part.end <= place or part.source != source:
            continue
        if part.start > place:
            strips.append(_gap(file, region, place, part.start, kept))
        strips.append(part.after(place).strip)
        place = part.end
    if place < region.group:
        strips.append(_gap(file, region, place, region.group, kept))
    first = strips[0]
    if len(strips) == 1 and isinstance(first, Strip) and region.group in (first.stride, region.size):
        yield Span(source, first.offset, region.size)
    else:
        yield Woven(source, region.count, tuple(strips))


def _gap(file: str, region: _Region, start: int, end: int, kept: _Kept) -> bytes:
    """The bytes ``[start, end)`` of every group."""
    kept.left -= (end - start) * region.count
    if kept.left < 0:
        raise IrreversibleError(f"more of {file} is not in the output than can be kept beside it")
    at_once, found = max(1, _READ // region.group), []
    for first in range(0, region.count, at_once):
        count = min(at_once, region.count - first)
        data = kept.read(file, region.start + first * region.group, count * region.group)
        if len(data) != count * region.group:
            raise IrreversibleError(f"{file} ends too early")
        found.append(np.frombuffer(data, np.uint8).reshape(count, -1)[:, start:end].tobytes())
    return b"".join(found)
