"""Emotion vectors as a value.

A set has one row of `hidden` floats per emotion and layer; layer 0 is the first decoder block. Its `site` says where
the rows act: arXiv 2502.04075 and its published code add to the attention module's output, before the residual add;
most other steering vectors act on the output of the whole layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..errors import VectorError
from .limits import MAX_HIDDEN, MAX_LAYERS, MAX_ROW_FLOATS
from .names import EMOTION_RULE, is_emotion_name, is_plain
from .sites import SITE, Site
from .strengths import Strength

EMOTIONS = ("anger", "disgust", "fear", "joy", "sadness")
"""The paper's emotions, in the order of `times`."""
_QUERIES = ("queries", "queries_sha256", "blend_queries", "blend_queries_sha256", "search_seed")


def check_dimensions(name: str, layers: int, hidden: int, *, most: int = MAX_LAYERS) -> None:
    """Refuse the dimensions of a set that no model has; `most` layers are too few for a file with further rows.

    Raises:
        VectorError: none, or too many; `name` is that of the file or of a part of it.
    """
    if not (0 < layers <= most and 0 < hidden <= MAX_HIDDEN and layers * hidden <= MAX_ROW_FLOATS):
        raise VectorError(
            f"{name}: gives {layers} layers x {hidden}; expected 1 to {most} layers, a hidden size of at most "
            f"{MAX_HIDDEN}, and at most {MAX_ROW_FLOATS} numbers in all"
        )


@dataclass(frozen=True)
class Statistics:
    """Precision of one emotion's vector, estimated over its queries."""

    count: int
    """Number of queries (or pairs of texts) in the mean."""
    standard_error: tuple[float, ...]
    """Per layer, the Euclidean norm of the mean's standard error, in the units of the rows' norms."""
    split_half_cosine: float | None
    """Cosine between the means of the odd and the even queries, averaged over layers; None below two queries."""


@dataclass(frozen=True, eq=False)
class VectorSet:
    """Vectors of several emotions for one model.

    Raises:
        VectorError: an emotion's name that `is_emotion_name` refuses, or one that occurs twice; control characters in
            the name, the model, the source or the licence.
    """

    emotions: tuple[str, ...]
    rows: np.ndarray
    """float32 ``[emotions, layers, hidden]``, finite."""
    open_ended: bool = field(default=False, kw_only=True)
    """True for control vectors: layers after the last row get nothing. Otherwise the model has exactly these layers."""
    name: str = "vectors"
    """Name in messages and records; never a local path."""
    sha256: Mapping[str, str] = field(default_factory=dict)
    """File name -> digest of the file that was read."""
    site: Site = SITE
    base_model: str = ""
    source: str = ""
    license: str = ""
    statistics: Mapping[str, Statistics] = field(default_factory=dict)
    """Emotion -> precision, for sets that emobake extracted; empty for others."""
    extraction: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the extraction as JSON data; empty if unknown."""
    strengths: Mapping[str, Strength] = field(default_factory=dict)
    """Emotion -> the strength that a measurement chose; empty if none was made."""
    parts: tuple[VectorSet, ...] = ()
    """The sets that this one was merged of, each with its name, source and digests; empty for a set of its own."""

    def __post_init__(self) -> None:
        for emotion in self.emotions:
            if not is_emotion_name(emotion):
                raise VectorError(
                    f"{self.name}: {emotion[:60]!r} cannot be the name of an emotion; rename it: {EMOTION_RULE}"
                )
        if len(set(self.emotions)) < len(self.emotions):
            raise VectorError(f"{self.name}: an emotion occurs twice in it: {', '.join(self.emotions)}")

    @property
    def layers(self) -> int:
        """Number of decoder layers."""
        return int(self.rows.shape[1])

    @property
    def hidden(self) -> int:
        """Width of each row."""
        return int(self.rows.shape[2])

    @property
    def queries(self) -> dict[str, str]:
        """Name and digest of the queries behind the set, for the record of a bake; empty if unknown.

        Of a search also those of its second set, and the seed that divided its own queries.
        """
        found = {key: self.extraction.get(key) for key in _QUERIES}
        return {key: value for key, value in found.items() if isinstance(value, str) and is_plain(value)}


@dataclass(frozen=True)
class ModelShape:
    """Dimensions of a model that its vectors must have."""

    name: str
    """The model's name in messages."""
    layers: int
    """Number of decoder layers."""
    hidden: int
    """Width of the residual stream."""


def require_site(vectors: VectorSet, site: str) -> None:
    """Refuse a set that acts elsewhere than at `site`; an empty `site` accepts every set.

    Raises:
        VectorError: the set acts at another site.
    """
    if site and vectors.site != site:
        raise VectorError(
            f"{vectors.name}: acts at the {vectors.site.replace('_', ' ')}, not at the {site.replace('_', ' ')}; use a "
            "set made for that site"
        )


def fitted(vectors: VectorSet, model: ModelShape) -> VectorSet:
    """Return the set with one row for each layer of `model`.

    Raises:
        VectorError: the set was made for another number of layers or another width.
    """
    if vectors.open_ended and vectors.layers < model.layers:
        vectors = replace(vectors, rows=np.pad(vectors.rows, ((0, 0), (0, model.layers - vectors.layers), (0, 0))))
    if (vectors.layers, vectors.hidden) != (model.layers, model.hidden):
        raise VectorError(
            f"{vectors.name}: made for {vectors.layers} layers x hidden size {vectors.hidden}, but "
            f"{model.name} has {model.layers} layers x {model.hidden}; use the vectors of that model"
        )
    return vectors
