"""The sum of all bakes of a model: what its biases hold once it was baked more than once.

Weights of one set add up; sets are told apart by the digests of their rows, not by their names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .record import Record
from .sites import Site

_ROUNDING = 1e-9
"""A sum below this part of its terms is zero."""


@dataclass(frozen=True)
class Term:
    """The weights that one emotion of one set has in all bakes together."""

    emotion: str
    set_name: str
    site: Site
    digest: str
    """Digest of the emotion's rows; empty if no record has it."""
    weights: Mapping[int, float]
    """Layer -> sum of the weights, scales included. Layers where it is zero are left out."""


def terms_of(record: Record) -> tuple[Term, ...]:
    """Add up the bakes of `record`, its history included; terms that cancel out are left out."""
    records = (*record.history, record)
    layers = sorted({bias.layer for each in records for bias in each.biases}) or [0]
    found: dict[tuple[object, ...], tuple[Term, dict[int, float], dict[int, float]]] = {}
    for each in records:
        vectors, steering = each.vectors, each.steering
        for emotion, weight in steering.weights:
            digest = vectors.rows.get(emotion, "")
            # A record without digests of rows has those of the files only.
            files = () if digest else (vectors.name, *sorted(vectors.sha256.items()))
            empty = Term(emotion, vectors.name, vectors.site, digest, {})
            _, sums, sizes = found.setdefault((emotion, vectors.site, digest, files), (empty, {}, {}))
            for layer in layers if steering.layers is None else steering.layers:
                sums[layer] = sums.get(layer, 0.0) + weight * steering.scale
                sizes[layer] = sizes.get(layer, 0.0) + abs(weight * steering.scale)
    terms = (
        Term(
            term.emotion,
            term.set_name,
            term.site,
            term.digest,
            {layer: total for layer, total in sorted(sums.items()) if abs(total) > _ROUNDING * sizes[layer]},
        )
        for term, sums, sizes in found.values()
    )
    return tuple(term for term in terms if term.weights)


def steers_in_total(record: Record) -> bool:
    """False if the weights of all bakes, by the record, add up to nothing."""
    return bool(terms_of(record))


def total_recipe(record: Record) -> str:
    """The sum of all bakes in words; of a single bake its own recipe.

    Weights of several sets are said apart, each with the name of its set, and so are layers with other sums.
    """
    if not record.history:
        return record.steering.recipe
    terms = terms_of(record)
    labels = _labels(terms)
    layers = sorted({bias.layer for each in (*record.history, record) for bias in each.biases})
    patterns: dict[tuple[str, ...], list[int]] = {}
    for layer in sorted({layer for term in terms for layer in term.weights}):
        words = (
            f"{t.weights[layer]:g} x {label}" for t, label in zip(terms, labels, strict=True) if layer in t.weights
        )
        patterns.setdefault(tuple(words), []).append(layer)
    parts = (
        " + ".join(words)
        + ("" if covered == layers else f" in layer{'s' * (len(covered) > 1)} {layer_ranges(covered)}")
        for words, covered in patterns.items()
    )
    return "; ".join(parts) or "nothing"


def _labels(terms: Sequence[Term]) -> list[str]:
    """Name each term by its emotion, and by its set, site and digest as far as it takes to tell sets apart."""
    several_names = len({term.set_name for term in terms}) > 1
    several_sites = len({term.site for term in terms}) > 1
    labels = [
        term.emotion
        + (f" of {term.set_name}" if several_names else "")
        + (f" ({term.site.replace('_', ' ')})" if several_sites else "")
        for term in terms
    ]
    return [
        f"{label} [{term.digest[:8] or 'unknown rows'}]" if labels.count(label) > 1 else label
        for label, term in zip(labels, terms, strict=True)
    ]


def layer_ranges(layers: Sequence[int]) -> str:
    """Layers as a list such as ``0,4-6``."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and runs[-1][-1] == layer - 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
