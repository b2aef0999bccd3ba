"""A checkpoint as the planner sees it: plain values, wherever they came from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...core.tensors import TensorHeader
from ...errors import BrokenFileError


@dataclass(frozen=True)
class WeightFile:
    """One safetensors file that holds weights; `size` in bytes."""

    name: str
    size: int
    sha256: str = ""
    """Empty when it is not known without reading the whole file."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What is known of a checkpoint before any weight is read."""

    name: str
    """How messages call it: the folder or the Hub id as the user gave it."""
    config: Mapping[str, Any]
    weights: tuple[WeightFile, ...]
    tensors: Mapping[str, TensorHeader]
    read: Callable[[TensorHeader], bytes]
    """The bytes of one tensor; used for existing biases only."""
    side_files: Mapping[str, int] = field(default_factory=dict)
    """Every other file, by its path with ``/``, and its size in bytes. A folder that is skipped whole ends in ``/``."""
    tokenizer_config: Mapping[str, Any] = field(default_factory=dict)
    """``tokenizer_config.json``; empty without one."""
    index_metadata: Mapping[str, Any] = field(default_factory=dict)
    """``metadata`` of ``model.safetensors.index.json``; empty without an index."""
    repo_id: str = ""
    revision: str = ""
    """Commit hash on the Hub, where the checkpoint came from there."""
    card: str = ""
    """Text of its README.md."""
    manifest: Mapping[str, Any] | None = None
    """Its ``emobake.json``, when it was baked before."""

    @property
    def num_hidden_layers(self) -> int:
        """Number of decoder layers; BrokenFileError when config.json does not say."""
        return self._dimension("num_hidden_layers", "n_layer", "num_layers", "n_layers")

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream; BrokenFileError when config.json does not say."""
        return self._dimension("hidden_size", "n_embd", "d_model", "n_embed")

    def _dimension(self, *names: str) -> int:
        for name in names:
            value = self.config.get(name)
            if value is not None:
                if type(value) is not int or value <= 0:
                    raise BrokenFileError(f"{self.name}/config.json: {name} is {value!r}, not a positive number")
                return value
        raise BrokenFileError(f"{self.name}/config.json: has no {names[0]}")
