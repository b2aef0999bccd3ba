"""The undo data of a GGUF file: the files of its base, made of its tensors and of large entries of its metadata.

They name no place in a file: a mood may be a set that shares a file, and become one file by `join`. So the sources of
their pieces are ``t:`` and a tensor's name, or ``f:`` and a key.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ...core.inverse import IrreversibleError, invert
from ...core.limits import MAX_UNDO
from ...core.names import is_plain
from ...core.plan import Piece, PlannedFile, Span, Woven
from ...core.record import Record
from ...core.tensors import TensorHeader
from ...core.undo import Undo
from ...errors import BrokenFileError
from ...storage.files import read_at
from .header import Field, GgufHeader, field_bytes, field_size, text_field
from .layout import Placed
from .model import UNDO_KEY, GgufModel

_TENSOR, _FIELD = "t:", "f:"
_BEGINNING = 24
"""Bytes of a header before its first entry."""
_MOST = MAX_UNDO // 8
"""Bytes that may be kept, so that there is room for them in a header."""
_LARGE = 256
"""Bytes of an entry from which on it is not kept, but taken from the output; a vocabulary has megabytes."""


def with_undo(
    record: Record, model: GgufModel, fields: Sequence[Field], tensors: Sequence[Placed]
) -> tuple[Record, list[Field]]:
    """Add the digest of the undo data to the `record` of an output with these `fields` and `tensors`, made of `model`.

    Returns the record, and the entry that holds the data: a text, which readers of GGUF files skip as a whole. Where
    there are none, the record says why.
    """
    if record.irreversible:
        return record, []
    try:
        data = _pack(model, fields, tensors)
    except IrreversibleError as error:
        return replace(record, irreversible=str(error)), []
    record = replace(record, undo=hashlib.sha256(data).hexdigest())
    return record, [text_field(UNDO_KEY, base64.b64encode(data).decode())]


def undo_data(model: GgufModel) -> bytes:
    """The undo data in a file; empty if it has none.

    Raises:
        BrokenFileError: the entry is none.
    """
    try:
        return base64.b64decode(model.header.text(UNDO_KEY).encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise BrokenFileError(f"{model.name}: its {UNDO_KEY} is not what a bake keeps of its base") from None


def plan_undo(undo: Undo, model: GgufModel, names: Sequence[str]) -> tuple[PlannedFile, ...]:
    """Plan the files of the base by the `names`, as many as there are, made of the output `model`.

    Raises:
        BrokenFileError: a tensor or an entry of the output is missing, or has another size than the bake gave it.
    """
    places = {source: _located(model, source, size) for source, size in undo.sources.items()}
    return tuple(
        PlannedFile(name, tuple(_placed(piece, places) for piece in file.pieces), weights=True)
        for name, file in zip(names, undo.files, strict=True)
    )


def _pack(model: GgufModel, fields: Sequence[Field], tensors: Sequence[Placed]) -> bytes:
    """The undo data of an output.

    Raises:
        IrreversibleError: as `invert`.
    """
    large = {field.key: field for field in fields if _is_large(field)}
    outputs: list[tuple[str, Sequence[Piece]]] = [(_TENSOR + tensor.name, tensor.pieces) for tensor in tensors]
    for header in model.files:
        outputs += _entries(header, large)
    sizes = {_TENSOR + tensor.name: tensor.size for tensor in tensors}
    sizes |= {_FIELD + key: field_size(field) for key, field in large.items()}

    def read(name: str, offset: int, size: int) -> bytes:
        return read_at(model.folder / name)(offset, size)

    base = {Path(header.file).name: header.size for header in model.files}
    return Undo.of(invert(outputs, base, read, _MOST), sizes).pack()


def _is_large(field: Field) -> bool:
    # Numbers of the set's own files are not the output's.
    return len(field.data) >= _LARGE and is_plain(field.key) and not field.key.startswith(("split.", "emobake."))


def _entries(header: GgufHeader, large: dict[str, Field]) -> Iterator[tuple[str, Sequence[Piece]]]:
    """Entries of the output that are the ones of a file of the base, with their places there."""
    position = _BEGINNING
    for field in header.fields:
        size = field_size(field)
        if large.get(field.key) == field:
            yield _FIELD + field.key, (Span(Path(header.file).name, position, size),)
        position += size


def _located(model: GgufModel, source: str, size: int) -> TensorHeader | bytes:
    """The tensor of the output that a source names, or the bytes of an entry."""
    name = source[2:]
    found: TensorHeader | bytes | None = None
    if source.startswith(_TENSOR):
        found = model.tensors.get(name)
    elif source.startswith(_FIELD) and name in model.header.by_key:
        found = field_bytes(model.header.by_key[name])
    if found is None or (len(found) if isinstance(found, bytes) else found.size) != size:
        raise BrokenFileError(f"{model.name}: {name[:120]} is not as the bake wrote it; the file was changed since")
    return found


def _placed(piece: Piece, places: dict[str, TensorHeader | bytes]) -> Piece:
    """A piece of a file, of one of a tensor or an entry."""
    if not isinstance(piece, Span | Woven):
        return piece
    place = places[piece.source]
    if isinstance(place, bytes):
        if isinstance(piece, Woven):
            raise BrokenFileError(f"{piece.source[2:][:120]}: an entry of the metadata is not woven")
        return place[piece.offset : piece.offset + piece.size]
    if isinstance(piece, Span):
        return Span(place.file, place.start + piece.offset, piece.size)
    strips = [s if isinstance(s, bytes) else replace(s, offset=s.offset + place.start) for s in piece.strips]
    return replace(piece, source=place.file, strips=tuple(strips))
