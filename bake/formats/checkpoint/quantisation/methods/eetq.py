"""EETQ, as transformers writes it: int8 with one scale for each output.

A linear module stores ``weight`` int8 ``[inputs, outputs]``, laid out for a kernel, and ``weight_scales`` float16
``[outputs]`` (transformers 5.23: integrations/eetq.py).
"""

from __future__ import annotations

from .....core.stacks import Support
from ..method import Fields, Method, Parts, Quantiser, Shape
from ..reading import matrix


def _holds(parts: Parts) -> bool:
    return "weight_scales" in parts and matrix(parts, "weight", "I8") is not None


def _shape(parts: Parts, fields: Fields) -> Shape | None:
    turned = matrix(parts, "weight", "I8")
    return (turned[1], turned[0]) if turned else None


METHOD = Method(
    name="eetq",
    label="EETQ",
    holds=_holds,
    shape=_shape,
    # The kernel answers in float16, whatever the config says.
    bias_like=("weight_scales",),
    stacks={
        # transformers 5.23: integrations/eetq.py:53, 77.
        "transformers": Support("steered", note="with the kernels package, on a GPU, in float16"),
        # vLLM 0.32: config/model.py:1454, no such method.
        "vllm": Support("refuses", run=True),
        # llama.cpp: conversion/base.py:580.
        "llama.cpp": Support("refuses", run=True),
        # mlx-lm 0.32.2: utils.py:599, tensors that no module has.
        "mlx": Support("refuses", run=True),
    },
)


def _pick(fields: Fields) -> Method:
    return METHOD


QUANTISER = Quantiser(("eetq",), (METHOD,), _pick)
