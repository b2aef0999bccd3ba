"""Metadata that a set carries beside its vectors, in the header of our own files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

from ...core.sites import SITES, Site
from ...core.strengths import parse_strengths
from ...core.strict_json import parse_json_object
from ...core.vector_set import EMOTIONS, Statistics, VectorSet
from ...errors import BrokenFileError, VectorError

FORMAT = "emobake-vectors-1"


def in_order(names: Iterable[str]) -> list[str]:
    """Sort emotions: the paper's five in the paper's order, then the others by name."""
    return sorted(names, key=lambda name: (EMOTIONS.index(name) if name in EMOTIONS else len(EMOTIONS), name))


def to_metadata(vectors: VectorSet) -> dict[str, str]:
    """Everything of a set but its vectors, as the metadata of a safetensors file."""
    metadata = {
        "format": FORMAT,
        "site": vectors.site,
        "base_model": vectors.base_model,
        "source": vectors.source,
        "license": vectors.license,
    }
    if vectors.statistics:
        statistics = {emotion: asdict(vectors.statistics[emotion]) for emotion in sorted(vectors.statistics)}
        metadata["statistics"] = json.dumps(statistics, allow_nan=False)
    if vectors.extraction:
        metadata["extraction"] = json.dumps(dict(vectors.extraction), sort_keys=True, allow_nan=False)
    if vectors.strengths:
        strengths = {emotion: found.as_json() for emotion, found in vectors.strengths.items()}
        metadata["strengths"] = json.dumps(strengths, sort_keys=True, allow_nan=False)
    return metadata


def with_metadata(vectors: VectorSet, metadata: Mapping[str, Any]) -> VectorSet:
    """Add `metadata`, as `to_metadata` returns it, to a set.

    Raises:
        VectorError: an unknown site.
        BrokenFileError: malformed statistics, extraction or strengths.
    """
    name, site = vectors.name, parse_site(vectors.name, metadata)
    base_model, source, license = (str(metadata.get(key, "")) for key in ("base_model", "source", "license"))
    statistics = _statistics(name, str(metadata.get("statistics", "{}")), vectors.layers)
    strengths = parse_strengths(parse_json_object(str(metadata.get("strengths", "{}")), f"{name} (strengths)"))
    if strengths is None:
        raise BrokenFileError(f"{name}: its strengths are malformed; fetch it again")
    return replace(
        vectors,
        site=site,
        base_model=base_model,
        source=" ".join(source.split()),
        license=license,
        statistics={emotion: statistics[emotion] for emotion in vectors.emotions if emotion in statistics},
        extraction=parse_json_object(str(metadata.get("extraction", "{}")), f"{name} (extraction)"),
        strengths={emotion: strengths[emotion] for emotion in vectors.emotions if emotion in strengths},
    )


def parse_site(name: str, metadata: Mapping[str, Any]) -> Site:
    """Read the site of the set `name` from its metadata.

    Raises:
        VectorError: an unknown site.
    """
    given = str(metadata.get("site"))
    for site in SITES:
        if site == given:
            return site
    raise VectorError(f"{name}: acts at {given[:60]!r}; known sites are {', '.join(SITES)}")


def _statistics(name: str, text: str, layers: int) -> dict[str, Statistics]:
    found = {}
    for emotion, entry in parse_json_object(text, f"{name} (statistics)").items():
        try:
            errors, cosine = [float(x) for x in entry["standard_error"]], entry["split_half_cosine"]
            found[emotion] = Statistics(int(entry["count"]), tuple(errors), None if cosine is None else float(cosine))
        except (KeyError, TypeError, ValueError, OverflowError):
            errors = []
        if len(errors) != layers:
            raise BrokenFileError(f"{name}: its statistics for {emotion[:60]!r} are malformed; fetch it again")
    return found
