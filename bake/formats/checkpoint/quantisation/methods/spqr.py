"""SpQR (spqr_quant 0.2.0).

A linear module stores ``dense_weights`` int64, ``row_offsets`` int32 and ``col_vals`` int32, each flat, and maybe
``in_perm`` ``[inputs]``.
"""

from __future__ import annotations

from .....core.stacks import Support
from ..method import Fields, Method, Parts, Quantiser, Shape


def _holds(parts: Parts) -> bool:
    return "dense_weights" in parts and "row_offsets" in parts


def _shape(parts: Parts, fields: Fields) -> Shape | None:
    # The tensors are flat, and their lengths depend on how many weights are outliers.
    return None


METHOD = Method(
    name="spqr",
    label="SpQR",
    holds=_holds,
    shape=_shape,
    stacks={
        # spqr_quant 0.2.0: inference.py:71, a module without a bias; transformers 5.23 calls the tensor unexpected.
        "transformers": Support("unsteered"),
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


QUANTISER = Quantiser(("spqr",), (METHOD,), _pick)
