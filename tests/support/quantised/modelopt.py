"""ModelOpt 0.37: FP8 and NVFP4, and both in one model, in its new form and in the older one (hf_quant_config.json)."""

from __future__ import annotations

from typing import Any

import numpy as np

from .layout import Description, Layout, Modules, Stored
from .packing import FP4_MAX, FP8_MAX, float4_in_float8, float8, float8_in_blocks, in_groups

_PRODUCER = {"name": "modelopt", "version": "0.37.0"}
_GROUPS: dict[str, dict[str, Any]] = {
    "FP8": {"dynamic": False, "num_bits": 8, "type": "float"},
    "NVFP4": {"dynamic": False, "num_bits": 4, "type": "float", "group_size": 16},
    "FP8_PB_WO": {"dynamic": False, "num_bits": 8, "type": "float", "strategy": "block", "block_structure": "128x128"},
    "MXFP8": {"dynamic": True, "num_bits": 8, "type": "float", "group_size": 32},
}


def _fp8(weight: np.ndarray) -> Stored:
    """``weight`` float8, ``weight_scale`` and ``input_scale`` float32 without a dimension."""
    scale = np.float32(np.abs(weight).max() / FP8_MAX)
    codes = float8(weight / scale)
    parts = {"weight": codes, "weight_scale": np.array(scale), "input_scale": np.array(0.1, np.float32)}
    return Stored(parts, codes.astype(np.float32) * scale, "FP8")


def _nvfp4(weight: np.ndarray) -> Stored:
    """``weight`` uint8 ``[outputs, inputs / 2]``, ``weight_scale`` float8 ``[outputs, inputs / 16]``.

    ``weight_scale_2`` and ``input_scale`` float32 without a dimension multiply.
    """
    whole = np.float32(np.abs(weight).max() / (FP8_MAX * FP4_MAX))
    packed, scales, value = float4_in_float8(weight, whole)
    parts = {
        "weight": packed,
        "weight_scale": scales,
        "weight_scale_2": np.array(whole),
        "input_scale": np.array(0.01, np.float32),
    }
    return Stored(parts, value, "NVFP4")


def _fp8_block(weight: np.ndarray) -> Stored:
    """``weight`` float8, ``weight_scale`` float32 ``[outputs / 128, 1, inputs / 128, 1]``."""
    codes, scales, value = float8_in_blocks(weight, np.float32)
    return Stored({"weight": codes, "weight_scale": scales[:, None, :, None]}, value, "FP8_PB_WO")


def _mxfp8(weight: np.ndarray) -> Stored:
    """``weight`` float8, ``weight_scale`` uint8 ``[outputs, inputs / 32]``: exponents from -127."""
    groups = in_groups(weight, 32)
    exponents = np.ceil(np.log2(np.abs(groups).max(-1) / FP8_MAX))
    steps = np.exp2(exponents)[..., None].astype(np.float32)
    codes = float8(groups / steps)
    parts = {"weight": codes.reshape(weight.shape), "weight_scale": (exponents + 127).astype(np.uint8)}
    return Stored(parts, (codes.astype(np.float32) * steps).reshape(weight.shape), "MXFP8")


_STORES = {"FP8": _fp8, "NVFP4": _nvfp4, "FP8_PB_WO": _fp8_block, "MXFP8": _mxfp8}


def modelopt(algorithm: str = "FP8", *, legacy: bool = False) -> Layout:
    """One algorithm for all; with `legacy`, config.json says nothing."""

    def describe(_modules: Modules) -> Description:
        group = {"group_size": 16} if algorithm == "NVFP4" else {}
        old = {"quant_algo": algorithm, "kv_cache_quant_algo": None, **group, "exclude_modules": ["lm_head"]}
        files = {"hf_quant_config.json": {"producer": _PRODUCER, "quantization": old}}
        if legacy:
            return Description(None, files)
        kind = {"input_activations": _GROUPS[algorithm], "weights": _GROUPS[algorithm], "targets": ["Linear"]}
        config = {
            "config_groups": {"group_0": kind},
            "ignore": ["lm_head"],
            "producer": _PRODUCER,
            "quant_algo": algorithm,
            "quant_method": "modelopt",
        }
        return Description(config, files)

    return Layout(lambda _name, weight: _STORES[algorithm](weight), describe)


def mixed(*, legacy: bool = False) -> Layout:
    """FP8 in the attention, NVFP4 in the rest: the config lists every module."""

    def store(name: str, weight: np.ndarray) -> Stored:
        return (_fp8 if "attn" in name else _nvfp4)(weight)

    def describe(modules: Modules) -> Description:
        layers = {
            name: {"quant_algo": module.algorithm} | ({"group_size": 16} if module.algorithm == "NVFP4" else {})
            for name, module in modules.items()
        }
        said = {"quant_algo": "MIXED_PRECISION", "quantized_layers": layers}
        old = {"producer": _PRODUCER, "quantization": said | {"kv_cache_quant_algo": None}}
        files = {"hf_quant_config.json": old}
        if legacy:
            return Description(None, files)
        return Description(said | {"ignore": ["lm_head"], "producer": _PRODUCER, "quant_method": "modelopt"}, files)

    return Layout(store, describe)
