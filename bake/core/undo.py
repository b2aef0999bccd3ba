"""The undo data of an output: how its base is made again, with the bytes of the base that the output does not hold.

A folder has it in ``emobake.undo``, a GGUF file as a text in its metadata. It is a line that names the format, and then
a JSON object and the kept bytes, packed by bzip2, whose bytes are the same on every system. It has no timestamp and no
local path.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import BrokenFileError, InputError
from .limits import MAX_ANY_EXPANSION, MAX_EXPANSION, MAX_FILES, MAX_GROUP, MAX_UNDO
from .names import is_inside, is_plain
from .plan import Piece, Span, Strip, Woven, piece_size
from .strict_json import parse_json_object

try:
    import bz2
except ImportError:  # A Python that was built without it.
    bz2 = None  # type: ignore[assignment]

UNDO_FILE = "emobake.undo"
"""The undo data of a folder."""
_FORMAT = b"emobake undo 1 "
_PACKED, _PLAIN = _FORMAT + b"bz2\n", _FORMAT + b"raw\n"
_MOST = 2**53
"""Largest number; a place in a file is far below."""


@dataclass(frozen=True)
class BaseFile:
    """A file of the base, of pieces of the output; of a GGUF file of parts of it, see `emobake.formats.gguf.undo`."""

    name: str
    pieces: tuple[Piece, ...]
    """Bytes, `Span` and `Woven`."""

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(map(piece_size, self.pieces))


@dataclass(frozen=True)
class Undo:
    """The files of a base, made of an output."""

    files: tuple[BaseFile, ...]
    sources: Mapping[str, int]
    """File or part of the output that pieces name -> its bytes."""
    left_out: tuple[str, ...] = ()
    """Files of the base that the output does not hold."""

    @classmethod
    def of(cls, files: Mapping[str, Sequence[Piece]], sizes: Mapping[str, int], left_out: Sequence[str] = ()) -> Undo:
        """The undo data of `files`, by name; `sizes` are the bytes of everything that the output has."""
        made = tuple(BaseFile(name, tuple(pieces)) for name, pieces in files.items())
        used = {piece.source for file in made for piece in file.pieces if isinstance(piece, Span | Woven)}
        return cls(made, {name: sizes[name] for name in sorted(used)}, tuple(left_out))

    def pack(self) -> bytes:
        """The undo data as they are stored."""
        numbers = {name: number for number, name in enumerate(self.sources)}
        kept: list[bytes] = []
        described = {
            "sources": [[name, size] for name, size in self.sources.items()],
            "files": [
                {"name": file.name, "size": file.size, "pieces": [_described(p, numbers, kept) for p in file.pieces]}
                for file in self.files
            ],
            **({"left_out": list(self.left_out)} if self.left_out else {}),
        }
        text = json.dumps(described, ensure_ascii=False, separators=(",", ":")).encode()
        payload = b"".join([len(text).to_bytes(8, "little"), text, *kept])
        return _PLAIN + payload if bz2 is None else _PACKED + bz2.compress(payload, 9)

    @classmethod
    def unpack(cls, data: bytes, name: str) -> Undo:
        """Read what `pack` has written; `name` is its name in messages.

        Raises:
            BrokenFileError: it is not, or it claims what cannot be. InputError: this Python cannot unpack it.
        """
        payload = _unpacked(data, name)
        length = int.from_bytes(payload[:8], "little")
        if len(payload) < 8 or length > len(payload) - 8:
            raise _broken(name)
        value = parse_json_object(payload[8 : 8 + length], name)
        try:
            return _parsed(value, memoryview(payload)[8 + length :])
        except (KeyError, TypeError, ValueError, IndexError):
            raise _broken(name) from None


def _described(piece: Piece, numbers: Mapping[str, int], kept: list[bytes]) -> Any:
    """A piece as JSON data; its new bytes are put behind those that are `kept`, and only counted here."""

    def keep(data: bytes) -> int:
        kept.append(data)
        return len(data)

    if isinstance(piece, bytes):
        return keep(piece)
    if isinstance(piece, Span):
        return [numbers[piece.source], piece.offset, piece.size]
    assert isinstance(piece, Woven)
    strips = [keep(s) if isinstance(s, bytes) else [s.offset, s.stride, s.size] for s in piece.strips]
    return [numbers[piece.source], piece.count, strips]


def _broken(name: str) -> BrokenFileError:
    return BrokenFileError(f"{name}: is not what a bake keeps of its base; it was changed, or is of a later version")


def _unpacked(data: bytes, name: str) -> bytes:
    if data.startswith(_PLAIN):
        return data[len(_PLAIN) :]
    if not data.startswith(_PACKED):
        raise _broken(name)
    if bz2 is None:
        raise InputError(f"{name}: is packed by bzip2, which this Python was built without; use another Python")
    most = min(MAX_UNDO, max(MAX_ANY_EXPANSION, MAX_EXPANSION * len(data)))
    unpacker = bz2.BZ2Decompressor()
    try:
        payload = unpacker.decompress(data[len(_PACKED) :], most + 1)
    except (OSError, ValueError):
        raise _broken(name) from None
    if len(payload) > most or not unpacker.eof or unpacker.unused_data:
        raise _broken(name)
    return payload


class _Stream:
    """The kept bytes, which pieces take in turn."""

    def __init__(self, data: memoryview) -> None:
        self.data, self.position = data, 0

    def take(self, size: Any) -> bytes:
        end = self.position + _whole(size)
        if end > len(self.data):
            raise ValueError
        found = bytes(self.data[self.position : end])
        self.position = end
        return found


def _parsed(value: Mapping[str, Any], kept: memoryview) -> Undo:
    sources = [(_name(name), _whole(size)) for name, size in _list(value["sources"])]
    stream = _Stream(kept)
    files = tuple(_file(entry, sources, stream) for entry in _list(value["files"]))
    left_out = tuple(_name(name) for name in _list(value.get("left_out", [])))
    names = {file.name for file in files}
    # A base has no byte twice, so it cannot be larger than what it is made of.
    most = sum(size for _, size in sources) + len(kept)
    if (
        stream.position != len(kept)
        or len(names) != len(files)
        or not 0 < len(files) <= MAX_FILES
        or len(dict(sources)) != len(sources)
        or sum(file.size for file in files) > most
    ):
        raise ValueError
    return Undo(files, dict(sources), left_out)


def _file(entry: Mapping[str, Any], sources: Sequence[tuple[str, int]], stream: _Stream) -> BaseFile:
    file = BaseFile(_name(entry["name"]), tuple(_pieces(_list(entry["pieces"]), sources, stream)))
    if not is_inside(file.name) or file.size != _whole(entry["size"]):
        raise ValueError
    return file


def _pieces(entries: Sequence[Any], sources: Sequence[tuple[str, int]], stream: _Stream) -> Iterator[Piece]:
    for entry in entries:
        if not isinstance(entry, list):
            yield stream.take(entry)
            continue
        number, second, third = entry
        name, size = sources[_whole(number)]
        if not isinstance(third, list):
            piece = Span(name, _whole(second), _whole(third))
            if piece.offset + piece.size > size:
                raise ValueError
            yield piece
        else:
            yield _woven(name, size, _whole(second), third, stream)


def _woven(name: str, size: int, count: int, entries: Sequence[Any], stream: _Stream) -> Woven:
    strips: list[Strip | bytes] = []
    for entry in entries:
        if not isinstance(entry, list):
            strips.append(stream.take(entry))
            continue
        offset, stride, width = map(_whole, entry)
        strips.append(Strip(offset, stride, width))
        if not 0 < width <= stride or offset + (count - 1) * stride + width > size:
            raise ValueError
    woven = Woven(name, count, tuple(strips))
    empty = not count or not woven.size or any(isinstance(s, bytes) and (not s or len(s) % count) for s in strips)
    if empty or woven.size // count > MAX_GROUP:
        raise ValueError
    return woven


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError
    return value


def _name(value: Any) -> str:
    if not isinstance(value, str) or not value or not is_plain(value):
        raise TypeError
    return value


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value < _MOST:
        raise ValueError
    return value
