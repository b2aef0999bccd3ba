"""A linear module of a checkpoint, in floats or quantised, whose rows are moved and whose rows and columns grow.

Nothing is computed: the results are pieces of the base's files, with new elements for weights of zero and for the
values of a new column.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...core.plan import Fill, Piece, Rows, Span, WiderRows
from ...core.tensors import FLOATS, TensorHeader, encode
from ...errors import BrokenFileError
from ..safetensors import NewTensor
from .model import Checkpoint
from .quantisation import is_float
from .quantisation.layout import PLAIN, Axis, Layout, Part

_BYTES = {"I64": 8, "I32": 4, "U32": 4, "I8": 1, "U8": 1, "F8_E4M3": 1, "F8_E5M2": 1}
Tensors = dict[str, NewTensor]
"""Part -> tensor."""


@dataclass(frozen=True, eq=False)
class Linear:
    """A linear module by its headers."""

    name: str
    tensors: Mapping[str, TensorHeader]
    """Part -> header, without the bias."""
    layout: Layout
    outputs: int
    inputs: int

    @classmethod
    def of(cls, checkpoint: Checkpoint, name: str) -> Linear:
        """Look at the module `name`.

        Raises:
            BrokenFileError: there is none, its tensors do not fit each other, or are of a layout that is not known.
        """
        tensors = {part: header for part, header in checkpoint.modules.get(name, {}).items() if part != "bias"}
        if is_float(tensors) and tensors.keys() == {"weight"}:
            return cls(name, tensors, PLAIN, *tensors["weight"].shape)
        found = checkpoint.quantisation
        layout = None if found is None else found.layout
        shape = None if found is None else found.shape(tensors)
        if layout is None or shape is None:
            stored = ", ".join(f"{part} {h.dtype} {list(h.shape)}" for part, h in sorted(tensors.items()))[:200]
            raise BrokenFileError(
                f"{checkpoint.name}: {name} is stored as {stored or 'nothing'}, not a matrix of floats"
            )
        linear = cls(name, tensors, layout, *shape)
        linear._check(checkpoint)
        return linear

    @property
    def column_tensor(self) -> TensorHeader:
        """The tensor that holds the values of a new column; its layout has one."""
        return next(self.tensors[part.name] for part in self.layout.parts if part.holds_column)

    def taken(self, ranges: Sequence[tuple[int, int]]) -> Tensors:
        """The outputs of `ranges` (first, number), one range after another.

        Raises:
            BrokenFileError: a range ends within outputs that are packed into one element.
        """
        count = sum(number for _, number in ranges)
        return {part.name: self._taken(part, ranges, count) for part in self._parts()}

    def reordered(self, order: Sequence[int]) -> Tensors:
        """All outputs, in groups of as many as `order` names, each in this order.

        Raises:
            BrokenFileError: outputs are packed into one element.
        """
        made = {}
        for part in self._parts():
            header, axis = self.tensors[part.name], part.outputs
            if axis is None:
                made[part.name] = _whole(header)
                continue
            if axis.each != 1:
                raise self._packed(header)
            unit = header.size // header.shape[0] if axis.index == 0 else _bytes(header.dtype)
            rows = Rows(header.file, header.start, unit, header.size // unit, tuple(order))
            made[part.name] = NewTensor(header.dtype, header.shape, (rows,))
        return made

    def longer(self, more: int) -> Tensors:
        """The module with `more` outputs behind its own, whose weights are zero.

        Raises:
            BrokenFileError: they do not fill whole elements.
        """
        made = {}
        for part in self._parts():
            header = self.tensors[part.name]
            if part.is_shape:
                made[part.name] = _shape(self.outputs + more, self.inputs)
            elif part.outputs is None:
                made[part.name] = _whole(header)
            else:
                count = self._elements(more, part.outputs, header)
                zeros = _element(part.zero, header.dtype)
                made[part.name] = _grown(header, part.outputs.index, count, zeros, zeros)
        return made

    def wider(self, more: int, column: bytes | None, kept: int | None = None) -> Tensors:
        """The module with `more` inputs behind its own: the first has the weights `column`, the others zero.

        Args:
            more: a multiple of ``layout.group``, whose layout has no reason against a column.
            column: one float for each output, in the dtype of `column_tensor`; None for zeros.
            kept: of a module that has the inputs already, those before them: only `column_tensor` changes.

        Raises:
            BrokenFileError: the inputs do not fill whole elements or groups.
        """
        if self.inputs % self.layout.group:
            raise BrokenFileError(
                f"{self.name}: its last group of {self.layout.group} inputs is not full, so no column can begin behind"
            )
        made = {}
        for part in self._parts():
            header = self.tensors[part.name]
            if part.holds_column:
                assert part.inputs is not None
                count = self._elements(more, part.inputs, header)
                old = None if kept is None else self._elements(kept, part.inputs, header)
                own = bytes(self.outputs * _bytes(header.dtype)) if column is None else column
                zero = _element(part.zero, header.dtype)
                made[part.name] = _grown(header, part.inputs.index, count, zero, own, kept=old)
            elif kept is not None:
                continue
            elif part.is_shape:
                made[part.name] = _shape(self.outputs, self.inputs + more)
            elif part.counts_groups:
                first = math.ceil(self.inputs / self.layout.group)
                numbers = (first + np.arange(more) // self.layout.group).astype("<i4").tobytes()
                made[part.name] = NewTensor(header.dtype, (self.inputs + more,), (_span(header), numbers))
            elif part.inputs is None:
                made[part.name] = _whole(header)
            else:
                count = self._elements(more, part.inputs, header)
                lead = _element(part.zero if part.lead is None else part.lead, header.dtype)
                zero = _element(part.zero, header.dtype)
                made[part.name] = _grown(header, part.inputs.index, count, zero, lead)
        return made

    def _parts(self) -> list[Part]:
        return [part for part in self.layout.parts if part.name in self.tensors]

    def _taken(self, part: Part, ranges: Sequence[tuple[int, int]], count: int) -> NewTensor:
        header, axis = self.tensors[part.name], part.outputs
        if part.is_shape:
            return _shape(count, self.inputs)
        if axis is None:
            return _whole(header)
        spans = [
            (self._elements(first, axis, header), self._elements(number, axis, header)) for first, number in ranges
        ]
        length = header.shape[axis.index]
        shape = tuple(sum(n for _, n in spans) if at == axis.index else size for at, size in enumerate(header.shape))
        if axis.index == 0:
            row = header.size // length
            pieces: tuple[Piece, ...] = tuple(Span(header.file, header.start + s * row, n * row) for s, n in spans)
            return NewTensor(header.dtype, shape, pieces)
        unit = math.gcd(length, *(number for span in spans for number in span))
        order = tuple(at for s, n in spans for at in range(s // unit, (s + n) // unit))
        size = unit * _bytes(header.dtype)
        rows = Rows(header.file, header.start, size, header.size // size, order, length // unit)
        return NewTensor(header.dtype, shape, (rows,))

    def _elements(self, number: int, axis: Axis, header: TensorHeader) -> int:
        """The elements of so many outputs or inputs."""
        if number % axis.each:
            raise self._packed(header)
        return number // axis.each

    def _packed(self, header: TensorHeader) -> BrokenFileError:
        return BrokenFileError(
            f"{header.file}: {header.name} packs several rows into one number, so they cannot be moved apart; bake the "
            "model before it is quantised, or use `format` peft"
        )

    def _check(self, checkpoint: Checkpoint) -> None:
        """Refuse parts that are not known, or that have other shapes than the module says."""
        known = {part.name: part for part in self.layout.parts}
        for name, header in self.tensors.items():
            part = known.get(name)
            if part is None:
                raise BrokenFileError(f"{header.file}: holds {header.name}, which is not known beside {self.name}")
            for axis, number in ((part.outputs, self.outputs), (part.inputs, self.inputs)):
                if axis is not None and (
                    axis.index >= len(header.shape)
                    or len(header.shape) > 2
                    or header.dtype not in (*FLOATS, *_BYTES)
                    or header.shape[axis.index] != math.ceil(number / axis.each)
                ):
                    raise BrokenFileError(
                        f"{header.file}: {header.name} is {header.dtype} of shape {list(header.shape)}, which does not "
                        f"fit {self.outputs} outputs and {self.inputs} inputs"
                    )


def _bytes(dtype: str) -> int:
    return FLOATS[dtype].itemsize if dtype in FLOATS else _BYTES[dtype]


def _element(value: float, dtype: str) -> bytes:
    if dtype in FLOATS:
        return encode(np.array([value], np.float32), dtype)
    return int(value).to_bytes(_bytes(dtype), "little")


def _span(header: TensorHeader) -> Span:
    return Span(header.file, header.start, header.size)


def _whole(header: TensorHeader) -> NewTensor:
    return NewTensor(header.dtype, header.shape, (_span(header),))


def _shape(outputs: int, inputs: int) -> NewTensor:
    return NewTensor("I64", (2,), (np.array([outputs, inputs], "<i8").tobytes(),))


def _grown(
    header: TensorHeader, axis: int, count: int, zero: bytes, own: bytes, *, kept: int | None = None
) -> NewTensor:
    """A tensor with `count` new elements along an axis, behind the first `kept` ones (default: all).

    The first new one is `own`: an element for each place on the other axis, or one for all. The others are `zero`.
    """
    width, length = _bytes(header.dtype), header.shape[axis]
    kept = length if kept is None else kept
    others = math.prod(header.shape) // length
    shape = tuple(kept + count if at == axis else size for at, size in enumerate(header.shape))
    if axis == 0:
        first: tuple[Piece, ...] = (Span(header.file, header.start, kept * others * width),)
        first += (own,) if len(own) == others * width else (Fill(others * width, own),)
        rest = (Fill((count - 1) * others * width, zero),) if count > 1 else ()
        return NewTensor(header.dtype, shape, (*first, *rest))
    own = own if len(own) == others * width else own * others
    piece = WiderRows(header.file, header.start, length * width, others, kept * width, zero * count, 0, own)
    return NewTensor(header.dtype, shape, (piece,))
