"""The vector set that a search makes: one emotion, its best strength in the test, and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..._version import __version__
from ...core.steering import Steering
from ...core.strengths import Strength
from ...core.vector_set import VectorSet
from .points import tuned_name


def best_strength(test: Mapping[str, Any], trials: int, seed: int) -> Strength | None:
    """The best strength of the chosen rows in the test, and what it costs there; None if none is within the bounds."""
    best, by = test["comparison"]["best_tuned"], f"a search of {trials} trials with seed {seed}"
    for tuned in test["tuned"]:
        if tuned_name(tuned["strength"]) == best:
            return Strength(tuned["strength"], f"emobake tune, {by}", tuned["kl"], tuned["collapsed"])
    return None


def tuned_set(
    found: VectorSet,
    second: VectorSet | None,
    weights: Steering,
    rows: np.ndarray,
    strength: Strength | None,
    seed: int,
) -> VectorSet:
    """A set of one emotion, named after those that are raised.

    Args:
        found: the set that was searched from.
        second: the set that was blended in, if any.
        weights: weights of the search.
        rows: the chosen rows, ``[layers, hidden]``.
        strength: what to bake them at.
        seed: seed of the search.
    """
    emotion = "-".join(one for one, weight in weights.weights if weight > 0)[:100].rstrip("-. ")
    queries = {} if second is None else _blended_queries(second)
    sources = " and ".join(_origin(one) for one in (found, second) if one is not None)
    return VectorSet(
        (emotion,),
        rows[None],
        site=found.site,
        base_model=found.base_model,
        source=f"emobake {__version__}: search from {sources}",
        license=found.license,
        extraction={**found.extraction, **queries, "search_seed": str(seed)},
        strengths={} if strength is None else {emotion: strength},
    )


def _blended_queries(second: VectorSet) -> dict[str, str]:
    """The queries behind a second set; a name alone, which nobody can look up, if they are unknown or a search's."""
    known = {} if "search_seed" in second.queries else second.queries
    return {f"blend_{key}": value for key, value in ({"queries": second.name} | known).items()}


def _origin(vectors: VectorSet) -> str:
    return vectors.name + (f" ({vectors.source})" if vectors.source else "")
