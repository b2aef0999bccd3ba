"""Questions and their answers at the desk, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..actions.conversation import Answer
from .costs import Cost, has_collapsed
from .setting import Side


@dataclass(frozen=True)
class Said:
    """One answer, as it is shown."""

    text: str
    recipe: str
    """The mood in words."""
    tokens: int
    seconds: float
    ended: bool
    interrupted: bool
    collapsed: bool
    """True if a reader would call it broken down into repetition."""

    @classmethod
    def of(cls, answer: Answer, recipe: str) -> Said:
        """An answer, given in a mood that `recipe` names."""
        collapsed = has_collapsed(answer.text)
        return cls(answer.text, recipe, answer.tokens, answer.seconds, answer.ended, answer.interrupted, collapsed)


@dataclass(frozen=True)
class Exchange:
    """A question and its answers, by side."""

    question: str
    said: Mapping[Side, Said] = field(default_factory=dict)
    cost: Cost | None = None
    """The cost of mood A in its answer."""
