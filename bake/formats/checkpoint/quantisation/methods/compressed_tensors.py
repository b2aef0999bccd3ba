"""compressed-tensors, as llm-compressor writes it (compressed-tensors 0.20).

A linear module stores, by its format: ``weight_packed`` int32 ``[outputs, inputs * bits / 32]`` and ``weight_shape``
(pack-quantized); ``weight`` int8 or float8 ``[outputs, inputs]`` (int-, float-, naive- and mxfp8-quantized); or
``weight_packed`` uint8 ``[outputs, inputs / 2]`` (nvfp4- and mxfp4-pack-quantized). All have ``weight_scale``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .....core.stacks import Support
from ..layout import SHARED_SCALES, Axis, Layout, Part
from ..method import Fields, Method, Parts, Quantiser, Shape
from ..reading import FP8, is_one_of, matrix, said, short
from .marlin import MARLIN_24


def _holds(parts: Parts) -> bool:
    weight = matrix(parts, "weight_packed", "I32", "U8") or matrix(parts, "weight", "I8", *FP8)
    return weight is not None and "weight_scale" in parts


def _shape(parts: Parts, fields: Fields) -> Shape | None:
    if shape := matrix(parts, "weight", "I8", *FP8):
        return shape
    if pairs := matrix(parts, "weight_packed", "U8"):
        return pairs[0], pairs[1] * 2
    words, groups = matrix(parts, "weight_packed", "I32"), _groups(fields)
    bits = groups[0]["weights"].get("num_bits") if len(groups) == 1 else None
    return (words[0], words[1] * 32 // bits) if words and is_one_of(bits, (2, 4, 8)) else None


def _layout_packed(fields: Fields) -> Layout | None:
    """Symmetric integers with an offset of half their range."""
    groups = _groups(fields)
    weights = groups[0]["weights"] if len(groups) == 1 else {}
    bits, group = weights.get("num_bits"), weights.get("group_size")
    if not is_one_of(bits, (4, 8)) or weights.get("symmetric") is False:
        return None
    zero = sum(1 << (bits * place + bits - 1) for place in range(32 // bits))
    packed = Part("weight_packed", Axis(0), Axis(1, 32 // bits), zero=zero, lead=zero + 1)
    shape = Part("weight_shape", is_shape=True)
    if type(group) is not int or group <= 0:
        return Layout((packed, shape, Part("weight_scale", Axis(0), zero=1)), no_column=SHARED_SCALES)
    return Layout((packed, shape, Part("weight_scale", Axis(0), Axis(1, group), zero=1, holds_column=True)), group)


def _layout_rows(fields: Fields) -> Layout:
    """One number a weight, and one scale a row."""
    scale = Part("weight_scale", Axis(0), zero=1)
    return Layout((Part("weight", Axis(0), Axis(1)), scale), no_column=SHARED_SCALES)


def _layout_tensor(fields: Fields) -> Layout:
    """One number a weight, and one scale for all."""
    shared = (Part("weight_scale"), Part("input_scale"))
    return Layout((Part("weight", Axis(0), Axis(1)), *shared), no_column="one scale serves the whole module")


def _groups(fields: Fields) -> list[dict[str, Any]]:
    """The config groups that quantise weights, each with a `weights` object."""
    groups = fields.get("config_groups")
    found = groups.values() if isinstance(groups, dict) else ()
    return [group for group in found if isinstance(group, dict) and isinstance(group.get("weights"), dict)]


_INT8 = "the module rounds its input to int8, the same in both runs, and adds the bias in the output's dtype"
_FLOAT8 = "the module rounds its input to float8, the same in both runs, and adds the bias in the output's dtype"
# transformers 5.23: quantizers/quantizer_compressed_tensors.py:115 keeps the Linear modules and their biases.
_TRANSFORMERS = Support("steered", note="with the compressed-tensors package")
_RAN = replace(_TRANSFORMERS, run=True)
# mlx-lm 0.32.2: utils.py:309 and 599; only the classes of DeepSeek, Kimi and Mistral 4 rename `weight_packed`.
_MLX = Support("refuses")
_MLX_RAN = replace(_MLX, run=True)

W4A16 = Method(
    name="w4a16",
    label="compressed-tensors, packed integers in groups",
    holds=_holds,
    shape=_shape,
    layout=_layout_packed,
    stacks={
        "transformers": _RAN,
        # vLLM 0.32: quantization/compressed_tensors/compressed_tensors.py:868.
        "vllm": Support("steered", run=True),
        # llama.cpp: conversion/base.py:531.
        "llama.cpp": Support("steered", run=True),
        "mlx": _MLX_RAN,
    },
)
ACT_ORDER = replace(
    W4A16,
    name="w4a16-act-order",
    layout=lambda fields: None,
    label="compressed-tensors, packed integers with activation ordering",
    stacks={
        "transformers": _TRANSFORMERS,
        # vLLM 0.32: compressed_tensors.py:341.
        "vllm": Support("refuses"),
        # llama.cpp: conversion/base.py:550 leaves `weight_g_idx`, which has no place in a GGUF (630).
        "llama.cpp": Support("refuses"),
        "mlx": _MLX,
    },
)
CHANNEL = replace(
    W4A16,
    name="w4a16-channel",
    label="compressed-tensors, packed integers by channel",
    stacks={
        "transformers": _RAN,
        "vllm": Support("steered", run=True),
        # llama.cpp: conversion/base.py:532.
        "llama.cpp": Support("refuses", run=True),
        "mlx": _MLX_RAN,
    },
)
W4A8 = replace(
    W4A16,
    name="w4a8",
    layout=lambda fields: None,
    label="compressed-tensors, packed integers with rounded inputs",
    stacks={
        "transformers": _TRANSFORMERS,
        "vllm": Support("steered", run=True),
        "llama.cpp": Support("steered", note="it does not round the inputs"),
        "mlx": _MLX,
    },
    reason="the module rounds its input, the same in both runs, and adds the bias in the output's dtype",
)
W8A8 = replace(
    W4A16,
    name="w8a8",
    layout=_layout_rows,
    label="compressed-tensors, int8",
    stacks={
        "transformers": _RAN,
        "vllm": Support("steered", run=True),
        # llama.cpp: conversion/base.py:512.
        "llama.cpp": Support("steered", run=True, note="it does not round the inputs"),
        "mlx": _MLX_RAN,
    },
    reason=_INT8,
)
W8A8_TENSOR = replace(
    W8A8,
    name="w8a8-tensor",
    layout=_layout_tensor,
    label="compressed-tensors, int8 by tensor",
    stacks={
        "transformers": _RAN,
        "vllm": Support("steered", run=True),
        # llama.cpp: conversion/base.py:515.
        "llama.cpp": Support("refuses", run=True),
        "mlx": _MLX_RAN,
    },
)
FP8_CHANNEL = replace(W8A8, name="fp8-channel", label="compressed-tensors, FP8 by channel", reason=_FLOAT8)
FP8_TENSOR = replace(
    W8A8_TENSOR,
    name="fp8-tensor",
    label="compressed-tensors, FP8 by tensor",
    stacks={**W8A8_TENSOR.stacks, "transformers": _RAN, "vllm": Support("steered", note="on a GPU")},
    reason=_FLOAT8,
)
FP8_BLOCK = replace(
    FP8_CHANNEL,
    name="ct-fp8-block",
    layout=lambda fields: None,
    label="compressed-tensors, FP8 by block",
    stacks={
        "transformers": _RAN,
        "vllm": Support("steered", note="on a GPU; on a CPU it stops at a bias of 16 bits"),
        "llama.cpp": Support("steered", run=True, note="it does not round the inputs"),
        "mlx": _MLX_RAN,
    },
)
NVFP4 = replace(
    W4A16,
    name="nvfp4",
    layout=lambda fields: None,
    label="compressed-tensors, NVFP4",
    stacks={
        "transformers": Support("steered", note="with the compressed-tensors package, in bfloat16"),
        # vLLM 0.32: compressed_tensors.py:797, 804.
        "vllm": Support("steered", note="on a GPU"),
        # llama.cpp: conversion/base.py:985, 1023; its graph scales the product before it adds the bias
        # (src/llama-graph.cpp, build_attn), and asserts that an NVFP4 MLP has none (build_ffn).
        "llama.cpp": Support(
            "steered", run=True, note="it stops at a bias of an MLP, and a Qwen2 is another function there"
        ),
        "mlx": _MLX_RAN,
    },
    reason="where the module rounds its input to 4 bits, it does so alike in both runs; the bias is added afterwards",
)
MX = replace(
    NVFP4,
    name="ct-mx",
    label="compressed-tensors, MXFP4 or MXFP8",
    stacks={
        "transformers": _TRANSFORMERS,
        # vLLM 0.32: compressed_tensors.py:807 to 815.
        "vllm": Support("steered", note="on a GPU"),
        # llama.cpp: conversion/base.py:557, but for Kimi K3.
        "llama.cpp": Support("refuses"),
        "mlx": _MLX,
    },
)
MIXED = replace(
    W4A16,
    name="ct-mixed",
    layout=lambda fields: None,
    label="compressed-tensors, mixed",
    stacks={
        "transformers": _TRANSFORMERS,
        "vllm": Support("steered", run=True, note="where it takes each of the groups"),
        # llama.cpp: conversion/base.py:508.
        "llama.cpp": Support("refuses"),
        "mlx": _MLX,
    },
    reason="where a module rounds its input, it does so alike in both runs; the bias is added afterwards",
)
SPARSE = replace(
    W4A16,
    name="ct-sparse",
    layout=lambda fields: None,
    label="compressed-tensors, sparse",
    stacks={
        # compressed-tensors 0.20: compressors/model_compressors/model_compressor.py:78.
        "transformers": Support("refuses"),
        # vLLM 0.32: compressed_tensors.py:297.
        "vllm": Support("refuses"),
        # llama.cpp: conversion/base.py:557, or 630 for the tensors of the bitmask.
        "llama.cpp": Support("refuses"),
        "mlx": _MLX,
    },
)
METHODS = (
    W4A16, ACT_ORDER, CHANNEL, W4A8, W8A8, W8A8_TENSOR, FP8_CHANNEL, FP8_TENSOR, FP8_BLOCK, NVFP4, MX, MIXED, SPARSE,
)  # fmt: skip

_BY_FORMAT = {"nvfp4-pack-quantized": NVFP4, "mxfp4-pack-quantized": MX, "mxfp8-quantized": MX}
_BY_STRATEGY = {
    ("int", "channel"): W8A8,
    ("int", "tensor"): W8A8_TENSOR,
    ("float", "channel"): FP8_CHANNEL,
    ("float", "tensor"): FP8_TENSOR,
    ("float", "block"): FP8_BLOCK,
}


def _pick(fields: Fields) -> Method | str:
    stored, groups = said(fields, "format"), _groups(fields)
    if stored == "marlin-24":
        return MARLIN_24
    sparsity = fields.get("sparsity_config")
    if stored.startswith("sparse-") or (isinstance(sparsity, dict) and said(sparsity, "format") not in ("", "dense")):
        return SPARSE
    if not groups:
        return "it has no config_groups that quantise weights"
    if stored == "mixed-precision" and {said(group, "format") for group in groups} == {"nvfp4-pack-quantized"}:
        return NVFP4
    if stored == "mixed-precision" or len(groups) > 1:
        return MIXED
    return _pick_group(stored, groups[0])


def _pick_group(stored: str, group: Fields) -> Method | str:
    if method := _BY_FORMAT.get(stored):
        return method
    if stored == "pack-quantized":
        return _packed(group)
    if stored not in ("int-quantized", "float-quantized", "naive-quantized"):
        return f"its format is {short(stored)}"
    weights = group["weights"]
    kind, strategy = said(weights, "type") or "int", said(weights, "strategy")
    return _BY_STRATEGY.get((kind, strategy)) or f"its weights are {short(kind)} with the strategy {short(strategy)}"


def _packed(group: Fields) -> Method:
    weights = group["weights"]
    if said(weights, "actorder") in ("group", "dynamic"):
        return ACT_ORDER
    if group.get("input_activations"):
        return W4A8
    return CHANNEL if said(weights, "strategy") == "channel" else W4A16


QUANTISER = Quantiser(("compressed-tensors",), METHODS, _pick)
