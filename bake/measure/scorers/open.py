"""Scorers by the names that a user gives."""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import InputError
from .base import Scorer
from .lexicon import LEXICON, Lexicon


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
