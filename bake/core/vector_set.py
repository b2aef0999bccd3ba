"""Emotion vectors as a value, the weights a user gives them, and the weighted sum that is baked.

A set holds one row of `hidden` floats per emotion and layer; layer 0 is the first decoder block. It says at
which site it acts: arXiv 2502.04075 and the code published with it add to the output of the attention module,
before the residual add; most other steering vectors act on the output of the whole layer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..errors import InputError, VectorError
from ..formats.checkpoint.families import Site

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


@dataclass(frozen=True)
class Steering:
    """How much of which emotion, and in which layers.

    The bias of layer l gets ``w_l = scale * sum(weight_e * EV_e[l])``.
    """

    weights: tuple[tuple[str, float], ...]
    scale: float = 1.0
    layers: tuple[int, ...] | None = None
    """Layers that are steered, ascending from 0; None means all of them."""

    @property
    def is_zero(self) -> bool:
        """Whether nothing at all would be added."""
        return self.scale == 0 or all(weight == 0 for _, weight in self.weights)

    @property
    def recipe(self) -> str:
        """The weights in words, such as ``0.5 x anger + 0.5 x joy``; without the layers."""
        terms = " + ".join(f"{weight:g} x {name}" for name, weight in self.weights if weight) or "nothing"
        return terms if self.scale == 1 else f"{self.scale:g} x ({terms})"


def steering(
    times: tuple[float, ...] | None = None,
    mix: Mapping[str, float] | None = None,
    *,
    scale: float = 1.0,
    layers: str | None = None,
) -> Steering:
    """Build a `Steering` from what a user gives.

    `times` are five weights in the order of `EMOTIONS`; `mix` maps names to weights; exactly one of the two
    is given. `layers` is a list of numbers and inclusive ranges such as ``"8-27"`` or ``"0,4-6"``.

    Raises:
        InputError: both or neither given, the wrong number of weights, a weight that is not finite, or
            a layer list that cannot be read.

    """
    if (times is None) == (mix is None):
        raise InputError("give the weights either as --times (five numbers) or as --mix (name=number,...)")
    if times is not None:
        if len(times) != len(EMOTIONS):
            order = ", ".join(EMOTIONS)
            raise InputError(f"--times takes {len(EMOTIONS)} numbers ({order}), not {len(times)}")
        weights = tuple(zip(EMOTIONS, map(float, times), strict=True))
    else:
        assert mix is not None
        weights = tuple((name.strip().lower(), float(weight)) for name, weight in mix.items())
        if not weights:
            raise InputError("--mix names no emotion; write for example --mix joy=0.5,anger=0.5")
    if not np.isfinite([weight for _, weight in weights] + [scale]).all():
        raise InputError("weights and --scale must be finite numbers")
    return Steering(weights, float(scale), None if layers is None else parse_layers(layers))


def parse_layers(text: str) -> tuple[int, ...]:
    """``"0,4-6"`` -> ``(0, 4, 5, 6)``.

    Raises:
        InputError: not a list of layer numbers and ranges.

    """
    chosen: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,4})\s*(?:-\s*(\d{1,4})\s*)?", part, re.ASCII)
        if match is None:
            raise InputError(f"--layers {text!r} is not a list such as 8-27 or 0,4-6 (layers count from 0)")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise InputError(f"--layers {text!r}: the range {first}-{last} runs backwards")
        chosen.update(range(first, last + 1))
    return tuple(sorted(chosen))


def parse_mix(text: str) -> dict[str, float]:
    """``"joy=0.5,anger=-1"`` -> ``{"joy": 0.5, "anger": -1.0}``.

    Raises:
        InputError: not of that form, or a name given twice.

    """
    mix: dict[str, float] = {}
    for part in text.split(","):
        name, equals, number = part.partition("=")
        key = name.strip().lower()
        try:
            weight = float(number)
        except ValueError:
            equals = ""
        if not equals or not key:
            raise InputError(f"--mix {text!r}: {part.strip()!r} is not of the form emotion=number")
        if key in mix:
            raise InputError(f"--mix {text!r}: {key!r} stands twice")
        mix[key] = weight
    return mix


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


def weighted_sum(vectors: VectorSet, steering: Steering) -> np.ndarray:
    """``w`` as float32 ``[layers, hidden]``, every step of it in float32.

    Raises:
        VectorError: an emotion that the set does not have, a layer beyond its last, or a sum that overflows.

    """
    unknown = [name for name, _ in steering.weights if name not in vectors.emotions]
    if unknown:
        raise VectorError(
            f"{vectors.name}: has no vectors for {', '.join(unknown)} (it has {', '.join(vectors.emotions)}); "
            "add the missing file, or name others with --mix"
        )
    total = np.zeros(vectors.rows.shape[1:], np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for name, weight in steering.weights:
            if weight != 0:
                total += np.float32(weight) * vectors.rows[vectors.emotions.index(name)]
        total *= np.float32(steering.scale)
    if steering.layers is not None:
        beyond = [layer for layer in steering.layers if layer >= vectors.layers]
        if beyond:
            raise VectorError(
                f"--layers names layer {beyond[0]}, but {vectors.name} has layers 0 to {vectors.layers - 1}"
            )
        keep = np.zeros(vectors.layers, bool)
        keep[list(steering.layers)] = True
        total[~keep] = 0
    if not np.isfinite(total).all():
        raise VectorError(f"{vectors.name}: the weighted sum overflows float32; use smaller weights")
    return total
