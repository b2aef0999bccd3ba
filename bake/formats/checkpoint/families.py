"""Model families: where a bias acts in each, and how it gets there. The data is ``families.toml``.

On the attention's output it is the bias of the attention output projection; on a whole layer's, that of the MLP's last
projection, if nothing but a constant factor lies between it and the residual stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Literal

from ...core.sites import SITE, Site
from ...core.stacks import USUAL, Support
from ...core.toml import shipped_tables
from .forms import Form, parse_forms
from .support import parse_support

_O_PROJ = "model.layers.{layer}.self_attn.o_proj"
_DOWN_PROJ = "mlp.down_proj"
_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


@dataclass(frozen=True)
class Backend:
    """A class of vLLM's transformers backend.

    It takes the model up to the last norm from transformers, and the factor of the logits from ``logit_scale``.
    """

    name: str
    """Entry of ``architectures``."""
    times: Mapping[str, float] = field(default_factory=dict)
    """Config fields whose product is the factor of the logits -> their class defaults."""
    over: Mapping[str, float] = field(default_factory=dict)
    """The same for those that it is divided by."""
    environment: str = ""
    """Variable that vLLM needs for it, see `emobake.core.stacks.Support`."""


@dataclass(frozen=True)
class HeadForm:
    """The form of a family with one more key/value head, whose output is constant; see `emobake.core.heads`."""

    flags: tuple[str, ...]
    """Boolean config fields that give q, k and v a bias; in some families also the output projection."""
    stacks: Mapping[str, Support]
    """Treatment of the result."""
    head_dim: int | None = None
    """Channels of a head where the config does not say; None: the hidden size by the number of heads."""
    gated: bool = False
    """True if a gate comes with each query, in the rows behind it."""
    scores_by_heads: int | None = None
    """Number of layers of the models whose scores llama.cpp scales by the number of heads."""
    divides_hidden: bool = False
    """True if transformers refuses configs whose hidden size is no multiple of the number of heads."""

    @property
    def constant(self) -> float:
        """The first value of the new head; a gate of zero halves it."""
        return 2.0 if self.gated else 1.0

    def is_left_out(self, family: Family) -> bool:
        """True if a flag gives the output projection a bias as well, which no file holds: llama.cpp refuses it."""
        return family.flag in self.flags


@dataclass(frozen=True)
class ValueForm:
    """A family's checkpoints with a bias of the values."""

    flag: str
    """Boolean config field that gives q, k and v a bias."""
    flag_default: bool = False
    """Value of `flag` when the config leaves it out."""
    head_norms: str = ""
    """Config field that gives every head a norm of its own, so that heads cannot be copied."""
    stacks: Mapping[str, Support] = field(default_factory=dict)
    """Treatment of such a bias."""


@dataclass(frozen=True)
class Family:
    """One table of ``families.toml``, for one site. Templates contain ``{layer}``, counted from 0."""

    model_type: str
    classes: tuple[str, ...]
    """Values of ``architectures`` that mean the causal language model."""
    projection: str
    """Module whose bias acts at the site, without ``.weight``; empty if there is none."""
    flag: str | None = None
    """Boolean config field that gives the projection a bias; None if it always or never has one."""
    flag_default: bool = False
    """Value of `flag` when the config leaves it out."""
    always: bool = False
    """True if the projection has a bias whatever the config says."""
    siblings: tuple[str, ...] = ()
    """Other modules that gain a bias by `flag`; they get zeros where they exist."""
    conv1d: bool = False
    """True if weights are stored ``[in, out]`` (GPT-2's Conv1D) instead of ``[out, in]``."""
    stacks: Mapping[str, Support] = field(default_factory=dict)
    """Treatment of the bias in the family's own form."""
    backend: Backend | None = None
    """The class by which vLLM runs transformers' model; None where that does not give transformers' answers."""
    forms: Mapping[str, Form] = field(default_factory=dict)
    """The classes that a checkpoint may be saved as instead, by their ``model_type``."""
    head: HeadForm | None = None
    """The form with one more key/value head; None where none is known."""
    value: ValueForm | None = None
    """The form with a bias of the values; None where none is known, or where a cheaper one serves all stacks."""
    in_gguf: Literal["", "head", "value"] = ""
    """Route of the GGUF file that llama.cpp's converter makes of the base; empty where a form of the checkpoint serves
    llama.cpp, or where none is known."""
    site: Site = SITE
    branch_scale: str = ""
    """Config field by which the projection's output is multiplied before the site."""
    refusal: str = ""
    """Reason for refusing a family without any route."""
    wrapper: str = ""
    """``model_type`` of the multimodal checkpoint that holds the language model; empty for a plain one."""
    prefixes: tuple[str, ...] = ()
    """What may stand in place of ``model.`` in the tensor names of a wrapper's files."""
    live_prefix: str = ""
    """What stands there in the names of a wrapper's modules in transformers."""

    @property
    def label(self) -> str:
        """Name in messages and records."""
        return f"{self.model_type} in {self.wrapper}" if self.wrapper else self.model_type

    def names_of(self, module: str) -> tuple[str, ...]:
        """Names that a module of the plain family may have in files.

        Checkpoints that were saved from the bare model (the original GPT-2, say) lack the first part of each name;
        stacks read both.
        """
        if not self.prefixes:
            return (module, module.partition(".")[2])
        return tuple(prefix + module.removeprefix("model.") for prefix in self.prefixes)

    def live(self, module: str) -> str:
        """Name of a module of the plain family in the model that transformers builds."""
        return self.live_prefix + module.removeprefix("model.") if self.wrapper else module

    @property
    def block(self) -> str:
        """Module of a decoder layer."""
        return self.projection.partition("{layer}")[0] + "{layer}"

    @property
    def by_backend(self) -> dict[str, Support]:
        """Treatment of the bias where ``architectures`` names the backend; llama.cpp's converter does not know it."""
        environment = "" if self.backend is None else self.backend.environment
        own = self.stacks["llama.cpp"]
        return dict(self.stacks) | {
            "vllm": Support("steered", run=True, environment=environment),
            "llama.cpp": own if own.status == "refuses" else Support("refuses"),
        }

    @property
    def known_classes(self) -> tuple[str, ...]:
        """Values of ``architectures`` that checkpoints and outputs have."""
        return self.classes if self.backend is None else (*self.classes, self.backend.name)

    @property
    def has_bias(self) -> bool:
        """True if the family's own class can have a bias on the projection."""
        return not self.refusal and (self.always or self.flag is not None)


