"""Disjoint parts of the queries: trials, validation and test never ask the same one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from ..query_sets import EVERYDAY, comparable, open_questions
from ..written import FOR_VECTORS, Written, written_replies

TRAIN, VALIDATION = 1 / 6, 7 / 30
"""Shares of the everyday queries; the rest is the test."""
WRITTEN = 1 / 4
"""Share of the written replies in the trials, and in the validation; the rest is the test."""

T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    """Queries of one part."""

    everyday: tuple[str, ...]
    """Queries that the steered model answers, and the prompts for KL."""
    written: tuple[Written, ...]
    """Replies for the measures of emotion."""


@dataclass(frozen=True)
class Parts:
    """The three parts."""

    train: Part
    validation: Part
    test: Part


def shipped_parts(seed: int) -> Parts:
    """Parts of the everyday queries, and of the written replies from which no vectors are made."""
    return split(open_questions(EVERYDAY).texts, written_replies()[FOR_VECTORS:], seed)


def split(everyday: Sequence[str], written: Sequence[Written], seed: int) -> Parts:
    """Divide the queries at random, by `seed`.

    A sixth of the everyday queries is for trials, 7 of 30 for the validation, the rest for the test. A quarter of the
    written replies is for trials, a quarter for the validation, half for the test. A query that occurs twice is taken
    once.
    """
    draw = np.random.default_rng(seed)
    known: set[str] = set()
    places = _shuffled(_new(everyday, known), draw)
    first = max(1, round(TRAIN * len(places)))
    second = first + max(1, round(VALIDATION * len(places)))
    fresh = set(_new([one.query for one in written], known))
    replies = _shuffled([one for one in written if one.query in fresh], draw)
    cut = round(WRITTEN * len(replies))
    return Parts(
        Part(tuple(places[:first]), tuple(replies[:cut])),
        Part(tuple(places[first:second]), tuple(replies[cut : 2 * cut])),
        Part(tuple(places[second:]), tuple(replies[2 * cut :])),
    )


def _new(texts: Sequence[str], known: set[str]) -> list[str]:
    """Texts that are not known yet; they are known then."""
    found = []
    for text in texts:
        if comparable(text) not in known:
            known.add(comparable(text))
            found.append(text)
    return found


def _shuffled(items: Sequence[T], draw: np.random.Generator) -> list[T]:
    return [items[i] for i in draw.permutation(len(items))]
