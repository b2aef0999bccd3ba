"""The stacks that serve a model, and what each does with a bias."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ..errors import InputError

STACKS = ("transformers", "vllm", "llama.cpp", "mlx")


Status = Literal["steered", "option", "unsteered", "refuses"]


@dataclass(frozen=True)
class Support:
    """What one stack does with a checkpoint whose attention output projection has a bias.

    ``steered``: loads it and adds the bias. ``option``: does so only when started with `option`.
    ``unsteered``: loads it and drops the bias. ``refuses``: does not load it (at all, or any more).
    """

    status: Status
    run: bool = False
    """Whether this was seen in a run of that stack; otherwise it was read from its source."""
    option: str = ""
    """The command-line option that makes the stack honour the bias (status ``option`` only)."""


def check_targets(targets: Iterable[str]) -> tuple[str, ...]:
    """`targets` in the table's order.

    Raises:
        InputError: a stack that the table does not know.

    """
    wanted = {target.strip().lower() for target in targets}
    unknown = sorted(wanted - set(STACKS))
    if unknown:
        raise InputError(f"--targets: unknown stack {unknown[0]!r}; known are {', '.join(STACKS)}")
    return tuple(stack for stack in STACKS if stack in wanted)


def describe(support: Support) -> str:
    """A stack's behaviour as a clause, for messages, the summary and the model card."""
    return {
        "steered": "loads steered",
        "option": f"loads steered only with {support.option}; without it UNSTEERED",
        "unsteered": "would load UNSTEERED",
        "refuses": "refuses to load it",
    }[support.status]
