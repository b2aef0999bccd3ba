"""Points of a search: what was measured of a shape, the front, and the rule that chooses. Pure values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..summary import COLLAPSED_AT_MOST, PERPLEXITY_AT_MOST
from .shape import Shape

DISTINCT_LOSS = 0.1
"""Loss of distinct-2 against the base from which a trial counts as repeating itself. Its answers are short, and what
collapses later shows there as repetition only."""

STOP = 3.0
"""Multiple of the budget beyond which a model does not answer."""
PLAIN = "plain "
"""Start of the name of a plain strength."""
SECOND = "second "
"""Start of the name of the unshaped rows of a second set."""


def plain_name(strength: float) -> str:
    """Name of the rows as they are, times `strength`."""
    return f"{PLAIN}{strength:g}"


def tuned_name(strength: float) -> str:
    """Name of the chosen rows in the test, times `strength`."""
    return f"tuned {strength:g}"


@dataclass(frozen=True)
class Figures:
    """Effects of steering with some rows, on one part of the queries."""

    measures: Mapping[str, float]
    """Rise of each measure of emotion over the base, in its own standard deviations."""
    kl: float
    """Mean KL from the base in nats per token."""
    kl_worst: float
    """Mean of the largest 5%."""
    collapsed: float | None = None
    """Share of the collapsed answers; None if the trial was stopped before it let the model answer."""
    distinct_2: float | None = None
    """Mean distinct-2 of the answers."""
    perplexity: float | None = None
    """Perplexity of the answers under the base."""
    lexicon: float | None = None
    """Words of the emotion per 100; measured in the test only."""
    shortfall: float = 0.0
    """Rise that a stopped trial lacked, above 0; see `shortfall`."""

    @property
    def emotion(self) -> float:
        """Mean of the measures."""
        return float(np.mean(list(self.measures.values())))

    def to_json(self) -> dict[str, Any]:
        """JSON data, with the mean; numbers are rounded."""
        return {"emotion": round(self.emotion, 6), **asdict(self), "measures": dict(self.measures)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Figures:
        """Read what `to_json` returned."""
        return cls(**{key: value for key, value in data.items() if key != "emotion"})


@dataclass(frozen=True)
class Point:
    """A shape, and what was measured of it."""

    name: str
    """``plain 0.5``, ``second 0.7``, or the number of the trial."""
    shape: Shape
    figures: Figures
    params: Mapping[str, float]
    """The sampler's parameters."""

    def to_json(self) -> dict[str, Any]:
        """JSON data."""
        return {
            "name": self.name,
            "shape": asdict(self.shape),
            "figures": self.figures.to_json(),
            "params": dict(self.params),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Point:
        """Read what `to_json` returned."""
        shape = Shape(**{**data["shape"], "left_out": tuple(data["shape"]["left_out"])})
        return cls(data["name"], shape, Figures.from_json(data["figures"]), data["params"])


@dataclass(frozen=True)
class SearchBounds:
    """Bounds that a chosen point keeps to."""

    kl: float
    """Mean KL at most, in nats per token."""
    collapsed: float = COLLAPSED_AT_MOST
    """Share of collapsed answers at most."""
    perplexity: float = PERPLEXITY_AT_MOST
    """Perplexity at most, as a multiple of the base's."""

    def holds(self, figures: Figures, base: Figures) -> bool:
        """True if `figures` are within the bounds."""
        return figures.kl <= self.kl and is_sane(figures, base, self.collapsed, self.perplexity)

    @property
    def rule(self) -> str:
        """The rule in words."""
        return (
            f"the highest mean of the emotion measures on the validation queries, with a mean KL of at most "
            f"{self.kl:g} nats, at most {self.collapsed:.0%} of the answers collapsed, and a perplexity of at most "
            f"{self.perplexity:g} times the base's there"
        )


def is_sane(figures: Figures, base: Figures, collapsed: float, perplexity: float) -> bool:
    """True if the answers were measured and are within these bounds."""
    if figures.collapsed is None or figures.perplexity is None or base.perplexity is None:
        return False
    return figures.collapsed <= collapsed and figures.perplexity <= perplexity * base.perplexity


def violations(figures: Figures, base: Figures) -> dict[str, float]:
    """Distances of a trial from the bounds of the search: constraint -> value above 0 if it is broken.

    A stopped trial breaks one by what it lacked, so that the sampler learns which ones came near.
    """
    if figures.collapsed is None or figures.distinct_2 is None or base.distinct_2 is None:
        return {"collapsed": 0.0, "repetition": 0.0, "shortfall": figures.shortfall}
    return {
        "shortfall": 0.0,
        "collapsed": figures.collapsed - COLLAPSED_AT_MOST,
        "repetition": base.distinct_2 - figures.distinct_2 - DISTINCT_LOSS,
    }


def shortfall(begun: Figures, points: Sequence[Point], budget: float) -> float:
    """Rise that a trial lacks, before its model has answered, to be worth the answers; 0 or less if it is.

    The measures so far must reach those of the plain strengths among `points` at the same KL, by linear interpolation,
    in standard deviations. A KL beyond three times the budget lacks everything.
    """
    plain = sorted((p.figures for p in points if p.name.startswith(PLAIN)), key=lambda figures: figures.kl)
    known = [0.0, *(figures.kl for figures in plain)]
    lacking = [
        float(np.interp(begun.kl, known, [0.0, *(figures.measures[name] for figures in plain)])) - value
        for name, value in begun.measures.items()
    ]
    return max(*lacking, 1.0 if begun.kl > STOP * budget else 0.0)


def front(points: Iterable[Point]) -> list[Point]:
    """Points that no other one beats: more emotion at no more KL. By ascending KL."""
    found: list[Point] = []
    for point in sorted(points, key=lambda point: (point.figures.kl, -point.figures.emotion)):
        if not found or point.figures.emotion > found[-1].figures.emotion:
            found.append(point)
    return found


def sane_front(points: Sequence[Point], base: Figures) -> list[Point]:
    """The front of the points that break no bound of the search."""
    return front([point for point in points if max(violations(point.figures, base).values()) <= 0])


def candidates(points: Sequence[Point], base: Figures, bounds: SearchBounds) -> list[Point]:
    """Points to validate, the most emotional first.

    The front comes before the points behind it, because a trial is noisy. KL may be a tenth beyond its bound: it may
    be lower on other prompts.
    """
    ahead = sane_front(points, base)
    near = [
        point
        for point in points
        if point.figures.kl <= 1.1 * bounds.kl and max(violations(point.figures, base).values()) <= 0
    ]
    return sorted(near, key=lambda point: (point not in ahead, -point.figures.emotion))


def chosen(points: Sequence[Point], base: Figures, bounds: SearchBounds) -> Point | None:
    """The most emotional point within the bounds; None if there is none."""
    within = [point for point in points if bounds.holds(point.figures, base)]
    return max(within, key=lambda point: point.figures.emotion, default=None)


def compare(plain: Sequence[Point], tuned: Sequence[Point], base: Figures, bounds: SearchBounds) -> dict[str, Any]:
    """Compare the best strength of tuned rows with that of plain ones, both within the bounds: JSON data.

    If no strength of the tuned rows is within them, the last one stands in its place. A ratio is None where its divisor
    is not above 0, or where one of the two is not reached.
    """
    best, within = chosen(plain, base, bounds), chosen(tuned, base, bounds)
    own = within or tuned[-1]
    equal = None if best is None else kl_at(tuned, best.figures.emotion)
    words = None if best is None else _rise(best.figures, base)
    own_words = _rise(own.figures, base)
    return {
        "best_tuned": None if within is None else within.name,
        "best_plain": None if best is None else best.name,
        "rise": own.figures.emotion,
        "rise_of_best_plain": None if best is None else best.figures.emotion,
        "rise_ratio": None if best is None else _ratio(own.figures.emotion, best.figures.emotion),
        "lexicon_rise": own_words,
        "lexicon_rise_of_best_plain": words,
        "lexicon_ratio": None if words is None or own_words is None else _ratio(own_words, words),
        "kl": own.figures.kl,
        "kl_of_best_plain": None if best is None else best.figures.kl,
        "kl_at_equal_rise": equal,
        "kl_ratio_at_equal_rise": None if best is None or equal is None else _ratio(equal, best.figures.kl),
        "least_lead": min(one.figures.emotion - rise_at(plain, one.figures.kl) for one in tuned),
    }


def rise_at(points: Sequence[Point], kl: float) -> float:
    """Rise of the emotion at a KL, by linear interpolation between the base and strengths of the same rows.

    Beyond the strongest it is that of the strongest.
    """
    ordered = sorted((point.figures for point in points), key=lambda figures: figures.kl)
    return float(np.interp(kl, [0.0, *(one.kl for one in ordered)], [0.0, *(one.emotion for one in ordered)]))


def kl_at(points: Sequence[Point], emotion: float) -> float | None:
    """KL at which strengths of the same rows first raise the emotion so far, by linear interpolation.

    None if they never do.
    """
    before = (0.0, 0.0)
    for point in sorted(points, key=lambda point: point.figures.kl):
        now = (point.figures.emotion, point.figures.kl)
        if now[0] >= emotion:
            share = 0.0 if now[0] <= before[0] else (emotion - before[0]) / (now[0] - before[0])
            return before[1] + max(0.0, share) * (now[1] - before[1])
        before = now
    return None


def _rise(figures: Figures, base: Figures) -> float | None:
    return None if figures.lexicon is None or base.lexicon is None else figures.lexicon - base.lexicon


def _ratio(a: float, b: float) -> float | None:
    return a / b if b > 0 and math.isfinite(a / b) else None
