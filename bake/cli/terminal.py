"""What the commands share to speak with a terminal; rich is imported when it is first needed."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


def console(*, stderr: bool = False) -> Console:
    """A console on stdout or stderr."""
    from rich.console import Console

    # Off a terminal nothing is wrapped, so that a line can be found by its words.
    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, soft_wrap=True, width=None if terminal else 500)


def escape(text: str) -> str:
    """`text` with nothing in it that rich would take for markup."""
    from rich.markup import escape as escape_markup

    return escape_markup(text)


def warn(text: str) -> None:
    """One line on stderr that cannot be missed."""
    console(stderr=True).print(f"[bold yellow]Warning:[/] {escape(text)}", highlight=False)


@contextlib.contextmanager
def going_on_later() -> Iterator[None]:
    """Around a run that keeps what it has finished: says so when it is interrupted, and exits with 130."""
    try:
        yield
    except KeyboardInterrupt:
        import click

        click.echo("emobake: interrupted; what was finished is kept, run again to go on", err=True)
        raise click.exceptions.Exit(130) from None


def count_bar() -> Progress:
    """A bar on stderr that counts things done, with the time left; nothing is drawn off a terminal."""
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console(stderr=True), transient=True, disable=not sys.stderr.isatty())
