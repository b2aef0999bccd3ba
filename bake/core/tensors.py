"""Tensors as plain values: where their bytes lie, and the float dtypes that a bias is stored in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from ..errors import BrokenFileError

# Bits per element; several of the newest dtypes are narrower than a byte.
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "I16": 16, "U16": 16, "I32": 32, "U32": 32, "I64": 64, "U64": 64,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
}  # fmt: skip


FLOATS: dict[str, np.dtype[Any]] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
"""The dtypes a bias can be stored in, and numpy's name for each."""


ReadAt = Callable[[int, int], bytes]
"""``read(offset, length)``: that many bytes of one file, fewer only at its end."""


@dataclass(frozen=True)
class TensorHeader:
    """One tensor: `shape` in elements, and its bytes ``[start, end)`` counted from the file's beginning."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    start: int
    end: int


def decode(header: TensorHeader, data: bytes) -> np.ndarray:
    """The values of a float tensor as float32, in its own shape.

    Raises:
        BrokenFileError: the dtype is not a float that a bias is stored in, or `data` has another length.

    """
    dtype = FLOATS.get(header.dtype)
    if dtype is None:
        raise BrokenFileError(f"{header.file}: {header.name!r} is stored as {header.dtype}, not as floats")
    if len(data) != header.end - header.start:
        raise BrokenFileError(f"{header.file}: ends within {header.name!r}; fetch it again")
    return np.frombuffer(data, dtype).astype(np.float32).reshape(header.shape)


def encode(values: np.ndarray, dtype: str) -> bytes:
    """float32 `values` as the bytes of a safetensors tensor of `dtype` (little endian, row-major).

    Rounds to nearest, ties to even; what is too large for `dtype` becomes infinite, for the caller to refuse.
    """
    target = FLOATS[dtype]
    with np.errstate(over="ignore"):
        return values.astype(target.newbyteorder("<") if target.kind == "f" else target).tobytes()
