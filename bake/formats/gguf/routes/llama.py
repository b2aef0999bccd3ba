"""The route *llama*: the file is a llama file by another name, and is written as one.

qwen2 and phi3 files differ from llama files in the keys' names and in the order of the rows that the rotary embedding
pairs: theirs are halves, llama's neighbours (llama_model_rope_type in llama.cpp: NEOX and NORM). phi3 files also hold
q, k and v in one tensor, and the gate of the MLP in the first half of its other one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import ClassVar

from ....core.biases import PlannedBias
from ....core.heads import Heads
from ....core.plan import Piece, RouteName, Rows, Span
from ....core.sites import Site
from ....core.tensors import FLOATS, TensorHeader
from ....errors import BrokenFileError
from ..header import Field, row_count
from ..layout import Placed
from ..model import GgufModel
from .base import OUT_OF_SCOPE
from .tensor import TensorRoute

# Keys that the files and llama files spell alike and that llama.cpp reads alike.
_SHARED_KEYS = (
    "context_length", "embedding_length", "block_count", "feed_forward_length", "vocab_size", "rope.dimension_count",
    "rope.freq_base", "rope.scaling.type", "rope.scaling.factor", "rope.scaling.original_context_length",
    "rope.scaling.finetuned", "rope.scaling.attn_factor", "rope.scaling.yarn_ext_factor",
    "rope.scaling.yarn_attn_factor", "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow",
    "attention.head_count", "attention.head_count_kv", "attention.layer_norm_rms_epsilon", "attention.key_length",
    "attention.value_length",
)  # fmt: skip
_SHARED = r"(?:token_embd|output|output_norm)\.weight|blk\.\d+\.(?:attn_norm|ffn_norm|ffn_down|attn_output)\.weight"
_TENSORS = {
    "qwen2": rf"{_SHARED}|blk\.\d+\.(?:(?:ffn_gate|ffn_up)\.weight|attn_[qkv]\.(?:weight|bias)"
    r"|(?:attn_norm|ffn_norm|ffn_gate|ffn_up|ffn_down|attn_output|attn_[qkv])\.scale)",
    "phi3": rf"{_SHARED}|blk\.\d+\.(?:attn_qkv|ffn_up)\.weight",
}
_IGNORED_KEYS = {"qwen2": (), "phi3": ("attention.sliding_window",)}
"""Keys that llama.cpp reads and ignores, with a warning (phi3.cpp:15)."""
_EXACT_ROPE = ("", "none", "linear", "yarn")


class LlamaRoute(TensorRoute):
    """A llama file, which may have the bias."""

    name: ClassVar[RouteName] = "llama"

    @classmethod
    def blockers(cls, model: GgufModel, site: Site) -> list[str]:
        """Every field and tensor of the file must be one that a llama file has."""
        if model.architecture not in _TENSORS:
            return [OUT_OF_SCOPE]
        return [f"this one is a llama only without {feature}" for feature in _differences(model)]

    @property
    def architecture(self) -> str:
        """Llama."""
        return "llama"

    def edits(self, biases: Sequence[PlannedBias]) -> Mapping[str, tuple[Placed, ...]]:
        """The rows of q and k in llama's order, and each of a phi3 file's matrices in a tensor of its own.

        Raises:
            BrokenFileError: the rows of a tensor are not those of the heads.
        """
        return {
            name: tuple(self._split(tensor, parts))
            for name, tensor in self.model.tensors.items()
            if (parts := tuple(self._parts(name)))
        }

    def fields(self) -> Mapping[str, Field | None]:
        """Leave out the keys that llama.cpp ignores."""
        ignored = _IGNORED_KEYS[self.model.architecture]
        return {f"{self.model.architecture}.{key}": None for key in ignored}

    @cached_property
    def _heads(self) -> Heads:
        return _heads(self.model)

    def _parts(self, tensor: str) -> Iterator[tuple[str, int, bool]]:
        """Each matrix in a tensor that is split or has rows that the rotary embedding pairs: name, rows, is it paired.

        Raises:
            BrokenFileError: the file does not tell their rows.
        """
        heads = self._heads
        counts = {"q": heads.queries, "k": heads.keys, "v": heads.keys}
        if match := re.fullmatch(r"(blk\.\d+)\.attn_(q|k|qkv)\.(weight|bias)", tensor):
            for part in match[2]:
                yield f"{match[1]}.attn_{part}.{match[3]}", counts[part] * heads.key_size, part != "v"
        elif self.model.architecture == "phi3" and (match := re.fullmatch(r"(blk\.\d+)\.ffn_up\.weight", tensor)):
            for part in ("gate", "up"):
                yield f"{match[1]}.ffn_{part}.weight", self.model.dimension("feed_forward_length"), False

    def _split(self, tensor: TensorHeader, parts: Sequence[tuple[str, int, bool]]) -> Iterator[Placed]:
        """The matrices (or vectors) in a tensor; a row is a whole number of blocks, so its bytes move as they are.

        Row ``2 j + i`` of a llama head is row ``i * size / 2 + j`` of the file's.
        """
        vector, size = len(tensor.shape) == 1, self._heads.key_size
        rows = tensor.shape[0] if vector else row_count(tensor)
        if rows != sum(count for _, count, _ in parts) or tensor.name.endswith("bias") != vector:
            raise BrokenFileError(f"{self.model.name}: {tensor.name} has {rows} rows, which are not heads of {size}")
        if vector and tensor.dtype not in FLOATS:
            raise BrokenFileError(f"{self.model.name}: {tensor.name} is {tensor.dtype}, not floats")
        order = tuple(i * (size // 2) + j for j in range(size // 2) for i in range(2))
        row, start = tensor.size // rows, tensor.start
        for name, count, is_paired in parts:
            piece: Piece = Span(tensor.file, start, count * row)
            if is_paired:
                piece = Rows(tensor.file, start, row, count, order)
            yield Placed(name, tensor.dtype, (count, *tensor.shape[1:]), (piece,))
            start += count * row


def _differences(model: GgufModel) -> list[str]:
    """Features that a llama file lacks, as nouns."""
    header, prefix = model.header, f"{model.architecture}."
    known = (*_SHARED_KEYS, *_IGNORED_KEYS[model.architecture])
    found = [
        f"the field {field.key}"
        for field in header.fields
        if field.key.startswith(prefix) and field.key.removeprefix(prefix) not in known
    ]
    found += [f"the tensor {name}" for name in model.tensors if not re.fullmatch(_TENSORS[model.architecture], name)]
    scaling = header.text(f"{prefix}rope.scaling.type")
    if scaling not in _EXACT_ROPE:
        found.append(f"rope scaling of the type {scaling[:40]!r}")
    heads = _heads(model)
    rope = header.number(f"{prefix}rope.dimension_count")
    if rope not in (None, heads.key_size) or heads.queries * heads.key_size != model.hidden_size:
        found.append("rotary embeddings of a part of each head")
    return found


def _heads(model: GgufModel) -> Heads:
    """The heads, the same in every block.

    Raises:
        BrokenFileError: the file does not tell its heads.
    """
    heads = model.dimension("attention.head_count")
    key = f"{model.architecture}.attention."
    keys = model.dimension("attention.head_count_kv") if f"{key}head_count_kv" in model.header.by_key else heads
    has_length = f"{key}key_length" in model.header.by_key
    size = model.dimension("attention.key_length") if has_length else model.hidden_size // heads
    if size % 2 or size * heads > 2**24:
        raise BrokenFileError(f"{model.name}: heads of {size} rows cannot have rotary embeddings")
    return Heads(heads, keys, size, size)
