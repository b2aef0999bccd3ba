"""FP8 under the name ``fp8``: by blocks as DeepSeek and transformers write it, or one scale for a module.

A linear module stores ``weight`` float8 ``[outputs, inputs]``, and ``weight_scale_inv`` with one number for each block
of 128 by 128; or ``weight_scale_inv`` and ``activation_scale``, scalars (Mistral); or ``weight_scale`` and
``input_scale``, scalars (AutoFP8).
"""

from __future__ import annotations

from .....core.stacks import Support
from ..layout import Axis, Layout, Part
from ..method import Fields, Method, Parts, Quantiser, Shape
from ..reading import FP8, is_one_of, matrix, short

_SIDES = (32, 64, 128, 256)
_REASON = "where the module rounds its input to float8, it does so alike in both runs; the bias is added afterwards"


def _holds_inverse(parts: Parts) -> bool:
    return "weight_scale_inv" in parts and matrix(parts, "weight", *FP8) is not None


def _holds_scale(parts: Parts) -> bool:
    return "weight_scale" in parts and matrix(parts, "weight", *FP8) is not None


def _shape(parts: Parts, fields: Fields) -> Shape | None:
    return matrix(parts, "weight", *FP8)


def _layout_block(fields: Fields) -> Layout | None:
    sides = fields.get("weight_block_size")
    if not isinstance(sides, list) or len(sides) != 2 or not all(is_one_of(side, _SIDES) for side in sides):
        return None
    scale = Part("weight_scale_inv", Axis(0, sides[0]), Axis(1, sides[1]), zero=1)
    return Layout(
        (Part("weight", Axis(0), Axis(1)), scale),
        no_column=f"each of its scales serves {sides[0]} rows, and a number of FP8 has 4 bits",
    )


BLOCK = Method(
    name="fp8-block",
    label="FP8 by block",
    holds=_holds_inverse,
    shape=_shape,
    layout=_layout_block,
    stacks={
        # transformers 5.23: integrations/finegrained_fp8.py:427; without a GPU it makes plain weights of them
        # (quantizers/quantizer_finegrained_fp8.py:41).
        "transformers": Support("steered", run=True),
        # vLLM 0.32: quantization/fp8.py:339.
        "vllm": Support("steered", note="on a GPU; on a CPU it stops at a bias of 16 bits"),
        # llama.cpp: conversion/base.py:450.
        "llama.cpp": Support("steered", run=True, note="it does not round the inputs"),
        # mlx-lm 0.32.2: utils.py:538 and 599; the classes of DeepSeek, MiniMax and Mistral make plain weights of them.
        "mlx": Support("refuses", run=True, note="but for DeepSeek, MiniMax and Ministral"),
    },
    reason=_REASON,
)
TENSOR_INVERSE = Method(
    name="fp8-scale-inv",
    label="FP8 by tensor, with weight_scale_inv",
    holds=_holds_inverse,
    shape=_shape,
    stacks={
        # transformers 5.23: integrations/finegrained_fp8.py:411.
        "transformers": Support("steered", run=True),
        # vLLM 0.32: quantization/fp8.py:326 names it weight_scale; models/mistral3.py:436 renames it.
        "vllm": Support("steered", note="of Mistral 3, on a GPU"),
        "llama.cpp": Support("steered", run=True, note="it does not round the inputs"),
        "mlx": Support("refuses", run=True, note="but for Ministral"),
    },
    reason=_REASON,
)
TENSOR = Method(
    name="fp8",
    label="FP8 by tensor",
    holds=_holds_scale,
    shape=_shape,
    stacks={
        # transformers 5.23 takes blocks of 128 for granted (utils/quantization_config.py:1707) and reads no
        # weight_scale; on a CPU it stops at the first product (run).
        "transformers": Support("wrong"),
        # vLLM 0.32: quantization/fp8.py:326.
        "vllm": Support("steered", note="on a GPU"),
        # llama.cpp: conversion/base.py:453 knows no weight_scale, which has no place in a GGUF (630).
        "llama.cpp": Support("refuses", run=True),
        "mlx": Support("refuses", run=True),
    },
    reason=_REASON,
)


def _pick(fields: Fields) -> Method | str:
    if "weight_block_size" not in fields:
        return TENSOR
    sides = fields["weight_block_size"]
    if sides is None:
        return TENSOR_INVERSE
    if isinstance(sides, list) and len(sides) == 2 and all(is_one_of(side, _SIDES) for side in sides):
        return BLOCK
    return f"its weight_block_size is {short(sides)}"


QUANTISER = Quantiser(("fp8",), (BLOCK, TENSOR_INVERSE, TENSOR), _pick)
