"""The attention of each block of a GGUF file: its heads, and the tensors that hold q, k, v and the output."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ...core.heads import Heads
from ...core.limits import MAX_WIDTH
from ...core.tensors import TensorHeader
from ...errors import BrokenFileError
from .header import Field, number_field, row_count
from .model import GgufModel

HEADS, KEYS = "attention.head_count", "attention.head_count_kv"
_SIZES = ("attention.key_length", "attention.value_length")
_KNOWN = r"attn_(?:norm|norm_2|[qkv]|qkv|output|[qk]_norm|post_norm)\.(?:weight|bias)"


@dataclass(frozen=True, eq=False)
class Attention:
    """The attention of one block."""

    layer: int
    heads: Heads
    tensors: Mapping[str, TensorHeader]
    """``q``, ``k`` and ``v``, or ``qkv`` for all three in this order; and ``output``."""
    rows: Mapping[str, int]
    """Rows of ``q``, ``k`` and ``v``."""

    @property
    def parts(self) -> Mapping[str, tuple[str, ...]]:
        """The parts of each tensor that makes queries, keys and values."""
        return {"qkv": ("q", "k", "v")} if "qkv" in self.tensors else {part: (part,) for part in "qkv"}

    def name(self, part: str, kind: str = "weight") -> str:
        """Name of a tensor; `part` is a key of `tensors`."""
        return f"blk.{self.layer}.attn_{part}.{kind}"


def read_attention(model: GgufModel, query_rows: int = 1) -> tuple[Attention, ...]:
    """Read the attention of every block that has one; in a block of Mamba or the like there is none.

    Args:
        model: the file.
        query_rows: rows of a query, in units of its size; 2 where a gate comes with it.

    Raises:
        BrokenFileError: a block lacks a tensor, or one has another shape than the heads say.
    """
    found = []
    for layer in range(model.block_count):
        output = model.tensors.get(f"blk.{layer}.attn_output.weight")
        if output is None:
            continue
        heads = _heads(model, layer)
        if len(output.shape) != 2 or output.shape[1] != heads.queries * heads.value_size:
            raise BrokenFileError(
                f"{model.name}: {output.name} has {output.shape[-1]} columns, and {heads.queries} heads of "
                f"{heads.value_size} were expected"
            )
        rows = {
            "q": heads.queries * heads.key_size * query_rows,
            "k": heads.keys * heads.key_size,
            "v": heads.keys * heads.value_size,
        }
        attention = Attention(layer, heads, _tensors(model, layer) | {"output": output}, rows)
        for name, parts in attention.parts.items():
            tensor, wanted = attention.tensors[name], sum(rows[part] for part in parts)
            if len(tensor.shape) != 2 or row_count(tensor) != wanted:
                raise BrokenFileError(f"{model.name}: {tensor.name} has {row_count(tensor)} rows, not {wanted}")
        found.append(attention)
    return tuple(found)


def strange_tensor(model: GgufModel) -> str:
    """Name of a tensor of an attention that does more than projections and norms; empty if there is none.

    Sinks take a share of the softmax, gates and scales change the output, and latent attention has no values.
    """
    return next(
        (
            name
            for name in model.tensors
            if (match := re.match(r"blk\.\d+\.(attn_.*)", name)) and not re.fullmatch(_KNOWN, match[1])
        ),
        "",
    )


def head_fields(model: GgufModel, heads: Mapping[int, Heads]) -> dict[str, Field]:
    """The metadata that says how many heads there are, and how large; `heads` are the new ones of each layer."""
    prefix, any_heads = model.architecture, next(iter(heads.values()))
    fields = {}
    for key, numbers in (
        (HEADS, {layer: new.queries for layer, new in heads.items()}),
        (KEYS, {layer: new.keys for layer, new in heads.items()}),
    ):
        name = f"{prefix}.{key}"
        old, field = model.header.numbers(name), model.header.by_key.get(name)
        if old is None:
            fields[name] = number_field(name, next(iter(numbers.values())), field)
        else:
            counts = [numbers.get(layer, count) for layer, count in enumerate(old)]
            fields[name] = number_field(name, counts, field)
    for key, size in zip(_SIZES, (any_heads.key_size, any_heads.value_size), strict=True):
        name = f"{prefix}.{key}"
        fields[name] = number_field(name, size, model.header.by_key.get(name))
    return fields


def key_fields(model: GgufModel, factor: int) -> dict[str, Field]:
    """The metadata with `factor` times as many key/value heads."""
    name = f"{model.architecture}.{KEYS}"
    old, field = model.header.numbers(name), model.header.by_key.get(name)
    if old is not None:
        return {name: number_field(name, [factor * count for count in old], field)}
    count = model.dimension(KEYS if field is not None else HEADS)
    return {name: number_field(name, factor * count, field)}


def _tensors(model: GgufModel, layer: int) -> dict[str, TensorHeader]:
    fused = model.tensors.get(f"blk.{layer}.attn_qkv.weight")
    if fused is not None:
        return {"qkv": fused}
    names = {part: f"blk.{layer}.attn_{part}.weight" for part in "qkv"}
    missing = [name for name in names.values() if name not in model.tensors]
    if missing:
        raise BrokenFileError(f"{model.name}: lacks {missing[0]}")
    return {part: model.tensors[name] for part, name in names.items()}


def _heads(model: GgufModel, layer: int) -> Heads:
    queries = _count(model, HEADS, layer)
    keys = _count(model, KEYS, layer) if f"{model.architecture}.{KEYS}" in model.header.by_key else queries
    sizes = []
    for key in _SIZES:
        named = f"{model.architecture}.{key}" in model.header.by_key
        sizes.append(model.dimension(key) if named else model.hidden_size // _count(model, HEADS, 0))
    if queries % keys or queries * max(sizes) > MAX_WIDTH or not min(sizes):
        raise BrokenFileError(f"{model.name}: {queries} heads of {sizes} share {keys} key/value heads in block {layer}")
    return Heads(queries, keys, *sizes)


def _count(model: GgufModel, key: str, layer: int) -> int:
    """A number of heads, which all blocks share or each has its own."""
    counts = model.header.numbers(f"{model.architecture}.{key}")
    if counts is None:
        return model.dimension(key)
    if layer >= len(counts) or not 0 < counts[layer] <= MAX_WIDTH:
        raise BrokenFileError(f"{model.name}: {model.architecture}.{key} says no number of heads for block {layer}")
    return counts[layer]
