"""The weights that quantised modules stand for, read back from a checkpoint's files; plain numpy."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

DTYPES = {
    "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "I8": np.int8, "U8": np.uint8, "I32": np.int32, "U32": np.uint32, "I64": np.int64,
}  # fmt: skip
Tensors = Mapping[str, np.ndarray]


def tensors_of(folder: Path) -> dict[str, np.ndarray]:
    """All tensors of a checkpoint, as stored; float8 too, which the library's reader for numpy does not know."""
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        data = file.read_bytes()
        start = 8 + int.from_bytes(data[:8], "little")
        for name, entry in json.loads(data[8:start]).items():
            if name != "__metadata__":
                first, last = entry["data_offsets"]
                values = np.frombuffer(data[start + first : start + last], DTYPES[entry["dtype"]])
                found[name] = values.reshape(entry["shape"])
    return found


def weight_of(tensors: Tensors, module: str, method: str) -> np.ndarray:
    """The weight of a module, float32 ``[outputs, inputs]``."""
    parts = {
        name.removeprefix(f"{module}."): value
        for name, value in tensors.items()
        if name.startswith(f"{module}.") and not name.endswith(".bias")
    }
    return READERS[method](parts)


def _codes(words: np.ndarray, axis: int, order: tuple[int, ...] = tuple(range(8))) -> np.ndarray:
    """The codes of 4 bits in words, along `axis`; the first of `order` has the lowest bits."""
    moved = np.moveaxis(words.view(np.uint32), axis, -1)
    found = np.zeros((*moved.shape, 8), np.int32)
    for place, code in enumerate(order):
        found[..., code] = (moved >> np.uint32(4 * place)) & 15
    return np.moveaxis(found.reshape(*moved.shape[:-1], -1), -1, axis)


def _gptq(parts: Tensors, *, less: int = 1) -> np.ndarray:
    codes, zeros = _codes(parts["qweight"], 0), (_codes(parts["qzeros"], 1) + less) & 15
    groups = parts["g_idx"]
    return ((codes - zeros[groups]) * parts["scales"].astype(np.float32)[groups]).T


def _awq(parts: Tensors) -> np.ndarray:
    order = (0, 2, 4, 6, 1, 3, 5, 7)
    codes, zeros, scales = _codes(parts["qweight"], 1, order), _codes(parts["qzeros"], 1, order), parts["scales"]
    each = len(codes) // len(scales)
    return ((codes - np.repeat(zeros, each, 0)) * np.repeat(scales.astype(np.float32), each, 0)).T


def _w4a16(parts: Tensors) -> np.ndarray:
    codes, scales = _codes(parts["weight_packed"], 1) - 8, parts["weight_scale"].astype(np.float32)
    assert tuple(parts["weight_shape"]) == codes.shape
    return codes * np.repeat(scales, codes.shape[1] // scales.shape[1], 1)


def _mlx(parts: Tensors) -> np.ndarray:
    codes = _codes(parts["weight"], 1)
    scales, biases = (
        np.repeat(parts[name].astype(np.float32), codes.shape[1] // parts[name].shape[1], 1)
        for name in ("scales", "biases")
    )
    return codes * scales + biases


def _rows(parts: Tensors) -> np.ndarray:
    scale = parts["SCB"][:, None] / 127 if "SCB" in parts else parts["weight_scale"].astype(np.float32)
    return parts["weight"].astype(np.float32) * scale


def _blocks(parts: Tensors) -> np.ndarray:
    scales = np.repeat(np.repeat(parts["weight_scale_inv"].astype(np.float32), 128, 0), 128, 1)
    return parts["weight"].astype(np.float32) * scales


READERS: Mapping[str, Callable[[Tensors], np.ndarray]] = {
    "gptq": _gptq,
    "gptq-act-order": _gptq,
    "gptq v2": lambda parts: _gptq(parts, less=0),
    "awq": _awq,
    "w4a16": _w4a16,
    "mlx": _mlx,
    "w8a8": _rows,
    "fp8-channel": _rows,
    "fp8-tensor": _rows,
    "bitsandbytes-8bit": _rows,
    "fp8-block": _blocks,
}
"""Method -> reader of a module's parts."""
