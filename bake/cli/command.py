"""Commands whose options are read with care: several numbers after an option, and no option silently replaced."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

import click

from ..core.spelling import did_you_mean


class Numbers(click.ParamType):  # type: ignore[type-arg]
    """Numbers, with spaces or commas between them."""

    name = "numbers"

    def __init__(self, wanted: str, count: int = 0) -> None:
        """Describe them as `wanted` in messages; `count` is their number, or 0 if any number will do."""
        self.wanted, self.count = wanted, count

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Parse the numbers."""
        if not isinstance(value, str):
            return tuple(value)
        words = value.replace(",", " ").split()
        option = param.opts[0] if param is not None else ""
        for word in words:
            if not are_numbers(word):
                raise click.UsageError(f"{option} takes {self.wanted}; {word!r} is not a number")
        if not words or len(words) != (self.count or len(words)):
            raise click.UsageError(f"{option} takes {self.wanted}; here are {len(words)}")
        return tuple(map(float, words))


class Command(click.Command):
    """A command that takes several numbers after an option, and refuses an option that is given twice.

    Options that may be given more than once are declared with ``multiple``; of any other, click would keep the last.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Join the numbers of an option into one word, because click wants one; then parse."""
        args = self.joined(args)
        if not ctx.resilient_parsing:
            self._refuse_repeated(ctx, args)
        elif args and any(args[-1] in option.opts for option in self.params):
            args = args[:-1]  # Its value is being completed; without one, click would drop the arguments, too.
        return super().parse_args(ctx, args)

    def get_short_help_str(self, limit: int = 45) -> str:
        """The first sentence of the help, whole: the list of commands has room for a second line."""
        return first_sentence(self.help)

    def joined(self, args: Sequence[str]) -> list[str]:
        """`args` with the numbers after an option of `Numbers` in one word."""
        several = {name: p.type for p in self.params if isinstance(p.type, Numbers) for name in p.opts}
        found: list[str] = []
        rest = list(args)
        while rest:
            word = rest.pop(0)
            if word == "--":
                return [*found, word, *rest]
            if word in several:
                numbers: list[str] = []
                # A word among fixed numbers is a mistake that the message shall name, not an argument.
                while rest and (are_numbers(rest[0]) or _is_missing(numbers, several[word].count, rest[0])):
                    numbers.append(rest.pop(0))
                word = f"{word}={' '.join(numbers)}"
            found.append(word)
        return found

    def _refuse_repeated(self, ctx: click.Context, args: Sequence[str]) -> None:
        order = self.make_parser(ctx).parse_args(args=list(args))[2]
        for option in (p for p in self.params if isinstance(p, click.Option)):
            # Twice the same flag says nothing else than once; --private --public does.
            harmless = option.multiple or option.count or (option.is_flag and not option.secondary_opts)
            if not harmless and sum(one is option for one in order) > 1:
                names = "/".join([*option.opts, *option.secondary_opts])
                raise click.UsageError(f"{names} is given more than once; give it once")


class Group(click.Group):
    """A group of such commands."""

    command_class = Command

    def get_short_help_str(self, limit: int = 45) -> str:
        """The first sentence of the help, as for `Command`."""
        return first_sentence(self.help)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command. A word like one of them gets a suggestion, which click makes since 8.4 only."""
        name = args[0]
        if not (ctx.resilient_parsing or name.startswith("-") or self.get_command(ctx, name)):
            raise click.UsageError(
                f"{name!r} is no command of {ctx.command_path}{did_you_mean(name, self.commands)}", ctx
            )
        return super().resolve_command(ctx, args)


class ShortForm(Group):
    """A group whose first command may be left out: ``emobake --model ...`` is ``emobake bake --model ...``."""

    short = "bake"
    """The command that may be left out."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the command in front of options that are not the group's own."""
        own = {name for p in self.get_params(ctx) for name in (*p.opts, *p.secondary_opts)}
        start = next((i for i, word in enumerate(args) if word not in own), len(args))
        first = args[start] if start < len(args) else ""
        if first.startswith("-") or not (args or ctx.resilient_parsing):
            options = args[start:]
            if not ctx.resilient_parsing:
                self._refuse_command_after(ctx, options)
            args = [*args[:start], self.short, *options]
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        """Complete the options of the short form, too."""
        found = super().shell_complete(ctx, incomplete)
        command = self.commands[self.short]
        return found + command.shell_complete(click.Context(command, parent=ctx), incomplete)

    def _refuse_command_after(self, ctx: click.Context, args: Sequence[str]) -> None:
        """Refuse options in front of another command: they would be those of the short form, and be lost."""
        command = self.commands[self.short]
        words = command.joined(args) if isinstance(command, Command) else list(args)
        parser = command.make_parser(click.Context(command, parent=ctx, info_name=self.short))
        parser.allow_interspersed_args = False
        try:
            given, rest, _ = parser.parse_args(args=list(words))
        except click.UsageError:
            return  # The short form itself will say it.
        # An argument of the short form takes the first of them.
        taken = [given.get(each.name or "") for each in command.params if isinstance(each, click.Argument)]
        rest = [*(word for word in taken if isinstance(word, str)), *rest]
        if rest and rest[0] in self.commands:
            before = words[: len(words) - len(rest)]
            name = ctx.command_path
            raise click.UsageError(
                f"{shlex.join(before)} stands in front of the command {rest[0]}; options follow their command: "
                f"{name} {shlex.join([*rest, *before])}"
            )


def first_sentence(help: str | None) -> str:
    """The first sentence of a help text, without its full stop."""
    return " ".join((help or "").split("\n\n")[0].split()).partition(". ")[0].removesuffix(".")


def are_numbers(word: str) -> bool:
    """True if `word` is a number, or several with commas between them."""
    try:
        return bool([float(part) for part in word.split(",")])
    except ValueError:
        return False


def _is_missing(numbers: Sequence[str], count: int, word: str) -> bool:
    """True if `word` stands where a number is missing: the first, or one of `count`."""
    return sum(len(one.split(",")) for one in numbers) < max(count, 1) and not word.startswith("-")
