"""The size of a matrix, read in pieces: what a constant row is measured by."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ..core.tensors import TensorHeader
from ..errors import BrokenFileError

_READ = 2**20
"""Bytes that are read at once; in four bits they are two million numbers."""


def column_norm(
    matrix: TensorHeader,
    inputs: int,
    read: Callable[[TensorHeader], bytes],
    values: Callable[[TensorHeader, bytes], np.ndarray],
    *,
    block: int,
    without: float = 0.0,
) -> float:
    """The root mean square norm of the columns of a matrix, of which each is what an input of 1 adds.

    Args:
        matrix: its header.
        inputs: number of its columns, without those that are left out.
        read: reads a part of it.
        values: makes numbers of the bytes of a part, in any shape.
        block: bytes that belong together; a part is whole blocks.
        without: sum of the squares of what is left out.

    Returns:
        0 if the matrix holds a NaN or infinity.

    Raises:
        BrokenFileError: the file ends within the matrix.
    """
    step, total = max(block, _READ // block * block), 0.0
    for start in range(matrix.start, matrix.end, step):
        part = replace(matrix, start=start, end=min(start + step, matrix.end))
        data = read(part)
        if len(data) != part.size:
            raise BrokenFileError(f"{matrix.file}: ends within {matrix.name!r}; fetch it again")
        with np.errstate(over="ignore", invalid="ignore"):
            total += float(np.square(values(part, data), dtype=np.float32).sum(dtype=np.float64))
    return math.sqrt(max(total - without, 0.0) / inputs) if math.isfinite(total) and inputs > 0 else 0.0
