"""EXL3 of ExLlamaV3, which none of the stacks reads.

A linear module stores ``trellis`` int16 ``[inputs / 16, outputs / 16, 16 * bits]``, ``suh`` float16 ``[inputs]`` and
``svh`` float16 ``[outputs]`` (exllamav3 1.6: modules/quant/exl3.py:41).
"""

from __future__ import annotations

from .....core.stacks import Support
from ..method import Fields, Method, Parts, Quantiser, Shape


def _holds(parts: Parts) -> bool:
    return "trellis" in parts


def _shape(parts: Parts, fields: Fields) -> Shape | None:
    tiles = parts["trellis"].shape
    return (tiles[1] * 16, tiles[0] * 16) if len(tiles) == 3 and 0 not in tiles else None


METHOD = Method(
    name="exl3",
    label="EXL3",
    holds=_holds,
    shape=_shape,
    # exllamav3 1.6: modules/linear.py:248 and quant/exl3.py:49, for kernels of float16.
    bias_like=("svh",),
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


QUANTISER = Quantiser(("exl3",), (METHOD,), _pick)
