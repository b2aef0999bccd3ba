"""Arithmetic on vector sets: a description, the part that all emotions share, and new emotions from others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from ..core.names import EMOTION_RULE, emotion_name, is_emotion_name
from ..core.steering import steering, weighted_sum
from ..core.vector_set import VectorSet
from ..errors import InputError, VectorError

SAME = 0.995
"""Cosine from which two emotions count as the same."""
NOISE = 0.5
"""Split-half cosine below which a vector counts as mostly noise."""
SPIKE = 20.0
"""Ratio to the median of its neighbours from which a layer's norm counts as out of line."""


@dataclass(frozen=True, eq=False)
class Description:
    """Figures of a set that need no model."""

    norms: np.ndarray
    """``[emotions, layers]``, Euclidean."""
    cosines: np.ndarray
    """``[emotions, emotions]``, the mean over the layers in which both have a vector; NaN if there is none."""
    layer_cosines: np.ndarray
    """``[layers]``, the mean over pairs of emotions; NaN if there is none."""
    shared: np.ndarray
    """``[layers]``, the common part of the squared length: ``|mean|^2 / mean(|.|^2)``."""
    separation: np.ndarray
    """``[emotions, layers]``, see `separation`; NaN for an emotion without statistics."""
    problems: tuple[str, ...]
    """Problems, one line each."""
    advice: tuple[str, ...]
    """Suggestions, one line each."""


def describe(vectors: VectorSet) -> Description:
    """Measure a set, in float64."""
    rows = vectors.rows.astype(np.float64)
    norms = np.linalg.norm(rows, axis=2)
    with np.errstate(invalid="ignore", divide="ignore"):
        units = rows / norms[:, :, None]
        # Layer by layer: all at once, a thousand emotions take gigabytes.
        by_layer = (units[:, layer] @ units[:, layer].T for layer in range(vectors.layers))
        cosines, layer_cosines = _cosines(by_layer, len(rows))
        shared = np.square(rows.mean(axis=0)).sum(axis=1) / np.square(norms).mean(axis=0)
    problems = tuple(_problems(vectors, norms, cosines))
    apart = np.stack([separation(vectors, emotion) for emotion in vectors.emotions])
    return Description(norms, cosines, layer_cosines, shared, apart, problems, tuple(_advice(vectors, shared)))


def separation(vectors: VectorSet, emotion: str) -> np.ndarray:
    """Effect size of the contrast in each layer: float64 ``[layers]``; NaN without statistics.

    It is the length of the mean over the spread of the single differences around it, ``|mean| / (e sqrt(n))`` for n
    queries and a standard error e. Chance alone gives ``1 / sqrt(n)``.
    """
    found = vectors.statistics.get(emotion)
    if found is None:
        return np.full(vectors.layers, np.nan)
    lengths = np.linalg.norm(vectors.rows[vectors.emotions.index(emotion)].astype(np.float64), axis=1)
    spread = np.sqrt(found.count) * np.array(found.standard_error)
    apart: np.ndarray = np.divide(lengths, spread, out=np.zeros_like(lengths), where=spread > 0)
    return apart


def keep_best_layers(vectors: VectorSet, count: int) -> VectorSet:
    """Make every row zero but those of the `count` layers of each emotion with the largest `separation`.

    Raises:
        VectorError: an emotion without statistics.
    """
    rows, statistics, best = np.zeros_like(vectors.rows), dict(vectors.statistics), {}
    for i, emotion in enumerate(vectors.emotions):
        if emotion not in statistics:
            raise VectorError(f"{vectors.name}: has no statistics of {emotion}, which tell its best layers")
        kept = np.zeros(vectors.layers, bool)
        kept[np.argsort(-separation(vectors, emotion), kind="stable")[:count]] = True
        rows[i, kept] = vectors.rows[i, kept]
        errors = np.where(kept, statistics[emotion].standard_error, 0.0)
        statistics[emotion] = replace(statistics[emotion], standard_error=tuple(errors.tolist()))
        best[emotion] = np.flatnonzero(kept).tolist()
    return replace(
        vectors,
        rows=rows,
        source=_and(vectors.source, f"the {count} layers of each emotion that separate best"),
        statistics=statistics,
        extraction={**vectors.extraction, "best_layers": best} if vectors.extraction else {},
    )


