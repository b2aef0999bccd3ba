"""GGUF headers: metadata, and the place of each tensor's bytes, read without the tensors.

The format (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md): magic, version, two counts, the metadata as
typed key and value pairs, one description per tensor, and after padding the data, each tensor at a multiple of the
alignment. llama.cpp (ggml/src/gguf.cpp) accepts tensors only in the order of their bytes and without holes; so do we.

`gguf.GGUFReader` is not used: it makes numpy arrays of every entry of a vocabulary (hundreds of megabytes for 128,000
tokens) and believes what the file claims. Here a value that is not asked for stays in its stored bytes, so metadata is
carried over exactly.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from ...core.limits import MAX_GGUF_FIELDS, MAX_GGUF_HEADER, MAX_TENSORS
from ...core.tensors import ReadAt, TensorHeader
from ...errors import BrokenFileError
from .tensor_types import TENSOR_TYPES, TYPE_NAMES

MAGIC = b"GGUF"
DEFAULT_ALIGNMENT = 32
_MAX_ALIGNMENT = 2**20
_MAX_NAME = 64  # GGML_MAX_NAME, with the byte that ends it.
_MAX_DIMENSIONS = 4
_STRING, _ARRAY = 8, 9
# Type number -> format of `struct`, without strings and arrays.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_UINT32 = 4
_CHUNK = 2**18
_length = struct.Struct("<Q").unpack_from


@dataclass(frozen=True)
class Field:
    """One entry of the metadata; `data` is the stored value, without the number of its type."""

    key: str
    kind: int
    data: bytes


@dataclass(frozen=True)
class Described:
    """A tensor of a header that is written; `size` in bytes, `shape` with the slowest dimension first."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    size: int


@dataclass(frozen=True, eq=False)
class GgufHeader:
    """One file's header."""

    file: str
    """Name in messages, and path of the file."""
    size: int
    """Bytes of the file."""
    version: int
    alignment: int
    fields: tuple[Field, ...]
    tensors: tuple[TensorHeader, ...]
    """Tensors in the order of their bytes."""

    @cached_property
    def by_key(self) -> Mapping[str, Field]:
        """The metadata by key."""
        return {field.key: field for field in self.fields}

    def text(self, key: str) -> str:
        """A text of the metadata; empty if there is none, or something else."""
        field = self.by_key.get(key)
        return field.data[8:].decode("utf-8", "replace") if field is not None and field.kind == _STRING else ""

    def text_of(self, key: str, number: int) -> str:
        """One text of a list, counted from 0; empty if there is none, or something else."""
        field = self.by_key.get(key)
        if field is None or field.kind != _ARRAY or int.from_bytes(field.data[:4], "little") != _STRING:
            return ""
        if not 0 <= number < int.from_bytes(field.data[4:12], "little"):
            return ""
        position = 12
        for _ in range(number):
            position += 8 + int.from_bytes(field.data[position : position + 8], "little")
        end = position + 8 + int.from_bytes(field.data[position : position + 8], "little")
        return field.data[position + 8 : end].decode("utf-8", "replace")

    def special_token(self, name: str) -> str:
        """The text of the token ``bos``, ``eos`` or another one of the tokenizer; empty if there is none."""
        number = self.number(f"tokenizer.ggml.{name}_token_id")
        return self.text_of("tokenizer.ggml.tokens", number) if type(number) is int else ""

    def number(self, key: str) -> int | float | None:
        """A number or truth value of the metadata; None if there is none, or something else."""
        field = self.by_key.get(key)
        if field is None or field.kind not in _SCALARS:
            return None
        value: int | float = struct.unpack("<" + _SCALARS[field.kind], field.data)[0]
        return value

    def numbers(self, key: str) -> tuple[int, ...] | None:
        """A list of whole numbers of the metadata; None if there is none, or something else."""
        field = self.by_key.get(key)
        if field is None or field.kind != _ARRAY:
            return None
        form = _SCALARS.get(int.from_bytes(field.data[:4], "little"), "")
        if form not in ("B", "b", "H", "h", "I", "i", "Q", "q"):
            return None
        return struct.unpack(f"<{int.from_bytes(field.data[4:12], 'little')}{form}", field.data[12:])


def row_count(tensor: TensorHeader) -> int:
    """Number of rows: the elements of all dimensions but the last, which is a row."""
    return math.prod(tensor.shape[:-1])


