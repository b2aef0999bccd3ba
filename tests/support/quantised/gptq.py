"""Methods in the layout of GPTQ: GPTQModel 7.7 (and AutoGPTQ before it), AutoRound 0.16, Marlin of AutoGPTQ 0.7."""

from __future__ import annotations

from typing import Any

import numpy as np

from .layout import Description, Layout, Modules, Stored
from .packing import asymmetric, nibbles_in_words, noise, restored, symmetric

GROUP = 32


def _store(weight: np.ndarray, group: int, *, version: int, sym: bool, act_order: bool) -> Stored:
    inputs = weight.shape[1]
    order = np.random.default_rng(inputs).permutation(inputs) if act_order else np.arange(inputs)
    # The groups are of inputs that follow each other in `order`, the stored rows in that of the weight.
    if sym:
        codes, scales = symmetric(weight[:, order], group, 4, np.float16)
        codes, zeros = codes + 8, np.full(scales.shape, 8)
    else:
        codes, scales, zeros = asymmetric(weight[:, order], group, 4, np.float16)
    back = np.argsort(order)
    parts = {
        "qweight": nibbles_in_words(codes[:, back].T, 0),
        # Version 1 stores one less.
        "qzeros": nibbles_in_words(zeros.T - (1 if version == 1 else 0) & 15, 1),
        "scales": np.ascontiguousarray(scales.T),
        "g_idx": (back // group).astype(np.int32),
    }
    return Stored(parts, restored(codes, scales, zeros)[:, back])


def gptq(
    *,
    act_order: bool = False,
    version: int = 1,
    sym: bool = True,
    zero_bias: bool = False,
    group: int = GROUP,
    config_file: str = "config.json",
    file: str = "model.safetensors",
) -> Layout:
    """``qweight``, ``qzeros``, ``scales`` and ``g_idx``.

    Old files have ``bias`` zeros in every module (`zero_bias`), the config in quantize_config.json alone
    (`config_file`), and a name such as gptq_model-4bit-128g.safetensors (`file`).
    """

    def store(_name: str, weight: np.ndarray) -> Stored:
        stored = _store(weight, group, version=version, sym=sym, act_order=act_order)
        biases = {"bias": np.zeros(len(weight), np.float16)} if zero_bias else {}
        return Stored({**stored.parts, **biases}, stored.weight)

    def describe(_modules: Modules) -> Description:
        config: dict[str, Any] = {
            "bits": 4,
            "group_size": group,
            "desc_act": act_order,
            "sym": sym,
            "lm_head": False,
            "damp_percent": 0.01,
            "true_sequential": True,
            "static_groups": False,
        }
        if config_file != "config.json":  # AutoGPTQ before transformers knew it.
            return Description(None, {config_file: config | {"model_name_or_path": None, "model_file_base_name": None}})
        new = {
            "quant_method": "gptq",
            "checkpoint_format": "gptq" if version == 1 else "gptq_v2",
            "pack_dtype": "int32",
            "meta": {"quantizer": ["gptqmodel:7.7.0"]},
        }
        return Description(config | new, {"quantize_config.json": config | new})

    return Layout(store, describe, dtype="float16", file=file)


def auto_round(*, packing: str = "auto_round:auto_gptq", group: int = GROUP, name: str = "auto-round") -> Layout:
    """The layout of GPTQ without ``g_idx`` (AutoRound 0.16, ``export_to_autoround``); `name` was once another."""

    def store(_name: str, weight: np.ndarray) -> Stored:
        stored = _store(weight, group, version=1, sym=True, act_order=False)
        return Stored({part: value for part, value in stored.parts.items() if part != "g_idx"}, stored.weight)

    config = {
        "autoround_version": "0.16.1",
        "bits": 4,
        "block_name_to_quantize": "model.layers",
        "data_type": "int",
        "group_size": group,
        "packing_format": packing,
        "quant_method": name,
        "sym": True,
    }
    return Layout(store, lambda _modules: Description(config), dtype="float16")


def marlin(*, group: int = 128) -> Layout:
    """``B`` int32 ``[inputs / 16, outputs * 2]``, ``s`` float16 (AutoGPTQ 0.7, ``is_marlin_format``)."""

    def store(_name: str, weight: np.ndarray) -> Stored:
        outputs, inputs = weight.shape
        scales = symmetric(weight, group, 4, np.float16)[1]
        parts = {"B": noise((inputs // 16, outputs * 2), np.int32), "s": np.ascontiguousarray(scales.T)}
        return Stored(parts)

    config = {
        "bits": 4,
        "group_size": group,
        "desc_act": False,
        "sym": True,
        "lm_head": False,
        "is_marlin_format": True,
        "checkpoint_format": "marlin",
        "quant_method": "gptq",
    }
    return Layout(store, lambda _modules: Description(config), dtype="float16")


def marlin_24(*, group: int = 128) -> Layout:
    """``B_24`` int32 ``[inputs / 32, outputs * 2]``, ``B_meta`` int16 ``[inputs / 32, outputs * 2]``, ``s`` float16.

    As vLLM 0.9 reads it (``gptq_marlin_24.py``); llm-compressor's name of the format is marlin-24.
    """

    def store(_name: str, weight: np.ndarray) -> Stored:
        outputs, inputs = weight.shape
        scales = symmetric(weight, group, 4, np.float16)[1]
        packed, meta = noise((inputs // 32, outputs * 2), np.int32), noise((inputs // 32, outputs * 2), np.int16)
        return Stored({"B_24": packed, "B_meta": meta, "s": np.ascontiguousarray(scales.T)})

    config = {"bits": 4, "group_size": group, "sym": True, "quant_method": "gptq", "checkpoint_format": "marlin_24"}
    return Layout(store, lambda _modules: Description(config | {"desc_act": False}), dtype="float16")
