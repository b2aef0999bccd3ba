"""Forms: when a checkpoint of one class is exactly one of another class, and what that takes.

The data are the tables ``as_CLASS`` of ``families.toml``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from ...core.stacks import Support
from .support import parse_support

How = Literal["rename", "split", "grouped", "paired", "stacked", "unit"]
"""Ways to make tensors of others.

``rename``: the same tensor. ``split``: one after another, the rows of several. ``grouped``: the rows of q, k and v,
together for each key/value head. ``paired``: the rows of each head, neighbours of which the rotary embedding pairs,
where the new class pairs halves. ``stacked``: those of all experts in one tensor; of each expert, one below another.
``unit``: rows that the old class divides by their norms as it runs.
"""

DERIVED = "derived"
"""Among the required values of ``head_dim``: the hidden size by the number of heads."""
_ROPE_TYPES = (None, "default", "linear", "dynamic", "yarn", "llama3")
_REQUIRES: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", None),
    "rope_scaling.type": _ROPE_TYPES,
    "rope_scaling.rope_type": _ROPE_TYPES,
    "rope_parameters.rope_type": _ROPE_TYPES,
}
"""Required unless a form says otherwise: vLLM and llama.cpp hard-code the activation."""


@dataclass(frozen=True)
class Rule:
    """Modules whose weights are made of others'. Names contain ``{layer}`` and ``{expert}``, counted from 0."""

    how: How
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    rows: tuple[str, ...] = ()
    """Of each target of a ``split``: ``q`` or ``kv``, the rows of all heads, or ``ffn``, those of the MLP."""
    when: Mapping[str, Any] = field(default_factory=dict)
    """Config fields and the values with which the rule applies; empty for all."""


@dataclass(frozen=True)
class Form:
    """The conditions under which a checkpoint is exactly one of the class `target`, and what that takes."""

    target: str
    """``model_type`` of the other class."""
    require: Mapping[str, tuple[Any, ...]]
    """Config field -> the values under which the two are the same function; None means null or absent."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Fields whose class default differs from the other's, written out when the config leaves them out."""
    drop: tuple[str, ...] = ()
    """Fields that mean nothing once `require` holds, and that the other class might misread."""
    rules: tuple[Rule, ...] = ()
    """Tensors that are made of others; all others keep their names and bytes."""
    tokenizer_class: str = ""
    """The class behind a declared generic tokenizer class. It is named outright in the output, because transformers 5
    reads a generic class by the model type, and ``llama`` splits text differently."""
    any_tokenizer: bool = False
    """True if transformers overrules every declared class for the base's model type, not a generic one alone."""
    ran: tuple[str, ...] = ()
    """Stacks in which the result was compared with the original."""
    stacks: Mapping[str, Support] = field(default_factory=dict)
    """Treatment by stacks that do otherwise with this form than with the other class's own checkpoints."""
    own: str = ""
    """Biases that checkpoints of the old class have, as letters of `emobake.core.elsewhere.LETTERS`."""

    def rules_for(self, config: Mapping[str, Any]) -> tuple[Rule, ...]:
        """The rules for a checkpoint with this `config`."""
        fields = {**self.defaults, **config}
        return tuple(r for r in self.rules if all(fields.get(key) == value for key, value in r.when.items()))

    def differences(self, config: Mapping[str, Any]) -> Iterator[str]:
        """Conditions that the config does not meet, such as ``sliding_window is null (here it is 4096)``."""
        for path, allowed in self.require.items():
            # A field that is left out means the class default; only an explicit null is null.
            value: Any = {**self.defaults, **config}
            for key in path.split("."):
                value = value.get(key) if isinstance(value, Mapping) else None
            if DERIVED in allowed and value == _derived_head(config):
                continue
            values = value if isinstance(value, list) else [value]
            if (value is not None and not all(v in allowed for v in values)) or (value is None and None not in allowed):
                wanted = " or ".join("null" if v is None else str(v).lower() for v in allowed if v != DERIVED)
                yield f"{path} is {wanted} (here it is {str(value)[:40]})"


def parse_forms(table: Mapping[str, Any]) -> dict[str, Form]:
    """Parse the tables ``as_CLASS`` in the table of a family."""
    names = [name for name in table if name.startswith("as_")]
    return {target: _form(target, table[f"as_{target}"]) for target in (name.removeprefix("as_") for name in names)}


def _form(target: str, table: Mapping[str, Any]) -> Form:
    require = {key: tuple(_null(value) for value in values) for key, values in table.get("require", {}).items()}
    others = parse_support({key: table.get(f"other_{key}", {}) for key in ("ran", "read", "notes")})
    named = {*table.get("other_ran", {}), *table.get("other_read", {})}
    return Form(
        target=target,
        require=_REQUIRES | require,
        defaults={key: _null(value) for key, value in table.get("defaults", {}).items()},
        drop=tuple(table.get("drop", ())),
        rules=tuple(map(_rule, table.get("tensors", ()))),
        tokenizer_class=table.get("tokenizer_class", ""),
        any_tokenizer=table.get("any_tokenizer", False),
        ran=tuple(table.get("ran", ())),
        stacks={stack: found for stack, found in others.items() if stack in named},
        own=table.get("own", ""),
    )


def _rule(table: Mapping[str, Any]) -> Rule:
    how = table["how"]
    assert how in get_args(How)
    sources, targets = table["from"], table.get("to", table["from"])
    return Rule(how, _names(sources), _names(targets), tuple(table.get("rows", ())), table.get("when", {}))


def _derived_head(config: Mapping[str, Any]) -> int | None:
    hidden, heads = config.get("hidden_size"), config.get("num_attention_heads")
    return hidden // heads if type(hidden) is int and type(heads) is int and heads > 0 else None


def _names(given: str | list[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def _null(value: Any) -> Any:
    """TOML has no null."""
    return None if value == "null" else value
