"""Progress bars for the library's callbacks."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

from ..core.progress import Advance, Progress, no_advance, no_progress
from ..core.text import one_line
from .terminal import bar_columns, console, count_bar

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

_LARGE = 200e6
"""Bytes from which carrying files over takes a while."""


def byte_bar(bars: ExitStack, *, silent: bool) -> Progress:
    """A bar on stderr for copies that take a while; none if stderr is not a terminal."""

    def start(task: str, done: int, total: int) -> Advance:
        if silent or not sys.stderr.isatty() or total < _LARGE:
            return no_advance
        from rich.progress import DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

        columns = (*bar_columns(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        bar = bars.enter_context(Progress(*columns, console=console(stderr=True), transient=True))
        shown = bar.add_task(one_line(task), total=total, completed=done)
        return lambda amount: bar.advance(shown, amount)

    return start


def count_bars(bars: ExitStack, *, silent: bool) -> Progress:
    """A bar on stderr for each task, one below the other."""
    if silent:
        return no_progress
    shown: list[Bars] = []

    def start(task: str, done: int, total: int) -> Advance:
        if not shown:
            shown.append(bars.enter_context(count_bar()))
        number = shown[0].add_task(one_line(task), total=total, completed=done)
        return lambda amount: shown[0].advance(number, amount)

    return start
