"""The route *value*: a bias of the values, solved so that the output projection makes the row of it.

For architectures whose output projection is as wide as the hidden size, where no head can be added. Key/value heads are
repeated where the rows need it, see `emobake.core.heads`. The output projections are read, one at a time, for the
solution; their bytes are kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar

import numpy as np

from ....core.biases import Home, PlannedBias, plan_biases
from ....core.elsewhere import Biases
from ....core.heads import (
    Cost,
    Heads,
    copied,
    copies_by,
    copies_to_try,
    cost_of_copies,
    misses,
    solve_value_bias,
    value_matrix,
)
from ....core.plan import RouteName, Rows
from ....core.record import Record, RecordedBias
from ....core.sites import SITE, Site
from ....core.stacks import Support
from ....core.tensors import TensorHeader, decode
from ....errors import BrokenFileError, UnsupportedModelError
from ...check.biases import wrong_norm
from ...check.output import Output, StoredModel
from ..architectures import gguf_architectures
from ..attention import Attention, key_fields, read_attention, strange_tensor
from ..header import Field, row_count
from ..layout import Placed
from ..model import GgufModel
from ..quants import dequantize
from .base import OUT_OF_SCOPE, GgufRoute, read_bias


@dataclass(frozen=True, eq=False)
class ValueRoute(GgufRoute):
    """A bias of the values in every layer with attention."""

    name: ClassVar[RouteName] = "value"
    copies: int = 1
    """Times that each key/value head is held."""
    solved: Mapping[int, np.ndarray] = field(default_factory=dict, repr=False)
    """Layer -> the values that its bias gains, of `fitted`."""

    @classmethod
    def blockers(cls, model: GgufModel, site: Site) -> list[str]:
        """The graph must add a bias of the values, and softmax must be all that stands before the projection."""
        row = gguf_architectures().get(model.architecture)
        if row is None or not row.value or row.gated or site != SITE:
            return [OUT_OF_SCOPE]
        return [*_blockers(model)]

    @property
    def support(self) -> Support:
        """Run, where a file with such a bias was."""
        return Support("steered", run=self.row.value == "ran")

    @property
    def biases(self) -> Biases:
        """One of the values."""
        return Biases("v", is_reshaped=self.copies > 1)

    @property
    def cost(self) -> Cost:
        """Cost of the copies."""
        return cost_of_copies(self._attention[0].heads, self.copies) if self.copies > 1 else Cost()

    def fitted(self, rows: np.ndarray) -> ValueRoute:
        """Solve for the rows, with as few copies of the heads as it takes.

        Raises:
            UnsupportedModelError: no number of copies makes them, or only with biases that are too large.
        """
        reasons = []
        for copies in copies_to_try(Heads(self._shared, 1, 1, 1)):
            solved, reason = self._solve(rows, copies)
            if not reason:
                return replace(self, copies=copies, solved=solved)
            reasons.append(reason)
        raise UnsupportedModelError(
            f"{self.model.name}: no bias of the values makes the rows: {reasons[-1]}; bake the original checkpoint "
            "with `format` peft"
        )

    def again(self, record: Record) -> ValueRoute:
        """The cache has as many copies as it costs."""
        return replace(self, copies=copies_by(record.cost, self._shared))

    @cached_property
    def homes(self) -> tuple[Home, ...]:
        """The biases of the values."""
        return tuple(self._home(a) for a in self._attention if a.layer < self.model.num_hidden_layers)

    def plan(self, rows: np.ndarray) -> tuple[PlannedBias, ...]:
        """The biases that `fitted` has solved for."""
        zeros = {home.layer: np.zeros(home.width, np.float32) for home in self.homes}
        return plan_biases(self.model.name, self.homes, rows, zeros | dict(self.solved))

    def edits(self, biases: Sequence[PlannedBias]) -> Mapping[str, tuple[Placed, ...]]:
        """The biases that were there; and the copies of the heads."""
        data = {bias.tensor: bias.data for bias in biases if not bias.is_new}
        found = {}
        for attention in self._attention:
            heads, copied = attention.heads, self.model.tensors if self.copies > 1 else {}
            sizes = {"k": heads.key_size, "v": heads.value_size, "k_norm": heads.key_size}
            for part, size in sizes.items():
                for kind in ("weight", "bias"):
                    tensor = copied.get(attention.name(part, kind))
                    if tensor is not None and (part != "k_norm" or tensor.shape != (size,)):
                        found[tensor.name] = (self._copied(tensor, heads.keys, size),)
        for name, values in data.items():
            dtype, (size,) = self.model.tensors[name].dtype, self.model.tensors[name].shape
            found[name] = (Placed(name, dtype, (size * self.copies,), (values,)),)
        return found

    def new(self, biases: Sequence[PlannedBias]) -> tuple[Placed, ...]:
        """The biases that were not."""
        return tuple(
            Placed(bias.tensor, bias.dtype, (len(bias.data) // 4,), (bias.data,)) for bias in biases if bias.is_new
        )

    def fields(self) -> Mapping[str, Field | None]:
        """The number of key/value heads."""
        return key_fields(self.model, self.copies) if self.copies > 1 else {}

    @classmethod
    def honours(cls, model: GgufModel, site: Site, biases: Sequence[RecordedBias]) -> str:
        """By the architecture."""
        row = gguf_architectures().get(model.architecture)
        if row is None or not row.value:
            raise UnsupportedModelError(f"{model.name}: {model.architecture} files add no bias of the values")
        return f"{model.architecture}: llama.cpp adds the bias of the values"

    @classmethod
    def misplaced(cls, output: Output, entry: RecordedBias, base: StoredModel | None, row: np.ndarray) -> str:
        """Multiply the bias with the output projection."""
        model = output.model
        if wrong := wrong_norm(entry, row):
            return wrong
        if not isinstance(model, GgufModel) or entry.tensor != f"blk.{entry.layer}.attn_v.bias":
            return f"{entry.tensor} is not the bias of the values of layer {entry.layer}"
        attention = next((a for a in read_attention(model) if a.layer == entry.layer), None)
        if attention is None:
            return f"block {entry.layer} has no attention"
        tensor = model.tensors[entry.tensor]
        stored = read_bias(model, tensor, attention.rows["v"])
        gained = stored
        if not output.record.made(entry):
            old = None if base is None else base.tensors.get(entry.tensor)
            if base is None or old is None:
                return f"{entry.tensor} is no tensor of the base"
            gained = stored - copied(decode(old, base.read(old)), attention.heads.value_size, len(stored))
        made_by = value_matrix(output_weight(model, attention), attention.heads)
        if misses(made_by, stored, gained, row, tensor.dtype):
            return f"{entry.tensor} does not make the weighted vectors by {attention.name('output')}"
        return ""

    @property
    def _shared(self) -> int:
        """Query heads that share a key/value head, or the part of them that all blocks have in common."""
        return math.gcd(*(attention.heads.group for attention in self._attention))

    @cached_property
    def _attention(self) -> tuple[Attention, ...]:
        return read_attention(self.model)

    def _solve(self, rows: np.ndarray, copies: int) -> tuple[Mapping[int, np.ndarray], str]:
        """Solve for every layer; stops at the first that has no solution, with the reason."""
        solved = {}
        for attention in self._attention:
            if attention.layer >= len(rows) or not rows[attention.layer].any():
                continue
            weight = output_weight(self.model, attention)
            if weight.shape[0] != rows.shape[1]:
                raise BrokenFileError(f"{self.model.name}: {attention.name('output')} has {len(weight)} outputs")
            found = solve_value_bias(value_matrix(weight, attention.heads, copies), rows[attention.layer])
            if reason := found.fault:
                return {}, f"in layer {attention.layer} {reason}"
            solved[attention.layer] = found.bias
        return solved, ""

    def _home(self, attention: Attention) -> Home:
        name, rows = attention.name("v", "bias"), attention.rows["v"]
        bias, width = self.model.tensors.get(name), rows * self.copies
        if bias is None:
            return Home(attention.layer, name, "F32", width)
        old = read_bias(self.model, bias, rows)
        existing = copied(old, attention.heads.value_size, width)
        return Home(attention.layer, name, bias.dtype, width, existing)

    def _copied(self, tensor: TensorHeader, keys: int, size: int) -> Placed:
        """The rows (or elements) of each key/value head, as often as it is held."""
        rows = tensor.shape[0] if len(tensor.shape) == 1 else row_count(tensor)
        unit = size if rows == keys * size else 1
        if rows != keys * unit:
            raise BrokenFileError(f"{self.model.name}: {tensor.name} has {rows} rows, and {keys} heads of {size}")
        piece = Rows(tensor.file, tensor.start, tensor.size // rows, rows, tuple(range(unit)) * self.copies, unit)
        return Placed(tensor.name, tensor.dtype, (tensor.shape[0] * self.copies, *tensor.shape[1:]), (piece,))


def output_weight(model: GgufModel, attention: Attention) -> np.ndarray:
    """The output projection as float32 ``[hidden, queries * value_size]``.

    Raises:
        UnsupportedModelError: as `dequantize`.
    """
    tensor = attention.tensors["output"]
    return dequantize(tensor.dtype, model.read(tensor), tensor.shape[1])


def _blockers(model: GgufModel) -> Iterator[str]:
    """Reasons why the values can have no such bias, as clauses."""
    if strange := strange_tensor(model):
        yield f"its attention has {strange}, so a bias of the values is not a constant in its output"
        return
    if model.header.number(f"{model.architecture}.attention.clamp_kqv"):
        yield "its values are clamped"
    attention = read_attention(model)
    if not attention:
        yield "no block has an attention"
    if any("qkv" in one.tensors for one in attention):
        yield "it holds q, k and v in one tensor"
