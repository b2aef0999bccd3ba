"""Laying a GGUF file out: its header, and behind it each tensor's bytes where the header says that they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...core.plan import Rows, Span
from .header import Field, padded, serialize_gguf, text_field, unpadded_length

_PAGE = 4096
_PADDING = "emobake.padding"


@dataclass(frozen=True)
class Placed:
    """A tensor of the result."""

    name: str
    kind: int
    shape: tuple[int, ...]
    part: bytes | Span | Rows


def layout(
    version: int, alignment: int, fields: Iterable[Field], tensors: Sequence[Placed]
) -> Iterable[bytes | Span | Rows]:
    """The bytes of a file; tensors that follow one another in the base's file, padding and all, as one span."""
    sizes = [len(t.part) if isinstance(t.part, bytes) else t.part.size for t in tensors]
    described = [(t.name, t.kind, t.shape, size) for t, size in zip(tensors, sizes, strict=True)]
    fields = [*fields, _padding(version, alignment, list(fields), described, tensors)]
    pending: bytes | Span | Rows = serialize_gguf(version, alignment, fields, described)
    gap = 0
    for tensor, size in zip(tensors, sizes, strict=True):
        part = tensor.part
        follows = (
            isinstance(pending, Span)
            and isinstance(part, Span)
            and (pending.source, pending.offset + pending.size + gap) == (part.source, part.offset)
        )
        if follows:
            assert isinstance(pending, Span)
            pending = Span(pending.source, pending.offset, pending.size + gap + size)
        elif isinstance(pending, bytes) and isinstance(part, bytes):
            pending = pending + bytes(gap) + part
        elif isinstance(pending, bytes):
            yield pending + bytes(gap)
            pending = part
        else:
            yield pending
            pending = bytes(gap) + part if isinstance(part, bytes) else part
            if gap and not isinstance(part, bytes):
                yield bytes(gap)
        gap = padded(size, alignment) - size
    if isinstance(pending, bytes):
        yield pending + bytes(gap)
    else:
        yield pending
        if gap:
            yield bytes(gap)


def _padding(
    version: int,
    alignment: int,
    fields: list[Field],
    described: Sequence[tuple[str, int, tuple[int, ...], int]],
    tensors: Sequence[Placed],
) -> Field:
    """An entry of spaces, so long that the data begin at the same place of a page as in the base.

    The kernel then copies whole pages, or shares them where the file system can; else every page is two writes.
    """
    place, wanted = 0, 0
    for tensor, (*_, size) in zip(tensors, described, strict=True):
        if isinstance(tensor.part, Span):
            wanted = tensor.part.offset - place
            break
        place = padded(place + size, alignment)
    empty = text_field(_PADDING, "")
    # Not the padding behind the header: the spaces take its place.
    length = unpadded_length(version, [*fields, empty], described)
    return text_field(_PADDING, " " * ((wanted - length) % max(_PAGE, alignment)))
