"""What says how much of which emotion is in an answer: one small interface, and the scorers that come along.

Anything with the attributes of `Scorer` can be given to `emobake.evaluate`; on the command line a scorer is the name
of a Hugging Face text classifier, or ``lexicon``; a judge is a model behind an OpenAI-compatible endpoint.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Protocol

from ...errors import InputError

DEFAULT_CLASSIFIER = "SamLowe/roberta-base-go_emotions"
"""English, MIT; the paper's five emotions are among its 28 labels."""
LEXICON = "lexicon"
TOPIC = "topic"
"""The key under which a judge says how well an answer keeps to what was asked."""


class Scorer(Protocol):
    """Gives numbers to answers."""

    name: str
    """What it is called in reports; the same name, the same figures."""
    unit: str
    """What its figures are, such as ``probability``."""
    note: str
    """What a reader must know of its figures; stands wherever they do. Empty if nothing."""
    rank: int
    """Of several scorers the highest is believed when the best strength is chosen."""
    batch_size: int
    """Answers that it takes at once."""

    def score(self, queries: Sequence[str], answers: Sequence[str]) -> Sequence[Mapping[str, float]]:
        """For each answer emotion -> figure; an emotion that it does not know is left out.

        Raises:
            InputError: it cannot be used as given. EmobakeError: it failed.
        """
        ...


class Lexicon:
    """Counts words of emotion: needs no download, and sees words, not meaning."""

    name = LEXICON
    unit = "words per 100, weak"
    note = (
        "counts words of a list of emotion words, each once an answer: negation, irony and emotion without such words "
        "are missed. A weak measure; give --scorer a classifier for one that reads"
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
    """Emotion -> English words, lower case, none of them under two emotions; written for this project."""
    text = (resources.files("emobake.vectors_data") / "lexicon.json").read_text(encoding="utf-8")
    return {emotion: frozenset(words) for emotion, words in json.loads(text).items()}


def open_scorers(names: Sequence[str], judge: str = "", device: str = "auto") -> list[Scorer]:
    """The scorers that a user names: ``lexicon``, or a classifier's folder or Hub id; and a judge's model.

    Raises:
        InputError: a name twice; what `emobake.classifier.Classifier` and `emobake.judge.Judge` refuse.
    """
    if len(set(names)) < len(names):
        raise InputError("--scorer: the same name stands twice")
    found: list[Scorer] = []
    for name in names:
        if name == LEXICON:
            found.append(Lexicon())
        else:
            from .classifier import Classifier

            found.append(Classifier(name, device=device))
    if judge:
        from .judge import Judge

        found.append(Judge(judge))
    if not found:
        raise InputError("no scorer: give --scorer a classifier or lexicon, or --judge a model")
    return found
