"""The interface of scorers, which rate the emotion in an answer.

Any object with the attributes of `Scorer` can be given to `emobake.evaluate`. On the command line a scorer is the name
of a Hugging Face text classifier, or ``lexicon``; a judge is a model behind an OpenAI-compatible endpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

DEFAULT_CLASSIFIER = "SamLowe/roberta-base-go_emotions"
"""English, MIT; the paper's five emotions are among its 28 labels."""
LEXICON = "lexicon"
JUDGE = "judge:"
"""Start of a judge's name in `emobake.measure.scorers.open.open_scorers`."""
TOPIC = "topic"
"""Key of a judge's figure for keeping to the question."""


class Scorer(Protocol):
    """Gives numbers to answers."""

    name: str
    """Name in reports; the same name means the same figures."""
    unit: str
    """Unit of its figures, such as ``probability``."""
    note: str
    """A caution to print beside its figures; empty if none is needed."""
    rank: int
    """Rank among several scorers: the highest chooses the best strength."""
    batch_size: int
    """Number of answers that it takes at once."""

    def score(self, queries: Sequence[str], answers: Sequence[str]) -> Sequence[Mapping[str, float]]:
        """Rate each answer: emotion -> figure; an emotion that it does not know is left out.

        Raises:
            InputError: it cannot be used as given. ModelError, HubError: it failed.
        """
        ...
