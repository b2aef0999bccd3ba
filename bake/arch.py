"""Where the attention output projection lives in each architecture, and how a bias gets onto it.

The knowledge is data: ``architectures.json`` holds one row per ``model_type``, read from the source of
transformers 5.23.0, vLLM 0.32.0, llama.cpp (as vendored in llama-cpp-python 0.3.36) and mlx-lm 0.32.2.
A test holds every row against the installed transformers by building the class on the meta device.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any, Literal

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


@dataclass(frozen=True)
class LlamaForm:
    """When a checkpoint of another ``model_type`` is exactly a ``LlamaForCausalLM``."""

    require: dict[str, tuple[Any, ...]]
    """Config field -> the values under which the two are the same function (``null``: absent or null)."""
    defaults: dict[str, Any]
    """Fields whose class default differs from Llama's: written out when the config leaves them out."""
    drop: tuple[str, ...]
    """Fields that say nothing once `require` holds, and that a Llama class might misread."""
    tokenizer_class: str = ""
    """What transformers 5 takes a declared generic tokenizer class for, with this ``model_type``; said outright in
    the output, because with ``llama`` it takes it for something else that splits text differently."""
    run: tuple[str, ...] = ()
    """Stacks in which the re-expressed model was run against the original."""


@dataclass(frozen=True)
class Architecture:
    """One row of the table. Templates contain ``{layer}``, counted from 0."""

    model_type: str
    classes: tuple[str, ...]
    """Values of ``config.architectures`` that mean the causal language model."""
    o_proj: str
    """Module name of the attention output projection, without ``.weight``."""
    flag: str | None = None
    """Boolean config field that gives the projection a bias; None where it always or never has one."""
    flag_default: bool = False
    """What the class assumes when the config leaves `flag` out."""
    always: bool = False
    """The projection has a bias whatever the config says."""
    siblings: tuple[str, ...] = ()
    """Other modules that gain a bias by `flag`; they get explicit zeros where they exist."""
    conv1d: bool = False
    """Weights are stored ``[in, out]`` (GPT-2's Conv1D) instead of ``[out, in]``."""
    stacks: dict[str, Support] = field(default_factory=dict)
    """What each stack does with the bias in this architecture's own form."""
    llama: LlamaForm | None = None
    """Set where the checkpoint can be re-expressed as Llama."""
    refusal: str = ""
    """Why there is no route, for architectures that are known but cannot be baked."""
    notes: str = ""


def _row(raw: dict[str, Any]) -> Architecture:
    stacks = {name: Support(**cell) for name, cell in raw.get("stacks", {}).items()}
    llama = raw.get("llama")
    form = None
    if llama is not None:
        form = LlamaForm(
            require={k: tuple(v) for k, v in llama["require"].items()},
            defaults=llama.get("defaults", {}),
            drop=tuple(llama.get("drop", ())),
            tokenizer_class=llama.get("tokenizer_class", ""),
            run=tuple(llama.get("run", ())),
        )
    return Architecture(
        model_type=raw["model_type"],
        classes=tuple(raw["classes"]),
        o_proj=raw["o_proj"],
        flag=raw.get("flag"),
        flag_default=raw.get("flag_default", False),
        always=raw.get("always", False),
        siblings=tuple(raw.get("siblings", ())),
        conv1d=raw.get("conv1d", False),
        stacks=stacks,
        llama=form,
        refusal=raw.get("refusal", ""),
        notes=raw.get("notes", ""),
    )


@cache
def architectures() -> dict[str, Architecture]:
    """The whole table, by ``model_type``."""
    text = resources.files(__package__).joinpath("architectures.json").read_text(encoding="utf-8")
    return {raw["model_type"]: _row(raw) for raw in json.loads(text)}
