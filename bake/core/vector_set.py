"""Emotion vectors as a value.

A set has one row of `hidden` floats per emotion and layer; layer 0 is the first decoder block. Its `site` says where
the rows act: arXiv 2502.04075 and its published code add to the attention module's output, before the residual add;
most other steering vectors act on the output of the whole layer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..errors import VectorError
from .sites import SITE, Site

EMOTIONS = ("anger", "disgust", "fear", "joy", "sadness")
"""The paper's emotions, in the order of `times`."""

MAX_LAYERS = 1024


def is_emotion_name(name: str) -> bool:
    """True if `name` can name an emotion: it becomes a tensor's name, part of a file's name and part of `mix`."""
    return re.fullmatch(r"[^\W_](?:[\w .-]{0,62}\w)?", name) is not None and name == name.lower()


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
    """Vectors of several emotions for one model."""

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
    parts: tuple[VectorSet, ...] = ()
    """The sets that this one was merged of, each with its name, source and digests; empty for a set of its own."""

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
        """Name and digest of the queries behind the set, for the record of a bake; empty if unknown."""
        found = {key: self.extraction.get(key) for key in ("queries", "queries_sha256")}
        return {key: value for key, value in found.items() if isinstance(value, str)}


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
