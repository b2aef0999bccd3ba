"""Speaking with a terminal: consoles, lines, bars, and the spelling of arguments as options.

All text leaves here, and no other module of this room makes text for rich or calls click.echo with anything but JSON:
names, messages and fields of files are made printable, and nothing in them is markup.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import click

from ..core.text import one_line, printable
from ..errors import spell_arguments, without_secrets

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn
    from rich.text import Text

_OPTIONS = {
    "emotional": "--emotional-prompt",
    "hash_files": "--hash",
    "neutral": "--neutral-prompt",
    "push": "--push-to-hub",
    "questions": "--queries",
    "scorers": "--scorer",
}
"""Arguments of the library whose option has another name."""
CHAT_COMMANDS = ("times", "mix", "scale", "layers", "scope", "compare", "bake", "show", "reset", "help")
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
    """A console on stdout or stderr, which prints strings as they are: printable, and without markup.

    On a terminal it breaks lines between words.
    """
    # Off a terminal nothing is wrapped, so that a line can be found by its words.
    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return _plain_console()(
        stderr=stderr,
        soft_wrap=not terminal,
        width=None if terminal else 500,
        markup=False,
        emoji=False,
        highlight=False,
    )


def show_command(to: Console, command: str) -> None:
    """Print a command, or another line to be copied: in one piece, however long."""
    to.print(styled(command), soft_wrap=True)


def show_indented(to: Console, *parts: str | tuple[str, str]) -> None:
    """Print a line of texts as `styled` makes it, two columns to the right, in all of its lines."""
    from rich.padding import Padding

    if to.soft_wrap:  # One line, however long.
        to.print(styled("  ", *parts))
    else:
        to.print(Padding(styled(*parts), (0, 0, 0, 2), expand=False))


def show_rows(to: Console, titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; if its words do not fit side by side, each row as a block of lines."""
    from rich.measure import Measurement
    from rich.table import Table

    table = Table(*titles, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*map(styled, row))
    if Measurement.get(to, to.options.update(max_width=10_000), table).minimum <= to.width:
        to.print(table)
        return
    for first, *rest in rows:
        to.print(styled((first, "bold")))
        for title, cell in zip(titles[1:], rest, strict=True):
            show_indented(to, (f"{title}:", "dim"), f" {cell}")


@cache
def _plain_console() -> type[Console]:
    from rich.console import Console

    class PlainConsole(Console):
        """A console whose strings, in tables too, are made printable."""

        def render_str(self, text: str, **options: Any) -> Text:
            """Make a text of rich of a string."""
            return super().render_str(printable(text), **options)

    return PlainConsole


STATUS_STYLES = {
    "steered": "green",
    "option": "yellow",
    "unknown": "yellow",
    "unsteered": "bold red",
    "wrong": "bold red",
    "refuses": "dim",
}
"""Status of a stack -> the style that it is shown in."""


def styled(*parts: str | tuple[str, str]) -> Text:
    """One line of texts, each alone or with a style of rich."""
    from rich.text import Text

    return Text.assemble(*(one_line(part) if isinstance(part, str) else (one_line(part[0]), part[1]) for part in parts))


def echo(text: str, *, err: bool = False) -> None:
    """Print one line without a console, as programs read it."""
    click.echo(one_line(text), err=err)


def list_names(names: Sequence[str], *, verbose: bool) -> str:
    """Names in one line: all with `verbose`, else the first `SHOWN` and the number of the others."""
    shown = list(map(one_line, names if verbose else names[:SHOWN]))
    more = "" if len(shown) == len(names) else f" and {len(names) - len(shown)} more (-v names them)"
    return ", ".join(shown) + more


def warn(text: str) -> None:
    """Print one line on stderr that cannot be missed."""
    console(stderr=True).print(styled(("Warning:", "bold yellow"), f" {without_secrets(spelled(text))}"))


@contextlib.contextmanager
def resumable() -> Iterator[None]:
    """Report, when a run that keeps its finished work is interrupted, that it can be continued; exits with 130."""
    try:
        yield
    except KeyboardInterrupt:
        echo("emobake: interrupted; finished work is kept, run again to continue", err=True)
        raise click.exceptions.Exit(130) from None


def bar_columns() -> tuple[ProgressColumn, ProgressColumn]:
    """The name of a task, and its bar."""
    from rich.progress import BarColumn, TextColumn

    return TextColumn("{task.description}", style="progress.description", markup=False), BarColumn()


def count_bar() -> Progress:
    """A bar on stderr that counts finished items, with the time left; nothing is drawn off a terminal."""
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (*bar_columns(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console(stderr=True), transient=True, disable=not sys.stderr.isatty())
