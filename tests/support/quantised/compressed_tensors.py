"""The formats of compressed-tensors 0.20, as llm-compressor writes them."""

from __future__ import annotations

from typing import Any

import numpy as np

from .layout import FLOATS, Description, Layout, Stored
from .packing import FP4_MAX, FP8_MAX, float4_in_float8, float8, nibbles_in_words, restored, symmetric

_SCALE = FLOATS["bfloat16"]


def _layout(store: Any, form: str, weights: dict[str, Any], inputs: dict[str, Any] | None) -> Layout:
    common = {"actorder": None, "block_structure": None, "group_size": None, "observer": "minmax", "symmetric": True}
    group = {
        "input_activations": inputs and common | inputs,
        "output_activations": None,
        "targets": ["Linear"],
        "weights": common | {"dynamic": False} | weights,
    }
    config = {
        "config_groups": {"group_0": group},
        "format": form,
        "global_compression_ratio": None,
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
    }
    return Layout(store, lambda _modules: Description(config))


def w4a16(*, group: int = 32) -> Layout:
    """``weight_packed`` int32 ``[outputs, inputs / 8]``, ``weight_scale`` ``[outputs, groups]``, ``weight_shape``."""

    def store(_name: str, weight: np.ndarray) -> Stored:
        codes, scales = symmetric(weight, group, 4, _SCALE)
        parts = {
            "weight_packed": nibbles_in_words(codes + 8, 1),
            "weight_scale": scales,
            "weight_shape": np.array(weight.shape, np.int64),
        }
        return Stored(parts, restored(codes, scales))

    weights = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": group}
    return _layout(store, "pack-quantized", weights, None)


def w8a8() -> Layout:
    """``weight`` int8 ``[outputs, inputs]``, ``weight_scale`` ``[outputs, 1]``; inputs are rounded by the token."""

    def store(_name: str, weight: np.ndarray) -> Stored:
        codes, scales = symmetric(weight, weight.shape[1], 8, _SCALE)
        return Stored({"weight": codes.astype(np.int8), "weight_scale": scales}, restored(codes, scales))

    inputs = {"num_bits": 8, "type": "int", "strategy": "token", "dynamic": True}
    return _layout(store, "int-quantized", {"num_bits": 8, "type": "int", "strategy": "channel"}, inputs)


def fp8_channel() -> Layout:
    """``weight`` float8 ``[outputs, inputs]``, ``weight_scale`` ``[outputs, 1]``; inputs are rounded by the token."""

    def store(_name: str, weight: np.ndarray) -> Stored:
        scales = (np.abs(weight).max(-1, keepdims=True) / FP8_MAX).astype(_SCALE)
        codes = float8(weight / scales.astype(np.float32))
        return Stored({"weight": codes, "weight_scale": scales}, codes.astype(np.float32) * scales.astype(np.float32))

    inputs = {"num_bits": 8, "type": "float", "strategy": "token", "dynamic": True}
    return _layout(store, "float-quantized", {"num_bits": 8, "type": "float", "strategy": "channel"}, inputs)


def fp8_tensor(*, input_scale: float = 0.1) -> Layout:
    """``weight`` float8, ``weight_scale`` and ``input_scale`` ``[1]``."""

    def store(_name: str, weight: np.ndarray) -> Stored:
        scale = (np.abs(weight).max(keepdims=True)[0] / FP8_MAX).astype(_SCALE)
        codes = float8(weight / scale.astype(np.float32))
        parts = {"weight": codes, "weight_scale": scale, "input_scale": np.array([input_scale], _SCALE)}
        return Stored(parts, codes.astype(np.float32) * scale.astype(np.float32))

    inputs = {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": False}
    return _layout(store, "float-quantized", {"num_bits": 8, "type": "float", "strategy": "tensor"}, inputs)


def nvfp4(*, input_scale: float = 0.1) -> Layout:
    """``weight_packed`` uint8 ``[outputs, inputs / 2]``, ``weight_scale`` float8 ``[outputs, inputs / 16]``.

    The global scales, float32 ``[1]``, divide.
    """

    def store(_name: str, weight: np.ndarray) -> Stored:
        whole = np.abs(weight).max() / (FP8_MAX * FP4_MAX)
        packed, scales, value = float4_in_float8(weight, whole)
        parts = {
            "weight_packed": packed,
            "weight_scale": scales,
            "weight_global_scale": np.array([1 / whole], np.float32),
            "input_global_scale": np.array([1 / input_scale], np.float32),
        }
        return Stored(parts, value)

    kind = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}
    return _layout(store, "nvfp4-pack-quantized", kind, kind | {"dynamic": "local"})