@cache
def families(site: Site = SITE) -> dict[str, Family]:
    """All families for the biases that act at `site`, by ``model_type``."""
    return parse_families(tables(), site)


def tables() -> dict[str, dict[str, Any]]:
    """The tables of ``families.toml``, as they are."""
    return shipped_tables(__package__, "families.toml")


def parse_families(tables: Mapping[str, Mapping[str, Any]], site: Site = SITE) -> dict[str, Family]:
    """Parse the tables of ``families.toml``."""
    own = {name: _family(name, table) for name, table in tables.items()}
    if site == SITE:
        return own
    rows = {name: _at_layer_output(family, tables[name].get("layer_output")) for name, family in own.items()}
    llama = rows["llama"].projection
    # A Llama by another name has a Llama's modules.
    return {
        name: replace(family, projection=llama) if "llama" in family.forms and not family.projection else family
        for name, family in rows.items()
    }


def _family(name: str, table: Mapping[str, Any]) -> Family:
    projection = table.get("o_proj", _O_PROJ)
    return Family(
        model_type=name,
        classes=tuple(table["classes"]),
        projection=projection,
        flag=table.get("flag"),
        flag_default=table.get("flag_default", False),
        always=table.get("always", False),
        siblings=_siblings(projection, table.get("siblings", ())),
        conv1d=table.get("conv1d", False),
        stacks=parse_support(table),
        backend=_backend(table.get("backend")),
        forms=parse_forms(table),
        head=parse_head(table.get("head")),
        value=_value(table.get("value")),
        in_gguf=table.get("in_gguf", ""),
        refusal=table.get("refusal", ""),
    )


def _at_layer_output(family: Family, table: Mapping[str, Any] | None) -> Family:
    if table is not None:
        return replace(
            family,
            head=None,
            value=None,
            in_gguf="",
            site="layer_output",
            projection=f"{family.block}.{table.get('down_proj', _DOWN_PROJ)}",
            flag=table.get("flag"),
            flag_default=table.get("flag_default", False),
            always=table.get("always", False),
            siblings=_siblings(family.projection, table.get("siblings", ())),
            stacks=parse_support(table),
            branch_scale=table.get("branch_scale", ""),
            refusal="",
        )
    return replace(
        family,
        head=None,
        value=None,
        in_gguf="",
        site="layer_output",
        projection="",
        flag=None,
        flag_default=False,
        always=False,
        siblings=(),
        stacks=dict.fromkeys(USUAL, Support("unsteered")),
        backend=None,
        refusal="" if "llama" in family.forms else "no bias is known that acts on its layers' output alone",
    )


def _backend(table: Mapping[str, Any] | None) -> Backend | None:
    if table is None:
        return None
    return Backend(table["class"], table.get("times", {}), table.get("over", {}), table.get("environment", ""))


def parse_head(table: Mapping[str, Any] | None) -> HeadForm | None:
    """Parse the table ``head`` of a family, if it has one."""
    if table is None:
        return None
    return HeadForm(
        flags=tuple(table.get("flags", ("attention_bias",))),
        stacks=parse_support(table),
        head_dim=table.get("head_dim"),
        gated=table.get("gated", False),
        scores_by_heads=table.get("scores_by_heads"),
        divides_hidden=table.get("divides_hidden", False),
    )


def _value(table: Mapping[str, Any] | None) -> ValueForm | None:
    if table is None:
        return None
    return ValueForm(table["flag"], table.get("flag_default", False), table.get("head_norms", ""), parse_support(table))


def _siblings(projection: str, given: str | list[str] | tuple[str, ...]) -> tuple[str, ...]:
    block = projection.partition("{layer}")[0] + "{layer}"
    return tuple(f"{block}.{module}" for module in (_QKV if given == "qkv" else given))
