"""The stacks that serve models. Every list of stacks, every command and every help text comes from `STACKS`.

The data is ``stacks.toml``. A further stack is one table there and, where it is run, one runner in
`emobake.models.stacks`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from ..errors import InputError
from .arguments import as_list
from .spelling import did_you_mean
from .toml import shipped_tables

Status = Literal["steered", "option", "unknown", "unsteered", "wrong", "refuses"]
ANY = "*"
"""Among the types of a `Reading`: all that have no entry of their own."""
ALL = "qkvogud"
"""The biases of all projections."""
Loaded = Literal["checkpoint", "gguf"]
"""Output form that a stack may load."""


@dataclass(frozen=True)
class Reading:
    """The biases that a stack adds in models of one form, by ``model_type`` or GGUF architecture."""

    like: str = ""
    """The usual stack that runs the models inside this one; empty if it has code of its own."""
    through: str = ""
    """The usual stack that loads the weights, which go on into code of this one; empty if it loads them itself."""
    adds: Mapping[str, str] = field(default_factory=dict)
    """Type -> the biases that are added, as letters of `emobake.core.elsewhere.LETTERS`; empty: all that the stack adds
    that it is `like`."""
    strict: frozenset[str] = frozenset()
    """Types in which a bias without a place is refused; in others it is ignored."""
    ran: frozenset[str] = frozenset()
    """Types of which a model was run."""
    examined: frozenset[str] = frozenset()
    """Types that were looked for; the stack has no code for those that `adds` leaves out."""
    note: str = ""
    """A condition, as a clause."""

    def letters(self, model_type: str) -> str | None:
        """The biases that are added in models of this type; None if that is not known."""
        if not self.adds:
            return ALL if self.like else None
        return self.adds.get(model_type, self.adds.get(ANY))

    def is_strict(self, model_type: str) -> bool:
        """True if a bias without a place is refused in models of this type."""
        return model_type in self.strict or ANY in self.strict


@dataclass(frozen=True)
class Stack:
    """A program that serves models."""

    name: str
    """Name in `targets` and `stack`."""
    title: str = ""
    """Name in text, if that is another one."""
    install: str = ""
    """Command that installs what its runner needs."""
    runner: str = ""
    """File in `emobake.models.stacks` that generates with it; empty for a stack that is not run."""
    loads: frozenset[str] = frozenset({"checkpoint"})
    """Output forms that it loads, of ``checkpoint`` and ``gguf``."""
    card: str = ""
    """Shell command for a model card that loads the Hub repository ``{model}``; empty where the card shows Python."""
    ran: str = ""
    """The version in which models of the families were run."""
    read: str = ""
    """The version whose source was read for the others."""
    serve: str = ""
    """Command that serves the folder or repository ``{model}``; empty if the summary names none."""
    serve_folder: str = ""
    """The same for a stack that takes local folders only."""
    convert: str = ""
    """Command that makes the stack's own form of the folder ``{model}``; empty if it loads folders as they are."""
    options: frozenset[str] = frozenset()
    """Fields of a request that its runner knows besides the common ones."""
    usual: bool = False
    """True if the families' tables have a column for it; the treatment by the others is in `readings`."""
    readings: Mapping[str, Reading] = field(default_factory=dict)
    """Form -> the biases that the stack adds in it; empty for a usual stack."""

    @property
    def is_run(self) -> bool:
        """True if `emobake.models.stacks` can run it."""
        return bool(self.runner)

    @property
    def label(self) -> str:
        """Name in text."""
        return self.title or self.name


def parse_stacks(tables: Mapping[str, Any]) -> dict[str, Stack]:
    """Parse the tables of ``stacks.toml``."""
    examined = frozenset(tables["examined"])
    return {name: _stack(name, table, examined) for name, table in tables.items() if name != "examined"}


