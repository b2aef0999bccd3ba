"""bitsandbytes, as transformers saves it (bitsandbytes 0.50).

A linear module of 4 bits stores ``weight`` uint8 ``[outputs * inputs / 2, 1]``, and its scales one level deeper, as
``weight.absmax``, ``weight.quant_map`` and ``weight.quant_state.bitsandbytes__nf4`` or ``..fp4``. One of 8 bits stores
``weight`` int8 ``[outputs, inputs]``, ``SCB`` float32 ``[outputs]`` and ``weight_format`` uint8.
"""

from __future__ import annotations

from .....core.stacks import Support
from ..layout import SHARED_SCALES, Axis, Layout, Part
from ..method import Fields, Method, Parts, Quantiser, Shape
from ..reading import matrix

_STACKS = {
    # transformers 5.23: integrations/bitsandbytes.py:199, 211.
    "transformers": Support("steered", run=True, note="with the bitsandbytes package"),
    # vLLM 0.32: config/model.py:1454, no such method since it left quantization/__init__.py.
    "vllm": Support("refuses", run=True),
    # llama.cpp: conversion/base.py:580.
    "llama.cpp": Support("refuses", run=True),
    # mlx-lm 0.32.2: utils.py:599, tensors that no module has.
    "mlx": Support("refuses", run=True),
}


def _holds_4bit(parts: Parts) -> bool:
    # The packed weight may also be viewed as floats (`bnb_4bit_quant_storage`), so it is one column that tells it.
    weight = parts.get("weight")
    return weight is not None and len(weight.shape) == 2 and weight.shape[1] == 1 and weight.shape[0] > 1


def _unknown(parts: Parts, fields: Fields) -> Shape | None:
    # Only the number of elements is in the header; the shape is in the bytes of `quant_state`.
    return None


def _elements(parts: Parts) -> int:
    # Two weights a byte, whatever the dtype that it is viewed as.
    return 2 * parts["weight"].size


def _holds_8bit(parts: Parts) -> bool:
    return "SCB" in parts and matrix(parts, "weight", "I8") is not None


def _shape_8bit(parts: Parts, fields: Fields) -> Shape | None:
    return matrix(parts, "weight", "I8")


def _layout_8bit(fields: Fields) -> Layout:
    parts = (Part("weight", Axis(0), Axis(1)), Part("SCB", Axis(0), zero=1), Part("weight_format"))
    return Layout(parts, no_column=SHARED_SCALES)


FOUR_BITS = Method(
    name="bitsandbytes-4bit",
    label="bitsandbytes, 4 bits",
    holds=_holds_4bit,
    shape=_unknown,
    elements=_elements,
    stacks=_STACKS,
)
EIGHT_BITS = Method(
    name="bitsandbytes-8bit",
    label="bitsandbytes, 8 bits",
    holds=_holds_8bit,
    shape=_shape_8bit,
    layout=_layout_8bit,
    stacks=_STACKS,
    rounding=64.0,
    # Of SmolLM2's 30 layers 27 were within 1, and 3 between 16 and 27 (bitsandbytes 0.50).
    reason="its int8 part and its outlier columns are rounded apart, and may cancel each other",
)


def _pick(fields: Fields) -> Method | str:
    # The order in which transformers asks (5.23: quantizers/auto.py:163).
    if fields.get("load_in_4bit"):
        return FOUR_BITS
    if fields.get("load_in_8bit"):
        return EIGHT_BITS
    return "it says neither load_in_4bit nor load_in_8bit"


QUANTISER = Quantiser(
    ("bitsandbytes",),
    (FOUR_BITS, EIGHT_BITS),
    _pick,
    # transformers 5.23: quantizers/auto.py:163, for its first releases.
    is_unnamed=lambda fields: bool(fields.get("load_in_4bit") or fields.get("load_in_8bit")),
)
