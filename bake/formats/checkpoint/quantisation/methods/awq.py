"""AWQ, as AutoAWQ, AutoRound and GPTQModel write it.

A linear module stores ``qweight`` int32 ``[inputs, outputs / 8]``, ``qzeros`` int32 ``[groups, outputs / 8]`` and
``scales`` float16 ``[groups, outputs]`` (version gemm); ``qweight`` int32 ``[outputs, inputs / 8]`` and ``scales``
``[outputs, groups]``, padded (version gemv; gptqmodel 7.7: nn_modules/qlinear/gemv_awq.py).
"""

from __future__ import annotations

from .....core.stacks import Support
from ..layout import Axis, Layout, Part
from ..method import Fields, Method, Parts, Quantiser, Shape
from ..reading import matrix, said, short


def holds(parts: Parts) -> bool:
    """True if these are the tensors of an AWQ linear module."""
    return "scales" in parts and matrix(parts, "qweight", "I32") is not None


def shape(parts: Parts, fields: Fields) -> Shape | None:
    """Shape of an AWQ linear module of version gemm, which is always of 4 bits."""
    packed = matrix(parts, "qweight", "I32")
    return (packed[1] * 8, packed[0]) if packed else None


def _shape_gemv(parts: Parts, fields: Fields) -> Shape | None:
    packed = matrix(parts, "qweight", "I32")
    return (packed[0], packed[1] * 8) if packed else None


def layout(fields: Fields) -> Layout | None:
    """Layout of an AWQ linear module of version gemm; new weights have a zero point of 0."""
    group = fields.get("group_size", fields.get("q_group_size"))
    if type(group) is not int or group <= 0:
        return None
    return Layout(
        (
            Part("qweight", Axis(1, 8), Axis(0), lead=0x11111111),
            Part("qzeros", Axis(1, 8), Axis(0, group)),
            Part("scales", Axis(1), Axis(0, group), zero=1, holds_column=True),
        ),
        group,
    )


AWQ = Method(
    name="awq",
    label="AWQ",
    holds=holds,
    shape=shape,
    layout=layout,
    stacks={
        # transformers 5.23: integrations/awq.py:104.
        "transformers": Support("steered", run=True, note="with the gptqmodel package"),
        # vLLM 0.32: quantization/auto_awq.py:308, 331.
        "vllm": Support("steered", run=True, note="in float16 or bfloat16"),
        # llama.cpp: conversion/base.py:580.
        "llama.cpp": Support("refuses", run=True),
        # mlx-lm 0.32.2: utils.py:569 repacks the weight and casts the bias to the scales' dtype (190).
        "mlx": Support("steered", run=True),
    },
)
GEMV = Method(
    name="awq-gemv",
    label="AWQ, version gemv",
    holds=holds,
    shape=_shape_gemv,
    stacks={
        # GPTQModel 7.7: nn_modules/qlinear/gemv_awq.py:147, 200.
        "transformers": Support("steered", note="with the gptqmodel package, on a GPU, in float16"),
        # vLLM 0.32 and mlx-lm 0.32.2 ignore the version: the sides of a module that is not square do not fit.
        "vllm": Support("refuses"),
        "llama.cpp": Support("refuses"),
        "mlx": Support("refuses"),
    },
)


def _pick(fields: Fields) -> Method | str:
    bits = fields.get("bits", fields.get("w_bit", 4))
    if type(bits) is not int or bits != 4:
        return f"its bits is {short(bits)}"
    # transformers 5.23: utils/quantization_config.py:830, 846.
    version = "llm-awq" if fields.get("backend") == "llm-awq" else said(fields, "version") or said(fields, "format")
    if version in ("", "gemm"):
        return AWQ
    return GEMV if version == "gemv" else f"its version is {short(version)}, which only GPU kernels read"


def _in_config(fields: Fields) -> Fields:
    """As AutoAWQ writes it into config.json, which its first releases left to the file."""
    names = {"w_bit": "bits", "q_group_size": "group_size"}
    return {names.get(name, name): value for name, value in fields.items()} | {"quant_method": "awq"}


QUANTISER = Quantiser(
    ("awq",), (AWQ, GEMV), _pick, files=("quant_config.json", "quantize_config.json"), in_config=_in_config
)
