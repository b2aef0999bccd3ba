"""BitNet, as transformers reads it: ternary weights.

A linear module stores ``weight`` uint8 ``[outputs / 4, inputs]`` and ``weight_scale`` ``[1]``.
"""

from __future__ import annotations

from dataclasses import replace

from .....core.stacks import Support
from ..method import Fields, Method, Parts, Quantiser, Shape
from ..reading import matrix, said

_REASON = "the module rounds its input to int8, the same in both runs, and adds the bias in the output's dtype"


def _holds(parts: Parts) -> bool:
    return "weight_scale" in parts and matrix(parts, "weight", "U8") is not None


def _shape(parts: Parts, fields: Fields) -> Shape | None:
    quarters = matrix(parts, "weight", "U8")
    return (quarters[0] * 4, quarters[1]) if quarters else None


BITNET = Method(
    name="bitnet",
    label="BitNet",
    holds=_holds,
    shape=_shape,
    stacks={
        # transformers 5.23: integrations/bitnet.py:196.
        "transformers": Support("steered", run=True),
        # vLLM 0.32: config/model.py:1454, no such method.
        "vllm": Support("refuses", run=True),
        # llama.cpp: conversion/base.py:442, which fails on tensors that are not there yet.
        "llama.cpp": Support("refuses", run=True, note="but for its converter with the option no-lazy"),
        # mlx-lm 0.32.2: models/bitlinear_layers.py:21, 155, with a kernel for Metal.
        "mlx": Support("steered", note="on a Mac"),
    },
    reason=_REASON,
)
AUTO = replace(
    BITNET,
    name="bitnet-autobitlinear",
    label="BitNet with AutoBitLinear",
    stacks={
        **BITNET.stacks,
        # transformers 5.23: integrations/bitnet.py:279 to 281.
        "transformers": Support("wrong", run=True, note="it multiplies the bias by the weight's scale"),
    },
)


def _pick(fields: Fields) -> Method | str:
    if said(fields, "quantization_mode") == "online":
        return "its quantization_mode is 'online', which rounds plain weights while the model runs"
    return AUTO if said(fields, "linear_class") == "autobitlinear" else BITNET


QUANTISER = Quantiser(("bitnet",), (BITNET, AUTO), _pick)
