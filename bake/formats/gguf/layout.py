"""The layout of a GGUF file: its header, then each tensor's bytes at the offset that the header names."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...core.plan import Piece, Span, piece_size
from ...core.tensors import TensorHeader
from .header import Described, Field, padded, serialize_gguf, text_field, unpadded_length

_PAGE = 4096
PADDING = "emobake.padding"
"""Key of the entry of spaces that moves the data to their place of a page."""
METADATA = "metadata"
"""Name under which a record keeps `metadata_digest`."""


@dataclass(frozen=True)
class Placed:
    """A tensor of the result; `shape` with the slowest dimension first."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]
    """Its bytes."""

    @classmethod
    def carried(cls, tensor: TensorHeader) -> Placed:
        """A tensor of the base, unchanged."""
        return cls(tensor.name, tensor.dtype, tensor.shape, (Span(tensor.file, tensor.start, tensor.size),))

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(map(piece_size, self.pieces))

    @property
    def described(self) -> Described:
        """Its entry in the header."""
        return Described(self.name, self.dtype, self.shape, self.size)


def layout(
    version: int, alignment: int, fields: Sequence[Field], tensors: Sequence[Placed], *, place: int | None = None
) -> tuple[Piece, ...]:
    """Lay out a file. Tensors that follow one another in the base's file, padding included, become one span.

    The data begin at `place` of a page; by default at that of the base, see `place_of_data`.
    """
    described = [tensor.described for tensor in tensors]
    place = place_of_data(alignment, tensors) if place is None else place
    fields = [*fields, _padding(version, alignment, fields, tensors, place)]
    # The header may have megabytes of vocabulary: it joins the first piece once, not again with each small tensor.
    header = serialize_gguf(version, alignment, fields, described)
    pieces: list[Piece] = [b""]
    gap = 0
    """Bytes between the last piece and the next tensor."""
    for tensor in tensors:
        for piece in tensor.pieces:
            _append(pieces, gap, piece)
            gap = 0
        gap = padded(tensor.size, alignment) - tensor.size
    _append(pieces, gap, b"")
    first, *others = pieces
    assert isinstance(first, bytes)
    return header + first, *others


def metadata_digest(files: Iterable[tuple[Sequence[Field], Sequence[Described]]]) -> str:
    """Digest of all metadata but emobake's own, and of the tensors' names, types and shapes, file by file."""
    digest = hashlib.sha256()

    def add(*parts: bytes) -> None:
        for part in parts:
            digest.update(len(part).to_bytes(8, "little") + part)

    for fields, tensors in files:
        kept = [field for field in fields if not field.key.startswith("emobake.")]
        add(b"%d fields, %d tensors" % (len(kept), len(tensors)))
        for field in kept:
            add(field.key.encode(), b"%d" % field.kind, field.data)
        for tensor in tensors:
            add(tensor.name.encode(), tensor.dtype.encode(), repr(tensor.shape).encode())
    return digest.hexdigest()


def _append(pieces: list[Piece], gap: int, piece: Piece) -> None:
    """Append `gap` zero bytes and `piece`, joined with the last piece where that gives the same bytes."""
    last = pieces[-1]
    if (
        isinstance(last, Span)
        and isinstance(piece, Span)
        and (last.source, last.offset + last.size + gap) == (piece.source, piece.offset)
    ):
        pieces[-1] = Span(last.source, last.offset, last.size + gap + piece.size)
        return
    new = bytes(gap) + piece if isinstance(piece, bytes) else bytes(gap)
    if isinstance(last, bytes):
        pieces[-1] = last + new
    elif new:
        pieces.append(new)
    if not isinstance(piece, bytes):
        pieces.append(piece)


def place_of_data(alignment: int, tensors: Sequence[Placed]) -> int:
    """Byte of a page at which the data must begin for the base's bytes to lie at the same place of a page as there.

    The kernel then copies whole pages, or shares them where the file system can; otherwise every page is two writes.
    """
    place = 0
    for tensor in tensors:
        if isinstance(tensor.pieces[0], Span):
            return (tensor.pieces[0].offset - place) % max(_PAGE, alignment)
        place = padded(place + tensor.size, alignment)
    return 0


def _padding(version: int, alignment: int, fields: Sequence[Field], tensors: Sequence[Placed], place: int) -> Field:
    """An entry of spaces, as long as it takes for the data to begin at `place` of a page."""
    empty = text_field(PADDING, "")
    # Without the padding behind the header, which the spaces replace.
    length = unpadded_length(version, [*fields, empty], [tensor.described for tensor in tensors])
    return text_field(PADDING, " " * ((place - length) % max(_PAGE, alignment)))
