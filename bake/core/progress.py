"""Callbacks by which long work reports to its caller. One form each, used by every room."""

from __future__ import annotations

from collections.abc import Callable

Advance = Callable[[int], object]
"""Called with the amount done since the last call, in the unit of its task."""
Progress = Callable[[str, int, int], Advance]
"""``progress(task, done, total)`` announces a task and returns its `Advance`; `done` is known from an earlier run."""
Notice = Callable[[str], object]
"""Called with one line that the user must not miss."""


def no_progress(task: str, done: int, total: int) -> Advance:
    """The default `Progress`: reports nothing."""
    return no_advance


def no_advance(amount: int) -> None:
    """The default `Advance`: reports nothing."""


def no_notice(line: str) -> None:
    """The default `Notice`: drops the line."""
