"""The emotions that rows are nearest to: cosines, and the weights of the mix that comes closest.

The rows of all layers are one long vector, and so is an emotion. The weights are those of least squares over the layers
whose rows are not zero, because a bake may have been told to steer some layers only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..core.vector_set import VectorSet

SMALL = 0.01
"""Part of the rows' norm below which a term of the mix is left out."""
_BESIDE_THE_REST = 0.25
"""The same, in units of the norm of what the mix leaves."""
_NUMBERS = 4
"""Numbers for each weight, without which a fit says nothing: any rows can be made of as many others as they have
numbers."""


@dataclass(frozen=True, eq=False)
class Fit:
    """Rows beside the emotions of one set, or of several together."""

    name: str
    """Name of the set; of several, all."""
    site: str
    weights: Mapping[str, float]
    """Emotion -> weight in the mix that comes closest. Of several sets, an emotion that two of them have is named with
    its set."""
    sizes: Mapping[str, float]
    """Emotion -> norm of its term, in units of the norm of the rows."""
    explained: float
    """Share of the squared length of the rows that the mix explains: ``1 - |rows - mix|^2 / |rows|^2``."""
    explained_apart: float
    """The same where every layer has weights of its own."""
    ranges: Mapping[str, tuple[float, float]]
    """Emotion that is needed where every layer has weights of its own -> its smallest and largest weight."""
    cosines: Mapping[str, float]
    """Emotion -> cosine over all layers; NaN for an emotion that is zero there."""
    layer_cosines: Mapping[str, Mapping[int, float]]
    """Emotion -> layer -> cosine there; NaN where one of the two is zero."""

    @property
    def terms(self) -> tuple[tuple[str, float], ...]:
        """The emotions that the mix needs, with their weights, the largest term first.

        Terms that are small beside what the mix leaves may be a chance of that.
        """
        least = max(SMALL, _BESIDE_THE_REST * float(np.sqrt(1 - self.explained)))
        needed = sorted((e for e in self.weights if self.sizes[e] >= least), key=lambda e: -self.sizes[e])
        return tuple((emotion, self.weights[emotion]) for emotion in needed)

    @property
    def nearest(self) -> tuple[tuple[str, float], ...]:
        """The emotions with their cosines, the one that the rows are most along first; without those that are zero."""
        known = [(emotion, cosine) for emotion, cosine in self.cosines.items() if not np.isnan(cosine)]
        return tuple(sorted(known, key=lambda pair: -abs(pair[1])))


def fit(rows: Mapping[int, np.ndarray], sets: Sequence[VectorSet]) -> Fit | None:
    """Find the mix of the emotions of `sets` that is nearest to `rows`.

    Args:
        rows: layer -> float32 ``[hidden]``; rows of zeros are left out.
        sets: sets of one site, each with a row for every one of these layers; float32 ``[emotions, layers, hidden]``.

    Returns:
        None if all rows are zero, or if they are too few numbers for so many emotions.
    """
    acting = {layer: row.astype(np.float64) for layer, row in rows.items() if row.any()}
    labels = _labels(sets)
    if not acting or sum(map(len, acting.values())) < _NUMBERS * len(labels):
        return None
    grams, alongs = [], []
    for layer, row in acting.items():
        # A layer at a time: of a large set all of them in float64 would take gigabytes.
        emotions = np.concatenate([each.rows[:, layer] for each in sets]).astype(np.float64)
        grams.append(emotions @ emotions.T)
        alongs.append(emotions @ row)
    squares = np.array([row @ row for row in acting.values()])
    gram, along, square = np.sum(grams, axis=0), np.sum(alongs, axis=0), float(squares.sum())
    weights = np.linalg.lstsq(gram, along, rcond=None)[0]
    lengths = np.sqrt(np.diag(gram))
    apart = [
        np.linalg.lstsq(g, a, rcond=None)[0] if len(row) >= _NUMBERS * len(labels) else weights
        for g, a, row in zip(grams, alongs, acting.values(), strict=True)
    ]
    left = sum(_left(s, g, a, w) for s, g, a, w in zip(squares, grams, alongs, apart, strict=True))
    sizes = np.array([np.abs(w) * np.sqrt(np.diag(g) / s) for s, g, w in zip(squares, grams, apart, strict=True)]).max(
        axis=0
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines = along / (lengths * np.sqrt(square))
        by_layer = [a / (np.sqrt(np.diag(g)) * np.sqrt(s)) for s, g, a in zip(squares, grams, alongs, strict=True)]
    return Fit(
        " and ".join(each.name for each in sets),
        sets[0].site,
        dict(zip(labels, weights.tolist(), strict=True)),
        dict(zip(labels, (np.abs(weights) * lengths / np.sqrt(square)).tolist(), strict=True)),
        _share(_left(square, gram, along, weights), square),
        _share(left, square),
        {
            labels[i]: (float(min(w[i] for w in apart)), float(max(w[i] for w in apart)))
            for i in np.argsort(-sizes, kind="stable")
            if sizes[i] >= SMALL
        },
        dict(zip(labels, cosines.tolist(), strict=True)),
        {
            emotion: {layer: float(found[i]) for layer, found in zip(acting, by_layer, strict=True)}
            for i, emotion in enumerate(labels)
        },
    )


def distance(rows: Mapping[int, np.ndarray], mix: Mapping[int, np.ndarray]) -> float:
    """``|rows - mix| / |rows|`` over all layers of both; a missing row is zero."""
    layers = sorted({*rows, *mix})
    off = whole = 0.0
    for layer in layers:
        zero = np.zeros_like(rows.get(layer, mix.get(layer)), np.float64)
        row, other = (each.get(layer, zero).astype(np.float64) for each in (rows, mix))
        off, whole = off + float(np.square(row - other).sum()), whole + float(np.square(row).sum())
    return float(np.sqrt(off / whole)) if whole else float(off > 0)


def _labels(sets: Sequence[VectorSet]) -> list[str]:
    """Names of all emotions; one that two sets have, with the name or the number of its set."""
    emotions = [emotion for each in sets for emotion in each.emotions]
    names = [each.name for each in sets]
    called = [name if names.count(name) == 1 else f"set {number}" for number, name in enumerate(names, 1)]
    return [
        emotion if emotions.count(emotion) == 1 else f"{emotion} of {name}"
        for each, name in zip(sets, called, strict=True)
        for emotion in each.emotions
    ]


def _left(square: float, gram: np.ndarray, along: np.ndarray, weights: np.ndarray) -> float:
    """The squared length that a mix leaves: ``|rows - mix|^2``."""
    return float(square - 2 * weights @ along + weights @ gram @ weights)


def _share(left: float, square: float) -> float:
    return float(np.clip(1 - left / square, 0.0, 1.0))
