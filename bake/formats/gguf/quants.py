"""One column of a quantised matrix: the block that holds a value in its first element, as far as it goes alone.

ggml's types (ggml/src/ggml-common.h) store a row as blocks of elements with a common scale, a 16-bit float. Such a
block is a pattern of bits, here the same for every row, and the scale, which is the row's own. Zero rows are zero
bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ...core.packages import require
from ...core.tensors import FLOATS
from ...errors import UnsupportedModelError
from .tensor_types import TENSOR_TYPES


@dataclass(frozen=True)
class ColumnType:
    """The block of a type whose first element is `unit` times a number of each row, and whose others do not matter."""

    block: bytes
    """Bytes of the block, with zeros where each row has its own."""
    place: int
    """Offset of the row's own bytes."""
    stored: str
    """Dtype of the row's own bytes, one of `emobake.core.tensors.FLOATS`."""
    unit: float = 1.0

    @property
    def width(self) -> int:
        """Number of the row's own bytes."""
        return int(FLOATS[self.stored].itemsize)


# Offset -> bytes of the pattern. The first element is 1, so that the scale is the value itself and has all bits of a
# 16-bit float; all other elements are zero.
_PATTERNS: Mapping[str, tuple[int, Mapping[int, bytes]]] = {
    # scale; 4 bits an element, less 8
    "Q4_0": (0, {2: b"\x89" + b"\x88" * 15}),
    # scale, minimum; 4 bits
    "Q4_1": (0, {4: b"\x01"}),
    # scale; the fifth bits; 4 bits: less 16
    "Q5_0": (0, {2: b"\xff" * 4, 6: b"\x01"}),
    # scale, minimum; the fifth bits; 4 bits
    "Q5_1": (0, {8: b"\x01"}),
    # scale; 8 bits
    "Q8_0": (0, {2: b"\x01"}),
    # 16 scales and minima of 4 bits; 2 bits an element; scale, minimum
    "Q2_K": (80, {0: b"\x01", 16: b"\x01"}),
    # the third bits, which are set where 4 is not subtracted; 2 bits; 16 scales of 6 bits, less 32; scale
    "Q3_K": (108, {0: b"\xff" * 32, 32: b"\x01", 96: b"\x01", 104: b"\x02"}),
    # scale, minimum; 8 scales and minima of 6 bits; 4 bits an element
    "Q4_K": (0, {4: b"\x01", 16: b"\x01"}),
    # the same with the fifth bits in between
    "Q5_K": (0, {4: b"\x01", 48: b"\x01"}),
    # 4 bits; the upper 2 bits: less 32; 16 scales of 8 bits; scale
    "Q6_K": (208, {0: b"\x01", 128: b"\x02" * 16, 192: b"\x01"}),
    # 4 bits a value of a table without zero: 113, and 1 for the 31 others, whose inputs are always zero
    "IQ4_NL": (0, {2: b"\x8f" + b"\x88" * 15}),
    # scale; 8 scales of 6 bits, less 32: 1, and 0 for the other seven; 4 bits as before
    "IQ4_XS": (0, {2: b"\xaa\xaa\x01", 8: b"\x8f" + b"\x88" * 15}),
}
_UNITS = {"IQ4_NL": 113.0, "IQ4_XS": 113.0}


def _block(size: int, pattern: Mapping[int, bytes]) -> bytes:
    block = bytearray(size)
    for offset, data in pattern.items():
        block[offset : offset + len(data)] = data
    return bytes(block)


COLUMN_TYPES: Mapping[str, ColumnType] = {
    **{name: ColumnType(bytes(dtype.itemsize), 0, name) for name, dtype in FLOATS.items() if name != "F64"},
    **{
        name: ColumnType(_block(TENSOR_TYPES[name].block_bytes, pattern), place, "F16", _UNITS.get(name, 1.0))
        for name, (place, pattern) in _PATTERNS.items()
    },
}
"""The types in which a column can be written, by name."""


def dequantize(dtype: str, data: bytes, columns: int) -> np.ndarray:
    """Read a matrix of any type as float32 ``[rows, columns]``.

    Raises:
        UnsupportedModelError: the gguf package cannot read the type.
    """
    gguf, kind = require("gguf", extra="gguf", purpose="GGUF files"), TENSOR_TYPES[dtype]
    stored = np.frombuffer(data, np.uint8).reshape(-1, columns // kind.block * kind.block_bytes)
    try:
        return np.asarray(gguf.quants.dequantize(stored, gguf.GGMLQuantizationType[dtype]))
    except NotImplementedError:
        raise UnsupportedModelError(f"the gguf package cannot read tensors of type {dtype}") from None


def zero_bytes_are_zeros(dtype: str) -> bool:
    """True if a block of zero bytes holds zeros, by the gguf package; False if it cannot tell."""
    gguf = require("gguf", extra="gguf", purpose="GGUF files")
    if dtype in FLOATS:
        return True
    try:
        kind = gguf.GGMLQuantizationType[dtype]
        block = np.zeros((1, TENSOR_TYPES[dtype].block_bytes), np.uint8)
        return not gguf.quants.dequantize(block, kind).any()
    except (KeyError, NotImplementedError):
        return False
