"""VPTQ (vptq 0.0.5).

A linear module stores packed ``indices``, its codebooks one level deeper as ``centroids.weight`` and
``res_centroids.weight``, and, if its weight was normalised, ``weight_scale`` and ``weight_bias``, which is part of the
weight and not a bias of the output.
"""

from __future__ import annotations

from .....core.stacks import Support
from ..method import Fields, Method, Parts, Quantiser, Shape


def _holds(parts: Parts) -> bool:
    return "indices" in parts


def _shape(parts: Parts, fields: Fields) -> Shape | None:
    # The indices are packed and padded; `config_for_layers` has the shapes, by the names of the modules.
    return None


METHOD = Method(
    name="vptq",
    label="VPTQ",
    holds=_holds,
    shape=_shape,
    stacks={
        # transformers 5.23: integrations/vptq.py:68; vptq 0.0.5: ops/quant_gemm.py:221, 270.
        "transformers": Support("steered", note="with the vptq package, on a GPU"),
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


QUANTISER = Quantiser(("vptq",), (METHOD,), _pick)
