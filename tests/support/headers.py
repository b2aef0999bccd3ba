"""Checkpoints without bytes: headers alone, for plans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from emobake import Checkpoint, VectorSet
from emobake.core.tensors import TensorHeader, WeightFile, encode

HIDDEN, LAYERS = 4, 2
CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
ROWS = np.arange(LAYERS * HIDDEN, dtype=np.float32).reshape(1, LAYERS, HIDDEN) / 8
JOY = VectorSet(("joy",), ROWS, "ev", {"m_joy.json": "0" * 64})
SHAPES = {"q_proj": (4, 4), "k_proj": (2, 4), "v_proj": (2, 4), "o_proj": (4, 4)}


def checkpoint(
    config: Mapping[str, Any] = CONFIG,
    dtype: str = "F32",
    files: Sequence[str] = ("model.safetensors",),
    biases: Mapping[str, Sequence[float]] | None = None,
    modules: Mapping[str, tuple[int, ...]] = SHAPES,
    **more: Any,
) -> Checkpoint:
    """A checkpoint without bytes; `biases` maps tensor names to values that `read` returns."""
    tensors, data, position = {}, bytearray(100), 100
    for layer in range(LAYERS):
        for module, shape in modules.items():
            name = f"model.layers.{layer}.self_attn.{module}.weight"
            tensors[name] = TensorHeader(name, dtype, shape, files[layer % len(files)], position, position + 8)
            position += 8
            data += bytes(8)
    for name, values in (biases or {}).items():
        raw = encode(np.asarray(values, np.float32), dtype)
        tensors[name] = TensorHeader(name, dtype, (len(values),), files[0], position, position + len(raw))
        data += raw
        position += len(raw)
    weights = tuple(WeightFile(name, position) for name in files)
    return Checkpoint("base", config, weights, tensors, lambda h: bytes(data[h.start : h.end]), **more)
