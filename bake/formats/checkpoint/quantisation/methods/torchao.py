"""torchao, as transformers saves it in safetensors (torchao 0.15 and later).

A linear module stores the tensors of a subclass flat, such as ``_weight_qdata`` and ``_weight_scale``; the file's
metadata says how they belong together. ``_weight_qdata`` is int8 or float8 ``[outputs, inputs]``, or packed in one of
several ways.
"""

from __future__ import annotations

from .....core.stacks import Support
from ..method import Fields, Method, Parts, Quantiser, Shape
from ..reading import FP8, matrix


def _holds(parts: Parts) -> bool:
    return "_weight_qdata" in parts


def _shape(parts: Parts, fields: Fields) -> Shape | None:
    return matrix(parts, "_weight_qdata", "I8", *FP8)


METHOD = Method(
    name="torchao",
    label="torchao",
    holds=_holds,
    shape=_shape,
    stacks={
        # transformers 5.23: quantizers/quantizer_torchao.py:134 keeps the Linear modules and their biases.
        "transformers": Support("steered", run=True, note="with the torchao package"),
        # vLLM 0.32: model_loader/weight_utils.py:1177 hands each file to torchao 0.18, whose
        # prototype/safetensors/safetensors_support.py refuses a file without `tensor_names` in its metadata, and drops
        # what they do not name: a bias added to torchao's own file is read from memory that nothing has filled.
        "vllm": Support("refuses", run=True, note="it takes no file without torchao's metadata"),
        # llama.cpp: conversion/base.py:580.
        "llama.cpp": Support("refuses", run=True),
        # mlx-lm 0.32.2: utils.py:599, tensors that no module has.
        "mlx": Support("refuses", run=True),
    },
    reason="where the module rounds its input, it does so alike in both runs; the bias is added afterwards",
)


def _pick(fields: Fields) -> Method:
    return METHOD


QUANTISER = Quantiser(("torchao",), (METHOD,), _pick)
