"""ModelOpt of NVIDIA: in config.json, or in hf_quant_config.json until version 0.29.

A linear module stores ``weight`` float8 ``[outputs, inputs]``, ``weight_scale`` and ``input_scale`` (FP8, MXFP8); or
``weight`` uint8 ``[outputs, inputs / 2]``, ``weight_scale`` float8 ``[outputs, inputs / 16]`` and ``weight_scale_2``
(NVFP4). The older file holds ``{"producer": {"name": "modelopt"}, "quantization": {"quant_algo": ...}}``.
"""

from __future__ import annotations

from dataclasses import replace

from .....core.stacks import Support
from ..method import Fields, Method, Parts, Quantiser, Shape
from ..reading import FP8, matrix, said, short

_FP8_REASON = "the module rounds its input to float8, the same in both runs, and adds the bias in the output's dtype"
# transformers 5.23: quantizers/auto.py:297 ignores a method that it does not know.
_UNSCALED = Support("wrong", run=True, note="it reads the weights without their scales")


def _holds(parts: Parts) -> bool:
    return "weight_scale" in parts and matrix(parts, "weight", "U8", *FP8) is not None


def _shape(parts: Parts, fields: Fields) -> Shape | None:
    if pairs := matrix(parts, "weight", "U8"):
        return pairs[0], pairs[1] * 2
    return matrix(parts, "weight", *FP8)


FLOAT8 = Method(
    name="modelopt-fp8",
    label="ModelOpt FP8",
    holds=_holds,
    shape=_shape,
    stacks={
        "transformers": _UNSCALED,
        # vLLM 0.32: quantization/modelopt.py:2661.
        "vllm": Support("steered", note="on a GPU"),
        # llama.cpp: conversion/base.py:558.
        "llama.cpp": Support("steered", run=True, note="it does not round the inputs"),
        # mlx-lm 0.32.2: utils.py:560.
        "mlx": Support("refuses", run=True),
    },
    reason=_FP8_REASON,
)
BLOCKS = replace(
    FLOAT8,
    name="modelopt-fp8-block",
    label="ModelOpt FP8 by block",
    # llama.cpp: conversion/base.py:573 multiplies by the scales without their block size, and stops at their shape.
    stacks={
        **FLOAT8.stacks,
        "vllm": Support("steered", note="on a GPU; on a CPU it stops at a bias of 16 bits"),
        "llama.cpp": Support("refuses", run=True),
    },
)
MXFP8 = replace(
    BLOCKS,
    name="modelopt-mxfp8",
    label="ModelOpt MXFP8",
    stacks={**FLOAT8.stacks, "llama.cpp": Support("refuses")},
)
NVFP4 = replace(
    FLOAT8,
    name="modelopt-nvfp4",
    label="ModelOpt NVFP4",
    stacks={
        # Half as many columns as the module has: the shapes do not fit.
        "transformers": Support("refuses", run=True),
        "vllm": Support("steered", note="on a GPU"),
        # llama.cpp: conversion/base.py:1000, 860; its graph scales the product before it adds the bias
        # (src/llama-graph.cpp, build_attn), and asserts that an NVFP4 MLP has none (build_ffn).
        "llama.cpp": Support("steered", run=True, note="it stops at a bias of an MLP, and a Qwen2 is another function"),
        # mlx-lm 0.32.2: utils.py:503 looks for `scales`, and 599 refuses the rest.
        "mlx": Support("refuses", run=True),
    },
    reason="where the module rounds its input to 4 bits, it does so alike in both runs; the bias is added afterwards",
)
MIXED = replace(
    NVFP4,
    name="modelopt-mixed",
    label="ModelOpt, mixed",
    stacks={
        # Its FP8 layers fit; an NVFP4 layer, if it has one, stops it.
        "transformers": replace(_UNSCALED, run=False),
        # vLLM 0.32: quantization/modelopt.py:1813; transformers_utils/model_arch_config_convertor.py:290.
        "vllm": Support("steered", note="on a GPU, where config.json names the method"),
        "llama.cpp": Support("steered", note="it stops at an NVFP4 bias of an MLP"),
        "mlx": Support("refuses"),
    },
)

# vLLM 0.32: quantization/modelopt.py:139.
_BY_ALGORITHM = {
    "FP8": FLOAT8,
    "FP8_PER_CHANNEL_PER_TOKEN": FLOAT8,
    "FP8_PB_WO": BLOCKS,
    "MXFP8": MXFP8,
    "NVFP4": NVFP4,
    "W4A16_NVFP4": NVFP4,
    "MIXED_PRECISION": MIXED,
}


def _pick(fields: Fields) -> Method | str:
    older = fields.get("quantization")
    algorithm = said(older if isinstance(older, dict) else fields, "quant_algo").upper()
    return _BY_ALGORITHM.get(algorithm) or f"its quant_algo is {short(algorithm)}"


QUANTISER = Quantiser(
    ("modelopt", "modelopt_fp4", "modelopt_mxfp8", "modelopt_mixed"),
    (FLOAT8, BLOCKS, MXFP8, NVFP4, MIXED),
    _pick,
    files=("hf_quant_config.json",),
)
