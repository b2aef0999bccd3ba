"""4 bits as mlx-lm 0.32 converts: affine, embeddings and output head as well."""

from __future__ import annotations

import numpy as np

from .layout import FLOATS, Description, Layout, Modules, Stored
from .packing import in_groups, nibbles_in_words

GROUP = 64


def _store(_name: str, weight: np.ndarray) -> Stored:
    groups, dtype = in_groups(weight, GROUP), FLOATS["bfloat16"]
    scales = ((groups.max(-1) - groups.min(-1)) / 15).astype(dtype)
    biases = groups.min(-1).astype(dtype)
    steps, lowest = scales.astype(np.float32)[..., None], biases.astype(np.float32)[..., None]
    codes = np.clip(np.rint((groups - lowest) / steps), 0, 15)
    packed = nibbles_in_words(codes.reshape(weight.shape).astype(np.int32), 1).view(np.uint32)
    parts = {"weight": packed, "scales": scales, "biases": biases}
    return Stored(parts, (codes * steps + lowest).reshape(weight.shape))


def mlx() -> Layout:
    """``weight`` uint32 ``[outputs, inputs / 8]``, ``scales`` and ``biases`` ``[outputs, inputs / 64]``."""
    kind = {"group_size": GROUP, "bits": 4, "mode": "affine"}

    def describe(_modules: Modules) -> Description:
        return Description(kind, fields={"quantization": kind})

    return Layout(_store, describe, takes=lambda name, tensor: tensor.ndim == 2 and name.endswith(".weight"))
