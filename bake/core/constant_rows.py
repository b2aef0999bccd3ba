"""Rows that a model adds to its residual stream at every position, as they are found in its files.

A bias of an output projection is such a row, and so is what the other forms of a bake make: the column behind a head of
constant output, and what the output projection makes of a bias of the values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np

from .biases import norm_of
from .sites import Site
from .stacks import Support

How = Literal["bias", "head", "value"]
"""A bias of the projection; the column behind a head of constant output; a bias of the values."""
Own = Literal["always", "flag", "none", "unknown"]
"""The model's architecture has such a bias by itself, by a config field that is on, or has none; or nobody knows."""
Beside = Literal["alive", "zero", "absent"]
"""The biases of the other projections in the same layers: some are not zero, all are, or there are none."""
_SAME = 1e-6
"""Largest distance of two rows that count as the same, in units of their norm."""


@dataclass(frozen=True, eq=False)
class ConstantRow:
    """The row of one layer."""

    layer: int
    tensor: str
    values: np.ndarray | None
    """float32 ``[hidden]``, at the site; None if it was not read, or cannot be."""
    column: int | None = None
    """Number of the column of `tensor` that stores it; None if the whole tensor does."""
    unit: float = 0.0
    """Root mean square norm of the output projection's columns, each of which is what an input of 1 adds; 0 if it is
    not known."""

    @cached_property
    def norm(self) -> float | None:
        """Euclidean norm of the row; None if its values are not known."""
        return None if self.values is None else norm_of(self.values)

    @property
    def columns(self) -> float | None:
        """The norm in units of a column of the output projection; None if one of the two is not known."""
        return self.norm / self.unit if self.norm is not None and self.unit > 0 else None

    @property
    def acts(self) -> bool:
        """False if it is known to be zero."""
        return self.norm is None or self.norm > 0


@dataclass(frozen=True, eq=False)
class ConstantRows:
    """The rows of one kind, in all layers that have one."""

    site: Site
    how: How
    rows: tuple[ConstantRow, ...]
    """By layer, ascending; at least one."""
    layers: int
    """Number of layers that have the projection."""
    family: str
    """The family or architecture, in messages."""
    own: Own
    flag: str = ""
    """The config field that gives the class the bias; empty if there is none."""
    beside: Beside = "absent"
    named: tuple[str, ...] = ()
    """The other projections that have a bias, by the last part of their names."""
    is_apart: bool = False
    """True if the biases lie in a file that holds nothing else, or behind all other tensors of a GGUF file."""
    ignored: str = ""
    """Reason why the model's own class does not add the rows, as a clause; empty if it does, or if that is unknown."""
    stacks: Mapping[str, Support] = field(default_factory=dict)
    """Treatment of the rows by each stack."""
    as_gguf: str = ""
    """Architecture of the GGUF file that llama.cpp's converter would make; empty for a GGUF file, or if unknown."""
    notes: tuple[str, ...] = ()
    """Reasons why something is not known, as clauses."""

    @property
    def acting(self) -> tuple[ConstantRow, ...]:
        """The rows that are not zero."""
        return tuple(row for row in self.rows if row.acts)

    @property
    def is_read(self) -> bool:
        """True if the values of all rows are known."""
        return all(row.values is not None for row in self.rows)

    @cached_property
    def is_the_same(self) -> bool:
        """True if several layers have rows that act, and all of them are the same row."""
        values = [row.values for row in self.acting if row.values is not None]
        if len(values) < 2 or not self.is_read:
            return False
        first = values[0]
        return all(norm_of(other - first) <= _SAME * norm_of(first) for other in values[1:])
