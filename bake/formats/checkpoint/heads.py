"""The attention heads of a checkpoint, by its config, and the matrices that must fit them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

from ...core.heads import Heads
from ...core.limits import MAX_WIDTH
from ...core.tensors import FLOATS, TensorHeader
from ...errors import BrokenFileError
from .model import Checkpoint


def heads_of(config: Mapping[str, Any], head_dim: int | None = None) -> Heads | None:
    """The heads by the language model's fields; None if they do not tell them.

    `head_dim` is the size of a head where ``head_dim`` is left out; default: the hidden size by the heads.
    """
    queries, hidden = config.get("num_attention_heads"), config.get("hidden_size")
    if not _is_count(queries) or not _is_count(hidden):
        return None
    keys = queries if config.get("num_key_value_heads") is None else config["num_key_value_heads"]
    size = head_dim or hidden // queries if config.get("head_dim") is None else config["head_dim"]
    if not _is_count(keys) or not _is_count(size) or queries % keys or queries * size > MAX_WIDTH:
        return None
    return Heads(queries, keys, size, size)


def heads_in(checkpoint: Checkpoint, head_dim: int | None = None) -> Heads:
    """The heads of a checkpoint, as `heads_of` says.

    Raises:
        BrokenFileError: its config does not tell them.
    """
    heads = heads_of(checkpoint.language_config, head_dim)
    if heads is None:
        raise BrokenFileError(
            f"{checkpoint.name}/config.json: its num_attention_heads, num_key_value_heads and head_dim do not tell the "
            "heads"
        )
    return heads


def matrix(checkpoint: Checkpoint, name: str, shape: tuple[int, int]) -> TensorHeader:
    """The header of a matrix of floats.

    Raises:
        BrokenFileError: there is none of this `shape`.
    """
    header = checkpoint.tensors.get(name)
    if header is None:
        raise BrokenFileError(f"{checkpoint.name}: no tensor {name}")
    if header.dtype not in FLOATS or header.shape != shape:
        raise BrokenFileError(
            f"{header.file}: {name} is {header.dtype} of shape {list(header.shape)}, not floats {list(shape)} as the "
            "config's heads say"
        )
    return header


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 < value <= MAX_WIDTH
