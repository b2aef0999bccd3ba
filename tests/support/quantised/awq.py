"""AWQ in the layout ``gemm`` of AutoAWQ 0.2.9."""

from __future__ import annotations

import numpy as np

from .layout import Description, Layout, Modules, Stored
from .packing import asymmetric, nibbles_in_words, restored

GROUP = 32
ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def awq(*, group: int = GROUP, config_file: str = "config.json") -> Layout:
    """``qweight`` int32 ``[inputs, outputs / 8]``, ``qzeros`` ``[groups, outputs / 8]``, ``scales`` float16.

    Old files have the config in quant_config.json alone (`config_file`).
    """

    def store(_name: str, weight: np.ndarray) -> Stored:
        codes, scales, zeros = asymmetric(weight, group, 4, np.float16)
        parts = {
            "qweight": nibbles_in_words(codes.T, 1, ORDER),
            "qzeros": nibbles_in_words(zeros.T, 1, ORDER),
            "scales": np.ascontiguousarray(scales.T),
        }
        return Stored(parts, restored(codes, scales, zeros))

    def describe(_modules: Modules) -> Description:
        if config_file != "config.json":  # AutoAWQ's own loader.
            own = {"zero_point": True, "q_group_size": group, "w_bit": 4, "version": "GEMM"}
            return Description(None, {config_file: own})
        config = {
            "bits": 4,
            "group_size": group,
            "modules_to_not_convert": None,
            "quant_method": "awq",
            "version": "gemm",
            "zero_point": True,
        }
        return Description(config)

    return Layout(store, describe, dtype="float16")


def gemv(*, group: int = GROUP) -> Layout:
    """``qweight`` int32 ``[outputs, inputs / 8]``, ``qzeros`` and ``scales`` by the group, padded (version gemv)."""

    def store(_name: str, weight: np.ndarray) -> Stored:
        codes, scales, zeros = asymmetric(weight, group, 4, np.float16)
        padding = ((0, 0), (0, -scales.shape[1] % 8))
        parts = {
            "qweight": nibbles_in_words(codes, 1),
            "qzeros": nibbles_in_words(np.pad(zeros, padding), 1),
            "scales": np.pad(scales, padding),
        }
        return Stored(parts, restored(codes, scales, zeros))

    config = {"bits": 4, "group_size": group, "quant_method": "awq", "version": "gemv", "zero_point": True}
    return Layout(store, lambda _modules: Description(config), dtype="float16")
