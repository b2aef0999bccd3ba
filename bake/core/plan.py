"""Bake plans as plain data: every byte of every output file, and everything that is said about the result.

A file is a sequence of pieces: new bytes, spans of the base's files, or rows of them in another order, with a new end
or woven into one another. A plan does not know where it will be written: a folder, a single file and a Hub repository
are sinks of the same pieces.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from .biases import PlannedBias
from .effect import Effect
from .elsewhere import beware
from .heads import Cost
from .record import Record
from .stacks import STACKS, USUAL, Support
from .steering import Steering

Form = Literal["checkpoint", "peft", "peft-each", "gguf"]
"""Output form. ``peft-each`` is a folder with one adapter per emotion."""
OtherClass = Literal["llama", "granitemoe", "laguna", "gear"]
"""``model_type`` of a class that checkpoints of others may be saved as."""
RouteName = Literal[
    "existing",
    "flag",
    OtherClass,
    "existing+backend",
    "flag+backend",
    "granitemoe+backend",
    "tensor",
    "adapter",
    "lora",
    "head",
    "value",
]
"""Mechanism that makes the bias act. `OtherClass`: the checkpoint is saved as one of that class; ``+backend``: vLLM is
told to run transformers' class; ``tensor``: a GGUF file gains a tensor that its architecture reads if present;
``adapter``: PEFT adds it as ``lora_bias`` of an adapter of its own; ``lora``: as that of the adapter that
was baked; ``head``: a key/value head is added whose output is constant; ``value``: the
bias is solved for, and acts on the values."""
BACKEND = "+backend"
"""End of the name of a route by which vLLM runs transformers' class."""
PEFT_RAN = "0.21.2"
"""The version of PEFT in which adapters were run."""
Action = Literal["carry", "overwrite", "write", "assemble", "link"]

_WITH = {"head": " with one more head", "value": " with a bias of the values"}
"""Route -> description of the models that were run."""

NO_HEADS = "`tensor_parallel` changes nothing: the route adds no heads"
"""Warning of a plan."""
CARD_FILE = "README.md"
"""The model card."""
REPO_PLACEHOLDER = "THIS_REPO"
"""Placeholder in a model card for the repository's id, which is unknown until the card is pushed."""
PLACEHOLDER_NOTE = f"`{REPO_PLACEHOLDER}` stands for the path of this folder.\n\n"
"""Line of a model card that a push removes, with the placeholder."""


@dataclass(frozen=True)
class Span:
    """Bytes ``[offset, offset + size)`` of a file of the base."""

    source: str
    """Path in the base's folder or repository, with ``/``."""
    offset: int
    size: int


@dataclass(frozen=True)
class Rows:
    """Rows of a file of the base, in another order.

    From `offset` on there are `count` rows of `row` bytes. Each group of `group` rows is written as the rows that
    `order` names, counted within the group; a row may be named more than once.
    """

    source: str
    offset: int
    row: int
    count: int
    order: tuple[int, ...]
    group: int = 0
    """Rows of a group; 0: as many as `order` names."""

    @property
    def grouped(self) -> int:
        """Rows of a group."""
        return self.group or len(self.order)

    @property
    def size(self) -> int:
        """Bytes in all."""
        return self.row * self.count // self.grouped * len(self.order)


@dataclass(frozen=True)
class WiderRows:
    """Rows of a file of the base, each with a new end.

    From `offset` on there are `count` rows of `row` bytes. The first `kept` bytes of each are written, then `tail`, in
    which the bytes from `place` on are the row's own: its part of `own`.
    """

    source: str
    offset: int
    row: int
    count: int
    kept: int
    tail: bytes = field(repr=False)
    place: int
    own: bytes = field(repr=False)
    """Bytes of all rows, one after another; as many for each row."""

    @property
    def size(self) -> int:
        """Bytes in all."""
        return (self.kept + len(self.tail)) * self.count


@dataclass(frozen=True)
class UnitRows:
    """Rows of a file of the base, each divided by its Euclidean norm, as ``torch.nn.functional.normalize`` does it.

    From `offset` on there are `count` rows of `row` bytes. The norm and the quotient are rounded to `dtype`.
    """

    source: str
    offset: int
    row: int
    count: int
    dtype: str
    """One of `emobake.core.tensors.FLOATS`."""

    @property
    def size(self) -> int:
        """Bytes in all."""
        return self.row * self.count


@dataclass(frozen=True)
class Strip:
    """Parts of a file of the base, as many as a `Woven` has groups: `size` bytes from `offset` on, then every `stride`.

    They do not overlap.
    """

    offset: int
    stride: int
    """Bytes; not fewer than `size`."""
    size: int


