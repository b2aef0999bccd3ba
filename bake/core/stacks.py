"""The stacks that serve models. Every list of stacks, every command and every help text comes from `STACKS`.

A further stack is one value here and one runner in `emobake.models.stacks`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from ..errors import InputError
from .arguments import as_list
from .spelling import did_you_mean

Status = Literal["steered", "option", "unsteered", "wrong", "refuses"]


@dataclass(frozen=True)
class Stack:
    """A program that serves models."""

    name: str
    """Name in `targets` and `stack`."""
    packages: str
    """Packages to install with pip for its runner."""
    runner: str
    """File in `emobake.models.stacks` that generates with it."""
    loads: frozenset[str]
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
    options: frozenset[str] = frozenset()
    """Fields of a request that its runner knows besides the common ones."""
    default: Status | None = None
    """Treatment of families whose table does not name the stack; None: every table names it."""


STACKS: dict[str, Stack] = {
    stack.name: stack
    for stack in (
        Stack(
            name="transformers",
            packages="torch transformers",
            runner="run_transformers.py",
            loads=frozenset({"checkpoint"}),
            ran="transformers 5.23.0",
            read="transformers 5.23.0",
        ),
        Stack(
            name="vllm",
            packages="vllm",
            runner="run_vllm.py",
            loads=frozenset({"checkpoint"}),
            card="vllm serve {model}",
            ran="vLLM 0.32.0",
            read="vLLM 0.32.0",
            serve="vllm serve {model}",
            options=frozenset({"model_impl", "drawing", "dtype", "enforce_eager"}),
        ),
        Stack(
            name="llama.cpp",
            packages="xllamacpp",
            runner="run_llama_cpp.py",
            loads=frozenset({"checkpoint", "gguf"}),
            card="hf download {model} --local-dir model && convert_hf_to_gguf.py model --outfile model.gguf",
            ran="llama.cpp of xllamacpp 2026.10.11549",
            read="llama.cpp of llama-cpp-python 0.3.36",
            serve_folder="convert_hf_to_gguf.py {model} --outfile model.gguf",
            options=frozenset({"converter"}),
        ),
        Stack(
            name="mlx",
            packages="mlx-lm",
            runner="run_mlx.py",
            loads=frozenset({"checkpoint"}),
            card="mlx_lm.generate --model {model} --prompt Hello",
            ran="mlx-lm 0.32.2",
            read="mlx-lm 0.32.2",
        ),
    )
}


@dataclass(frozen=True)
class Support:
    """Treatment of a baked model of one family by one stack.

    ``steered``: adds the bias. ``option``: adds it only when started with `option`. ``unsteered``: loads the model and
    drops the bias. ``wrong``: loads it as another function, whatever is baked. ``refuses``: does not load it.
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


_WORST_FIRST: tuple[Status, ...] = ("refuses", "wrong", "unsteered", "option", "steered")


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