def _stack(name: str, table: Mapping[str, Any], examined: frozenset[str]) -> Stack:
    readings = {form: _reading(table[form], examined) for form in get_args(Loaded) if form in table}
    loads, options = frozenset(table.get("loads", readings)), frozenset(table.get("options", ()))
    plain = {key: value for key, value in table.items() if key not in (*get_args(Loaded), "loads", "options")}
    return Stack(name=name, readings=readings, loads=loads, options=options, **plain)


def _reading(table: Mapping[str, Any], examined: frozenset[str]) -> Reading:
    adds = {
        model_type: "" if letters == "none" else letters
        for letters, types in table.get("adds", {}).items()
        for model_type in types
    }
    strict, ran = frozenset(table.get("strict", ())), frozenset(table.get("ran", ()))
    plain = {key: value for key, value in table.items() if key not in ("adds", "strict", "ran")}
    return Reading(adds=adds, strict=strict, ran=ran, examined=examined, **plain)


STACKS: dict[str, Stack] = parse_stacks(shipped_tables(__package__, "stacks.toml"))
USUAL: dict[str, Stack] = {name: stack for name, stack in STACKS.items() if stack.usual}
"""The stacks that each family's table has a column for."""


@dataclass(frozen=True)
class Support:
    """Treatment of a baked model of one family by one stack.

    ``steered``: adds the bias. ``option``: adds it only when started with `option`. ``unknown``: nobody has looked.
    ``unsteered``: loads the model and drops the bias. ``wrong``: loads it as another function, whatever is baked.
    ``refuses``: does not load it.
    """

    status: Status
    run: bool = False
    """True if a model of the family was run in the stack; False if its source was read."""
    option: str = ""
    """Command-line option that makes the stack add the bias (status ``option`` only)."""
    environment: str = ""
    """Variable of its environment, as ``NAME=VALUE``, without which the stack stops at the first request (status
    ``steered`` only)."""
    note: str = ""
    """A condition, or a fault of the stack that the base has as well, as a clause."""

    @property
    def clause(self) -> str:
        """The behaviour in words, for messages, the summary and the model card."""
        behaviour = {
            "steered": "loads steered",
            "option": f"loads steered only with {self.option}; without it UNSTEERED",
            "unknown": "is NOT KNOWN to load it steered",
            "unsteered": "would load UNSTEERED",
            "wrong": "would answer WRONGLY",
            "refuses": "refuses to load it",
        }[self.status]
        if self.environment:
            behaviour += f" with {self.environment} in its environment, without which it stops at the first request"
        return f"{behaviour}; {self.note}" if self.note else behaviour

    def command(self, text: str) -> str:
        """The command `text` with what makes the stack add the bias."""
        return f"{self.environment} {text} {self.option}".strip()


_WORST_FIRST: tuple[Status, ...] = ("refuses", "wrong", "unsteered", "unknown", "option", "steered")


def worse(support: Support, other: Support) -> Support:
    """The worse of two treatments of one model; where it is served, with the conditions of both."""
    first, second = sorted((support, other), key=lambda one: _WORST_FIRST.index(one.status))
    if first.status not in ("steered", "option"):
        return first
    return replace(
        first,
        run=first.run and second.run,
        environment=first.environment or second.environment,
        note="; ".join(dict.fromkeys(filter(None, (first.note, second.note)))),
    )


def parse_targets(targets: Iterable[str]) -> tuple[str, ...]:
    """Parse the argument `targets` into names of `STACKS`, in their order.

    Raises:
        InputError: an unknown stack.
    """
    given = as_list("targets", targets, "['vllm', 'mlx']")
    if not all(isinstance(target, str) for target in given):
        raise InputError(f"`targets` takes names of stacks, such as ['vllm', 'mlx'], not {targets!r}")
    wanted = {target.strip().lower() for target in given}
    unknown = sorted(wanted - set(STACKS))
    if unknown:
        like = did_you_mean(unknown[0], STACKS)
        raise InputError(f"`targets`: unknown stack {unknown[0]!r}; known are {', '.join(STACKS)}{like}")
    return tuple(stack for stack in STACKS if stack in wanted)
