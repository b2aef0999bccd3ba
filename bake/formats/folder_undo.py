"""The undo data of a folder: of a baked checkpoint or a steered adapter."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from ..core.inverse import IrreversibleError, invert
from ..core.limits import MAX_UNDO
from ..core.plan import PlannedFile, new_file
from ..core.record import Record
from ..core.side_files import REPLACED, is_carried
from ..core.undo import UNDO_FILE, Undo
from ..errors import InputError

_HEADER = 8
"""Bytes of the length of a header, which is read by itself: a file on the Hub then gives no more than the header."""


@dataclass(frozen=True, eq=False)
class BaseFiles:
    """The files of a base, and how those that an output does not hold are read."""

    weights: Mapping[str, int]
    """Weight file -> bytes."""
    side_files: Mapping[str, int]
    """Other file -> bytes; folders end in ``/``."""
    read: Callable[[str, int, int], bytes]
    """Reads ``(file, offset, size)`` of a weight file."""
    read_side: Callable[[str], bytes]
    """Reads a side file whole."""
    left_out: Sequence[str] = ()
    """Files that the output does not have; none for a base on the Hub, of which not all may be known here."""


def with_undo(
    files: Sequence[PlannedFile], record: Record, base: BaseFiles, irreversible: str = ""
) -> tuple[tuple[PlannedFile, ...], Record]:
    """Add the undo data to the planned `files` of an output and to its `record`; or the reason why there are none."""
    try:
        if irreversible:
            raise IrreversibleError(irreversible)
        data = _undo_of(files, base).pack()
    except IrreversibleError as error:
        return tuple(files), replace(record, irreversible=str(error))
    return (*files, new_file(UNDO_FILE, data)), replace(record, undo=hashlib.sha256(data).hexdigest())


def _undo_of(files: Sequence[PlannedFile], base: BaseFiles) -> Undo:
    """Invert the planned files.

    Raises:
        IrreversibleError: as `invert`.
    """
    carried = {file.source for file in files if file.source}
    wanted = {name: size for name, size in sorted(base.side_files.items()) if _is_restored(name)}
    kept = {name: data for name in wanted if name not in carried and (data := _side(base, name)) is not None}
    sizes = {**base.weights, **{name: size for name, size in wanted.items() if name in carried or name in kept}}

    def read(name: str, offset: int, size: int) -> bytes:
        if name in kept:
            return kept[name][offset : offset + size]
        if offset == 0 and size > _HEADER:
            return base.read(name, 0, _HEADER) + base.read(name, _HEADER, size - _HEADER)
        return base.read(name, offset, size)

    made = invert(((file.name, file.pieces) for file in files), sizes, read, MAX_UNDO // 2)
    missing = [name for name in wanted if name not in sizes]
    return Undo.of(made, {file.name: file.size for file in files}, sorted({*base.left_out, *missing}))


def _is_restored(name: str) -> bool:
    """True for a side file of a base that is made again: one that bakes carry, or write anew."""
    return not name.endswith("/") and (is_carried(name) or name.lower() in (*REPLACED, "adapter_config.json"))


def _side(base: BaseFiles, name: str) -> bytes | None:
    """A side file that the output does not hold; None if it cannot be read whole."""
    try:
        data = base.read_side(name)
    except InputError:
        return None
    return data if len(data) == base.side_files[name] else None
