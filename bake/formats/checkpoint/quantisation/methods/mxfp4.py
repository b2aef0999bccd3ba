"""MXFP4, as gpt-oss is published: the experts alone.

The experts store ``gate_up_proj_blocks`` and ``down_proj_blocks`` uint8, each with its ``_scales``; every linear module
is plain.
"""

from __future__ import annotations

from .....core.stacks import Support
from ..method import Fields, Method, Parts, Quantiser, Shape


def _holds(parts: Parts) -> bool:
    return any(f"{name.removesuffix('_blocks')}_scales" in parts for name in parts if name.endswith("_blocks"))


def _shape(parts: Parts, fields: Fields) -> Shape | None:
    # A module of experts is no linear module.
    return None


METHOD = Method(
    name="mxfp4",
    label="MXFP4",
    holds=_holds,
    shape=_shape,
    stacks={
        # transformers 5.23: integrations/mxfp4.py; without its kernels it makes plain weights of the experts.
        "transformers": Support("steered", run=True),
        # vLLM 0.32: quantization/mxfp4.py:105.
        "vllm": Support("steered"),
        # llama.cpp: conversion/gpt_oss.py:20.
        "llama.cpp": Support("steered"),
        # mlx-lm 0.32.2: utils.py:528, 503.
        "mlx": Support("steered"),
    },
)


def _pick(fields: Fields) -> Method:
    return METHOD


QUANTISER = Quantiser(("mxfp4",), (METHOD,), _pick)
