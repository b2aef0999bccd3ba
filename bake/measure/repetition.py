"""Repetition in an answer, and collapse into it: distinct n-grams and loops, on text alone.

Distinct-n is the share of different n-grams among all (Li et al. 2016, arXiv 1510.03055). Over a whole answer it falls
with length and misses an answer that begins well, so the worst stretch of an answer decides here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

WINDOW = 100
"""Units in a stretch."""
DISTINCT = 0.5
"""Share of different pairs below which a stretch has collapsed."""
SHORTEST = 20
"""Units below which a stretch cannot collapse: "No, no, no, no!" is an answer."""
LOOP = 30
"""Units in a loop from which an answer has collapsed, however well the rest of it reads."""
_STEP = 10
_LONGEST_PERIOD = 30

# At most eight characters of a word: a run of one letter, or of one character in a script without spaces, is then
# a run of equal units too. Signs and emoji are units of their own.
_UNIT = re.compile(r"\w{1,8}|[^\w\s]")


@dataclass(frozen=True)
class Repetition:
    """Repetition figures of one answer."""

    distinct_1: float
    """Share of different units among all; 1 for an empty answer."""
    distinct_2: float
    """The same for pairs of neighbours."""
    distinct_3: float
    worst_distinct_2: float
    """The lowest of all stretches of `WINDOW` units; 1 for an answer of fewer than `SHORTEST`."""
    loop: int
    """Units in the longest stretch that repeats up to 30 units at least three times; 0 if there is none."""

    @property
    def collapsed(self) -> bool:
        """True if a reader would call the answer broken down."""
        return self.worst_distinct_2 < DISTINCT or self.loop >= LOOP


def repetition(text: str) -> Repetition:
    """Measure `text`."""
    units = units_of(text)
    starts = range(0, max(1, len(units) - WINDOW + _STEP), _STEP) if len(units) >= SHORTEST else ()
    return Repetition(
        distinct(units, 1),
        distinct(units, 2),
        distinct(units, 3),
        min((distinct(units[start : start + WINDOW], 2) for start in starts), default=1.0),
        _longest_loop(units),
    )


def distinct(units: Sequence[str], n: int) -> float:
    """Share of different n-grams of `units`; 1 if there are none."""
    return _distinct([units], n)


def diversity(answers: Sequence[str]) -> float:
    """Share of different pairs of units among all pairs of several answers to one query; 1 if there are none.

    Distinct-2 of Li et al. 2016 (arXiv 1510.03055) over all answers together, where a pair does not join two answers. N
    times the same answer gives an N-th of its own distinct-2.
    """
    return _distinct([units_of(answer) for answer in answers], 2)


def units_of(text: str) -> list[str]:
    """The words and signs that are counted."""
    return _UNIT.findall(text.lower())


def _distinct(texts: Sequence[Sequence[str]], n: int) -> float:
    grams = [gram for units in texts for gram in zip(*(units[i:] for i in range(n)), strict=False)]
    return len(set(grams)) / len(grams) if grams else 1.0


def _longest_loop(units: Sequence[str]) -> int:
    longest = 0
    for period in range(1, _LONGEST_PERIOD + 1):
        run = best = 0
        for unit, later in zip(units, units[period:], strict=False):
            run = run + 1 if unit == later else 0
            best = max(best, run)
        if best >= 2 * period:
            longest = max(longest, best + period)
    return longest
