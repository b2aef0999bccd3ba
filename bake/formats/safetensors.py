"""Safetensors headers: where each tensor's bytes lie in a file, without reading the tensors.

The format (https://github.com/huggingface/safetensors#format): eight bytes, little endian, give the
length of a JSON object from tensor name to ``{dtype, shape, data_offsets}``; the rest is the data, without
holes or overlaps. Every claim of a header is checked against the file's size before it is believed, so a
lying one costs an error, not memory.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, TypeGuard

from ..core.strict_json import parse_json_object
from ..core.tensors import _BITS, ReadAt, TensorHeader
from ..errors import BrokenFileError

MAX_HEADER = 100_000_000
"""Bytes. The limit that the reference implementation of the format sets."""


def parse_header(file: str, size: int, read: ReadAt) -> tuple[TensorHeader, ...]:
    """Read and check the header of the safetensors file named `file`, `size` bytes long.

    Returns the tensors in the order of their bytes.

    Raises:
        BrokenFileError: truncated, or anything the header claims contradicts the format or the size.

    """
    if size < 8:
        raise BrokenFileError(f"{file}: {size} bytes are too few for a safetensors file; fetch it again")
    length = int.from_bytes(read(0, 8), "little")
    if length > MAX_HEADER or 8 + length > size:
        raise BrokenFileError(
            f"{file}: claims a header of {length} bytes in a file of {size}; truncated, or not safetensors"
        )
    raw = read(8, length)
    if len(raw) != length:
        raise BrokenFileError(f"{file}: ends within its header; fetch it again")
    entries = parse_json_object(raw, file)
    metadata = entries.pop("__metadata__", None)
    if metadata is not None and not (isinstance(metadata, dict) and all(type(v) is str for v in metadata.values())):
        raise BrokenFileError(f"{file}: the header's __metadata__ is not a map of strings")
    base = 8 + length
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


def serialize(tensors: Mapping[str, tuple[str, tuple[int, ...], bytes]], metadata: Mapping[str, str]) -> bytes:
    """A whole safetensors file of `tensors`: name -> (dtype, shape, data).

    The library's own writer keeps metadata in a hash map and so gives other bytes in every process; here
    names are sorted, so that the same content is always the same file. Executors read it back through the
    library.
    """
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    position = 0
    for name in sorted(tensors):
        dtype, shape, data = tensors[name]
        header[name] = {
            "dtype": dtype,
            "shape": list(shape),
            "data_offsets": [position, position + len(data)],
        }
        position += len(data)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    # The format asks for the data to begin at a multiple of eight bytes, filled up with spaces.
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *(tensors[name][2] for name in sorted(tensors))])
