"""Rounding and packing, the same for several methods; plain numpy."""

from __future__ import annotations

import ml_dtypes
import numpy as np

FP8_MAX, FP4_MAX = 448.0, 6.0
BLOCK = 128
"""Side of a block of float8."""
FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
"""Magnitudes of a 4-bit float (E2M1) by its three lower bits."""


def in_groups(weight: np.ndarray, size: int) -> np.ndarray:
    """``[outputs, inputs]`` as ``[outputs, groups, size]``."""
    return weight.reshape(len(weight), -1, size)


def symmetric(weight: np.ndarray, size: int, bits: int, dtype: np.dtype | type) -> tuple[np.ndarray, np.ndarray]:
    """Signed codes ``[outputs, inputs]`` and scales ``[outputs, groups]`` of `dtype`."""
    groups, top = in_groups(weight, size), 2 ** (bits - 1) - 1
    scales = (np.abs(groups).max(-1) / top).astype(dtype)
    codes = np.rint(groups / scales.astype(np.float32)[..., None])
    return np.clip(codes, -top - 1, top).astype(np.int32).reshape(weight.shape), scales


def asymmetric(
    weight: np.ndarray, size: int, bits: int, dtype: np.dtype | type
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes from zero ``[outputs, inputs]``, scales and the codes of zero, both ``[outputs, groups]``."""
    groups, top = in_groups(weight, size), 2**bits - 1
    low, high = np.minimum(groups.min(-1), 0), np.maximum(groups.max(-1), 0)
    scales = ((high - low) / top).astype(dtype)
    steps = scales.astype(np.float32)
    zeros = np.rint(-low / steps)
    codes = np.clip(np.rint(groups / steps[..., None]) + zeros[..., None], 0, top)
    return codes.astype(np.int32).reshape(weight.shape), scales, zeros.astype(np.int32)


def restored(codes: np.ndarray, scales: np.ndarray, zeros: np.ndarray | int = 0) -> np.ndarray:
    """The weight that codes ``[outputs, inputs]`` with scales and zeros ``[outputs, groups]`` stand for."""
    groups = in_groups(codes.astype(np.float32), codes.shape[1] // scales.shape[1])
    offsets = zeros[..., None] if isinstance(zeros, np.ndarray) else zeros
    return ((groups - offsets) * scales.astype(np.float32)[..., None]).reshape(codes.shape)


def nibbles_in_words(codes: np.ndarray, axis: int, order: tuple[int, ...] = tuple(range(8))) -> np.ndarray:
    """Eight codes of 4 bits in each int32 along `axis`; the first of `order` takes the lowest bits."""
    moved = np.moveaxis(codes, axis, -1).astype(np.uint32)
    eights = moved.reshape(*moved.shape[:-1], -1, 8)
    words = np.zeros(eights.shape[:-1], np.uint32)
    for place, code in enumerate(order):
        words |= eights[..., code] << np.uint32(4 * place)
    return np.ascontiguousarray(np.moveaxis(words, -1, axis)).view(np.int32)


def nibbles_in_bytes(codes: np.ndarray, *, low_first: bool = True) -> np.ndarray:
    """Two codes of 4 bits in each byte along the last axis."""
    first, second = codes[..., ::2].astype(np.uint8), codes[..., 1::2].astype(np.uint8)
    return first | second << 4 if low_first else first << 4 | second


def float8(values: np.ndarray) -> np.ndarray:
    """float8 (E4M3) nearest to `values`, without infinities."""
    return np.clip(values, -FP8_MAX, FP8_MAX).astype(ml_dtypes.float8_e4m3fn)


def float4(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes of the 4-bit floats nearest to `values`, and what they stand for."""
    nearest = np.abs(np.abs(values)[..., None] - FP4).argmin(-1)
    return (nearest | np.signbit(values) << 3).astype(np.uint8), np.copysign(FP4[nearest], values)


def float4_in_float8(weight: np.ndarray, whole: float, size: int = 16) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """NVFP4: packed codes ``[outputs, inputs / 2]``, float8 scales ``[outputs, groups]`` in units of `whole`, and the
    weight that they stand for."""
    groups = in_groups(weight, size)
    scales = float8(np.abs(groups).max(-1) / FP4_MAX / whole)
    steps = scales.astype(np.float32)[..., None] * whole
    codes, values = float4(groups / np.where(steps == 0, 1, steps))
    return nibbles_in_bytes(codes.reshape(weight.shape)), scales, (values * steps).reshape(weight.shape)


def float4_by_exponents(groups: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """MXFP4 of ``[..., size]``: codes, exponents from -127 as uint8 ``[...]``, and what they stand for."""
    largest = np.abs(groups).max(-1)
    exponents = np.ceil(np.log2(np.maximum(largest, 2.0**-100) / FP4_MAX))
    steps = np.exp2(exponents)[..., None].astype(np.float32)
    codes, values = float4(groups / steps)
    return codes, (exponents + 127).astype(np.uint8), values * steps


def float8_in_blocks(weight: np.ndarray, dtype: np.dtype | type) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes ``[outputs, inputs]``, scales of `dtype` for each `BLOCK` by `BLOCK`, and what they stand for."""
    outputs, inputs = (-(-size // BLOCK) for size in weight.shape)
    scales = np.empty((outputs, inputs), dtype)
    value, codes = np.empty_like(weight), float8(np.zeros_like(weight))
    for row, column in np.ndindex(outputs, inputs):
        here = np.s_[row * BLOCK : (row + 1) * BLOCK, column * BLOCK : (column + 1) * BLOCK]
        scales[row, column] = np.abs(weight[here]).max() / FP8_MAX
        codes[here] = float8(weight[here] / np.float32(scales[row, column]))
        value[here] = codes[here].astype(np.float32) * np.float32(scales[row, column])
    return codes, scales, value


def noise(shape: tuple[int, ...], dtype: type, seed: int = 0) -> np.ndarray:
    """Any bits, where numbers do not matter."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer(np.random.default_rng(seed).bytes(size), dtype).reshape(shape)
