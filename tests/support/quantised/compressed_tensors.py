"""The formats of compressed-tensors 0.20, as llm-compressor writes them."""

from __future__ import annotations

from typing import Any

import numpy as np

from .layout import FLOATS, Description, Layout, Stored
from .packing import (
    BLOCK,
    FP4_MAX,
    FP8_MAX,
    float4_by_exponents,
    float4_in_float8,
    float8,
    float8_in_blocks,
    in_groups,
    nibbles_in_bytes,
    nibbles_in_words,
    restored,
    symmetric,
)

_SCALE = FLOATS["bfloat16"]


_DEFAULTS = {"actorder": None, "block_structure": None, "group_size": None, "observer": "minmax", "symmetric": True}
_TOKENS = {"strategy": "token", "dynamic": True}


def _group(weights: dict[str, Any], inputs: dict[str, Any] | None, targets: str = "Linear") -> dict[str, Any]:
    return {
        "input_activations": inputs and _DEFAULTS | inputs,
        "output_activations": None,
        "targets": [targets],
        "weights": _DEFAULTS | {"dynamic": False} | weights,
    }


def _config(form: str, *groups: dict[str, Any]) -> dict[str, Any]:
    return {
        "config_groups": {f"group_{number}": group for number, group in enumerate(groups)},
        "format": form,
        "global_compression_ratio": None,
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
    }


def _layout(store: Any, form: str, weights: dict[str, Any], inputs: dict[str, Any] | None) -> Layout:
    config = _config(form, _group(weights, inputs))
    return Layout(store, lambda _modules: Description(config))


def _packed(weight: np.ndarray, group: int) -> Stored:
    codes, scales = symmetric(weight, group, 4, _SCALE)
    parts = {
        "weight_packed": nibbles_in_words(codes + 8, 1),
        "weight_scale": scales,
        "weight_shape": np.array(weight.shape, np.int64),
    }
    return Stored(parts, restored(codes, scales))


