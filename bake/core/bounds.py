"""Bounds on what a steering may cost, by the figures of a report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ..errors import InputError

_FIGURES = {"max_kl": "kl", "max_collapse": "collapsed", "max_capability_drop": "capability_drop"}
"""Bound -> figure of a point of a receipt."""


@dataclass(frozen=True)
class Bounds:
    """Bounds that a bake or a push must hold; None means no bound.

    Raises:
        InputError: a bound that is no number from 0 on.
    """

    max_kl: float | None = None
    """Mean KL from the base, in nats per token."""
    max_collapse: float | None = None
    """Share of the answers that collapse, from 0 to 1."""
    max_capability_drop: float | None = None
    """The base's share of right tasks minus that of the steered model, from 0 to 1."""

    def __post_init__(self) -> None:
        for name, bound in self.given.items():
            if not 0 <= bound < float("inf"):
                raise InputError(f"`{name}` takes a number from 0 on, not {bound}")

    @property
    def given(self) -> dict[str, float]:
        """The bounds that are set, by name."""
        values: dict[str, float | None] = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: bound for name, bound in values.items() if bound is not None}

    def beyond(self, figures: Mapping[str, Any]) -> list[str]:
        """Each bound that `figures`, a point of a receipt, does not hold or does not tell of, in words."""
        found = []
        for name, bound in self.given.items():
            value = figures.get(_FIGURES[name])
            if not isinstance(value, int | float):
                found.append(f"`{name}` {bound:g}: the report has no such figure")
            elif not value <= bound:
                found.append(f"`{name}` {bound:g}: it is {value:.4g}")
        return found
