"""Other float8 and 8-bit methods: by blocks (DeepSeek, Qwen), FBGEMM, Quark 0.13 and EETQ 1.0."""

from __future__ import annotations

import numpy as np

from .layout import Description, Layout, Stored
from .packing import BLOCK, FP8_MAX, float8, float8_in_blocks


def blocks() -> Layout:
    """``weight`` float8 ``[outputs, inputs]``, ``weight_scale_inv`` float32, one for each 128 x 128 numbers.

    As DeepSeek and Qwen publish them, and transformers 5.23 writes them (``FineGrainedFP8Config``).
    """

    def store(_name: str, weight: np.ndarray) -> Stored:
        codes, scales, value = float8_in_blocks(weight, np.float32)
        return Stored({"weight": codes, "weight_scale_inv": scales}, value)

    config = {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "modules_to_not_convert": ["lm_head"],
        "quant_method": "fp8",
        "weight_block_size": [BLOCK, BLOCK],
    }
    return Layout(store, lambda _modules: Description(config))


def tensor(*, inverse: bool = False, input_scale: float = 0.1) -> Layout:
    """``weight`` float8 ``[outputs, inputs]``, ``weight_scale`` and ``input_scale`` float32 without a dimension.

    As AutoFP8 0.1 writes it; with `inverse`, ``weight_scale_inv`` and ``activation_scale``, as Mistral publishes it.
    """
    names = ("weight_scale_inv", "activation_scale") if inverse else ("weight_scale", "input_scale")

    def store(_name: str, weight: np.ndarray) -> Stored:
        scale = np.float32(np.abs(weight).max() / FP8_MAX)
        codes = float8(weight / scale)
        scales = (np.array(scale), np.array(input_scale, np.float32))
        parts = {"weight": codes, **dict(zip(names, scales, strict=True))}
        return Stored(parts, codes.astype(np.float32) * scale)

    config = {"activation_scheme": "static", "quant_method": "fp8"}
    said = (
        {"modules_to_not_convert": ["lm_head"], "weight_block_size": None}
        if inverse
        else {"ignored_layers": ["lm_head"]}
    )
    return Layout(store, lambda _modules: Description(config | said))


def fbgemm() -> Layout:
    """``weight`` float8 ``[outputs, inputs]``, ``weight_scale`` float32 ``[outputs, 1]`` (transformers 5.23)."""

    def store(_name: str, weight: np.ndarray) -> Stored:
        scales = np.abs(weight).max(-1, keepdims=True).astype(np.float32) / np.float32(FP8_MAX)
        codes = float8(weight / scales)
        return Stored({"weight": codes, "weight_scale": scales}, codes.astype(np.float32) * scales)

    config = {"activation_scale_ub": 1200.0, "modules_to_not_convert": ["lm_head"], "quant_method": "fbgemm_fp8"}
    return Layout(store, lambda _modules: Description(config))


def quark(*, input_scale: float = 0.1) -> Layout:
    """``weight`` float8 ``[outputs, inputs]``, ``weight_scale`` and ``input_scale`` float32 without a dimension."""

    def store(_name: str, weight: np.ndarray) -> Stored:
        scale = np.float32(np.abs(weight).max() / FP8_MAX)
        codes = float8(weight / scale)
        parts = {"weight": codes, "weight_scale": np.array(scale), "input_scale": np.array(input_scale, np.float32)}
        return Stored(parts, codes.astype(np.float32) * scale)

    kind = {
        "dtype": "fp8_e4m3",
        "qscheme": "per_tensor",
        "is_dynamic": False,
        "symmetric": True,
        "group_size": None,
        "ch_axis": None,
        "observer_cls": "PerTensorMinMaxObserver",
        "round_method": "half_even",
        "scale_type": "float",
    }
    config = {
        "algo_config": None,
        "exclude": ["lm_head"],
        "export": {
            "kv_cache_group": [],
            "pack_method": "reorder",
            "weight_format": "real_quantized",
            "weight_merge_groups": None,
        },
        "global_quant_config": {"bias": None, "input_tensors": kind, "output_tensors": None, "weight": kind},
        "kv_cache_quant_config": {},
        "layer_quant_config": {},
        "layer_type_quant_config": {},
        "quant_method": "quark",
        "quant_mode": "eager_mode",
    }
    return Layout(store, lambda _modules: Description(config))


def eetq() -> Layout:
    """``weight`` int8 ``[inputs, outputs]``, ``weight_scales`` float16 ``[outputs]`` (transformers 5.23)."""

    def store(_name: str, weight: np.ndarray) -> Stored:
        scales = (np.abs(weight).max(-1) / 127).astype(np.float16)
        codes = np.clip(np.rint(weight / scales.astype(np.float32)[:, None]), -127, 127)
        parts = {"weight": np.ascontiguousarray(codes.T.astype(np.int8)), "weight_scales": scales}
        return Stored(parts, codes * scales.astype(np.float32)[:, None])

    config = {"modules_to_not_convert": None, "quant_method": "eetq", "weights": "int8"}
    return Layout(store, lambda _modules: Description(config), dtype="float16")
