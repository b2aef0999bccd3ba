"""Quantised checkpoints: which method, how it stores a linear module, and which stacks load it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ....core.names import is_plain
from ....core.tensors import FLOATS
from ....errors import BrokenFileError
from ..wrappers import language_config
from .layout import Layout
from .method import Fields, Method, Parts, Quantiser, Shape
from .methods import METHODS, QUANTISERS

__all__ = ["METHODS", "Method", "Parts", "Quantisation", "find_quantisation", "is_float", "method_of"]

_CONFIG = "config.json"
_SPELLINGS = {
    "bits": ("bits", "w_bit", "num_bits"),
    "group_size": ("group_size", "q_group_size"),
    "desc_act": ("desc_act",),
    "quant_algo": ("quant_algo",),
}
"""Facts that two quantisation configs must agree on -> their names."""


@dataclass(frozen=True, eq=False)
class Quantisation:
    """The quantisation that a checkpoint declares."""

    fields: Fields
    file: str
    """The file that says it."""
    quantiser: Quantiser | None
    """The tool; None for one that is not known."""

    @cached_property
    def method(self) -> Method | None:
        """The method; None for one that is not known."""
        picked = None if self.quantiser is None else self.quantiser.pick(self.fields)
        return picked if isinstance(picked, Method) else None

    @cached_property
    def layout(self) -> Layout | None:
        """The layout of a linear module; None where its rows cannot be moved as bytes."""
        return None if self.method is None else self.method.layout(self.fields)

    def shape(self, parts: Parts) -> Shape | None:
        """Outputs and inputs of a module; None if it is not quantised so, or its headers do not tell."""
        method = self.method
        return None if method is None or not method.holds(parts) else method.shape(parts, self.fields)

    @property
    def label(self) -> str:
        """The method in words, for messages; also of one that is not known."""
        if self.method is not None:
            return self.method.label
        name = self.fields.get("quant_method")
        return name[:40] if isinstance(name, str) and is_plain(name) else "an unknown method"

    @property
    def in_config(self) -> Fields:
        """The ``quantization_config`` that config.json must gain; empty if it has it, or if stacks read the file."""
        return {} if self.quantiser is None or self.file == _CONFIG else self.quantiser.in_config(self.fields)

    @property
    def problem(self) -> str:
        """The reason why the method is not known, as a clause; empty if it is."""
        if self.method is not None:
            return ""
        name = self.fields.get("quant_method")
        if self.quantiser is not None:
            return f"{self.file} says {name or self.quantiser.names[0]}, but {self.quantiser.pick(self.fields)}"
        said = f"the quant_method {name!r:.60}" if name is not None else "no quant_method"
        return f"{self.file} names {said}; known are {', '.join(n for one in QUANTISERS for n in one.names)}"


def find_quantisation(
    config: Mapping[str, Any], files: Mapping[str, Mapping[str, Any]], name: str
) -> Quantisation | None:
    """Find what a checkpoint says of its quantisation, in config.json or in a file beside it; None if nothing.

    Args:
        config: config.json.
        files: those of `emobake.core.side_files.QUANT_CONFIGS` that there are.
        name: that of the checkpoint, in messages.

    Raises:
        BrokenFileError: a quantisation config that is no object, or two that disagree.
    """
    found = list(_found(config, files, name))
    for other in found[1:]:
        _compare(found[0], other, name)
    return found[0] if found else None


def method_of(parts: Parts) -> Method | None:
    """The first method that stores a linear module as `parts`."""
    return next((method for method in METHODS.values() if method.holds(parts)), None)


def is_float(parts: Parts) -> bool:
    """True if a module's weight is a matrix of floats, and so not quantised."""
    weight = parts.get("weight")
    return weight is not None and weight.dtype in FLOATS and len(weight.shape) == 2 and 1 not in weight.shape


def _found(config: Mapping[str, Any], files: Mapping[str, Mapping[str, Any]], name: str) -> Iterator[Quantisation]:
    inner, first = language_config(config), None
    for place in (config,) if inner is config else (config, inner):
        for key in ("quantization_config", "compression_config", "quantization"):
            if place.get(key) is not None:
                if not isinstance(place[key], Mapping):
                    raise BrokenFileError(f"{name}/{_CONFIG}: {key} is {place[key]!r:.60}, not an object")
                found = Quantisation(place[key], _CONFIG, _quantiser(place[key]))
                first = first or found.quantiser
                yield found
    for file, fields in files.items():
        # Several tools write a file of this name, and config.json tells which one did.
        is_unnamed = fields.get("quant_method") is None and first is not None and file in first.files
        yield Quantisation(fields, file, first if is_unnamed else _quantiser(fields, file))


def _quantiser(fields: Fields, file: str = _CONFIG) -> Quantiser | None:
    """The tool that a quantisation config names; without a name, the one that `file` belongs to."""
    name = fields.get("quant_method")
    if name is not None:
        return next((one for one in QUANTISERS if isinstance(name, str) and name.lower() in one.names), None)
    return next((one for one in QUANTISERS if file in one.files or (file == _CONFIG and one.is_unnamed(fields))), None)


def _compare(first: Quantisation, other: Quantisation, name: str) -> None:
    """Refuse two quantisation configs that say different things: each stack reads another one."""
    mine, theirs = _facts(first), _facts(other)
    for key in mine.keys() & theirs.keys():
        if mine[key] != theirs[key]:
            raise BrokenFileError(
                f"{name}/{other.file}: says {key} {theirs[key]!r:.40}, and {first.file} {mine[key]!r:.40}; stacks read "
                "one or the other, so correct the wrong one"
            )


def _facts(found: Quantisation) -> dict[str, Any]:
    inner = found.fields.get("quantization")
    fields = {**found.fields, **inner} if isinstance(inner, Mapping) else found.fields
    facts = {
        fact: next(value for name in names if (value := fields.get(name)) is not None)
        for fact, names in _SPELLINGS.items()
        if any(fields.get(name) is not None for name in names)
    }
    if found.quantiser is not None:
        facts["quant_method"] = found.quantiser.names[0]
    return facts