def parse_gguf(file: str, size: int, read: ReadAt) -> GgufHeader:
    """Read and check the header of the GGUF file named `file`, which is `size` bytes long.

    Raises:
        BrokenFileError: truncated, not GGUF, a version or byte order that llama.cpp does not read, or a claim that
            contradicts the format or the size.
    """
    cursor = _Cursor(file, size, read)
    if size < 24:
        raise cursor.broken(f"{size} bytes are too few for a header")
    if cursor.take(4) != MAGIC:
        raise BrokenFileError(f"{file}: does not begin with {MAGIC.decode()}; it is not a GGUF file")
    version = cursor.scalar("I")
    if version & 0xFFFF == 0:
        raise BrokenFileError(f"{file}: is big-endian; convert it again for little-endian machines")
    if version not in (2, 3):
        raise BrokenFileError(f"{file}: is GGUF version {version}, and 2 and 3 are known; convert it again")
    tensor_count, field_count = cursor.scalar("Q"), cursor.scalar("Q")
    # Each entry takes some bytes: at least 13 in the metadata, 29 for a tensor.
    too_many = tensor_count > MAX_TENSORS or field_count > MAX_GGUF_FIELDS
    if too_many or 29 * tensor_count + 13 * field_count > min(size, MAX_GGUF_HEADER):
        raise cursor.broken(f"claims {tensor_count} tensors and {field_count} fields in {size} bytes")
    fields = tuple(_field(cursor) for _ in range(field_count))
    if len({field.key for field in fields}) != len(fields):
        raise cursor.broken("has a key of its metadata twice")
    alignment = _alignment(cursor, fields)
    entries = [_entry(cursor) for _ in range(tensor_count)]
    if len({entry.name for entry in entries}) != len(entries):
        raise cursor.broken("has a tensor's name twice")
    base = padded(cursor.position, alignment)
    tensors = tuple(_placed(cursor, entries, base, alignment))
    end = tensors[-1].end if tensors else cursor.position
    # The last tensor may lack its padding: llama.cpp's own tools write it, others do not.
    if not end <= size <= padded(end, alignment):
        raise cursor.broken(f"the header describes {end} bytes, the file has {size}")
    return GgufHeader(file, size, version, alignment, fields, tensors)


def serialize_gguf(version: int, alignment: int, fields: Sequence[Field], tensors: Sequence[Described]) -> bytes:
    """Write a header with its padding; `tensors` are in the order of their data."""
    header = _unpadded(version, alignment, fields, tensors)
    return header + bytes(-len(header) % alignment)


def unpadded_length(version: int, fields: Sequence[Field], tensors: Sequence[Described]) -> int:
    """Bytes of the header that `serialize_gguf` writes, without its padding."""
    return len(_unpadded(version, DEFAULT_ALIGNMENT, fields, tensors))


def padded(position: int, alignment: int) -> int:
    """The next multiple of `alignment`, or `position` itself."""
    return position + -position % alignment


def text_field(key: str, value: str) -> Field:
    """An entry that holds a text."""
    return Field(key, _STRING, _string(value))


def field_bytes(field: Field) -> bytes:
    """An entry as it is stored."""
    return _string(field.key) + struct.pack("<I", field.kind) + field.data


def field_size(field: Field) -> int:
    """Bytes of `field_bytes`; a vocabulary is not copied for it."""
    return 8 + len(field.key.encode()) + 4 + len(field.data)


def uint32_field(key: str, value: int) -> Field:
    """An entry that holds a 32-bit number."""
    return Field(key, _UINT32, value.to_bytes(4, "little"))


def split_field(key: str, value: int) -> Field:
    """An entry about a set of files, in llama.cpp's type: a count of tensors has 32 bits, another number 16."""
    form = "i" if key.endswith(".tensors.count") else "H"
    return Field(key, next(kind for kind, known in _SCALARS.items() if known == form), struct.pack("<" + form, value))


def number_field(key: str, value: int | Sequence[int], like: Field | None = None) -> Field:
    """An entry that holds a number or a list of numbers: in the type of `like`, else in 32 bits."""
    if isinstance(value, int):
        kind = _UINT32 if like is None else like.kind
        return Field(key, kind, struct.pack("<" + _SCALARS[kind], value))
    kind = _UINT32 if like is None else int.from_bytes(like.data[:4], "little")
    return Field(key, _ARRAY, struct.pack(f"<IQ{len(value)}{_SCALARS[kind]}", kind, len(value), *value))


class _Cursor:
    """Reads a header in order, a chunk at a time; refuses to go beyond the file or `MAX_GGUF_HEADER`."""

    def __init__(self, file: str, size: int, read: ReadAt) -> None:
        self.file, self.size, self.read = file, size, read
        self.data = b""
        self.position = 0

    def broken(self, what: str) -> BrokenFileError:
        return BrokenFileError(f"{self.file}: {what}; truncated, or not a GGUF model")

    def need(self, count: int) -> int:
        """Have the next `count` bytes in `data`; returns their offset."""
        start, end = self.position, self.position + count
        if end > self.size:
            raise self.broken(f"ends within its header, at byte {self.size}")
        if end > MAX_GGUF_HEADER:
            raise self.broken(f"has a header of more than {MAX_GGUF_HEADER} bytes")
        if end > len(self.data):
            wanted = min(max(end, 2 * len(self.data), _CHUNK), self.size, MAX_GGUF_HEADER)
            self.data += self.read(len(self.data), wanted - len(self.data))
            if end > len(self.data):
                raise self.broken("ends within its header")
        self.position = end
        return start

    def take(self, count: int) -> bytes:
        start = self.need(count)
        return self.data[start : start + count]

    def scalar(self, form: str) -> int:
        start = self.need(struct.calcsize("<" + form))
        value: int = struct.unpack_from("<" + form, self.data, start)[0]
        return value

    def skip_texts(self, count: int) -> None:
        """Skip `count` texts. A vocabulary has hundreds of thousands, so most of the time is spent in this loop."""
        data, position = self.data, self.position
        last = len(data) - 8
        for _ in range(count):
            if position > last:
                self.position = position
                self.need(8)
                data, last = self.data, len(self.data) - 8
            position += 8 + _length(data, position)[0]
        self.position = position
        self.need(0)

    def name(self, what: str) -> str:
        length = self.scalar("Q")
        if length > 65535:
            raise self.broken(f"has {what} of {length} bytes")
        try:
            text = self.take(length).decode()
        except UnicodeDecodeError:
            raise self.broken(f"has {what} that is no text") from None
        if not text:
            raise self.broken(f"has {what} without a name")
        return text


