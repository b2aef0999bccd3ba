"""The route *head*: a key/value head is added whose output is constant, see `emobake.core.heads`.

Every byte of the base is kept: rows of zeros come behind those of q, k and v, and columns behind those of the output
projection, of which the first of the new head holds the vector.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from ....core.biases import Column, Home, PlannedBias
from ....core.check import Check
from ....core.elsewhere import Biases
from ....core.heads import Cost, Heads, cost_of_heads, heads_to_add, is_shared
from ....core.plan import RouteName, Span
from ....core.record import Record, RecordedBias
from ....core.stacks import Support
from ....core.tensors import TensorHeader, decode, encode
from ....errors import BrokenFileError, InputError
from ...safetensors import NewTensor
from ..families import Family, HeadForm
from ..heads import heads_of, matrix
from ..linear import Linear, Tensors
from ..model import Checkpoint
from ..projections import bias_dtype, module_in_file
from ..quantisation import Quantisation, is_float
from ..recast import remade
from ..wrappers import family_of, language_config
from .base import Route, read_bias, refuse_dormant

_MTP = re.compile(r"(^|\.)mtp\.layers\.\d+\.self_attn\.o_proj$")
_Q, _K, _V = "q_proj", "k_proj", "v_proj"


@dataclass(frozen=True)
class _Attention:
    """The projections of one layer, by their names in files."""

    layer: int
    parts: Mapping[str, str]
    """``q_proj``, ``k_proj`` and ``v_proj`` -> module."""
    output: str


class HeadRoute(Route):
    """One more key/value head, or as many as devices need to share them; only the first one's first column counts."""

    name: ClassVar[RouteName] = "head"

    @classmethod
    def is_known(cls, family: Family) -> bool:
        """Stacks must give q, k and v a bias by a config field, and read the size of a head from the config."""
        return family.head is not None

    @classmethod
    def blockers(cls, family: Family, config: Mapping[str, Any]) -> list[str]:
        """The config must tell the heads, and the output projection have no bias."""
        form = family.head
        if form is None:
            return ["no form with one more key/value head is known"]
        if form.is_left_out(family) and config.get(str(family.flag), family.flag_default):
            return [f"{family.flag} is on already, so its output projection has a bias"]
        return (
            [] if not config or heads_of(config, form.head_dim) is not None else ["its config does not tell its heads"]
        )

    @classmethod
    def quantised_blockers(cls, family: Family, config: Mapping[str, Any], quantisation: Quantisation) -> list[str]:
        """The layout of the weights must be known, and have room for a column of its own."""
        layout, quantised = quantisation.layout, f"its weights are quantised ({quantisation.label}), "
        if layout is None:
            return [f"{quantised}in a layout whose rows cannot be moved as bytes"]
        if layout.no_column:
            return [f"{quantised}and no new column of them can hold the vector, because {layout.no_column}"]
        return []

    @property
    def form(self) -> HeadForm:
        """The family's form with more heads."""
        assert self.family.head is not None  # `blockers` has looked.
        return self.family.head

    @property
    def treatment(self) -> Mapping[str, Support]:
        """Treatment by each stack: that of the form, but for some numbers of layers and heads."""
        found, layers = dict(self.form.stacks), self.old_fields.get("num_hidden_layers")
        if layers is not None and layers == self.form.scores_by_heads:
            note = f"it scales the scores of {layers} layers by the number of heads"
            found["llama.cpp"] = Support("wrong", note=note)
        if self.form.divides_hidden and self._is_told and self.old_fields["hidden_size"] % self.grown.queries:
            note = f"its config wants a hidden size that {self.grown.queries} heads divide"
            found["transformers"] = Support("refuses", note=note)
        return found

    @property
    def biases(self) -> Biases:
        """The biases that make the new head's output constant."""
        return Biases("qkv", is_reshaped=True)

    @property
    def cost(self) -> Cost:
        """All of the attention's matrices grow alike; nothing more is needed where an earlier bake added the head."""
        if self.columns or not self._is_told:
            return Cost()
        return cost_of_heads(self.heads, self.grown.keys - self.heads.keys)

    @property
    def _group(self) -> int:
        """Inputs of the output projection that share a scale; 1 for floats."""
        layout = None if self.quantisation is None else self.quantisation.layout
        return 1 if layout is None else layout.group

    @property
    def _is_told(self) -> bool:
        """False for a family at large, of which the heads are not known."""
        return heads_of(self.old_fields, self.form.head_dim) is not None

    @cached_property
    def heads(self) -> Heads:
        """The heads of a layer of the base.

        Raises:
            BrokenFileError: the config does not tell them.
        """
        heads = heads_of(self.old_fields, self.form.head_dim)
        if heads is None:
            raise BrokenFileError("config.json: does not tell the heads")
        return heads

    @cached_property
    def grown(self) -> Heads:
        """The heads of a layer of the result.

        Raises:
            InputError: `tensor_parallel` devices cannot share any number of heads.
        """
        if not self.columns:
            added = heads_to_add(self.heads, tensor_parallel=self.tensor_parallel, multiple=self._group)
            return self.heads.grown(added)
        if not is_shared(self.heads, self.tensor_parallel):
            raise InputError(
                f"`tensor_parallel` {self.tensor_parallel}: the base has {self.heads.keys} key/value heads, one of "
                "them of an earlier bake; bake all weights at once, from the model without it"
            )
        return self.heads

    def change(self, config: dict[str, Any]) -> dict[str, Any]:
        """Write the numbers of heads, their size, and the switch of the biases."""
        return config | {
            "num_attention_heads": self.grown.queries,
            "num_key_value_heads": self.grown.keys,
            "head_dim": self.grown.value_size,
            **dict.fromkeys(self.form.flags, True),
        }

    def homes(self, checkpoint: Checkpoint) -> tuple[Home, ...]:
        """The first column of the new heads in each layer's output projection.

        Raises:
            BrokenFileError: the tensors are not what the config says, or the head of an earlier bake is not there.
        """
        blocks = [block for block in self._blocks(checkpoint) if block.layer < checkpoint.num_hidden_layers]
        return tuple(self._column(checkpoint, block) for block in blocks)

    def rewrites(self, checkpoint: Checkpoint) -> dict[str, NewTensor]:
        """The biases of q, k and v, where there are none.

        Raises:
            BrokenFileError: the config says that there are some.
        """
        if self.columns:
            return {}
        new = {}
        for block in self._blocks(checkpoint):
            for part, module in block.parts.items():
                if f"{module}.bias" not in checkpoint.tensors:
                    if self._has_biases:
                        raise BrokenFileError(
                            f"{checkpoint.name}: the config says that {module} has a bias, but no file holds one"
                        )
                    width, dtype = Linear.of(checkpoint, module).outputs, bias_dtype(checkpoint, module)
                    values = np.concatenate([np.zeros(width, np.float32), self._gained(part, width)])
                    new[f"{module}.bias"] = NewTensor(dtype, values.shape, (encode(values, dtype),))
        return new

    def finished(self, checkpoint: Checkpoint, biases: Sequence[PlannedBias]) -> Checkpoint:
        """Every layer's projections with the new rows and columns; the columns of layers without a bias are zero."""
        data, left = {bias.layer: bias.data for bias in biases}, dict(checkpoint.tensors)
        new: Tensors = {}
        for block in self._blocks(checkpoint):
            if block.layer in data or not self.columns:
                made = self._wider(Linear.of(checkpoint, block.output), block.layer, data.get(block.layer))
                new |= {f"{block.output}.{part}": tensor for part, tensor in made.items()}
            for part, module in block.parts.items() if not self.columns else ():
                linear = Linear.of(checkpoint, module)
                gained = self._gained(part, linear.outputs)
                new |= {f"{module}.{name}": tensor for name, tensor in linear.longer(len(gained)).items()}
                bias = checkpoint.tensors.get(f"{module}.bias")
                if bias is not None:
                    self._accept(bias, read_bias(checkpoint, bias, linear.outputs))
                    pieces = (Span(bias.file, bias.start, bias.size), encode(gained, bias.dtype))
                    new[bias.name] = NewTensor(bias.dtype, (linear.outputs + len(gained),), pieces)
        for name in new:
            del left[name]
        return remade(checkpoint, left, new)

    @property
    def _has_biases(self) -> bool:
        """True if q, k and v of the base have a bias."""
        return all(self.old_fields.get(flag) for flag in self.form.flags)

    def _accept(self, bias: TensorHeader, values: np.ndarray) -> None:
        """Refuse a bias that the base ignores, and that the switch would wake."""
        if not self._has_biases:
            refuse_dormant(bias, values)

    def _blocks(self, checkpoint: Checkpoint) -> Iterator[_Attention]:
        """The layers that have attention, and behind them those that predict further tokens (MTP), by the same config.

        Raises:
            BrokenFileError: a projection is missing, or has another shape than the config says.
        """
        count, layer = checkpoint.num_hidden_layers, 0
        while True:
            output = module_in_file(checkpoint, self.result, self.family.projection.format(layer=layer))
            if output is not None:
                yield self._block(checkpoint, layer, output)
            elif layer >= count:
                break
            layer += 1
        for number, name in enumerate(sorted(filter(_MTP.search, checkpoint.modules)), layer):
            yield self._block(checkpoint, number, name)

    def _block(self, checkpoint: Checkpoint, layer: int, output: str) -> _Attention:
        above, heads = output.rpartition(".")[0], self.heads
        block = _Attention(layer, {part: f"{above}.{part}" for part in (_Q, _K, _V)}, output)
        rows = {
            _Q: heads.queries * heads.key_size * (2 if self.form.gated else 1),
            _K: heads.keys * heads.key_size,
            _V: heads.keys * heads.value_size,
        }
        for part, module in block.parts.items():
            _check(checkpoint, module, (rows[part], checkpoint.hidden_size))
        _check(checkpoint, output, (checkpoint.hidden_size, heads.queries * heads.value_size))
        own = checkpoint.tensors.get(f"{output}.bias")
        if own is not None:
            raise BrokenFileError(f"{own.file}: holds {own.name}, which the class of the result does not have")
        return block

    def _column(self, checkpoint: Checkpoint, block: _Attention) -> Home:
        linear = Linear.of(checkpoint, block.output)
        tensor, group = linear.column_tensor, linear.layout.group
        if not self.columns:
            column = Column(linear.inputs // group, tensor.dtype)
            return Home(block.layer, tensor.name, tensor.dtype, linear.outputs, None, column)
        if block.layer not in self.columns:
            raise BrokenFileError(f"{checkpoint.name}: its record names no column of {tensor.name}")
        column = Column(self.columns[block.layer], tensor.dtype)
        if wrong := _not_constant(checkpoint, self.form, self.heads, tensor.name, column.index * group):
            raise BrokenFileError(f"{checkpoint.name}: {wrong}")
        home = Home(block.layer, tensor.name, tensor.dtype, linear.outputs, None, column)
        existing = home.decode(checkpoint.read_column(tensor, column.index))
        if not np.isfinite(existing).all():
            raise BrokenFileError(f"{checkpoint.name}: column {column.index} of {tensor.name} has a NaN or infinity")
        return Home(block.layer, tensor.name, tensor.dtype, linear.outputs, existing, column)

    def _wider(self, linear: Linear, layer: int, own: bytes | None) -> Tensors:
        """The output projection with the new heads' columns."""
        all_inputs, column = self.grown.queries * self.grown.value_size, self.columns.get(layer)
        kept = None if column is None else column * linear.layout.group
        return linear.wider(all_inputs - (linear.inputs if kept is None else kept), own, kept)

    def _gained(self, part: str, width: int) -> np.ndarray:
        """The values that a bias of `width` gains: zeros, but for the first channel of the first new value."""
        values = np.zeros(width // self.heads.keys * (self.grown.keys - self.heads.keys), np.float32)
        if part == _V:
            values[0] = self.form.constant
        return values


def _check(checkpoint: Checkpoint, module: str, shape: tuple[int, int]) -> None:
    """Refuse a projection of another shape than the config's heads say."""
    if is_float(checkpoint.modules.get(module, {})) or checkpoint.quantisation is None:
        matrix(checkpoint, f"{module}.weight", shape)
        return
    linear = Linear.of(checkpoint, module)
    if (linear.outputs, linear.inputs) != shape:
        raise BrokenFileError(
            f"{checkpoint.name}: {module} has {linear.outputs} outputs and {linear.inputs} inputs, not {list(shape)} "
            "as the config's heads say"
        )


def check_heads(checkpoint: Checkpoint, record: Record) -> Check:
    """Check in a finished checkpoint that the output of each head of the record is constant."""
    name, family = "constant heads", family_of(checkpoint.config, record.vectors.site)
    form = None if family is None else family.head
    fields = language_config(checkpoint.config)
    heads = None if form is None else heads_of(fields, form.head_dim)
    if form is None or heads is None:
        return Check(name, False, f"{fields.get('model_type')} has no such heads: it would run UNSTEERED")
    for entry in record.biases:
        wrong = "the record names no column" if entry.column is None else ""
        wrong = wrong or _not_constant(
            checkpoint, form, heads, entry.tensor, _group_of(checkpoint, entry) * (entry.column or 0)
        )
        if wrong:
            return Check(name, False, wrong)
    return Check(name, True, f"{len(record.biases)} heads have a constant output")


def _group_of(checkpoint: Checkpoint, entry: RecordedBias) -> int:
    """Inputs that one column of the tensor of a recorded bias stands for."""
    layout = None if checkpoint.quantisation is None else checkpoint.quantisation.layout
    part = None if layout is None else layout.column_part
    is_scale = layout is not None and part is not None and entry.tensor.endswith(f".{part.name}")
    return layout.group if layout is not None and is_scale else 1


def _not_constant(checkpoint: Checkpoint, form: HeadForm, heads: Heads, output: str, column: int) -> str:
    """The way in which the head that begins at `column` of `output` has no constant output; empty if it has."""
    first, within = divmod(column, heads.group * heads.value_size)
    name = f"{output.rpartition('.')[0].rpartition('.')[0]}.{_V}.bias"
    bias = checkpoint.tensors.get(name)
    if not within and 0 < first < heads.keys and bias is not None and bias.shape == (heads.keys * heads.value_size,):
        new = decode(bias, checkpoint.read(bias))[first * heads.value_size :]
        if new[0] == form.constant and not new[1:].any():
            return ""
    return (
        f"{name} has no head that is constant at column {column} of {output}, which the record names; it would run "
        "UNSTEERED"
    )
