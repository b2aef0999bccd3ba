"""Shapes: rows of few parameters, made of a steering's own rows, or of these and others. Pure arithmetic in numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NEUTRAL_DIRECTIONS = 8
"""Directions of the neutral output that are known for each layer."""


@dataclass(frozen=True)
class Shape:
    """Parameters by which rows become other rows; the defaults leave them as they are."""

    scale: float = 1.0
    """Factor for all rows, after everything else. At 1 the rows have the norm, over all layers, that they came with."""
    centre: float = 0.5
    """Middle of the bell over the layers: 0 is the first layer, 1 the last."""
    width: float = 1.0
    """Standard deviation of the bell, in the same unit."""
    floor: float = 1.0
    """Weight far from the centre, 0 to 1; the weight at the centre is 1."""
    left_out: tuple[int, ...] = ()
    """Layers that get nothing."""
    common: float = 0.0
    """Share of the part along the mean of all emotions that is taken away, 0 to 1."""
    blend: float = 0.0
    """Share of the other rows, 0 to 1: 0 leaves the own rows, 1 puts the others in their place."""
    neutral: int = 0
    """Number of the strongest directions of the layer's neutral output that are taken away."""
    norm: float = 0.0
    """0 keeps the norm of each row; 1 makes it the same share of the layer's own output everywhere."""


@dataclass(frozen=True, eq=False)
class Material:
    """Everything that a shape is applied to."""

    rows: np.ndarray
    """float32 ``[layers, hidden]``: the steering as it is."""
    common: np.ndarray
    """float32 ``[layers, hidden]``: the mean over all emotions of the set; zero if there is one emotion only."""
    neutral: np.ndarray
    """float32 ``[layers, directions, hidden]``: orthonormal, the strongest first."""
    norms: np.ndarray
    """float64 ``[layers]``: mean norm of the layer's neutral output; 0 where there is none."""
    others: np.ndarray | None = None
    """float32 ``[layers, hidden]``: the steering by a second set, to blend in; None: there is none."""


def shaped_rows(material: Material, shape: Shape) -> np.ndarray:
    """Apply `shape`; float32 ``[layers, hidden]``. Computed in float64 and rounded once."""
    own = material.rows.astype(np.float64)
    before = np.linalg.norm(own)
    rows = own
    if shape.blend and material.others is not None:
        others = material.others.astype(np.float64)
        # Both at the same norm, because a share of rows that are ten times as long would be no share.
        rows = (1 - shape.blend) * own + shape.blend * (before / np.linalg.norm(others)) * others
    rows = rows - shape.common * _along(rows, _units(material.common)[:, None])
    if shape.neutral:
        rows = rows - _along(rows, material.neutral[:, : shape.neutral].astype(np.float64))
    rows = rows * _norm_factors(rows, material.norms, shape.norm)[:, None]
    rows = rows * layer_weights(len(rows), shape)[:, None]
    after = np.linalg.norm(rows)
    # A rest of nothing but rounding must not be blown up.
    factor = before / after if after > 1e-6 * before else 0.0
    found: np.ndarray = (shape.scale * factor * rows).astype(np.float32)
    return found


def layer_weights(layers: int, shape: Shape) -> np.ndarray:
    """Weight of each layer, float64 ``[layers]``: a Gaussian bell on a floor, zero for the layers left out."""
    place = np.arange(layers) / max(1, layers - 1)
    bell = np.exp(-0.5 * ((place - shape.centre) / shape.width) ** 2)
    weights: np.ndarray = shape.floor + (1 - shape.floor) * bell
    weights[[layer for layer in shape.left_out if layer < layers]] = 0
    return weights


def neutral_directions(outputs: np.ndarray, count: int = NEUTRAL_DIRECTIONS) -> np.ndarray:
    """The strongest directions of outputs ``[positions, layers, hidden]``: float32 ``[layers, count, hidden]``.

    They are right singular vectors of the outputs as they are, so the first is close to the mean. Fewer positions
    than `count`, and layers without output, leave rows of zeros.
    """
    _, layers, hidden = outputs.shape
    found = np.zeros((layers, count, hidden), np.float32)
    for layer in range(layers):
        values = outputs[:, layer].astype(np.float64)
        if values.any():
            _, strengths, directions = np.linalg.svd(values, full_matrices=False)
            kept = int((strengths[:count] > 1e-9 * strengths[0]).sum())
            found[layer, :kept] = directions[:kept]
    return found


def by_layer(rows: np.ndarray) -> dict[int, np.ndarray]:
    """Rows ``[layers, hidden]`` as hooks take them."""
    return {layer: row for layer, row in enumerate(rows) if row.any()}


def _along(rows: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """The part of each row in the span of its layer's orthonormal ``[layers, directions, hidden]``."""
    found: np.ndarray = np.einsum("ldh,ld->lh", directions, np.einsum("ldh,lh->ld", directions, rows))
    return found


def _units(rows: np.ndarray) -> np.ndarray:
    rows = rows.astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    found: np.ndarray = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    return found


def _norm_factors(rows: np.ndarray, norms: np.ndarray, exponent: float) -> np.ndarray:
    """Factors that bring the norm of each row towards that of its layer's output; 1 where one of them is zero."""
    lengths = np.linalg.norm(rows, axis=1)
    known = (lengths > 0) & (norms > 0)
    return np.where(known, np.divide(norms, lengths, out=np.ones_like(lengths), where=known) ** exponent, 1.0)
