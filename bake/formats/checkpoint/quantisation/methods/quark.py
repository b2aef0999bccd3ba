"""Quark of AMD.

A linear module stores ``weight`` and ``weight_scale``, and maybe ``input_scale``: float8 or int8 ``[outputs, inputs]``,
uint8 ``[outputs, inputs / 2]`` (MXFP4), or int32 that is packed in one of two ways.
"""

from __future__ import annotations

from .....core.stacks import Support
from ..method import Fields, Method, Parts, Quantiser, Shape
from ..reading import FP8, matrix


def _holds(parts: Parts) -> bool:
    return "weight_scale" in parts and matrix(parts, "weight", "I8", "U8", "I32", *FP8) is not None


def _shape(parts: Parts, fields: Fields) -> Shape | None:
    # Of MXFP4, that is with scales of eight bits; U8 without them is another packing.
    if (pairs := matrix(parts, "weight", "U8")) and matrix(parts, "weight_scale", "U8"):
        return pairs[0], pairs[1] * 2
    return matrix(parts, "weight", "I8", *FP8)


METHOD = Method(
    name="quark",
    label="Quark",
    holds=_holds,
    shape=_shape,
    stacks={
        # transformers 5.23: quantizers/quantizer_quark.py:64, which leaves the module to quark.
        "transformers": Support("steered", note="with the amd-quark package"),
        # vLLM 0.32: quantization/quark/quark.py.
        "vllm": Support("steered", note="on a GPU"),
        # llama.cpp: conversion/base.py:580.
        "llama.cpp": Support("refuses", run=True),
        # mlx-lm 0.32.2: utils.py:599, tensors that no module has.
        "mlx": Support("refuses", run=True),
    },
    reason="where the module rounds its input, it does so alike in both runs; the bias is added afterwards",
)


def _pick(fields: Fields) -> Method:
    return METHOD


QUANTISER = Quantiser(("quark",), (METHOD,), _pick)
