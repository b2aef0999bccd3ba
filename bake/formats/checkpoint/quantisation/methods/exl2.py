"""EXL2 of ExLlamaV2, which none of the stacks reads.

A linear module stores ``q_weight`` int32 ``[rows of several bit widths, outputs]``, ``q_scale`` int32
``[groups, outputs / 8]``, ``q_scale_max`` float16, ``q_groups`` int16 and ``q_invperm`` ``[inputs]``.
"""

from __future__ import annotations

from .....core.stacks import Support
from ..method import Fields, Method, Parts, Quantiser, Shape
from ..reading import matrix


def _holds(parts: Parts) -> bool:
    return "q_invperm" in parts and matrix(parts, "q_weight", "I32") is not None


def _shape(parts: Parts, fields: Fields) -> Shape | None:
    packed, order = matrix(parts, "q_weight", "I32"), parts["q_invperm"].shape
    return (packed[1], order[0]) if packed and len(order) == 1 and order[0] else None


METHOD = Method(
    name="exl2",
    label="EXL2",
    holds=_holds,
    shape=_shape,
    # ExLlamaV2 0.3: exllamav2/module.py:89 reads it as it is, for kernels of float16.
    bias_like=("q_scale_max",),
    stacks={
        # transformers 5.23: quantizers/auto.py:297 ignores a method that it does not know.
        "transformers": Support("wrong", run=True, note="it fills the weights with random numbers"),
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


QUANTISER = Quantiser(("exl2",), (METHOD,), _pick)
