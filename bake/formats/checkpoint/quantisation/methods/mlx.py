"""MLX, as mlx-lm writes it: the config says ``bits`` and ``group_size``, and no ``quant_method``.

A linear module stores ``weight`` uint32 ``[outputs, inputs * bits / 32]`` and ``scales``
``[outputs, inputs / group_size]``: floats, with ``biases`` of the same shape (mode affine), or uint8 (modes mxfp4,
mxfp8 and nvfp4). ``biases`` belong to the weight; the module's own is ``bias``.
"""

from __future__ import annotations

from .....core.stacks import Support
from ..layout import Axis, Layout, Part
from ..method import Fields, Method, Parts, Quantiser, Shape
from ..reading import is_one_of, matrix, said, short

_BITS = (2, 3, 4, 5, 6, 8)
_GROUP_SIZES = (16, 32, 64, 128)
_MODES = ("", "affine", "mxfp4", "mxfp8", "nvfp4")


def _holds(parts: Parts) -> bool:
    return "scales" in parts and matrix(parts, "weight", "U32") is not None


def _shape(parts: Parts, fields: Fields) -> Shape | None:
    words, scales = matrix(parts, "weight", "U32"), matrix(parts, "scales", "F16", "BF16", "F32", "U8")
    bits, group_size = fields.get("bits"), fields.get("group_size")
    if words is None or scales is None or not is_one_of(bits, _BITS) or not is_one_of(group_size, _GROUP_SIZES):
        return None
    # A module may have bits and a group size of its own; then the two do not agree, or not by the config's.
    inputs = scales[1] * group_size
    return (words[0], inputs) if words[1] * 32 == inputs * bits and words[0] == scales[0] else None


def _layout(fields: Fields) -> Layout | None:
    bits, group = fields.get("bits"), fields.get("group_size")
    # Modules with bits of their own do not fit these, and are refused.
    if (
        said(fields, "mode") not in ("", "affine")
        or not is_one_of(bits, (2, 4, 8))
        or not is_one_of(group, _GROUP_SIZES)
    ):
        return None
    return Layout(
        (
            Part("weight", Axis(0), Axis(1, 32 // bits), lead=1),
            Part("scales", Axis(0), Axis(1, group), zero=1, holds_column=True),
            Part("biases", Axis(0), Axis(1, group)),
        ),
        group,
    )


METHOD = Method(
    name="mlx",
    label="MLX",
    holds=_holds,
    shape=_shape,
    layout=_layout,
    # mlx computes in the dtype of the scales; a bias of another would change that of all that follows.
    bias_like=("scales",),
    stacks={
        # transformers 5.23: quantizers/auto.py:293.
        "transformers": Support("refuses", run=True),
        # vLLM 0.32 takes it as not quantised (config/model.py:1439), and the shapes do not fit.
        "vllm": Support("refuses"),
        # llama.cpp: conversion/base.py:630, for `scales` and `biases`.
        "llama.cpp": Support("refuses"),
        # mlx-lm 0.32.2: utils.py:519; mlx 0.32: nn/layers/quantized.py. With `quantize_activations` in the config: 585.
        "mlx": Support("steered", run=True, note="without quantize_activations"),
    },
)


def _pick(fields: Fields) -> Method | str:
    for name, known in (("bits", _BITS), ("group_size", _GROUP_SIZES)):
        if not is_one_of(fields.get(name), known):
            return f"it names no quant_method, and its {name} is {short(fields.get(name))}"
    return METHOD if said(fields, "mode") in _MODES else f"its mode is {short(fields.get('mode'))}"


QUANTISER = Quantiser(("mlx",), (METHOD,), _pick, is_unnamed=lambda fields: "bits" in fields and "group_size" in fields)
