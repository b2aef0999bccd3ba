"""Speaking with a terminal: consoles, warnings, bars, and the spelling of arguments as options."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ..errors import spell_arguments, without_secrets

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

_OPTIONS = {
    "emotional": "--emotional-prompt",
    "hash_files": "--hash",
    "neutral": "--neutral-prompt",
    "push": "--push-to-hub",
    "questions": "--queries",
    "scorers": "--scorer",
}
"""Arguments of the library whose option has another name."""
CHAT_COMMANDS = ("times", "mix", "scale", "scope", "compare", "bake", "show", "reset", "help")
_CHAT_ONLY = ("compare", "bake", "reset")
SHOWN = 8
"""Names of one kind that are printed without -v."""


def option(argument: str) -> str:
    """The option of a library argument: ``link_mode`` is ``--link-mode``."""
    if argument in _CHAT_ONLY:
        return f"/{argument}"
    return _OPTIONS.get(argument, "--" + argument.replace("_", "-"))


def chat_command(argument: str) -> str:
    """The spelling of a library argument in a chat: ``mix`` is ``/mix``."""
    return f"/{argument}" if argument in CHAT_COMMANDS else option(argument)


def spelled(text: str) -> str:
    """A message of the library with its arguments spelled as options."""
    return spell_arguments(text, option)


def console(*, stderr: bool = False) -> Console:
    """A console on stdout or stderr; on a terminal it breaks lines between words."""
    from rich.console import Console

    # Off a terminal nothing is wrapped, so that a line can be found by its words.
    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, soft_wrap=not terminal, width=None if terminal else 500)


def show_command(to: Console, command: str) -> None:
    """Print a command, or another line to be copied: in one piece, however long."""
    to.print(command, markup=False, highlight=False, soft_wrap=True)


def show_indented(to: Console, text: str) -> None:
    """Print `text`, which may have markup, two columns to the right, in all of its lines."""
    from rich.padding import Padding

    if to.soft_wrap:  # One line, however long.
        to.print(f"  {text}", highlight=False)
    else:
        to.print(Padding(text, (0, 0, 0, 2), expand=False), highlight=False)


def show_rows(to: Console, titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; if its words do not fit side by side, each row as a block of lines."""
    from rich.measure import Measurement
    from rich.table import Table

    table = Table(*titles, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*map(escape, row))
    if Measurement.get(to, to.options.update(max_width=10_000), table).minimum <= to.width:
        to.print(table)
        return
    for first, *rest in rows:
        to.print(escape(first), style="bold", highlight=False)
        for title, cell in zip(titles[1:], rest, strict=True):
            show_indented(to, f"[dim]{escape(title)}:[/] {escape(cell)}")


def escape(text: str) -> str:
    """Escape `text` against rich's markup."""
    from rich.markup import escape as escape_markup

    return escape_markup(text)


def list_names(names: Sequence[str], *, verbose: bool) -> str:
    """Names in one line: all with `verbose`, else the first `SHOWN` and the number of the others."""
    shown = names if verbose else names[:SHOWN]
    more = "" if len(shown) == len(names) else f" and {len(names) - len(shown)} more (-v names them)"
    return ", ".join(shown) + more


def warn(text: str) -> None:
    """Print one line on stderr that cannot be missed."""
    console(stderr=True).print(f"[bold yellow]Warning:[/] {escape(without_secrets(spelled(text)))}", highlight=False)


@contextlib.contextmanager
def resumable() -> Iterator[None]:
    """Report, when a run that keeps its finished work is interrupted, that it can be continued; exits with 130."""
    try:
        yield
    except KeyboardInterrupt:
        import click

        click.echo("emobake: interrupted; finished work is kept, run again to continue", err=True)
        raise click.exceptions.Exit(130) from None


def count_bar() -> Progress:
    """A bar on stderr that counts finished items, with the time left; nothing is drawn off a terminal."""
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console(stderr=True), transient=True, disable=not sys.stderr.isatty())
