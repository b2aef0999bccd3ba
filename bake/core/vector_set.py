"""Emotion vectors as a value, the weights a user gives them, and the weighted sum that is baked.

A set holds one row of `hidden` floats per emotion and layer; layer 0 is the first decoder block. It says at
which site it acts: arXiv 2502.04075 and the code published with it add to the output of the attention module,
before the residual add; most other steering vectors act on the output of the whole layer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from ..errors import VectorError

EMOTIONS = ("anger", "disgust", "fear", "joy", "sadness")
"""The paper's emotions, in the order of ``--times``."""

SITE: Site = "attention_output"
"""Where the paper's vectors act, and where an attention output projection's bias does."""
SITES: tuple[Site, ...] = (SITE, "layer_output")
"""``layer_output`` is the residual stream after a decoder block: control vectors, persona vectors."""
MAX_LAYERS = 1024


def is_emotion_name(name: str) -> bool:
    """Whether `name` can name an emotion: it becomes a tensor's name and part of a file's, and is typed after --mix."""
    return re.fullmatch(r"[^\W_](?:[\w .-]{0,62}\w)?", name) is not None and name == name.lower()


@dataclass(frozen=True)
class Statistics:
    """How well the mean over its queries pins one emotion's vector down."""

    count: int
    """Queries (or pairs of texts) that the vector is the mean of."""
    standard_error: tuple[float, ...]
    """Per layer, the Euclidean norm of the mean's standard error, in the units of the rows' norms."""
    split_half_cosine: float | None
    """Mean over layers of the cosine between the means of the odd and the even queries; None below two."""


@dataclass(frozen=True, eq=False)
class VectorSet:
    """Vectors of several emotions for one model."""

    emotions: tuple[str, ...]
    rows: np.ndarray
    """float32 ``[emotions, layers, hidden]``, finite."""
    open_ended: bool = field(default=False, kw_only=True)
    """Whether layers after the last row get nothing, as with control vectors; else the model has as many layers."""
    name: str = "vectors"
    """What the set is called in messages and records (never a local path)."""
    sha256: Mapping[str, str] = field(default_factory=dict)
    """File name -> digest of that file, as it was read."""
    site: Site = SITE
    base_model: str = ""
    source: str = ""
    license: str = ""
    statistics: Mapping[str, Statistics] = field(default_factory=dict)
    """Per emotion, for sets that were extracted here; empty for others."""
    extraction: Mapping[str, Any] = field(default_factory=dict)
    """What the set was extracted from and how, as JSON data; empty when it is not known."""

    @property
    def layers(self) -> int:
        """Number of decoder layers that the set was made for."""
        return int(self.rows.shape[1])

    @property
    def hidden(self) -> int:
        """Width of each row."""
        return int(self.rows.shape[2])

    @property
    def queries(self) -> dict[str, str]:
        """Of `extraction` what outputs record: which queries the set was made from, by name and digest."""
        found = {key: self.extraction.get(key) for key in ("queries", "queries_sha256")}
        return {key: value for key, value in found.items() if isinstance(value, str)}


def require_site(vectors: VectorSet, site: str) -> None:
    """Refuse a set that does not act at `site`; an empty one is the set's own.

    Raises:
        VectorError: it acts at another site.

    """
    if site and vectors.site != site:
        raise VectorError(
            f"{vectors.name}: acts at the {vectors.site.replace('_', ' ')}, not at the {site.replace('_', ' ')}; use a "
            "set made for that site"
        )


def fitted(vectors: VectorSet, layers: int, hidden: int, model: str) -> VectorSet:
    """The set with a row for each of the `layers` of `model`; refused when it was made for a model of another size.

    Raises:
        VectorError: another number of layers or width.

    """
    if vectors.open_ended and vectors.layers < layers:
        vectors = replace(vectors, rows=np.pad(vectors.rows, ((0, 0), (0, layers - vectors.layers), (0, 0))))
    if (vectors.layers, vectors.hidden) != (layers, hidden):
        raise VectorError(
            f"{vectors.name}: made for {vectors.layers} layers x hidden size {vectors.hidden}, but "
            f"{model} has {layers} layers x {hidden}; use the vectors of that model"
        )
    return vectors


Site = Literal["attention_output", "layer_output"]
"""Where vectors act: on the attention module's output, or on the residual stream after a decoder block."""
