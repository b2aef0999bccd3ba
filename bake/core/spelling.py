"""Suggestions for names that nobody knows."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """``; did you mean joy?`` for the known name that is most like `given`; empty if none is like it."""
    names, wanted = {name.lower(): name for name in known}, given.strip().lower()
    begun = [name for name in names if len(wanted) > 2 and name.startswith(wanted)]
    close = begun or get_close_matches(wanted, names, n=1, cutoff=0.6)
    if not close and len(wanted) > 3:
        # A long name of which the first part was typed, with a mistake.
        starts = {name[: len(wanted) + 1]: name for name in reversed(names)}
        close = [starts[start] for start in get_close_matches(wanted, starts, n=1, cutoff=0.8)]
    return f"; did you mean {names[close[0]]}?" if close else ""
