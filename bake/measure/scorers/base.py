"""What says how much of which emotion is in an answer: one small interface, and the scorers that come along.

Anything with the attributes of `Scorer` can be given to `emobake.evaluate`; on the command line a scorer is the name
of a Hugging Face text classifier, or ``lexicon``; a judge is a model behind an OpenAI-compatible endpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

DEFAULT_CLASSIFIER = "SamLowe/roberta-base-go_emotions"
"""English, MIT; the paper's five emotions are among its 28 labels."""
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
