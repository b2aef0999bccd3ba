"""FBGEMM FP8, as transformers writes it: Llama 3.1 405B and others.

A linear module stores ``weight`` float8 ``[outputs, inputs]``, ``weight_scale`` float32 ``[outputs, 1]`` and, in older
files, ``input_scale_ub``.
"""

from __future__ import annotations

from .....core.stacks import Support
from ..method import Fields, Method, Parts, Quantiser, Shape
from ..reading import FP8, matrix


def _holds(parts: Parts) -> bool:
    return "weight_scale" in parts and matrix(parts, "weight", *FP8) is not None


def _shape(parts: Parts, fields: Fields) -> Shape | None:
    return matrix(parts, "weight", *FP8)


METHOD = Method(
    name="fbgemm-fp8",
    label="FBGEMM FP8",
    holds=_holds,
    shape=_shape,
    stacks={
        # transformers 5.23: integrations/fbgemm_fp8.py:144; quantizers/quantizer_fbgemm_fp8.py:56.
        "transformers": Support(
            "steered", note="with the fbgemm-gpu package, on a GPU of the Hopper generation or later"
        ),
        # vLLM 0.32: config/model.py:1459.
        "vllm": Support(
            "steered", note="started with the option allow-deprecated-quantization, without which it does not start"
        ),
        # llama.cpp: conversion/base.py:580.
        "llama.cpp": Support("refuses", run=True),
        # mlx-lm 0.32.2: utils.py:599, tensors that no module has.
        "mlx": Support("refuses", run=True),
    },
    reason="the module rounds its input to float8, the same in both runs, and adds the bias in the output's dtype",
)


def _pick(fields: Fields) -> Method:
    return METHOD


QUANTISER = Quantiser(("fbgemm_fp8",), (METHOD,), _pick)
