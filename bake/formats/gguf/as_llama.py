"""Qwen2 files as llama files: when the two are the same function, and how the rows of q and k move.

They differ in the keys' names and in the order of the rows that the rotary embedding pairs: qwen2's halves, llama's
neighbours (llama_model_rope_type in llama.cpp: NEOX and NORM).
"""

from __future__ import annotations

import re

from ...core.tensors import FLOATS
from ...errors import BrokenFileError
from .header import row_count
from .model import GgufModel

# Keys that qwen2 and llama files spell alike and that llama.cpp reads alike.
_SHARED_KEYS = (
    "context_length", "embedding_length", "block_count", "feed_forward_length", "vocab_size", "rope.dimension_count",
    "rope.freq_base", "rope.scaling.type", "rope.scaling.factor", "rope.scaling.original_context_length",
    "rope.scaling.finetuned", "rope.scaling.attn_factor", "rope.scaling.yarn_ext_factor",
    "rope.scaling.yarn_attn_factor", "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow",
    "attention.head_count", "attention.head_count_kv", "attention.layer_norm_rms_epsilon", "attention.key_length",
    "attention.value_length",
)  # fmt: skip
_LLAMA_TENSORS = (
    r"(?:token_embd|output|output_norm)\.weight|blk\.\d+\.(?:(?:attn_norm|ffn_norm|ffn_gate|ffn_up|ffn_down|attn_output)"
    r"\.(?:weight|scale)|attn_[qkv]\.(?:weight|bias|scale))"
)
_EXACT_ROPE = ("", "none", "linear", "yarn")


def llama_blockers(model: GgufModel) -> list[str]:
    """Features of a qwen2 file that a llama file lacks, as nouns; empty if it is a llama file by another name.

    Raises:
        BrokenFileError: the file does not tell its heads.
    """
    header = model.header
    found = [
        f"the field {field.key}"
        for field in header.fields
        if field.key.startswith("qwen2.") and field.key.removeprefix("qwen2.") not in _SHARED_KEYS
    ]
    found += [f"the tensor {name}" for name in model.tensors if not re.fullmatch(_LLAMA_TENSORS, name)]
    scaling = header.text("qwen2.rope.scaling.type")
    if scaling not in _EXACT_ROPE:
        found.append(f"rope scaling of the type {scaling[:40]!r}")
    heads, size = _heads(model)
    rope = header.number("qwen2.rope.dimension_count")
    if rope not in (None, size) or heads[0] * size != model.hidden_size:
        found.append("rotary embeddings of a part of each head")
    return found


def moved_rows(model: GgufModel) -> dict[str, tuple[int, ...]]:
    """Tensor -> order of its rows within each head, for tensors whose rows the rotary embedding pairs.

    A row is a whole number of quantisation blocks, so its bytes move as they are. Row ``2 j + i`` of a llama head is
    row ``i * size / 2 + j`` of a qwen2 head.

    Raises:
        BrokenFileError: the rows of a tensor are not those of the heads.
    """
    heads, size = _heads(model)
    order = tuple(i * (size // 2) + j for j in range(size // 2) for i in range(2))
    moved = {}
    for name, tensor in model.tensors.items():
        match = re.fullmatch(r"blk\.\d+\.attn_([qk])\.(weight|bias)", name)
        if match is None:
            continue
        rows = row_count(tensor) if match[2] == "weight" else tensor.shape[-1]
        if rows != heads["qk".index(match[1])] * size or (match[2] == "bias" and len(tensor.shape) != 1):
            raise BrokenFileError(f"{model.name}: {name} has {rows} rows, which are not heads of {size}")
        if match[2] == "bias" and tensor.dtype not in FLOATS:
            raise BrokenFileError(f"{model.name}: {name} is {tensor.dtype}, not floats")
        moved[name] = order
    return moved


def _heads(model: GgufModel) -> tuple[tuple[int, int], int]:
    """Numbers of query and of key heads, and the rows in each."""
    heads = model.dimension("attention.head_count")
    key = f"{model.architecture}.attention."
    keys = model.dimension("attention.head_count_kv") if f"{key}head_count_kv" in model.header.by_key else heads
    has_length = f"{key}key_length" in model.header.by_key
    size = model.dimension("attention.key_length") if has_length else model.hidden_size // heads
    if size % 2 or size * heads > 2**24:
        raise BrokenFileError(f"{model.name}: heads of {size} rows cannot have rotary embeddings")
    return (heads, keys), size