@dataclass(frozen=True)
class _Entry:
    """A tensor's description as stored: `dimensions` with the length of a row first, `offset` within the data."""

    name: str
    dimensions: tuple[int, ...]
    kind: int
    offset: int


def _field(cursor: _Cursor) -> Field:
    key = cursor.name("a key")
    kind = cursor.scalar("I")
    start = cursor.position
    if kind == _STRING:
        cursor.need(cursor.scalar("Q"))
    elif kind == _ARRAY:
        _skip_array(cursor, key)
    elif kind in _SCALARS:
        cursor.need(struct.calcsize("<" + _SCALARS[kind]))
    else:
        raise cursor.broken(f"{key[:80]!r} has the unknown type {kind}")
    return Field(key, kind, cursor.data[start : cursor.position])


def _skip_array(cursor: _Cursor, key: str) -> None:
    kind, count = cursor.scalar("I"), cursor.scalar("Q")
    if kind in _SCALARS:
        cursor.need(count * struct.calcsize("<" + _SCALARS[kind]))
    elif kind == _STRING:
        if 8 * count > cursor.size:
            raise cursor.broken(f"{key[:80]!r} claims {count} texts")
        cursor.skip_texts(count)
    else:
        raise cursor.broken(f"{key[:80]!r} is a list of the unknown type {kind}")


def _alignment(cursor: _Cursor, fields: Iterable[Field]) -> int:
    found = [field for field in fields if field.key == "general.alignment"]
    if not found:
        return DEFAULT_ALIGNMENT
    value = int.from_bytes(found[0].data, "little")
    if found[0].kind != _UINT32 or value & (value - 1) or not 0 < value <= _MAX_ALIGNMENT:
        raise cursor.broken("its general.alignment is not a power of two")
    return value


def _entry(cursor: _Cursor) -> _Entry:
    name = cursor.name("a tensor")
    count = cursor.scalar("I")
    if len(name.encode()) >= _MAX_NAME or not 0 < count <= _MAX_DIMENSIONS:
        raise cursor.broken(f"the tensor {name[:80]!r} has too long a name, or {count} dimensions")
    dimensions = tuple(cursor.scalar("Q") for _ in range(count))
    return _Entry(name, dimensions, cursor.scalar("I"), cursor.scalar("Q"))


def _placed(cursor: _Cursor, entries: Iterable[_Entry], base: int, alignment: int) -> Iterable[TensorHeader]:
    position = base
    for entry in entries:
        dtype = TYPE_NAMES.get(entry.kind)
        if dtype is None:
            raise BrokenFileError(
                f"{cursor.file}: the tensor {entry.name!r} is of type {entry.kind}, which this gguf package does not "
                "know; pip install -U gguf"
            )
        kind, dimensions = TENSOR_TYPES[dtype], entry.dimensions
        if math.prod(n or 1 for n in dimensions) >= 2**60 or 0 in dimensions or dimensions[0] % kind.block:
            raise cursor.broken(f"the tensor {entry.name!r} cannot be {dtype} of shape {list(dimensions)}")
        if base + entry.offset != position:
            raise cursor.broken(f"the data of {entry.name!r} overlaps another tensor, leaves a hole or is out of order")
        end = position + math.prod(dimensions) // kind.block * kind.block_bytes
        if end > cursor.size:
            raise cursor.broken(f"the data of {entry.name!r} lies beyond the end of the file")
        yield TensorHeader(entry.name, dtype, tuple(reversed(dimensions)), cursor.file, position, end)
        position = padded(end, alignment)


def _string(value: str) -> bytes:
    data = value.encode()
    return len(data).to_bytes(8, "little") + data


def _unpadded(version: int, alignment: int, fields: Sequence[Field], tensors: Sequence[Described]) -> bytes:
    out = [MAGIC, struct.pack("<IQQ", version, len(tensors), len(fields))]
    out += map(field_bytes, fields)
    offset = 0
    for tensor in tensors:
        dimensions, kind = tuple(reversed(tensor.shape)), TENSOR_TYPES[tensor.dtype].number
        out += [
            _string(tensor.name),
            struct.pack(f"<I{len(dimensions)}QIQ", len(dimensions), *dimensions, kind, offset),
        ]
        offset = padded(offset + tensor.size, alignment)
    return b"".join(out)
