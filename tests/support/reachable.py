"""Rows that a bias of the values can make, as vectors are that were extracted from the same model."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def reachable_rows(
    weights: Mapping[int, np.ndarray], heads: int, keys: int, *, norm: float = 2.0, seed: int = 1
) -> np.ndarray:
    """Rows, float32 ``[layers, hidden]``, of values that are the same in the heads that share one of `keys` heads.

    `weights` are the output projections ``[hidden, heads * size]`` by layer.
    """
    draw, rows = np.random.default_rng(seed), []
    for layer in sorted(weights):
        size = weights[layer].shape[1] // heads
        values = np.repeat(draw.normal(0, 1, (keys, size)), heads // keys, axis=0).reshape(-1)
        row = weights[layer].astype(np.float64) @ values
        rows.append(row / np.linalg.norm(row) * norm)
    return np.array(rows, np.float32)
