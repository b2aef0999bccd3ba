"""GPTQ, as GPTQModel and AutoGPTQ write it.

A linear module stores ``qweight`` int32 ``[inputs * bits / 32, outputs]``, ``qzeros`` int32
``[groups, outputs * bits / 32]``, ``scales`` float16 ``[groups, outputs]`` and ``g_idx`` int32 ``[inputs]``
(GPTQModel 7.7, its formats gptq and gptq_v2).
"""

from __future__ import annotations

from dataclasses import replace

from .....core.stacks import Support
from ..layout import SHARED_SCALES, Axis, Layout, Part
from ..method import Fields, Method, Parts, Quantiser, Shape
from ..reading import is_one_of, matrix, said, short
from .marlin import MARLIN, MARLIN_24

FORMATS = ("gptq", "gptq_v2")
"""Values of ``checkpoint_format``, and of ``format``, its newer name."""
BITS = (2, 3, 4, 8)


def holds(parts: Parts) -> bool:
    """True if these are the tensors of a GPTQ linear module."""
    return "scales" in parts and matrix(parts, "qweight", "I32") is not None


def shape(parts: Parts, fields: Fields) -> Shape | None:
    """Shape of a GPTQ linear module; None without a known number of bits."""
    packed, bits = matrix(parts, "qweight", "I32"), fields.get("bits")
    if packed is None or not is_one_of(bits, BITS):
        return None
    inputs, rest = divmod(packed[0] * 32, bits)
    return None if rest else (packed[1], inputs)


def layout(fields: Fields) -> Layout | None:
    """Layout of a symmetric GPTQ linear module of 4 or 8 bits: the zero point is half of the range."""
    bits, group = fields.get("bits"), fields.get("group_size")
    if not is_one_of(bits, (4, 8)) or type(group) is not int or fields.get("sym") is False:
        return None
    each, half = 32 // bits, 1 << (bits - 1)
    zero = sum(half << (bits * place) for place in range(each))
    # Version 1 stores the zero point less one.
    less = 0 if "gptq_v2" in (said(fields, "checkpoint_format"), said(fields, "format")) else 1
    points = sum((half - less) << (bits * place) for place in range(each))
    parts = (
        Part("qweight", Axis(1), Axis(0, each), zero=zero, lead=zero + 1),
        Part("qzeros", Axis(1, each), Axis(0, max(1, group)), zero=points),
        Part("scales", Axis(1), Axis(0, max(1, group)), zero=1, holds_column=True),
        Part("g_idx", None, Axis(0), counts_groups=True),
    )
    return Layout(parts, group) if group > 0 else Layout(_of_one_group(parts), 1, SHARED_SCALES)


def _of_one_group(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """The parts of a module whose inputs are one group."""
    return tuple(part if part.name in ("qweight", "g_idx") else replace(part, inputs=None) for part in parts)


GPTQ = Method(
    name="gptq",
    label="GPTQ",
    holds=holds,
    shape=shape,
    layout=layout,
    stacks={
        # transformers 5.23: quantizers/quantizer_gptq.py:53, 66, which leaves the module to gptqmodel.
        "transformers": Support("steered", run=True, note="with the packages optimum and gptqmodel"),
        # vLLM 0.32: quantization/auto_gptq.py:99 (types), 178 (dtypes).
        "vllm": Support("steered", run=True, note="symmetric, of 4 or 8 bits, in float16 or bfloat16"),
        # llama.cpp: conversion/base.py:476, which makes a plain weight of it; 3 bits: 395.
        "llama.cpp": Support("steered", run=True, note="of 2, 4 or 8 bits"),
        # mlx-lm 0.32.2: utils.py:122, because of g_idx.
        "mlx": Support("refuses", run=True),
    },
)
ACT_ORDER = replace(
    GPTQ,
    name="gptq-act-order",
    label="GPTQ with act-order",
    # vLLM 0.32: quantization/utils/gptq_utils.py:33.
    stacks={**GPTQ.stacks, "vllm": Support("refuses", run=True)},
)


def _pick(fields: Fields) -> Method | str:
    stored = said(fields, "checkpoint_format") or said(fields, "format") or "gptq"
    if stored == "marlin" or fields.get("is_marlin_format"):
        return MARLIN
    if stored == "marlin_24":
        return MARLIN_24
    if stored not in FORMATS:
        return f"its checkpoint_format is {short(stored)}"
    if not is_one_of(fields.get("bits"), BITS):
        return f"its bits is {short(fields.get('bits'))}"
    # With one group over all inputs the order of the inputs changes nothing, and vLLM takes it (gptq_utils.py:29).
    ordered = fields.get("desc_act") and fields.get("group_size") != -1
    return ACT_ORDER if ordered else GPTQ


QUANTISER = Quantiser(
    ("gptq",),
    (GPTQ, ACT_ORDER),
    _pick,
    files=("quantize_config.json",),
    # transformers 5.23 reads config.json alone, and vLLM 0.32 the file only with --quantization.
    in_config=lambda fields: {**fields, "quant_method": "gptq"},
)
