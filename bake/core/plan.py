"""Bake plans as plain data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from .stacks import Support
from .steering import Steering

RouteKind = Literal["existing", "flag", "llama", "adapter", "tensor"]
"""``tensor``: a GGUF file gains the tensor, which its architecture reads where it is there."""


@dataclass(frozen=True)
class ConfigChange:
    """One field of config.json; `old` or `new` is None where the field is absent."""

    field: str
    old: Any
    new: Any


@dataclass(frozen=True)
class Carry:
    """A file that keeps its bytes; `weights` marks those that a link may stand for."""

    name: str
    source: str
    size: int
    weights: bool = False


@dataclass(frozen=True)
class Edit:
    """Bytes that replace as many at `offset` of a file."""

    offset: int
    data: bytes


@dataclass(frozen=True)
class Patch:
    """A weight file that is copied and then overwritten in places."""

    name: str
    source: str
    size: int
    edits: tuple[Edit, ...]


@dataclass(frozen=True)
class Write:
    """A new file."""

    name: str
    data: bytes


@dataclass(frozen=True)
class Span:
    """Bytes of a file of the base; `source` is its path."""

    source: str
    offset: int
    size: int


@dataclass(frozen=True)
class Rows:
    """Rows of a file of the base, each of `row` bytes, `count` of them from `offset` on, in another order.

    Every group of ``len(order)`` rows becomes the rows that `order` names, counted within the group.
    """

    source: str
    offset: int
    row: int
    count: int
    order: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes in all."""
        return self.row * self.count


@dataclass(frozen=True)
class Assemble:
    """A file that is put together from pieces of the base's files and new bytes, in this order."""

    name: str
    parts: tuple[bytes | Span | Rows, ...]

    @property
    def size(self) -> int:
        """Bytes that are copied from the base."""
        return sum(part.size for part in self.parts if not isinstance(part, bytes))

    @property
    def new(self) -> int:
        """Bytes that are new."""
        return sum(len(part) for part in self.parts if isinstance(part, bytes))


@dataclass(frozen=True)
class LeftOut:
    """A file of the base that does not go along."""

    name: str
    reason: str


@dataclass(frozen=True)
class LayerBias:
    """The bias of one layer's projection, as it will be stored."""

    layer: int
    tensor: str
    dtype: str
    norm: float
    """Euclidean norm of w_l, what this bake adds."""
    sha256: str
    """Digest of the tensor's bytes as stored."""


@dataclass(frozen=True, eq=False)
class BakePlan:
    """Everything a bake does, as a value."""

    route: RouteKind
    model_type: str
    architecture: str
    """The class that the result says it is."""
    layers: tuple[LayerBias, ...]
    steering: Steering
    files: tuple[Carry | Patch | Write | Assemble, ...]
    left_out: tuple[LeftOut, ...]
    config_changes: tuple[ConfigChange, ...]
    stacks: Mapping[str, Support]
    added: tuple[str, ...] = ()
    """Names of the tensors that the base does not have."""
    overwritten: tuple[str, ...] = ()
    """Names of the tensors whose bytes are replaced."""
    warnings: tuple[str, ...] = ()
    branch_scale: float = 1.0
    """What stands between the biases and the site where the vectors act; the weighted sums were divided by it."""

    @property
    def bytes_carried(self) -> int:
        """Bytes that are copied or linked from the base."""
        return sum(f.size for f in self.files if not isinstance(f, Write))

    @property
    def bytes_written(self) -> int:
        """Bytes that are new."""
        edits = [e for f in self.files if isinstance(f, Patch) for e in f.edits]
        assembled = sum(f.new for f in self.files if isinstance(f, Assemble))
        written = sum(len(f.data) for f in self.files if isinstance(f, Write))
        return written + assembled + sum(len(e.data) for e in edits)

    def with_files(self, *more: Write) -> BakePlan:
        """The same plan with further new files."""
        return replace(self, files=(*self.files, *more))


def json_bytes(value: Mapping[str, Any]) -> bytes:
    """JSON as the Hugging Face libraries write it: indented by two, UTF-8, a final newline."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
