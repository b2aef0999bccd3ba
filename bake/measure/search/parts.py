"""Disjoint parts of the queries: trials, validation and test never ask the same one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..query_sets import comparable

TRAIN, VALIDATION = 1 / 6, 7 / 30
"""Shares of the everyday queries; the rest is the test."""


@dataclass(frozen=True)
class Part:
    """Queries of one part."""

    everyday: tuple[str, ...]
    """Queries that the steered model answers, and the prompts for KL."""
    emotional: Mapping[str, tuple[str, ...]]
    """Emotion -> queries that suggest it, for the measures of emotion. Empty in the test."""


@dataclass(frozen=True)
class Parts:
    """The three parts."""

    train: Part
    validation: Part
    test: Part


def split(everyday: Sequence[str], emotional: Mapping[str, Sequence[str]], seed: int) -> Parts:
    """Divide the queries at random, by `seed`.

    A sixth of the everyday queries is for trials, 7 of 30 for the validation, the rest for the test. Two thirds of
    the emotional queries are for trials, the rest for the validation: the vectors were made from them, so the test has
    none. A text that occurs twice is taken once.
    """
    draw = np.random.default_rng(seed)
    known: set[str] = set()
    places = _shuffled(_new(everyday, known), draw)
    first = max(1, round(TRAIN * len(places)))
    second = first + max(1, round(VALIDATION * len(places)))
    trained: dict[str, tuple[str, ...]] = {}
    validated: dict[str, tuple[str, ...]] = {}
    for emotion, texts in emotional.items():
        own = _shuffled(_new(texts, known), draw)
        cut = round(2 / 3 * len(own))
        trained[emotion], validated[emotion] = tuple(own[:cut]), tuple(own[cut:])
    return Parts(
        Part(tuple(places[:first]), trained),
        Part(tuple(places[first:second]), validated),
        Part(tuple(places[second:]), {}),
    )


def _new(texts: Sequence[str], known: set[str]) -> list[str]:
    """Texts that are not known yet; they are known then."""
    found = []
    for text in texts:
        if comparable(text) not in known:
            known.add(comparable(text))
            found.append(text)
    return found


def _shuffled(texts: Sequence[str], draw: np.random.Generator) -> list[str]:
    return [texts[i] for i in draw.permutation(len(texts))]