def remove_common(vectors: VectorSet) -> VectorSet:
    """Subtract from every emotion, layer by layer, the mean over all of them: the paper's ``EV_base``.

    Statistics are dropped, because they belong to the vectors before.

    Raises:
        VectorError: a set of one emotion, which would become zero.
    """
    if len(vectors.emotions) < 2:
        raise VectorError(f"{vectors.name}: has one emotion only, so there is nothing that others share with it")
    rows = vectors.rows.astype(np.float64)
    return replace(
        vectors,
        rows=(rows - rows.mean(axis=0)).astype(np.float32),
        source=_and(vectors.source, "without the mean over the emotions"),
        statistics={},
    )


def add_mix(vectors: VectorSet, name: str, mix: Mapping[str, float], *, only: bool = False) -> VectorSet:
    """Add the new emotion `name`, the weighted sum of others; with `only`, drop the others.

    Raises:
        InputError: `name` cannot be an emotion's, or is taken.
        VectorError: an emotion that the set does not have, or an overflow.
    """
    name = emotion_name(name)
    if not is_emotion_name(name):
        raise InputError(f"`name` {name[:60]!r}: cannot be the name of an emotion; {EMOTION_RULE}")
    if name in vectors.emotions and not only:
        raise InputError(f"`name` {name}: {vectors.name} has that emotion already; choose another, or `only`")
    weights = steering(None, mix)
    row = weighted_sum(vectors, weights)[None]
    recipe = " + ".join(f"{weight:g} x {emotion}" for emotion, weight in weights.weights)
    return replace(
        vectors,
        emotions=(name,) if only else (*vectors.emotions, name),
        rows=row if only else np.concatenate([vectors.rows, row]),
        source=_and(vectors.source, f"{name} = {recipe}"),
        statistics={} if only else vectors.statistics,
    )


def _cosines(by_layer: Iterable[np.ndarray], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean cosines over the layers, ``[count, count]``, and over the pairs, ``[layers]``, of those that are not NaN."""
    total, known = np.zeros((count, count)), np.zeros((count, count))
    means = []
    with np.errstate(invalid="ignore", divide="ignore"):
        for cosines in by_layer:
            there = ~np.isnan(cosines)
            values = np.where(there, cosines, 0)
            total += values
            known += there
            means.append(np.triu(values, 1).sum() / np.float64(np.triu(there, 1).sum()))
        return total / known, np.array(means)


def _problems(vectors: VectorSet, norms: np.ndarray, cosines: np.ndarray) -> list[str]:
    found = []
    empty = [layer for layer in range(vectors.layers) if not norms[:, layer].any()]
    if empty and len(empty) < vectors.layers:
        found.append(f"no vector in layer {', '.join(map(str, empty))}: nothing is steered there")
    for i, emotion in enumerate(vectors.emotions):
        if not norms[i].any():
            found.append(f"{emotion} is zero in every layer")
            continue
        found += _spikes(emotion, norms[i])
        found += [
            f"{emotion} and {other} are the same (cosine {cosines[i, j]:.3f})"
            for j, other in enumerate(vectors.emotions)
            if j > i and cosines[i, j] > SAME
        ]
        statistics = vectors.statistics.get(emotion)
        cosine = None if statistics is None else statistics.split_half_cosine
        if statistics is not None and cosine is not None and cosine < NOISE:
            found.append(
                f"{emotion} is mostly noise (split-half cosine {cosine:.2f} with {statistics.count} queries): "
                "use more queries"
            )
    return found


def _spikes(emotion: str, norms: np.ndarray) -> list[str]:
    found = []
    for layer in range(len(norms)):
        around = np.delete(norms, layer)[max(0, layer - 3) : layer + 3]
        if len(around) and norms[layer] > SPIKE * np.median(around) > 0:
            times = norms[layer] / np.median(around)
            found.append(f"{emotion} is {times:.0f} times as long in layer {layer} as around it")
    return found


def _advice(vectors: VectorSet, shared: np.ndarray) -> list[str]:
    there = shared[~np.isnan(shared)]
    if len(vectors.emotions) > 1 and len(there) and there.mean() > NOISE:
        return [
            f"the emotions share {there.mean():.0%} of their squared length; `emobake vectors mix` with "
            "`remove_common` leaves what tells them apart"
        ]
    return []


def _and(source: str, more: str) -> str:
    return f"{source}; {more}" if source else more
