"""Where a bias can act in each architecture, and how it gets there.

On the attention's output it is the bias of the attention output projection; on a whole layer's, that of the MLP's last
projection, where nothing but a constant factor stands between it and the residual stream.

The knowledge is data: ``architectures.json`` holds one row per ``model_type``, read from the source of
transformers 5.23.0, vLLM 0.32.0, llama.cpp (as vendored in llama-cpp-python 0.3.36) and mlx-lm 0.32.2.
A test holds every row against the installed transformers by building the class on the meta device.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from typing import Any

from ...core.stacks import STACKS, Support
from ...core.vector_set import Site


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
    """One row of the table, for one site. Templates contain ``{layer}``, counted from 0."""

    model_type: str
    classes: tuple[str, ...]
    """Values of ``config.architectures`` that mean the causal language model."""
    projection: str
    """Module name of the projection whose bias acts at the site, without ``.weight``; empty where there is none."""
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
    site: Site = "attention_output"
    """Where the bias acts."""
    block: str = ""
    """Module name of a decoder layer."""
    branch_scale: str = ""
    """Config field by which the projection's output is multiplied before the site, for vectors to be divided by."""
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
        projection=raw["o_proj"],
        block=raw["o_proj"].partition("{layer}")[0] + "{layer}",
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


def _at_layer_output(row: Architecture, raw: dict[str, Any] | None) -> Architecture:
    """The row for the bias that acts on a whole layer's output."""
    if raw is not None:
        return replace(
            row,
            site="layer_output",
            projection=raw["down_proj"],
            flag=raw.get("flag"),
            flag_default=raw.get("flag_default", False),
            always=raw.get("always", False),
            siblings=tuple(raw.get("siblings", ())),
            stacks={name: Support(**cell) for name, cell in raw["stacks"].items()},
            branch_scale=raw.get("branch_scale", ""),
            refusal="",
        )
    refusal = "" if row.llama is not None else "no bias is known that acts on its layers' output alone"
    stacks = dict.fromkeys(STACKS, Support("unsteered"))
    return replace(
        row,
        site="layer_output",
        projection="",
        flag=None,
        flag_default=False,
        always=False,
        siblings=(),
        stacks=stacks,
        refusal=refusal,
    )


@cache
def architectures(site: Site = "attention_output") -> dict[str, Architecture]:
    """The whole table for the biases that act at `site`, by ``model_type``."""
    text = resources.files(__package__).joinpath("architectures.json").read_text(encoding="utf-8")
    table = {raw["model_type"]: (_row(raw), raw.get("layer_output")) for raw in json.loads(text)}
    if site == "attention_output":
        return {name: row for name, (row, _) in table.items()}
    rows = {name: _at_layer_output(row, raw) for name, (row, raw) in table.items()}
    # What is a Llama by another name has a Llama's modules.
    return {
        name: replace(row, projection=rows["llama"].projection) if row.llama and not row.projection else row
        for name, row in rows.items()
    }
