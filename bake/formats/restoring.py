"""Plans of bases: the files of which an output was made, made again of the output alone."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..core.limits import MAX_UNDO
from ..core.plan import PlannedFile, Span
from ..core.record import RECORD_FILE, Record
from ..core.side_files import REPLACED, is_carried
from ..core.tensors import WeightFile
from ..core.undo import UNDO_FILE, BaseFile, Undo
from ..errors import BrokenFileError, InputError
from ..storage.comparing import FolderFiles
from ..storage.files import Stamps, read_small, sha256_of
from .adapter.open import WEIGHTS_FILE, Adapter, open_adapter
from .check.output import Output
from .checkpoint.model import Checkpoint
from .output import open_output, read_record

_CHANGED = "it was changed since the bake"


@dataclass(frozen=True, eq=False)
class Restorable:
    """An output and its undo data, which are checked against its record."""

    place: Path
    """The folder, or the first GGUF file."""
    record: Record
    output: Output
    undo: Undo
    stamps: Stamps
    """Stamps of its files from before they were read."""

    @property
    def folder(self) -> Path:
        """The folder of its files."""
        return self.place if self.output.names is None else self.place.parent


@dataclass(frozen=True, eq=False)
class Restoration:
    """The planned files of a base."""

    files: tuple[PlannedFile, ...]
    digests: Mapping[str, str]
    """File -> sha256 that the record keeps."""
    unproved: tuple[str, ...]
    """Weight files of which it keeps none."""

    def check(self, folder: Path, restorable: Restorable) -> None:
        """Compare the written files in `folder` with the digests.

        Raises:
            BrokenFileError: one is not the base's.
        """
        for name, digest in self.digests.items():
            if sha256_of(folder / name) != digest:
                raise _not_the_base(restorable.place, name)
        record = restorable.record
        if record.route == "lora" and record.adapter is not None:
            adapter = open_adapter(folder)
            given = adapter.tensors.keys() - {entry.tensor for entry in record.biases}
            if adapter.digest_of(given) != record.adapter.sha256:
                raise _not_the_base(restorable.place, WEIGHTS_FILE)


def why_not(place: object, record: Record) -> str:
    """The reason why the base cannot be made again of the output at `place`, as a sentence; empty if it can."""
    base = record.base.model + (f"@{record.base.revision}" if record.base.revision else "")
    advice = f"take {base} as it is" if base else "take the original model"
    if record.form == "peft-each" or record.route == "adapter":
        what = "holds adapters" if record.form == "peft-each" else "is an adapter"
        return f"{place}: {what} of its own, and the base is untouched; remove the folder"
    if record.irreversible:
        return f"{place}: its base cannot be made again of it, because {record.irreversible}; {advice}"
    if not record.undo:
        return f"{place}: was baked by a version of emobake that kept nothing of the base; {advice}"
    return ""


def open_restorable(place: Path) -> Restorable:
    """Open an output, and check what its base is made of.

    Raises:
        InputError: no output, or one whose base cannot be made again; BrokenFileError: it was changed since the bake.
    """
    record = read_record(place)
    if reason := why_not(place, record):
        raise InputError(reason)
    output = open_output(place, record)
    name, data, stamps = _undo_data(place, output)
    if hashlib.sha256(data).hexdigest() != record.undo:
        raise BrokenFileError(f"{name}: is not what {output.record_name} names; {_CHANGED}")
    undo = Undo.unpack(data, name)
    _check_weights(place, record, undo)
    if output.names is None:
        _check_folder_sources(place, output, undo)
    else:
        found = output.digests(FolderFiles(place.parent, None, output.names))
        if any(found.get(key) != digest for key, digest in record.digests.items()):
            raise BrokenFileError(f"{place}: its metadata are not those that the record names; {_CHANGED}")
    return Restorable(place, record, output, undo, stamps)


def plan_restoration(restorable: Restorable, names: Sequence[str] = ()) -> Restoration:
    """Plan the files of the base; those of a GGUF base by their new `names`, as many as it has.

    Raises:
        BrokenFileError: a part of the output is missing, or has another size than the bake gave it.
    """
    record, undo = restorable.record, restorable.undo
    if restorable.output.names is None:
        files = tuple(_planned(file, undo.sources) for file in undo.files)
        weights = [file.name for file in files if file.weights]
    else:
        from .gguf.model import GgufModel
        from .gguf.undo import plan_undo

        model = restorable.output.model
        assert isinstance(model, GgufModel)
        files = plan_undo(undo, model, names)
        weights = list(names)
    recorded = _recorded(record) or ()
    digests = {name: weight.sha256 for name, weight in zip(weights, recorded, strict=False) if weight.sha256}
    # The tensors of an adapter have a digest of their own.
    unproved = () if record.route == "lora" else tuple(name for name in weights if name not in digests)
    return Restoration(files, digests, unproved)


def _not_the_base(place: Path, name: str) -> BrokenFileError:
    return BrokenFileError(
        f"{place}: {name}, made again of it, has not the digest that the record keeps of the base; {_CHANGED}, and "
        "nothing was kept"
    )


def _undo_data(place: Path, output: Output) -> tuple[str, bytes, Stamps]:
    """The undo data of an output, with their name in messages; and the stamps of its files."""
    model = output.model
    if isinstance(model, Checkpoint | Adapter):
        file = place / UNDO_FILE
        return str(file), read_small(file, most=MAX_UNDO), model.stamps
    from .gguf.model import UNDO_KEY, GgufModel
    from .gguf.undo import undo_data

    assert isinstance(model, GgufModel)
    return f"{place} ({UNDO_KEY})", undo_data(model), model.stamps


def _recorded(record: Record) -> Sequence[WeightFile] | None:
    """The weight files of the base by the record; None for a base of which it names none.

    That is an adapter, or a file that llama.cpp's converter made of the checkpoint that the record names.
    """
    weights = record.base.weights
    converted = record.form == "gguf" and any(weight.name.endswith(".safetensors") for weight in weights)
    return None if converted or record.route == "lora" else weights


def _check_weights(place: Path, record: Record, undo: Undo) -> None:
    """Compare the weight files of the undo data with those of the record."""
    recorded = _recorded(record)
    if recorded is None:
        return
    # A single GGUF file may have another name: people rename them.
    is_gguf = record.form == "gguf"
    kept = [("" if is_gguf else f.name, f.size) for f in undo.files if is_gguf or f.name.endswith(".safetensors")]
    if kept != [("" if is_gguf else weight.name, weight.size) for weight in recorded]:
        raise BrokenFileError(f"{place}: keeps other files of its base than its record names; {_CHANGED}")


def _check_folder_sources(place: Path, output: Output, undo: Undo) -> None:
    """Check the names of the base's files, and that the files of which they are made are as the bake wrote them."""
    model, record = output.model, output.record
    assert isinstance(model, Checkpoint | Adapter)
    for file in undo.files:
        known = is_carried(file.name) or file.name.lower() in (*REPLACED, "adapter_config.json")
        if not known and not (file.name.endswith(".safetensors") and "/" not in file.name):
            raise BrokenFileError(f"{place}/{UNDO_FILE}: names {file.name[:120]!r}, which is no file of a base")
    weights = {tensor.file for tensor in model.tensors.values()}
    for source, size in undo.sources.items():
        there = source in weights or source in model.side_files
        if not there or (place / source).stat().st_size != size:
            raise BrokenFileError(
                f"{place}/{source}: is missing, or has not the size that it was baked with; {_CHANGED}"
            )
        if source not in weights and sha256_of(place / source) != record.digests.get(source):
            raise BrokenFileError(f"{place}/{source}: is not as {RECORD_FILE} names it; {_CHANGED}")


def _planned(file: BaseFile, sizes: Mapping[str, int]) -> PlannedFile:
    """The plan of a file; one that the output has whole, perhaps with other bytes in places, is carried."""
    weights = file.name.endswith(".safetensors")
    return PlannedFile(file.name, file.pieces, _continued(file, sizes), weights)


def _continued(file: BaseFile, sizes: Mapping[str, int]) -> str:
    """The file of the output that a file of the base continues; empty if there is none."""
    position, sources = 0, set()
    for piece in file.pieces:
        if isinstance(piece, Span):
            sources.add(piece.source)
            if piece.offset != position:
                return ""
        elif not isinstance(piece, bytes):
            return ""
        position += len(piece) if isinstance(piece, bytes) else piece.size
    source = next(iter(sources), "")
    return source if len(sources) == 1 and sizes[source] == file.size else ""
