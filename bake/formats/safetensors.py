"""Safetensors files: reading a header without the tensors, and laying out a new file.

The format (https://github.com/huggingface/safetensors#format): eight bytes, little endian, give the length of a JSON
object from tensor name to ``{dtype, shape, data_offsets}``; the rest is the data, without holes or overlaps. Every
claim of a header is checked against the file's size before it is believed, so a lying header costs an error, not
memory.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from ..core.limits import MAX_HEADER, MAX_TENSORS
from ..core.plan import Piece, Span, piece_size
from ..core.strict_json import parse_json_object
from ..core.tensors import ReadAt, TensorHeader
from ..errors import BrokenFileError

# Bits per element; several of the newest dtypes are narrower than a byte.
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "I16": 16, "U16": 16, "I32": 32, "U32": 32, "I64": 64, "U64": 64,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
}  # fmt: skip


@dataclass(frozen=True)
class NewTensor:
    """A tensor of a file that is written."""

    dtype: str
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]
    """New bytes, or bytes of the base such as rows of a fused weight."""

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(map(piece_size, self.pieces))


def parse_header(file: str, size: int, read: ReadAt) -> tuple[TensorHeader, ...]:
    """Read and check the header of the file named `file`, which is `size` bytes long.

    Returns the tensors in the order of their bytes.

    Raises:
        BrokenFileError: truncated, or a claim contradicts the format or the size.
    """
    entries, base = _read_entries(file, size, read)
    metadata = entries.pop("__metadata__", None)
    if metadata is not None and not (isinstance(metadata, dict) and all(type(v) is str for v in metadata.values())):
        raise BrokenFileError(f"{file}: the header's __metadata__ is not a map of strings")
    if len(entries) > MAX_TENSORS:
        raise BrokenFileError(f"{file}: claims {len(entries)} tensors, more than any model has")
    tensors = sorted(
        (_entry(file, name, entry, base) for name, entry in entries.items()),
        key=lambda t: (t.start, t.end),
    )
    position = base
    for tensor in tensors:
        if tensor.start != position:
            raise BrokenFileError(f"{file}: the data of {tensor.name!r} overlaps another tensor or leaves a hole")
        position = tensor.end
    if position != size:
        raise BrokenFileError(f"{file}: the header describes {position} bytes, the file has {size}; fetch it again")
    return tuple(tensors)


def parse_metadata(file: str, size: int, read: ReadAt) -> dict[str, str]:
    """Read the ``__metadata__`` of a file whose header `parse_header` has accepted; empty if there is none."""
    metadata = _read_entries(file, size, read)[0].get("__metadata__")
    return dict(metadata) if isinstance(metadata, dict) else {}


def serialize(tensors: Mapping[str, NewTensor], metadata: Mapping[str, str]) -> tuple[Piece, ...]:
    """Lay out a whole file of `tensors`, sorted by name, so that the same content is always the same file.

    The library's own writer keeps metadata in a hash map, which gives other bytes in every process.
    """
    return _lay_out({name: tensors[name] for name in sorted(tensors)}, metadata)


def excerpt(
    tensors: Iterable[TensorHeader],
    edits: Mapping[int, bytes],
    rewritten: Mapping[str, NewTensor],
    added: Mapping[str, NewTensor] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> tuple[Piece, ...]:
    """Lay out a file of some `tensors` of one file, under the names that they have here, and of those `added`.

    `edits` maps offsets in that file to the new bytes of whole tensors; `rewritten` maps names to tensors that are made
    of others. The tensors keep their order, but wider elements come first, as the library writes them, so that each
    stays aligned; runs of neighbours move as one piece.
    """
    ordered = sorted(tensors, key=lambda tensor: (-_BITS[tensor.dtype], tensor.start))
    new = {
        tensor.name: rewritten[tensor.name]
        if tensor.name in rewritten and tensor.start not in edits
        else NewTensor(
            tensor.dtype, tensor.shape, (edits.get(tensor.start, Span(tensor.file, tensor.start, tensor.size)),)
        )
        for tensor in ordered
    }
    if added:
        new = dict(sorted((new | dict(added)).items(), key=lambda item: -_BITS[item[1].dtype]))
    return _lay_out(new, {"format": "pt"} if metadata is None else metadata)


def _lay_out(tensors: Mapping[str, NewTensor], metadata: Mapping[str, str]) -> tuple[Piece, ...]:
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    position = 0
    for name, tensor in tensors.items():
        header[name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [position, position + tensor.size],
        }
        position += tensor.size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    # The format wants the data to begin at a multiple of eight bytes, filled up with spaces.
    text += b" " * (-len(text) % 8)
    pieces: list[Piece] = [len(text).to_bytes(8, "little") + text]
    for tensor in tensors.values():
        pieces += tensor.pieces
    return join(pieces)


def serialize_bytes(tensors: Mapping[str, NewTensor], metadata: Mapping[str, str]) -> bytes:
    """The content of a file whose tensors are all new bytes; ValueError for others."""
    (content,) = serialize(tensors, metadata)
    if not isinstance(content, bytes):
        raise ValueError("a tensor holds bytes of the base")
    return content


def join(pieces: list[Piece]) -> tuple[Piece, ...]:
    """Join runs of new bytes, and of neighbouring spans, into one piece each."""
    joined: list[Piece] = []
    run: list[bytes] = []
    for piece in pieces:
        if isinstance(piece, bytes):
            run.append(piece)
            continue
        if run:
            joined.append(b"".join(run))
            run = []
        last = joined[-1] if joined else None
        if isinstance(last, Span) and isinstance(piece, Span) and is_next(last, piece):
            joined[-1] = Span(last.source, last.offset, last.size + piece.size)
        elif piece_size(piece):
            joined.append(piece)
    if run:
        joined.append(b"".join(run))
    return tuple(joined)


def is_next(span: Span, other: Span) -> bool:
    """True if `other` begins where `span` ends."""
    return span.source == other.source and span.offset + span.size == other.offset


def _read_entries(file: str, size: int, read: ReadAt) -> tuple[dict[str, Any], int]:
    """The header's JSON, and the offset of the data."""
    if size < 8:
        raise BrokenFileError(f"{file}: {size} bytes are too few for a safetensors file; fetch it again")
    length = int.from_bytes(read(0, 8), "little")
    if length > MAX_HEADER and 8 + length <= size:
        raise BrokenFileError(f"{file}: has a header of {length} bytes, more than any model (at most {MAX_HEADER})")
    if 8 + length > size:
        raise BrokenFileError(
            f"{file}: claims a header of {length} bytes in a file of {size}; truncated, or not safetensors"
        )
    raw = read(8, length)
    if len(raw) != length:
        raise BrokenFileError(f"{file}: ends within its header; fetch it again")
    return parse_json_object(raw, file), 8 + length


def _entry(file: str, name: str, entry: object, base: int) -> TensorHeader:
    def broken(what: str) -> BrokenFileError:
        return BrokenFileError(f"{file}: tensor {name[:120]!r} has {what}")

    if not isinstance(entry, dict):
        raise broken("no description")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise broken(f"the unknown dtype {str(dtype)[:40]!r}")
    if not _naturals(shape) or len(shape) > 32 or math.prod(n or 1 for n in shape) >= 2**60:
        raise broken("a shape that is not a list of natural numbers")
    if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise broken("data_offsets that are not a range")
    if math.prod(shape) * _BITS[dtype] != (offsets[1] - offsets[0]) * 8:
        raise broken(f"{offsets[1] - offsets[0]} bytes of data for shape {shape} in {dtype}")
    return TensorHeader(name, dtype, tuple(shape), file, base + offsets[0], base + offsets[1])


def _naturals(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**63 for item in value)
