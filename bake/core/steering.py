"""Emotion weights, and the weighted sum of a vector set."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import SupportsFloat

import numpy as np

from ..errors import InputError, VectorError
from .arguments import as_list
from .names import EMOTION_RULE, emotion_name, is_emotion_name
from .spelling import did_you_mean
from .vector_set import EMOTIONS, VectorSet


@dataclass(frozen=True)
class Steering:
    """Weight per emotion, a common scale, and the layers to steer.

    Layer l gains ``w_l = scale * sum(weight_e * EV_e[l])``.

    Raises:
        InputError: an emotion's name that `is_emotion_name` refuses, or one that is given twice.
    """

    weights: tuple[tuple[str, float], ...]
    scale: float = 1.0
    layers: tuple[int, ...] | None = None
    """Steered layers, ascending from 0; None means all."""

    def __post_init__(self) -> None:
        names = [name for name, _ in self.weights]
        for name in names:
            if not is_emotion_name(name):
                raise InputError(f"{name[:60]!r} cannot be the name of an emotion; {EMOTION_RULE}")
            if names.count(name) > 1:
                raise InputError(f"the emotion {name!r} is given twice; give it one weight")

    @property
    def is_zero(self) -> bool:
        """True if nothing would be added."""
        return self.scale == 0 or all(weight == 0 for _, weight in self.weights)

    @property
    def recipe(self) -> str:
        """The weights in words, such as ``0.5 x anger + 0.5 x joy``, without the layers."""
        terms = " + ".join(f"{weight:g} x {name}" for name, weight in self.weights if weight) or "nothing"
        return terms if self.scale == 1 else f"{self.scale:g} x ({terms})"


def steering(
    times: Iterable[float] | None = None,
    mix: Mapping[str, float] | None = None,
    *,
    scale: float = 1.0,
    layers: str | None = None,
) -> Steering:
    """Build a `Steering` from the arguments of `emobake.bake`.

    Args:
        times: five weights in the order of `EMOTIONS`.
        mix: weights by name; give either `times` or `mix`.
        scale: factor for all weights.
        layers: numbers and inclusive ranges, such as ``"8-27"`` or ``"0,4-6"``; None means all.

    Raises:
        InputError: both or neither of `times` and `mix`, the wrong number of weights, a weight that is not finite, a
            name that no emotion can have, or a layer list that cannot be read.
    """
    if (times is None) == (mix is None):
        raise InputError("give the weights either as `times` (five numbers) or as `mix` (name=number,...)")
    weights = _five(times) if times is not None else _by_name(mix)
    if not isinstance(scale, SupportsFloat) or not np.isfinite([weight for _, weight in weights] + [scale]).all():
        raise InputError("weights and `scale` must be finite numbers")
    if layers is not None and not isinstance(layers, str):
        raise InputError(f'`layers` takes a text such as "8-27" or "0,4-6", not {layers!r}')
    return Steering(weights, float(scale), None if layers is None else parse_layers(layers))


def _five(times: Iterable[float]) -> tuple[tuple[str, float], ...]:
    """The argument `times`, which may be of any type."""
    numbers = as_list("times", times, "(0, 0, 0, 1, 0)")
    if not all(isinstance(number, SupportsFloat) for number in numbers):
        raise InputError(f"`times` takes numbers, such as (0, 0, 0, 1, 0), not {times!r}")
    if len(numbers) != len(EMOTIONS):
        raise InputError(f"`times` takes {len(EMOTIONS)} numbers ({', '.join(EMOTIONS)}), not {len(numbers)}")
    return tuple(zip(EMOTIONS, map(float, numbers), strict=True))


def _by_name(mix: object) -> tuple[tuple[str, float], ...]:
    """The argument `mix`, which may be of any type."""
    if not isinstance(mix, Mapping) or not all(
        isinstance(k, str) and isinstance(v, SupportsFloat) for k, v in mix.items()
    ):
        raise InputError(f'`mix` takes numbers by name, such as {{"joy": 1, "anger": 0.5}}, not {mix!r}')
    weights = tuple((emotion_name(name), float(weight)) for name, weight in mix.items())
    if not weights:
        raise InputError("`mix` names no emotion; write for example `mix` joy=0.5,anger=0.5")
    if len({name for name, _ in weights}) < len(weights):
        raise InputError(f"`mix` {mix!r}: the same emotion is given twice")
    return weights


def parse_layers(text: str) -> tuple[int, ...]:
    """Parse a layer list: ``"0,4-6"`` becomes ``(0, 4, 5, 6)``.

    Raises:
        InputError: not a list of layer numbers and ranges.
    """
    chosen: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,4})\s*(?:-\s*(\d{1,4})\s*)?", part, re.ASCII)
        if match is None:
            raise InputError(f"`layers` {text!r} is not a list such as 8-27 or 0,4-6 (layers count from 0)")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise InputError(f"`layers` {text!r}: the range {first}-{last} runs backwards")
        chosen.update(range(first, last + 1))
    return tuple(sorted(chosen))


def parse_mix(text: str) -> dict[str, float]:
    """Parse weights by name: ``"joy=0.5,anger=-1"`` becomes ``{"joy": 0.5, "anger": -1.0}``.

    Raises:
        InputError: another form, or a name that is given twice.
    """
    mix: dict[str, float] = {}
    for part in text.split(","):
        name, equals, number = part.partition("=")
        key = emotion_name(name)
        try:
            weight = float(number)
        except ValueError:
            equals = ""
        if not equals or not key:
            raise InputError(f"`mix` {text!r}: {part.strip()!r} is not of the form emotion=number")
        if key in mix:
            raise InputError(f"`mix` {text!r}: {key!r} is given twice")
        mix[key] = weight
    return mix


def weighted_sum(vectors: VectorSet, steering: Steering) -> np.ndarray:
    """Compute ``w`` as float32 ``[layers, hidden]``; every step is in float32.

    Raises:
        VectorError: an emotion that the set does not have, a layer beyond its last, or a sum that overflows.
    """
    unknown = [name for name, _ in steering.weights if name not in vectors.emotions]
    if unknown:
        raise VectorError(
            f"{vectors.name}: has no vectors for {', '.join(unknown)} (it has {', '.join(vectors.emotions)})"
            f"{did_you_mean(unknown[0], vectors.emotions) or '; add the missing file, or name others with `mix`'}"
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
                f"`layers` names layer {beyond[0]}, but {vectors.name} has layers 0 to {vectors.layers - 1}"
            )
        keep = np.zeros(vectors.layers, bool)
        keep[list(steering.layers)] = True
        total[~keep] = 0
    if not np.isfinite(total).all():
        raise VectorError(f"{vectors.name}: the weighted sum overflows float32; use smaller weights")
    return total
