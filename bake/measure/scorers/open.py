"""Scorers by name."""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import InputError
from .base import JUDGE, LEXICON, Scorer
from .lexicon import Lexicon


def open_scorers(names: Sequence[str], device: str = "auto") -> list[Scorer]:
    """Open scorers: ``lexicon``, ``judge:MODEL``, or a classifier's folder or Hub id (perhaps ``@revision``).

    `device` is where a classifier runs.

    Raises:
        InputError: a name twice; a classifier or judge that cannot be used.
    """
    if len(set(names)) < len(names):
        raise InputError("`scorers`: the same name is given twice")
    return [_open(name, device) for name in names]


def _open(name: str, device: str) -> Scorer:
    if name == LEXICON:
        return Lexicon()
    if name.startswith(JUDGE):
        from .judge import Judge

        return Judge(name.removeprefix(JUDGE))
    from .classifier import Classifier

    return Classifier(name, device=device)