@dataclass(frozen=True)
class Woven:
    """Groups of bytes, each put together of one part of every strip, in turn.

    A strip of new bytes holds the parts of all groups, one after another; as many bytes for each.
    """

    source: str
    count: int
    """Groups."""
    strips: tuple[Strip | bytes, ...]

    @property
    def new(self) -> int:
        """New bytes in all."""
        return sum(len(strip) for strip in self.strips if isinstance(strip, bytes))

    @property
    def size(self) -> int:
        """Bytes in all."""
        return self.new + self.count * sum(strip.size for strip in self.strips if isinstance(strip, Strip))


@dataclass(frozen=True)
class Fill:
    """New bytes, as many as `size`, that repeat a `pattern`."""

    size: int
    """A multiple of the pattern's length."""
    pattern: bytes = b"\0"

    def chunk(self, size: int) -> bytes:
        """Its first bytes, at most `size`, as a whole number of patterns."""
        return self.pattern * (min(size, self.size) // len(self.pattern))


Moved = Span | Rows | WiderRows | UnitRows | Woven
"""Bytes that are made of a file of the base."""
Piece = bytes | Fill | Moved


def piece_size(piece: Piece) -> int:
    """Bytes of a piece."""
    return len(piece) if isinstance(piece, bytes) else piece.size


def new_size(piece: Piece) -> int:
    """Bytes of a piece that the base does not have."""
    if isinstance(piece, WiderRows):
        return len(piece.tail) * piece.count
    if isinstance(piece, Woven):
        return piece.new
    return piece_size(piece) if isinstance(piece, bytes | Fill) else 0


def sources_of(pieces: Iterable[Piece]) -> set[str]:
    """Files of the base that pieces are made of."""
    return {piece.source for piece in pieces if not isinstance(piece, bytes | Fill)}


@dataclass(frozen=True)
class PlannedFile:
    """One output file."""

    name: str
    """Path in the output, with ``/``."""
    pieces: tuple[Piece, ...]
    source: str = ""
    """The base's file that this one continues: whole, or with bytes overwritten in place. Empty for other files."""
    weights: bool = False
    """True if the file holds weights. If carried whole, it may be a link."""
    shared: bool = False
    """True if other outputs may have the file, too. It gets the time of change of what it is made of."""
    link: str = ""
    """The file beside it that this one is a link to, without bytes of its own."""

    @classmethod
    def carried(cls, name: str, source: str, size: int, *, weights: bool = False) -> PlannedFile:
        """The base's file `source` of `size` bytes, unchanged."""
        return cls(name, (Span(source, 0, size),), source, weights)

    @classmethod
    def overwritten(cls, name: str, source: str, size: int, edits: Mapping[int, bytes]) -> PlannedFile:
        """The base's weight file `source` of `size` bytes, with the bytes of `edits` at their offsets."""
        pieces: list[Piece] = []
        position = 0
        for offset, data in sorted(edits.items()):
            if offset > position:
                pieces.append(Span(source, position, offset - position))
            pieces.append(data)
            position = offset + len(data)
        if position < size:
            pieces.append(Span(source, position, size - position))
        return cls(name, tuple(pieces), source, weights=True)

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(map(piece_size, self.pieces))

    @property
    def new_bytes(self) -> int:
        """Bytes that the base does not have."""
        return sum(map(new_size, self.pieces))

    @property
    def action(self) -> Action:
        """The way the file is made."""
        if self.link:
            return "link"
        if self.source:
            return "overwrite" if self.new_bytes else "carry"
        return "write" if self.new_bytes == self.size else "assemble"

    @property
    def data(self) -> bytes:
        """Content of a file that is all new; ValueError for others."""
        if self.action != "write":
            raise ValueError(f"{self.name} holds bytes of the base")
        return b"".join(
            piece.chunk(piece.size) if isinstance(piece, Fill) else piece
            for piece in self.pieces
            if isinstance(piece, bytes | Fill)
        )


@dataclass(frozen=True)
class ConfigChange:
    """One changed field of a config; `old` or `new` is None where the field is absent."""

    field: str
    old: Any
    new: Any


@dataclass(frozen=True)
class LeftOut:
    """A file of the base that the output does not have."""

    name: str
    reason: str


@dataclass(frozen=True)
class Other:
    """Another way to bake the same base, for a stack that the chosen one does not serve."""

    route: RouteName
    cost: Cost
    """Free where it is not known yet."""
    in_gguf: bool = False
    """True for a bake of the GGUF file that llama.cpp's converter makes of the base."""


@dataclass(frozen=True, eq=False)
class BakePlan:
    """Everything that a bake does."""

    form: Form
    route: RouteName
    model_type: str
    architecture: str
    """Class (or GGUF architecture) that the result names."""
    steering: Steering
    """The weights of this bake alone; `effect` says what all bakes add up to."""
    biases: tuple[PlannedBias, ...]
    record: Record
    """The record that the output keeps about itself."""
    stacks: Mapping[str, Support]
    """Treatment by each stack that loads the form."""
    targets: tuple[str, ...] = ()
    """Stacks that must load the result steered."""
    effect: Effect = field(default_factory=Effect)
    files: tuple[PlannedFile, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    config_changes: tuple[ConfigChange, ...] = ()
    added: tuple[str, ...] = ()
    """Names of the tensors that the base does not have."""
    overwritten: tuple[str, ...] = ()
    """Names of the tensors whose bytes are replaced."""
    rewritten: tuple[str, ...] = ()
    """Names of the tensors that are made of rows of the base's tensors, or that have another name there."""
    extended: tuple[str, ...] = ()
    """Names of the tensors that gain rows or columns; their own bytes are kept."""
    quantised: str = ""
    """The quantisation of the weights, in words; empty for floats."""
    warnings: tuple[str, ...] = ()
    others: Mapping[str, Other] = field(default_factory=dict)
    """Stack that this route does not serve -> the way that would."""
    multimodal: bool = False
    """True if the result sees more than text."""
    voice: tuple[ConfigChange, ...] = ()
    """Changes by the voice of a persona: its system prompt, and its defaults of sampling."""
    serving: tuple[str, ...] = ()
    """Commands and Python that serve the result with the adapter that it carries; `REPO_PLACEHOLDER` stands for it."""

    @property
    def has_unit_rows(self) -> bool:
        """True if rows of the base are divided by their norms."""
        return any(isinstance(piece, UnitRows) for file in self.files for piece in file.pieces)

    @property
    def bytes_carried(self) -> int:
        """Bytes that come from the base."""
        return sum(file.size - file.new_bytes for file in self.files)

    @property
    def bytes_written(self) -> int:
        """Bytes that are new."""
        return sum(file.new_bytes for file in self.files)

    def evidence(self, stack: str) -> str:
        """The way it is known what `stack` does with models like the result, which itself was not run."""
        support, known = self.stacks[stack], STACKS[stack]
        if support.status in ("refuses", "unknown"):
            return ""
        if self.form in ("peft", "peft-each"):
            return f"seen with other adapters in PEFT {PEFT_RAN} and {known.ran}; this one was not run"
        if not support.run:
            return f"read from the source of {known.read}, not run"
        kind = "file" if self.form == "gguf" else "model"
        like = f"{self.model_type} {kind}" + (f" saved as {self.saved_as}" if self.saved_as else "")
        like += _WITH.get(self.route, "")
        return f"seen with a {like} in {known.ran}; this one was not run"

    @property
    def shown(self) -> dict[str, Support]:
        """Treatment by the stacks that are told of one by one: those of `targets`, else the usual ones."""
        wanted = self.targets or USUAL
        return {name: support for name, support in self.stacks.items() if name in wanted}

    @property
    def beware(self) -> tuple[str, ...]:
        """Sentences on the other stacks that would run the result as something else, without a word."""
        if not self.effect.steers:
            return ()
        others = {name: support for name, support in self.stacks.items() if name not in self.shown}
        converts = self.form == "checkpoint" and self.stacks["llama.cpp"].status == "steered"
        return beware(others, self.saved_as or self.model_type if converts else "")

    @property
    def saved_as(self) -> str:
        """``model_type`` of the other class that the result is saved as; empty if it keeps its class."""
        name = self.route.removesuffix(BACKEND)
        return name if name in get_args(OtherClass) else ""

    def behaviour(self, stack: str) -> str:
        """Describe the behaviour of `stack` with the result, and how it is known."""
        support, evidence = self.stacks[stack], self.evidence(stack)
        if not self.effect.steers and support.status in ("steered", "option"):
            return "loads it, and it behaves as its base: nothing is steered"
        return support.clause + (f" ({evidence})" if evidence else "")

    def with_files(self, *more: PlannedFile) -> BakePlan:
        """Return the plan with further files."""
        return replace(self, files=(*self.files, *more))


def new_file(name: str, data: bytes) -> PlannedFile:
    """A file of new bytes."""
    return PlannedFile(name, (data,))