def w4a16(*, group: int = 32, act_order: bool = False, inputs: bool = False) -> Layout:
    """``weight_packed`` int32 ``[outputs, inputs / 8]``, ``weight_scale`` ``[outputs, groups]``, ``weight_shape``.

    With `act_order`, ``weight_g_idx`` int32 ``[inputs]``; with `inputs`, these are rounded to int8 by the token.
    """

    def store(_name: str, weight: np.ndarray) -> Stored:
        if not act_order:
            return _packed(weight, group)
        order = np.random.default_rng(weight.shape[1]).permutation(weight.shape[1])
        back = np.argsort(order)
        codes, scales = symmetric(weight[:, order], group, 4, _SCALE)
        parts = {
            "weight_packed": nibbles_in_words(codes[:, back] + 8, 1),
            "weight_scale": scales,
            "weight_shape": np.array(weight.shape, np.int64),
            "weight_g_idx": (back // group).astype(np.int32),
        }
        return Stored(parts, restored(codes, scales)[:, back])

    weights = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": group}
    weights |= {"actorder": "group"} if act_order else {}
    return _layout(store, "pack-quantized", weights, {"num_bits": 8, "type": "int", **_TOKENS} if inputs else None)


def w4a16_channel() -> Layout:
    """As `w4a16`, with ``weight_scale`` ``[outputs, 1]``."""
    weights = {"num_bits": 4, "type": "int", "strategy": "channel"}
    return _layout(lambda _name, weight: _packed(weight, weight.shape[1]), "pack-quantized", weights, None)


def mixed() -> Layout:
    """The attention as in `w4a16`, the rest as in `w8a8`."""
    four = _group({"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}, None, "re:.*self_attn.*")
    eight = _group({"num_bits": 8, "type": "int", "strategy": "channel"}, {"num_bits": 8, "type": "int", **_TOKENS},
                   "re:.*mlp.*")  # fmt: skip
    groups = (four | {"format": "pack-quantized"}, eight | {"format": "int-quantized"})
    return Layout(
        lambda name, weight: _packed(weight, 32) if "attn" in name else _int8(weight),
        lambda _modules: Description(_config("mixed-precision", *groups)),
    )


def _int8(weight: np.ndarray) -> Stored:
    codes, scales = symmetric(weight, weight.shape[1], 8, _SCALE)
    return Stored({"weight": codes.astype(np.int8), "weight_scale": scales}, restored(codes, scales))


def w8a8() -> Layout:
    """``weight`` int8 ``[outputs, inputs]``, ``weight_scale`` ``[outputs, 1]``; inputs are rounded by the token."""
    weights, inputs = {"num_bits": 8, "type": "int", "strategy": "channel"}, {"num_bits": 8, "type": "int", **_TOKENS}
    return _layout(lambda _name, weight: _int8(weight), "int-quantized", weights, inputs)


def w8a8_tensor() -> Layout:
    """``weight`` int8 ``[outputs, inputs]``, ``weight_scale`` ``[1]``; inputs are rounded by the token."""

    def store(_name: str, weight: np.ndarray) -> Stored:
        scale = (np.abs(weight).max(keepdims=True)[0] / 127).astype(_SCALE)
        codes = np.clip(np.rint(weight / scale.astype(np.float32)), -128, 127).astype(np.int8)
        return Stored({"weight": codes, "weight_scale": scale}, codes * scale.astype(np.float32))

    inputs = {"num_bits": 8, "type": "int", **_TOKENS}
    return _layout(store, "int-quantized", {"num_bits": 8, "type": "int", "strategy": "tensor"}, inputs)


def fp8_channel() -> Layout:
    """``weight`` float8 ``[outputs, inputs]``, ``weight_scale`` ``[outputs, 1]``; inputs are rounded by the token."""

    def store(_name: str, weight: np.ndarray) -> Stored:
        scales = (np.abs(weight).max(-1, keepdims=True) / FP8_MAX).astype(_SCALE)
        codes = float8(weight / scales.astype(np.float32))
        return Stored({"weight": codes, "weight_scale": scales}, codes.astype(np.float32) * scales.astype(np.float32))

    inputs = {"num_bits": 8, "type": "float", **_TOKENS}
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


def fp8_block() -> Layout:
    """``weight`` float8 ``[outputs, inputs]``, ``weight_scale``, one for each 128 x 128 numbers."""

    def store(_name: str, weight: np.ndarray) -> Stored:
        codes, scales, value = float8_in_blocks(weight, _SCALE)
        return Stored({"weight": codes, "weight_scale": scales}, value)

    weights = {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [BLOCK, BLOCK]}
    inputs = {"num_bits": 8, "type": "float", "strategy": "group", "group_size": BLOCK, "dynamic": True}
    return _layout(store, "float-quantized", weights, inputs)


def mxfp4() -> Layout:
    """``weight_packed`` uint8 ``[outputs, inputs / 2]``, ``weight_scale`` uint8 ``[outputs, inputs / 32]``."""

    def store(_name: str, weight: np.ndarray) -> Stored:
        codes, exponents, value = float4_by_exponents(in_groups(weight, 32))
        parts = {"weight_packed": nibbles_in_bytes(codes.reshape(weight.shape)), "weight_scale": exponents}
        return Stored(parts, value.reshape(weight.shape))

    kind = {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32, "scale_dtype": "torch.uint8"}
    return _layout(store, "mxfp4-pack-quantized", kind, None)


def sparse() -> Layout:
    """``compressed``, ``bitmask`` and ``shape``, which nothing here reads (compressed-tensors 0.9)."""

    def store(_name: str, weight: np.ndarray) -> Stored:
        outputs, inputs = weight.shape
        parts = {
            "compressed": weight[:, ::2].astype(_SCALE),
            "bitmask": np.full((outputs, inputs // 8), 0b01010101, np.uint8),
            "shape": np.array(weight.shape, np.int64),
        }
        return Stored(parts)

    config = _config("dense") | {"sparsity_config": {"format": "sparse-24-bitmask", "targets": ["Linear"]}}
    return Layout(store, lambda _modules: Description(config | {"config_groups": {}}))


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
