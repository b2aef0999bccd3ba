"""Marlin, the layout of a kernel that AutoGPTQ 0.6 and 0.7 wrote, and Marlin-24, the same for 2:4 sparse weights.

A linear module stores ``B`` int32 ``[inputs / 16, outputs * 2]`` and ``s`` float16 ``[groups, outputs]``; in Marlin-24
``B_24`` int32 ``[inputs / 32, outputs * 2]``, ``B_meta`` int16 and ``s`` (vLLM 0.9: quantization/marlin.py and
gptq_marlin_24.py). No stack reads either today.
"""

from __future__ import annotations

from .....core.stacks import Support
from ..method import Fields, Method, Parts, Quantiser, Shape
from ..reading import matrix

_STACKS = {
    # GPTQModel 7.7: quantization/config.py:3427, 3935, on which transformers relies.
    "transformers": Support("refuses", run=True),
    # vLLM 0.32: no such method in quantization/__init__.py:13; auto_gptq.py makes `qweight`, which the file has not.
    "vllm": Support("refuses", run=True),
    # llama.cpp: conversion/base.py:478 looks for `qweight`; `B` has no place in a GGUF (630).
    "llama.cpp": Support("refuses", run=True),
    # mlx-lm 0.32.2: utils.py:599, tensors that no module has.
    "mlx": Support("refuses", run=True),
}


def _holds(parts: Parts) -> bool:
    return "s" in parts and matrix(parts, "B", "I32") is not None


def _holds_24(parts: Parts) -> bool:
    return "B_meta" in parts and matrix(parts, "B_24", "I32") is not None


def _shape(parts: Parts, fields: Fields) -> Shape | None:
    tiles = matrix(parts, "B", "I32")
    return (tiles[1] // 2, tiles[0] * 16) if tiles and tiles[1] % 2 == 0 else None


def _shape_24(parts: Parts, fields: Fields) -> Shape | None:
    # Of 8 bits the rows are twice as long; the scales have one column for each output.
    tiles, scales = matrix(parts, "B_24", "I32"), matrix(parts, "s", "F16")
    return (scales[1], tiles[0] * 32) if tiles and scales else None


MARLIN = Method("marlin", "Marlin", _holds, _shape, _STACKS)
MARLIN_24 = Method("marlin-24", "Marlin-24", _holds_24, _shape_24, _STACKS)


def _pick(fields: Fields) -> Method:
    return MARLIN


QUANTISER = Quantiser(("marlin",), (MARLIN, MARLIN_24), _pick)
