"""HQQ, as transformers 4 saved it.

A linear module stores ``W_q``, packed by its number of bits, ``scale``, ``zero`` and its settings, each as a tensor:
``nbits``, ``group_size``, ``shape`` and others.
"""

from __future__ import annotations

from .....core.stacks import Support
from ..method import Fields, Method, Parts, Quantiser, Shape


def _holds(parts: Parts) -> bool:
    return "W_q" in parts


def _shape(parts: Parts, fields: Fields) -> Shape | None:
    # The shape is in the bytes of `shape`.
    return None


METHOD = Method(
    name="hqq",
    label="HQQ",
    holds=_holds,
    shape=_shape,
    stacks={
        # transformers 5.23: quantizers/base.py:315, for quantizers/quantizer_hqq.py makes no modules of its own.
        "transformers": Support("refuses"),
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


QUANTISER = Quantiser(("hqq",), (METHOD,), _pick)
