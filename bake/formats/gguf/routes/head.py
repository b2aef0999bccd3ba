"""The route *head*: a key/value head is added whose output is constant, see `emobake.core.heads`.

Every byte of the base is kept: rows of zeros come behind those of q, k and v, and blocks behind each row of the output
projection, in the file's own types.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from ....core.biases import Column, Home, PlannedBias
from ....core.elsewhere import Biases
from ....core.heads import Cost, Heads, heads_to_add, is_shared
from ....core.limits import MAX_WIDTH
from ....core.plan import Fill, Piece, RouteName, Span, WiderRows
from ....core.record import RecordedBias, columns_of, history_of
from ....core.sites import SITE, Site
from ....core.stacks import Support
from ....core.tensors import FLOATS, TensorHeader, encode
from ....errors import BrokenFileError, InputError, UnsupportedModelError
from ...check.biases import misplaced_column
from ...check.output import Output, StoredModel
from ..architectures import GgufArchitecture, gguf_architectures
from ..attention import Attention, head_fields, read_attention, strange_tensor
from ..header import Field, row_count
from ..layout import Placed
from ..model import RECORD_KEY, GgufModel
from ..quants import COLUMN_TYPES, dequantize, zero_bytes_are_zeros
from ..tensor_types import TENSOR_TYPES
from .base import OUT_OF_SCOPE, GgufRoute, read_bias

_WHOLE_BLOCK = 32
"""Elements of a block whose others are not zero; a head must not begin within one."""


@dataclass(frozen=True, eq=False)
class HeadRoute(GgufRoute):
    """One more key/value head, or as many as devices need to share them; only the first one's first column counts."""

    name: ClassVar[RouteName] = "head"
    columns: Mapping[int, int] | None = None
    """Layer -> column of a head that is there, where no record in the file tells it."""

    @classmethod
    def blockers(cls, model: GgufModel, site: Site) -> list[str]:
        """The graph must add a bias of the values, and nothing but projections and norms of each head be there."""
        row = gguf_architectures().get(model.architecture)
        if row is None or not row.head or site != SITE:
            return [OUT_OF_SCOPE]
        return [*_blockers(model, row)]

    @property
    def support(self) -> Support:
        """Run, where a file with such a head was."""
        return Support("steered", run=self.row.head == "ran")

    @property
    def biases(self) -> Biases:
        """The biases that make the new head's output constant."""
        return Biases("qkv", is_reshaped=True)

    @property
    def cost(self) -> Cost:
        """All of the attention's matrices grow alike; nothing more is needed where an earlier bake added the head."""
        if self._columns:
            return Cost()
        before = sum(a.heads.keys for a in self._attention)
        after = sum(heads.keys for heads in self._grown.values())
        return Cost(after / before, after / before)

    @cached_property
    def homes(self) -> tuple[Home, ...]:
        """The first column of the new heads in each layer's output projection.

        Raises:
            BrokenFileError: the head of an earlier bake is not there; InputError: it cannot be shared as is asked.
        """
        return tuple(self._home(a) for a in self._attention if a.layer < self.model.num_hidden_layers)

    def edits(self, biases: Sequence[PlannedBias]) -> Mapping[str, tuple[Placed, ...]]:
        """The tensors of every block's attention with their new rows and columns."""
        data = {bias.layer: bias.data for bias in biases}
        found: dict[str, tuple[Placed, ...]] = {}
        for attention in self._attention:
            layer, output = attention.layer, attention.tensors["output"]
            if layer in data or layer not in self._columns:
                found[output.name] = (self._wider(attention, data.get(layer)),)
            if layer not in self._columns:
                found |= {placed.name: (placed,) for placed in self._longer(attention)}
        return found | {placed.name: (placed,) for placed in self._norms()}

    def new(self, biases: Sequence[PlannedBias]) -> tuple[Placed, ...]:
        """The biases of the values, where there were none."""
        blocks = [a for a in self._attention if a.layer not in self._columns]
        names = [(a, name) for a in blocks for name in a.parts if "v" in name]
        return tuple(
            Placed(bias, "F32", (size,), (data.tobytes(),))
            for attention, name in names
            if (bias := attention.name(name, "bias")) not in self.model.tensors
            for data in [np.concatenate([*self._new_values(attention, name, zeros=True)]).astype("<f4")]
            for size in [len(data)]
        )

    def fields(self) -> Mapping[str, Field | None]:
        """The numbers of heads, and their sizes, which the base may leave to be computed from them."""
        return {} if self._columns else head_fields(self.model, self._grown)

    @classmethod
    def honours(cls, model: GgufModel, site: Site, biases: Sequence[RecordedBias]) -> str:
        """The bias of the values must be there and make the output of the head constant."""
        row = gguf_architectures().get(model.architecture)
        if row is None or not row.head:
            raise UnsupportedModelError(f"{model.name}: {model.architecture} files add no bias of the values")
        blocks = {attention.layer: attention for attention in read_attention(model, 2 if row.gated else 1)}
        for entry in biases:
            if entry.layer not in blocks or entry.column is None:
                raise BrokenFileError(f"{model.name}: block {entry.layer} has no attention")
            _check_constant(model, blocks[entry.layer], entry.column, row.constant)
        return f"{model.architecture}: llama.cpp adds the bias that makes the new head's output constant"

    @classmethod
    def misplaced(cls, output: Output, entry: RecordedBias, base: StoredModel | None, row: np.ndarray) -> str:
        """Compare the column to the bit."""
        kind = COLUMN_TYPES.get(output.model.tensors[entry.tensor].dtype)
        if kind is None or entry.column is None:
            return f"{entry.tensor} is not the output projection of a layer of {output.model.name}"
        return misplaced_column(output, Column(entry.column, kind.stored, kind.unit), entry, base, row)

    @cached_property
    def _attention(self) -> tuple[Attention, ...]:
        return read_attention(self.model, 2 if self.row.gated else 1)

    @cached_property
    def _columns(self) -> Mapping[int, int]:
        """Layer -> column of an earlier bake."""
        if self.columns is not None:
            return self.columns
        place = f"{self.model.name} ({RECORD_KEY})"
        return columns_of(history_of(self.model.record, place), place)

    @cached_property
    def _grown(self) -> Mapping[int, Heads]:
        """Layer -> its heads, once there are more. One number for all blocks, as the metadata may have only one."""
        multiple = math.lcm(*(TENSOR_TYPES[a.tensors["output"].dtype].block for a in self._attention))
        return {
            a.layer: a.heads.grown(heads_to_add(a.heads, tensor_parallel=self.tensor_parallel, multiple=multiple))
            for a in self._attention
        }

    def _home(self, attention: Attention) -> Home:
        tensor, kind = attention.tensors["output"], COLUMN_TYPES[attention.tensors["output"].dtype]
        width = row_count(tensor)
        if width > MAX_WIDTH:
            raise BrokenFileError(f"{self.model.name}: {tensor.name} has {width} outputs, more than any model")
        if not self._columns:
            column = Column(tensor.shape[1], kind.stored, kind.unit)
            return Home(attention.layer, tensor.name, tensor.dtype, width, None, column)
        if attention.layer not in self._columns:
            raise BrokenFileError(f"{self.model.name}: its record names no column of {tensor.name}")
        column = Column(self._columns[attention.layer], kind.stored, kind.unit)
        _check_constant(self.model, attention, column.index, self.row.constant)
        if not is_shared(attention.heads, self.tensor_parallel):
            raise InputError(
                f"`tensor_parallel` {self.tensor_parallel}: {self.model.name} has {attention.heads.keys} key/value "
                "heads, one of them of an earlier bake; bake all weights at once, from the file without it"
            )
        home = Home(attention.layer, tensor.name, tensor.dtype, width, None, column)
        if self.columns is None:
            existing = home.decode(self.model.read_column(tensor, column.index))
        else:
            # The converter quantises a block in its own way.
            blocks = self.model.read_blocks(tensor, column.index)
            existing = dequantize(tensor.dtype, blocks, TENSOR_TYPES[tensor.dtype].block)[:, 0]
        if not np.isfinite(existing).all():
            raise BrokenFileError(f"{self.model.name}: column {column.index} of {tensor.name} has a NaN or infinity")
        return Home(attention.layer, tensor.name, tensor.dtype, width, existing, column)

    def _wider(self, attention: Attention, own: bytes | None) -> Placed:
        """The output projection with its new columns; those of a block that is not steered are zero."""
        tensor = attention.tensors["output"]
        kind, rows, columns = COLUMN_TYPES[tensor.dtype], *tensor.shape
        block = TENSOR_TYPES[tensor.dtype]
        kept = self._columns.get(attention.layer, columns)
        grown = attention.heads if self._columns else self._grown[attention.layer]
        width = grown.queries * grown.value_size
        zeros = bytes((width - kept) // block.block * block.block_bytes - len(kind.block))
        row = tensor.size // rows
        piece = WiderRows(
            tensor.file,
            tensor.start,
            row,
            rows,
            kept // block.block * block.block_bytes,
            kind.block + zeros,
            kind.place,
            bytes(rows * kind.width) if own is None else own,
        )
        return Placed(tensor.name, tensor.dtype, (rows, width), (piece,))

    def _longer(self, attention: Attention) -> Iterator[Placed]:
        """The matrices of q, k and v with rows of zeros, and their biases."""
        for name, parts in attention.parts.items():
            tensor, more = attention.tensors[name], self._more_rows(attention)
            row, start = tensor.size // row_count(tensor), tensor.start
            pieces: list[Piece] = []
            for part in parts:
                pieces += [Span(tensor.file, start, attention.rows[part] * row), Fill(more[part] * row)]
                start += attention.rows[part] * row
            count = row_count(tensor) + sum(more[part] for part in parts)
            yield Placed(tensor.name, tensor.dtype, (count, tensor.shape[1]), tuple(pieces))
            bias = self.model.tensors.get(attention.name(name, "bias"))
            if bias is not None:
                yield self._longer_bias(attention, name, bias)

    def _longer_bias(self, attention: Attention, name: str, bias: TensorHeader) -> Placed:
        parts, size = attention.parts[name], FLOATS[bias.dtype].itemsize
        read_bias(self.model, bias, sum(attention.rows[part] for part in parts))
        pieces: list[Piece] = []
        start = bias.start
        for part, values in zip(parts, self._new_values(attention, name), strict=True):
            pieces += [Span(bias.file, start, attention.rows[part] * size), encode(values, bias.dtype)]
            start += attention.rows[part] * size
        more = self._more_rows(attention)
        count = bias.shape[0] + sum(more[part] for part in parts)
        return Placed(bias.name, bias.dtype, (count,), tuple(pieces))

    def _new_values(self, attention: Attention, name: str, *, zeros: bool = False) -> Iterator[np.ndarray]:
        """The values that the bias of each part gains; with `zeros` behind those that it has, which are zero."""
        more = self._more_rows(attention)
        for part in attention.parts[name]:
            values = np.zeros(more[part], np.float32)
            values[:1] = self.row.constant if part == "v" else 0
            yield np.concatenate([np.zeros(attention.rows[part] if zeros else 0, np.float32), values])

    def _more_rows(self, attention: Attention) -> Mapping[str, int]:
        """Rows that q, k and v gain."""
        factor = self._grown[attention.layer].keys - attention.heads.keys
        return {part: rows // attention.heads.keys * factor for part, rows in attention.rows.items()}

    def _norms(self) -> Iterator[Placed]:
        """The norms of the queries of files whose scores are scaled by the number of heads: the scale as it was."""
        if self._columns or self.row.scores_by_heads != self.model.block_count:
            return
        before, after = self._attention[0].heads.queries, self._grown[self._attention[0].layer].queries
        # llama.cpp divides whole numbers (gemma3.cpp:30).
        factor = math.sqrt((self.model.hidden_size // after) / (self.model.hidden_size // before))
        for attention in self._attention:
            norm = self.model.tensors[attention.name("q_norm")]
            values = read_bias(self.model, norm, attention.heads.key_size).astype(np.float64) * factor
            yield Placed(norm.name, norm.dtype, norm.shape, (encode(values.astype(np.float32), norm.dtype),))


def _blockers(model: GgufModel, row: GgufArchitecture) -> Iterator[str]:
    """Reasons why no head can be added, as clauses."""
    if strange := strange_tensor(model):
        yield f"its attention has {strange}, so another head would not have a constant output"
        return
    for key in ("attention.max_alibi_bias", "attention.clamp_kqv", "attention.key_length_swa"):
        if model.header.number(f"{model.architecture}.{key}"):
            yield f"its {key} treats heads by their number or size"
    attention = read_attention(model, 2 if row.gated else 1)
    if not attention:
        yield "no block has an attention"
    for one in attention:
        for name in ("q_norm", "k_norm"):
            norm = model.tensors.get(one.name(name))
            if norm is not None and norm.shape != (one.heads.key_size,):
                yield f"{norm.name} is a norm over all heads, which another head would change"
        yield from _type_blockers(one)
        for name in one.parts:
            bias = model.tensors.get(one.name(name, "bias"))
            if bias is not None and bias.dtype not in FLOATS:
                yield f"{bias.name} is {bias.dtype}, not floats"
        if "qkv" in one.tensors and any(one.name(part, "bias") in model.tensors for part in "qkv"):
            yield f"{one.name('qkv')} has its biases in tensors of their own"
    norms = all(one.name("q_norm") in model.tensors for one in attention)
    if row.scores_by_heads and row.scores_by_heads == model.block_count and not norms:
        yield (
            f"llama.cpp scales the scores of {row.name} files of {model.block_count} blocks by the number of heads, "
            "which another one would change"
        )


def _type_blockers(attention: Attention) -> Iterator[str]:
    output = attention.tensors["output"]
    kind = COLUMN_TYPES.get(output.dtype)
    if kind is None:
        yield f"{output.name} is {output.dtype}, in which one value cannot be written"
    elif kind.unit != 1 and attention.heads.value_size % _WHOLE_BLOCK:
        yield f"{output.name} is {output.dtype}, whose blocks are larger than a head"
    for name in attention.parts:
        tensor = attention.tensors[name]
        if not zero_bytes_are_zeros(tensor.dtype):
            yield f"{tensor.name} is {tensor.dtype}, in which it is unknown how rows of zeros are written"


def _check_constant(model: GgufModel, attention: Attention, column: int, lead: float) -> None:
    """Check that the head which begins at `column` is one whose first value is always `lead`.

    Raises:
        BrokenFileError: it is not.
    """
    heads = attention.heads
    first, within = divmod(column, heads.group * heads.value_size)
    name = next(name for name in attention.parts if "v" in name)
    bias = model.tensors.get(attention.name(name, "bias"))
    if not within and 0 < first < heads.keys and bias is not None:
        values = read_bias(model, bias, sum(attention.rows[part] for part in attention.parts[name]))
        new = values[len(values) - attention.rows["v"] + first * heads.value_size :]
        if new[0] == lead and not new[1:].any():
            return
    raise BrokenFileError(
        f"{model.name}: {attention.name('v', 'bias')} has no head that is constant at column {column} of "
        f"{attention.name('output')}, which the record names; it would run UNSTEERED"
    )
