"""The interface of a quantisation method: how its checkpoints store a linear module, and which stacks load them.

A method is one value in a module of `emobake.formats.checkpoint.quantisation.methods`. The bias stands beside the
quantised weight, so no method says how its numbers are packed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ....core.stacks import Support
from ....core.tensors import TensorHeader
from .layout import Layout

Fields = Mapping[str, Any]
"""The quantisation config of a checkpoint, of any content."""
Parts = Mapping[str, TensorHeader]
"""The tensors of one module by the last part of their names, such as ``qweight``."""
Shape = tuple[int, int]
"""Outputs and inputs of a linear module."""


@dataclass(frozen=True)
class Method:
    """One way to quantise, as far as stacks treat its checkpoints alike."""

    name: str
    """In tables and options, such as ``gptq-act-order``."""
    label: str
    """In messages, such as ``GPTQ with act-order``."""
    holds: Callable[[Parts], bool]
    """True if these are the tensors of a linear module that is quantised so."""
    shape: Callable[[Parts, Fields], Shape | None]
    """The shape of such a module by its headers; None where they do not tell it. Headers may be of any shape."""
    stacks: Mapping[str, Support]
    """Treatment of any checkpoint of the method, with a bias beside the projection, by each stack of `USUAL`."""
    elements: Callable[[Parts], int | None] = lambda parts: None
    """The number of weights of such a module, where the headers do not tell its shape; None: nor that."""
    layout: Callable[[Fields], Layout | None] = lambda fields: None
    """The layout of such a module, where its rows can be moved as bytes; None where they cannot."""
    bias_like: tuple[str, ...] = ()
    """Parts whose dtype, if it is one of floats, the bias has. Empty: the dtype that the config names."""
    rounding: float = 2.0
    """Largest difference between a baked module and the hook on its base, on the same input, in units of the rounding
    of the output's dtype."""
    reason: str = "the bias is added once in the output's dtype"
    """Where that difference comes from."""
    note: str = ""
    """A condition that a user must know, as a clause; empty for most."""


@dataclass(frozen=True)
class Quantiser:
    """The methods that one tool writes, under one ``quant_method``."""

    names: tuple[str, ...]
    """Values of ``quant_method``."""
    methods: tuple[Method, ...]
    """All of them, for tables."""
    pick: Callable[[Fields], Method | str]
    """The method that a quantisation config says; or the reason why it is none of these, as a clause."""
    files: tuple[str, ...] = ()
    """Files beside config.json that hold the quantisation config of this tool where they name none."""
    in_config: Callable[[Fields], Fields] = lambda fields: {}
    """The ``quantization_config`` of config.json for what a file of its own says; empty where stacks read that file."""
    is_unnamed: Callable[[Fields], bool] = lambda fields: False
    """True if a quantisation config without ``quant_method`` is this tool's."""
