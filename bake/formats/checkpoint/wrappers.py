"""Multimodal wrappers: checkpoints whose language model is described by ``text_config``. The data is ``wrappers.toml``.

The bias goes beside the language model's projection in the wrapper's own files, and the switch into ``text_config``;
the vision tower, its processor and every other field stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Literal

from ...core.names import is_plain
from ...core.sites import SITE, Site
from ...core.stacks import USUAL, Support
from ...core.toml import shipped_tables
from .families import Family, HeadForm, families, parse_head
from .support import parse_support

TEXT = "text_config"
"""Field of config.json that describes a wrapper's language model."""


@dataclass(frozen=True)
class Text:
    """A language model that a wrapper may hold."""

    model_type: str
    """``model_type`` of ``text_config``."""
    like: str
    """The family of ``families.toml`` that it is on text."""
    stacks: Mapping[str, Support]
    """Treatment of a bias inside the wrapper."""
    ran_as_llama: tuple[str, ...] = ()
    """Stacks in which the wrapper was run with this text model saved as a Llama."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Fields that published configs leave out, as the wrapper's class fills them in."""
    refusal: str = ""
    """Reason why it cannot be baked inside the wrapper; empty if it can."""
    head: HeadForm | None = None
    """The form with one more key/value head, inside the wrapper; None where none was tried."""
    in_gguf: Literal["", "head", "value"] = ""
    """Route of the GGUF file that the converter makes, see `Family.in_gguf`."""
    alone: Mapping[str, Any] = field(default_factory=dict)
    """Fields whose meaning in the plain class differs, as the language model alone needs them."""


@dataclass(frozen=True)
class Wrapper:
    """One table of ``wrappers.toml``."""

    model_type: str
    classes: tuple[str, ...]
    prefixes: tuple[str, ...]
    """What may stand in place of ``model.`` in the names of the language model's tensors."""
    live_prefix: str
    """What stands there in the names of its modules in transformers."""
    texts: Mapping[str, Text]
    """By ``model_type``; the class default first."""
    builds_text: bool = False
    """True if the class builds its language model by ``text_config``, whatever class that names."""
    nested: bool = True
    """False if published configs have the language model's fields at the top level."""

    def text_of(self, config: Mapping[str, Any]) -> Text | None:
        """The language model in `config`, the whole file; None for one that the table does not have."""
        inner = config.get(TEXT)
        named = inner.get("model_type") if isinstance(inner, Mapping) else None
        if not isinstance(named, str) or (not isinstance(inner, Mapping) and not self.nested):
            return next(iter(self.texts.values()))
        return self.texts.get(named)


@cache
def wrappers() -> dict[str, Wrapper]:
    """All wrappers, by ``model_type``."""
    return {name: _wrapper(name, table) for name, table in shipped_tables(__package__, "wrappers.toml").items()}


def wrapper_of(config: Mapping[str, Any]) -> Wrapper | None:
    """The wrapper that config.json describes; None for a plain language model, or an unknown wrapper."""
    found = wrappers().get(str(config.get("model_type")))
    return found if found is not None and (not found.nested or isinstance(config.get(TEXT), Mapping)) else None


def language_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The fields of the language model in config.json: its ``text_config``, or the whole file if it has none.

    Fields that a wrapper's published config leaves out are filled in as the wrapper's class does.
    """
    inner = config.get(TEXT)
    fields = inner if isinstance(inner, Mapping) else config
    wrapper = wrapper_of(config)
    text = None if wrapper is None else wrapper.text_of(config)
    if text is None:
        return fields
    has_rope = "rope_parameters" in fields
    return {**{k: v for k, v in text.defaults.items() if not (has_rope and k == "rope_theta")}, **fields}


def family_of(config: Mapping[str, Any], site: Site = SITE) -> Family | None:
    """The family of config.json, for vectors that act at `site`; None if it is in neither table."""
    wrapper = wrapper_of(config)
    if wrapper is None:
        return None if isinstance(config.get(TEXT), Mapping) else families(site).get(str(config.get("model_type")))
    text = wrapper.text_of(config)
    return None if text is None else wrapped(wrapper, text, site)


def wrapped(wrapper: Wrapper, text: Text, site: Site = SITE) -> Family:
    """The family of `text` inside `wrapper`."""
    plain = families(site).get(text.like)
    if plain is None:
        # Known by its refusal alone.
        return Family(text.model_type, wrapper.classes, "", wrapper=wrapper.model_type, refusal=text.refusal)
    form = plain.forms.get("llama") if wrapper.builds_text and not text.refusal else None
    stacks = text.stacks if site == SITE else _at_other_site(text.stacks, plain.stacks)
    return replace(
        plain,
        model_type=text.model_type,
        classes=wrapper.classes,
        flag=None if text.refusal else plain.flag,
        always=plain.always and not text.refusal,
        stacks=stacks,
        backend=None,
        # Only what leaves the tensors alone was tried inside a wrapper.
        forms={} if form is None or form.rules else {"llama": replace(form, ran=text.ran_as_llama, tokenizer_class="")},
        head=text.head if site == SITE else None,
        value=None,
        in_gguf=text.in_gguf if site == SITE else "",
        refusal=text.refusal or plain.refusal,
        wrapper=wrapper.model_type,
        prefixes=wrapper.prefixes,
        live_prefix=wrapper.live_prefix,
    )


def _at_other_site(inside: Mapping[str, Support], plain: Mapping[str, Support]) -> dict[str, Support]:
    """Treatment of another site's biases: what the stack does with the plain family, where it loads the wrapper."""
    refuses = Support("refuses")
    found = {s: refuses if inside[s].status == "refuses" else replace(plain[s], run=False) for s in USUAL}
    # A stack's option picks another class, which was not tried with wrappers.
    return {s: Support("unsteered") if support.status == "option" else support for s, support in found.items()}


def _wrapper(name: str, table: Mapping[str, Any]) -> Wrapper:
    assert is_plain(name)
    return Wrapper(
        model_type=name,
        classes=tuple(table["classes"]),
        prefixes=tuple(table["prefixes"]),
        live_prefix=table.get("live_prefix", "model.language_model."),
        texts={text: _text(text, inner) for text, inner in table["texts"].items()},
        builds_text=table.get("builds_text", False),
        nested=table.get("nested", True),
    )


def _text(name: str, table: Mapping[str, Any]) -> Text:
    refusal = table.get("refusal", "")
    return Text(
        model_type=name,
        like=table.get("like", name),
        stacks=dict.fromkeys(USUAL, Support("unsteered")) if refusal else parse_support(table),
        ran_as_llama=tuple(table.get("ran_as_llama", ())),
        defaults=table.get("defaults", {}),
        refusal=refusal,
        head=parse_head(table.get("head")),
        in_gguf=table.get("in_gguf", ""),
        alone=table.get("alone", {}),
    )
