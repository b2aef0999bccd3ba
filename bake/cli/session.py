"""A chat session: reads lines, runs commands, and prints answers."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from ..actions import commands
from ..actions.conversation import GgufConversation, SteeredConversation
from ..core.spelling import did_you_mean
from ..core.text import one_line, printable
from ..errors import EmobakeError, InputError, spell_arguments
from .page import Page
from .terminal import CHAT_COMMANDS, chat_command, console, echo, show_command, styled, warn

if TYPE_CHECKING:
    from rich.table import Table

    from ..actions.conversation import Answer, Conversation

_MOOD_HELP = (
    ("/times A D F J S", "weights of anger, disgust, fear, joy and sadness"),
    ("/mix joy=1,anger=-0.5", "weights by name"),
    ("/scale X", "factor for all weights"),
    ("/layers 8-27", "layers to steer; all of them without a list"),
    (
        "/scope every|last",
        "add the vectors at every position, as a baked checkpoint does, or at the last of each forward pass, as the "
        "paper's code does",
    ),
    (
        "/compare [QUESTION]",
        "answer without and with the vectors (the last question again), each after its own earlier answers",
    ),
    ("/bake OUT", "write a checkpoint with the current weights"),
)
_HELP = (
    ("/show", "model, mood and sampling"),
    ("/reset", "forget the conversation; earlier answers colour later ones"),
    ("/quit", "leave; so do /exit and Ctrl-D"),
)
"""Commands, and what they do; the first ones change or compare the mood."""

_WIDE = 100
"""Columns from which on two answers go side by side."""


class Session:
    """A conversation at a terminal, through a pipe, or of given questions."""

    def __init__(self, conversation: Conversation, interactive: bool) -> None:
        self.conversation = conversation
        self.interactive = interactive
        self.console = console()

    def run(self, prompts: tuple[str, ...]) -> None:
        """Answer `prompts`, or if there are none every line that is typed."""
        for prompt in prompts:
            self._answer(prompt)
        if prompts:
            return
        if self.interactive:
            self._greet()
        for line in self._lines():
            if line.split() in (["/quit"], ["/exit"]):
                return
            try:
                self._obey(line)
            except EmobakeError as error:
                text = spell_arguments(str(error), chat_command)
                echo("emobake: " + " ".join(text.split()), err=True)
            except KeyboardInterrupt:
                if not self.interactive:
                    raise
                self._say("\ninterrupted")

    def _lines(self) -> Iterator[str]:
        if not self.interactive:
            yield from (line.rstrip("\r\n") for line in sys.stdin or ())
            return
        with suppress(ImportError):
            import readline  # noqa: F401 - from now on `input` edits lines and remembers them
        while True:
            try:
                line = input("> ")
            except EOFError:
                self._say("")
                return
            except KeyboardInterrupt:
                self._say("\n/quit or Ctrl-D leaves.", "dim")
                continue
            yield line

    def _obey(self, line: str) -> None:
        if not line.startswith("/"):
            if line.strip():
                self._answer(line.strip())
            return
        name, _, rest = line[1:].partition(" ")
        if name in commands.COMMANDS:
            for text in commands.COMMANDS[name](self.conversation, rest.strip()):
                self._say(one_line(text))
        elif name == "compare":
            conversation = commands.steered(self.conversation)
            self._compare(conversation, commands.check_compare(conversation, rest.strip()))
        elif name == "bake":
            self._bake(commands.steered(self.conversation, out=rest.strip()), rest.strip())
        elif name == "help":
            self._help()
        else:
            like = did_you_mean(name, (*CHAT_COMMANDS, "quit")).replace("mean ", "mean /")
            raise InputError(
                f"/{name}: no such command; /help lists them (for a question, put a space before the /){like}"
            )

    def _answer(self, question: str | None, **how: Any) -> Answer:
        page = Page(shutil.get_terminal_size().columns if sys.stdout.isatty() else None)
        answer = self.conversation.answer(question, page, **how)
        click.echo()
        if self.interactive:
            self._say(_measures(answer) + "\n", "dim")
        elif answer.interrupted:
            raise KeyboardInterrupt
        return answer

    def _compare(self, conversation: SteeredConversation, question: str | None) -> None:
        behind = conversation.behind(question)
        if self.interactive and behind:
            self._say(f"First the earlier questions without the vectors ({behind}) ...", "dim")
        if self.interactive and self.console.width >= _WIDE:
            self._compare_side_by_side(conversation, question)
            return
        self._say("unsteered", "bold")
        if not self._answer(question, plain=True, keep=False).interrupted:
            self._say(commands.recipe(conversation.weights), "bold")
            self._answer(question, keep=question is not None)

    def _compare_side_by_side(self, conversation: SteeredConversation, question: str | None) -> None:
        from rich.live import Live

        texts, measures = ["", ""], ["", ""]
        wide = console()
        # Not to the edge: the ^C that a terminal shows would begin a new line and upset the drawing.
        width = wide.width - 4

        def table() -> Table:
            return _two_columns(width, commands.recipe(conversation.weights), texts, measures)

        with Live(table(), console=wide, transient=True, auto_refresh=False, vertical_overflow="ellipsis") as view:
            for side, plain in enumerate((True, False)):

                def hear(piece: str, side: int = side) -> None:
                    texts[side] += printable(piece)
                    view.update(table(), refresh=True)

                keep = question is not None and not plain
                answer = conversation.answer(question, hear, plain=plain, keep=keep)
                measures[side] = _measures(answer)
                if answer.interrupted:
                    break
        wide.print(table())
        self._say("")

    def _bake(self, conversation: SteeredConversation, argument: str) -> None:
        from .summary import next_commands

        if conversation.scope == "last":
            warn("a bake acts at every position, not at the last as this chat does now; /scope every shows it")
        result, out = commands.bake(conversation, argument)
        for warning in result.plan.warnings:
            warn(warning)
        first, *rest = commands.describe_bake(result, out)
        self._say(first, "bold")
        for line in rest:
            self._say(one_line(line))
        show_command(self.console, next_commands(result, out)[0])
        self._say("")

    def _help(self) -> None:
        from rich.table import Table

        table = Table.grid(padding=(0, 2))
        can_change = isinstance(self.conversation, SteeredConversation)
        for command, meaning in _MOOD_HELP + _HELP if can_change else _HELP:
            table.add_row(command, meaning)
        self.console.print(table)
        if isinstance(self.conversation, GgufConversation):
            self._say(one_line(str(self.conversation.fixed_mood())))
        self._say("Ctrl-C stops an answer. A question that begins with / needs a space before it.")

    def _greet(self) -> None:
        self._say(one_line(f"model     {self.conversation.model.name}"))
        if isinstance(self.conversation, SteeredConversation):
            vectors = self.conversation.vectors
            self._say(one_line(f"vectors   {vectors.name}: {', '.join(vectors.emotions)}"))
        for line in commands.describe_mood(self.conversation):
            self._say(one_line(line))
        self._say("/help lists the commands, Ctrl-D leaves.\n", "dim")

    def _say(self, text: str, style: str = "") -> None:
        self.console.print(text, style=style or None)


def _two_columns(width: int, title: str, texts: list[str], measures: list[str]) -> Table:
    from rich.table import Table

    both = Table(box=None, width=width, padding=(0, 4, 0, 0), header_style="bold")
    for heading in ("unsteered", title):
        both.add_column(styled(heading), ratio=1)
    both.add_row(*(text.strip() for text in texts))
    both.add_row(*(styled((measure, "dim")) for measure in measures))
    return both


def _measures(answer: Answer) -> str:
    why = " (stopped)" if answer.interrupted else "" if answer.ended else " (cut at the limit)"
    return f"{answer.tokens} tokens{why}, {answer.tokens / answer.seconds:.1f} tokens/s"
