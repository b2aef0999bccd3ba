"""MXFP4 of gpt-oss, as OpenAI publishes it: the experts alone (transformers 5.23, ``integrations/mxfp4.py``)."""

from __future__ import annotations

import numpy as np

from .layout import Description, Layout, Stored
from .packing import float4_by_exponents, nibbles_in_bytes

BLOCK = 32


def _store(_name: str, weight: np.ndarray) -> Stored:
    # The float weight of all experts is [experts, inputs, outputs], the stored one turned.
    blocks = np.swapaxes(weight, 1, 2).reshape(len(weight), weight.shape[2], -1, BLOCK)
    codes, exponents, value = float4_by_exponents(blocks)
    parts = {"blocks": nibbles_in_bytes(codes), "scales": exponents}
    value = value.reshape(len(weight), weight.shape[2], weight.shape[1])
    return Stored(parts, np.ascontiguousarray(np.swapaxes(value, 1, 2)), separator="_")


def mxfp4() -> Layout:
    """Of each projection of the experts, ``_blocks`` uint8 ``[experts, outputs, inputs / 32, 16]`` and ``_scales``."""
    kept = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
    config = {"modules_to_not_convert": kept, "quant_method": "mxfp4"}
    return Layout(
        _store,
        lambda _modules: Description(config),
        takes=lambda name, tensor: tensor.ndim == 3 and name.endswith(("experts.gate_up_proj", "experts.down_proj")),
    )
