"""AQLM (aqlm 1.1.7).

A linear module stores ``codes`` int8 or int16 ``[outputs / out_group_size, inputs / in_group_size, num_codebooks]``,
``codebooks`` ``[num_codebooks, 2 ** nbits_per_codebook, out_group_size, in_group_size]`` and ``scales``
``[outputs / out_group_size, 1, 1, 1]``, both float16.
"""

from __future__ import annotations

from .....core.stacks import Support
from ..method import Fields, Method, Parts, Quantiser, Shape


def _holds(parts: Parts) -> bool:
    return "codes" in parts and "codebooks" in parts


def _shape(parts: Parts, fields: Fields) -> Shape | None:
    codes, books = parts["codes"].shape, parts["codebooks"].shape
    if len(codes) != 3 or len(books) != 4 or 0 in codes or 0 in books:
        return None
    return codes[0] * books[2], codes[1] * books[3]


METHOD = Method(
    name="aqlm",
    label="AQLM",
    holds=_holds,
    shape=_shape,
    stacks={
        # transformers 5.23: integrations/aqlm.py:52; aqlm 1.1.7: inference.py:67. The loop of its kernel for CPUs
        # (inference_kernels/numba_kernel.py:43) adds to one vector from all threads: two runs differ.
        "transformers": Support(
            "steered",
            run=True,
            note="with the aqlm package; on a CPU with NUMBA_NUM_THREADS=1, or its answers are noise",
        ),
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


QUANTISER = Quantiser(("aqlm",), (METHOD,), _pick)
