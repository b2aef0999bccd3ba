"""AutoRound of Intel (auto-round 0.16), in the layout of GPTQ, of AWQ, or of FP8.

``packing_format`` says which, such as ``auto_round:auto_gptq``; without it, that of GPTQ.
"""

from __future__ import annotations

from dataclasses import replace

from .....core.stacks import Support
from .. import reading
from ..method import Fields, Method, Parts, Quantiser, Shape
from . import awq, gptq

_PACKINGS = ("auto_gptq", "gptq", "gptqmodel", "auto_awq", "awq", "fp8", "llm_compressor")


def _packing(fields: Fields) -> str:
    return reading.said(fields, "packing_format").removeprefix("auto_round:") or "auto_gptq"


def _holds(parts: Parts) -> bool:
    scaled = "weight_scale" in parts or "weight_scale_inv" in parts
    return gptq.holds(parts) or "weight_packed" in parts or (scaled and _float8(parts) is not None)


def _float8(parts: Parts) -> Shape | None:
    return reading.matrix(parts, "weight", *reading.FP8)


def _shape(parts: Parts, fields: Fields) -> Shape | None:
    packing = _packing(fields)
    if "awq" in packing:
        return awq.shape(parts, fields)
    return gptq.shape(parts, fields) if "gptq" in packing else _float8(parts)


AUTO_ROUND = Method(
    name="auto-round",
    label="AutoRound",
    holds=_holds,
    shape=_shape,
    stacks={
        # transformers 5.23: quantizers/quantizer_auto_round.py:50, which leaves the module to auto-round.
        "transformers": Support("steered", run=True, note="with the auto-round package"),
        # vLLM 0.32: quantization/inc/inc.py:365.
        "vllm": Support("steered", run=True, note="in float16 or bfloat16"),
        # llama.cpp: conversion/base.py:580.
        "llama.cpp": Support("refuses", run=True),
        # mlx-lm 0.32.2: utils.py:599, tensors that no module has.
        "mlx": Support("refuses", run=True),
    },
)
INTEL = replace(
    AUTO_ROUND,
    name="intel-auto-round",
    label="AutoRound under its first name, intel/auto-round",
    stacks={
        **AUTO_ROUND.stacks,
        # transformers 5.23: quantizers/auto.py:297 ignores a method that it does not know.
        "transformers": Support("wrong", run=True, note="it fills the weights with random numbers"),
        # vLLM 0.32: config/model.py:1454, no such method.
        "vllm": Support("refuses", run=True),
    },
)


def _pick(fields: Fields) -> Method | str:
    packing = _packing(fields)
    if packing.partition(":")[0] not in _PACKINGS:
        return f"its packing_format is {reading.short(fields.get('packing_format'))}"
    return INTEL if reading.said(fields, "quant_method") == "intel/auto-round" else AUTO_ROUND


QUANTISER = Quantiser(("auto-round", "intel/auto-round"), (AUTO_ROUND, INTEL), _pick)
