"""The rows that a bake adds, and where they land."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ..errors import InputError
from .steering import Steering, weighted_sum
from .vector_set import VectorSet

COLLAPSE = 3.0
"""Bias norm in units of the set's own mean row norm beyond which a warning is due: at strength 4 most of the
paper's published answers collapse into repetition."""


def sum_to_add(vectors: VectorSet, steering: Steering, *, force: bool) -> np.ndarray:
    """``w`` as float32 ``[layers, hidden]``.

    Raises:
        InputError: all of ``w`` is zero and not `force`.

    """
    added = weighted_sum(vectors, steering)
    if not added.any() and not force:
        raise InputError("all weights are zero: the result would be the unsteered model; --force writes it anyway")
    return added


def strength_warnings(vectors: VectorSet, added: np.ndarray) -> Iterable[str]:
    """What the user should know of `added` (float32 ``[layers, hidden]``), one line each."""
    if not added.any():
        yield "all weights are zero: the result behaves as the unsteered model"
    usual = np.mean([_norms(rows) for rows in vectors.rows], axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        strength = np.nan_to_num(_norms(added) / usual, nan=0.0)
    if strength.max() > COLLAPSE:
        yield (
            f"strength {strength.max():.1f} at layer {int(strength.argmax())}: the bias is that many times the set's "
            "own mean norm, far beyond a layer's usual change; at 4 most models collapse into repetition"
        )


def _norms(rows: np.ndarray) -> np.ndarray:
    """Euclidean norms of the rows of float32 ``[layers, hidden]``, in float64 and without a copy of them all."""
    return np.array([np.linalg.norm(row.astype(np.float64)) for row in rows])
