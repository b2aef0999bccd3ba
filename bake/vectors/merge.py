"""Several vector sets as one: the emotions of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..core.vector_set import VectorSet
from ..errors import InputError, VectorError
from .registry import find_by_model


def merge_sets(sets: Sequence[VectorSet]) -> VectorSet:
    """Put the emotions of several sets, made for the same model and site, into one; its `parts` are the sets.

    Of their extractions the settings that are the same in all are kept.

    Raises:
        InputError: no set at all.
        VectorError: two sets of different sites, models or shapes, or with the same emotion.
    """
    if not sets:
        raise InputError("`vectors` is an empty list; name at least one set")
    if len(sets) == 1:
        return sets[0]
    first = sets[0]
    owners: dict[str, VectorSet] = {}
    for one in sets:
        _check_same(first, one)
        for emotion in one.emotions:
            if emotion in owners:
                raise VectorError(
                    f"{owners[emotion].name} and {one.name} both have vectors for {emotion}; leave one of them out, or "
                    "rename its emotion (`emobake vectors mix`)"
                )
            owners[emotion] = one
    return VectorSet(
        tuple(owners),
        np.concatenate([one.rows for one in sets]),
        open_ended=all(one.open_ended for one in sets),
        name=" + ".join(one.name for one in sets),
        sha256=_digests(sets),
        site=first.site,
        base_model=next((one.base_model for one in sets if one.base_model), ""),
        source="; ".join(dict.fromkeys(one.source for one in sets if one.source)),
        license=first.license if len({one.license for one in sets}) == 1 else "",
        statistics={emotion: found for one in sets for emotion, found in one.statistics.items()},
        extraction=_in_common(sets),
        strengths={emotion: found for one in sets for emotion, found in one.strengths.items()},
        parts=tuple(sets),
    )


def _in_common(sets: Sequence[VectorSet]) -> dict[str, Any]:
    """Settings of the extraction that are the same in all sets; their queries only if all of them are."""
    first, *others = sets
    differ = set(first.queries) if any(one.queries != first.queries for one in others) else set()
    return {
        key: value
        for key, value in first.extraction.items()
        if key not in differ and all(key in one.extraction and one.extraction[key] == value for one in others)
    }


def _check_same(first: VectorSet, other: VectorSet) -> None:
    both = f"{first.name} and {other.name}"
    if first.site != other.site:
        sites = [one.site.replace("_", " ") for one in (first, other)]
        raise VectorError(f"{both} act at two sites, the {sites[0]} and the {sites[1]}; give sets of one site")
    models = [one.base_model for one in (first, other)]
    if all(models) and not _same_model(*models):
        raise VectorError(f"{both} are for two models, {models[0]} and {models[1]}; give sets for one model")
    shapes = [f"{one.layers} layers x {one.hidden}" for one in (first, other)]
    if shapes[0] != shapes[1]:
        raise VectorError(f"{both} differ in shape, {shapes[0]} and {shapes[1]}; give sets for one model")


def _same_model(one: str, other: str) -> bool:
    """True if two Hub ids are the same, or known to have the same weights."""
    entry = find_by_model([one])
    return one.lower() == other.lower() or (entry is not None and entry is find_by_model([other]))


def _digests(sets: Sequence[VectorSet]) -> dict[str, str]:
    """File -> digest; files of the same name in two sets are told apart by the place of the set."""
    found: dict[str, str] = {}
    for place, one in enumerate(sets, 1):
        for file, digest in one.sha256.items():
            found[file if found.get(file, digest) == digest else f"{place}/{file}"] = digest
    return found
