"""Layouts of the tensors of a linear module, where its rows can be moved as bytes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """The axis of a tensor along which the outputs, or the inputs, of its module are stored."""

    index: int
    """0 or 1."""
    each: int = 1
    """Outputs, or inputs, that one element stands for: several are packed into it, or share it."""


@dataclass(frozen=True)
class Part:
    """One tensor of a module."""

    name: str
    outputs: Axis | None = None
    """None for a tensor that all outputs share."""
    inputs: Axis | None = None
    """None for a tensor that all inputs share."""
    zero: float = 0
    """Element where all weights are zero."""
    lead: float | None = None
    """Element in which the first input weighs one scale and the others nothing; None for other parts."""
    holds_column: bool = False
    """True for the floats that are the values of a new column: the weights themselves, or their scales."""
    counts_groups: bool = False
    """True for the number of each input's group."""
    is_shape: bool = False
    """True for int64 ``[outputs, inputs]`` of the module."""


@dataclass(frozen=True)
class Layout:
    """The tensors of a module, but for its bias."""

    parts: tuple[Part, ...]
    """Those that there may be."""
    group: int = 1
    """Inputs that share a scale: a new column takes so many. 1 for floats."""
    no_column: str = ""
    """The reason why no column can hold values of its own, as a clause; empty if it can."""

    @property
    def column_part(self) -> Part | None:
        """The part that holds the values of a new column; None if none can."""
        return next((part for part in self.parts if part.holds_column), None)


PLAIN = Layout((Part("weight", Axis(0), Axis(1), holds_column=True),))
"""A matrix of floats."""
SHARED_SCALES = "each of its scales serves whole rows"
