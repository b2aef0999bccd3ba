"""Strengths that a measurement justifies, for a bake whose user names no number.

A set may say for each of its emotions at which strength a measurement found it strongest while the answers were still
sane (docs/evaluation.md has the rule). The sum of several emotions was not measured: there the doses add up to one,
so that no mix has more than a single emotion would have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from .names import is_plain

if TYPE_CHECKING:
    from typing import TypeGuard

    from .steering import Steering
    from .vector_set import VectorSet

_MAX_STRENGTH = 1000.0
_MAX_TEXT = 500
_FIGURES = ("kl", "collapsed")


@dataclass(frozen=True)
class Strength:
    """The strength that a measurement chose for an emotion."""

    value: float
    """Factor of the emotion's vector, above 0."""
    command: str
    """Command of the measurement."""
    kl: float | None = None
    """Mean KL from the base at that strength, in nats per token."""
    collapsed: float | None = None
    """Share of the answers that collapsed there, from 0 to 1."""

    def __str__(self) -> str:
        """The strength, and what it costs."""
        costs = [] if self.kl is None else [f"KL {self.kl:.3g} nats"]
        costs += [] if self.collapsed is None else [f"{self.collapsed:.1%} of the answers collapsed"]
        return f"{self.value:g}" + (f" ({', '.join(costs)})" if costs else "")

    def as_json(self) -> dict[str, Any]:
        """JSON data, for `parse_strengths`."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def parse_strengths(data: Mapping[str, Any]) -> dict[str, Strength] | None:
    """Read emotion -> `Strength` from JSON data; None if it is malformed."""
    found = {}
    for emotion, entry in data.items():
        if not isinstance(entry, dict) or not entry.keys() <= {"value", "command", *_FIGURES}:
            return None
        value, command, figures = entry.get("value"), entry.get("command"), [entry.get(key) for key in _FIGURES]
        if not _is_number(value) or not 0 < value <= _MAX_STRENGTH:
            return None
        if not isinstance(command, str) or len(command) > _MAX_TEXT or not is_plain(command):
            return None
        if not all(figure is None or (_is_number(figure) and figure >= 0) for figure in figures):
            return None
        found[emotion] = Strength(float(value), command, *figures)
    return found


def at_measured_strength(steering: Steering, vectors: VectorSet) -> Steering:
    """Scale a steering so that its doses, weight over measured strength, add up to one.

    Raises:
        InputError: the set tells no strength for an emotion, or an emotion's weight is below 0.
    """
    return replace(steering, scale=measured_scale(steering, vectors.strengths, vectors.name))


def measured_scale(steering: Steering, strengths: Mapping[str, Strength], name: str) -> float:
    """The scale at which the doses of `steering` add up to one, by the strengths of the set that `name` names.

    Raises:
        InputError: as `at_measured_strength`.
    """
    dose = 0.0
    for emotion, weight in steering.weights:
        if weight < 0:
            raise InputError(
                f"`scale` auto: strengths are measured above 0; leave out {emotion}={weight:g}, or give a number"
            )
        if not weight:
            continue
        known = strengths.get(emotion)
        if known is None:
            raise InputError(
                f"{name}: tells no measured strength for {emotion}; give `scale` a number. `emobake eval` "
                "compares numbers, and `emobake tune` with `search` writes a set that tells its own strengths"
            )
        dose += weight / known.value
    if not dose:
        raise InputError("all weights are zero, so no strength can be chosen; set some with `times` or `mix`")
    return 1 / dose


def explain(steering: Steering, vectors: VectorSet) -> str:
    """Say in a line which strengths `at_measured_strength` chose, and what they were measured by."""
    chosen = [(emotion, weight) for emotion, weight in steering.weights if weight]
    known = [vectors.strengths[emotion] for emotion, _ in chosen]
    if len(chosen) == 1:
        return f"{chosen[0][0]} at its measured strength {known[0]}; by {known[0].command}"
    doses = ", ".join(f"{emotion} {weight * steering.scale:.3g}" for emotion, weight in chosen)
    return f"{doses}: doses of the measured strengths that add up to one; the mix itself was not measured"


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
