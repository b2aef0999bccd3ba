"""Tensors as plain values: name, dtype, shape, and where their bytes are stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from ..errors import BrokenFileError

FLOATS: dict[str, np.dtype[Any]] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
"""Dtypes in which a bias can be stored -> numpy's dtype. Safetensors and ggml use the same names."""

ROUNDING = {"F64": 2.0**-53, "F32": 2.0**-24, "F16": 2.0**-11, "BF16": 2.0**-8}
"""Dtype -> largest relative error of a value that is rounded to it."""

ReadAt = Callable[[int, int], bytes]
"""``read(offset, length)`` returns that many bytes of one file; fewer only at its end."""


@dataclass(frozen=True)
class TensorHeader:
    """One stored tensor; its bytes are ``[start, end)`` of `file`."""

    name: str
    dtype: str
    """The format's own name: ``BF16`` in safetensors, ``Q4_K`` in GGUF."""
    shape: tuple[int, ...]
    """Elements, slowest dimension first."""
    file: str
    start: int
    end: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.end - self.start


@dataclass(frozen=True)
class WeightFile:
    """One file that holds weights."""

    name: str
    size: int
    """Bytes."""
    sha256: str = ""
    """Empty if unknown without reading the whole file."""
    advertised: bool = False
    """True if the digest is the Hub's word, and not computed from the bytes."""


def decode(header: TensorHeader, data: bytes) -> np.ndarray:
    """Read a float tensor as float32, in its own shape.

    Raises:
        BrokenFileError: the dtype is not in `FLOATS`, or `data` has another length.
    """
    dtype = FLOATS.get(header.dtype)
    if dtype is None:
        raise BrokenFileError(f"{header.file}: {header.name!r} is stored as {header.dtype}, not as floats")
    if len(data) != header.size:
        raise BrokenFileError(f"{header.file}: ends within {header.name!r}; fetch it again")
    return np.frombuffer(data, dtype).astype(np.float32).reshape(header.shape)


def encode(values: np.ndarray, dtype: str) -> bytes:
    """Write float32 `values` as `dtype`: little endian, row-major, rounded to nearest with ties to even.

    A value that is too large for `dtype` becomes infinite; the caller refuses it.
    """
    target = FLOATS[dtype]
    with np.errstate(over="ignore"):
        return values.astype(target.newbyteorder("<") if target.kind == "f" else target).tobytes()
