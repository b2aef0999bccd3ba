"""BitNet b1.58 as transformers 5.23 stores it (``integrations/bitnet.py``)."""

from __future__ import annotations

import numpy as np

from .layout import FLOATS, Description, Layout, Stored


def _store(_name: str, weight: np.ndarray) -> Stored:
    # The scale divides: the weight is the code over it.
    scale = np.array([1 / np.abs(weight).mean()], FLOATS["bfloat16"])
    codes = np.clip(np.rint(weight * scale.astype(np.float32)), -1, 1).astype(np.int8)
    quarters = (codes + 1).astype(np.uint8).reshape(4, -1, weight.shape[1])
    packed = quarters[0] | quarters[1] << 2 | quarters[2] << 4 | quarters[3] << 6
    return Stored({"weight": packed, "weight_scale": scale}, codes / scale.astype(np.float32))


def bitnet(*, linear_class: str = "bitlinear") -> Layout:
    """``weight`` uint8 ``[outputs / 4, inputs]``, four codes of 2 bits in each; ``weight_scale`` bfloat16 ``[1]``."""
    config = {
        "linear_class": linear_class,
        "modules_to_not_convert": ["lm_head"],
        "quant_method": "bitnet",
        "quantization_mode": "offline",
    }
    return Layout(_store, lambda _modules: Description(config))
