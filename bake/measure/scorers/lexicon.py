"""A word list as scorer: needs no download, and sees words, not meaning."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources

from .base import LEXICON


class Lexicon:
    """Counts words of emotion."""

    name = LEXICON
    unit = "words per 100, weak"
    note = (
        "counts words of a list of emotion words, each once an answer: negation, irony and emotion without such words "
        "are missed. A weak measure; a classifier reads the text"
    )
    rank = 0
    batch_size = 1000

    def score(self, queries: Sequence[str], answers: Sequence[str]) -> list[dict[str, float]]:
        """Different words of each emotion among 100 different words of the answer; 0 for an empty one."""
        return [self._score(set(re.findall(r"[a-z]+", answer.lower()))) for answer in answers]

    @staticmethod
    def _score(words: set[str]) -> dict[str, float]:
        return {emotion: 100 * len(words & own) / max(1, len(words)) for emotion, own in lexicon().items()}


@cache
def lexicon() -> Mapping[str, frozenset[str]]:
    """Emotion -> English words, lower case, each under one emotion; written for this project."""
    text = (resources.files("emobake.vectors_data") / "lexicon.json").read_text(encoding="utf-8")
    return {emotion: frozenset(words) for emotion, words in json.loads(text).items()}
