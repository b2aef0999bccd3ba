"""`unbake`: the base of a baked output, made again of the output alone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path

from ..core.outputs import Folder, GgufFile, parse_output
from ..core.progress import Advance, Progress, no_advance, no_progress
from ..core.record import Record
from ..errors import BrokenFileError, InputError
from ..formats.adapter.detect import is_adapter
from ..formats.checkpoint.open import open_base
from ..formats.restoring import Restorable, Restoration, open_restorable, plan_restoration, why_not
from ..storage.files import reading
from ..storage.local import check_files, check_folder, write_files, write_folder
from ..storage.model_name import ModelName
from ..storage.publish import parents, staging

_NOTES = {
    "steered": "it is the adapter that was baked; the base of that was never changed",
    "merged": "it is the base with the adapter merged into it, which is what was baked",
    "served": "the adapter that the output carries is not part of it: take it from the folder `adapter` there",
}
"""Use of an adapter -> a sentence on the restored model."""


@dataclass(frozen=True)
class Unbaked:
    """A base that was made again."""

    out: Path
    """The folder, or the first GGUF file."""
    model: str
    """Hub id of the base, perhaps with ``@`` and its commit; empty if unknown."""
    bakes: int
    """Number of bakes that were undone."""
    files: Mapping[str, int]
    """File -> bytes."""
    proved: tuple[str, ...]
    """Weight files that have the sha256 which the record keeps of the base's."""
    unproved: tuple[str, ...]
    """Weight files of which it keeps none."""
    left_out: tuple[str, ...]
    """Files of the base that no bake carries, and that are missing here; those of a base on the Hub are not known."""
    notes: tuple[str, ...] = ()
    """Sentences on what the restored model is."""


def unbake(
    baked: str | os.PathLike[str] | ModelName,
    out: str | os.PathLike[str] | Folder | GgufFile,
    *,
    last: bool = False,
    progress: Progress = no_progress,
) -> Unbaked:
    """Make the base of a baked output again, byte for byte, of that output alone.

    The weight files are compared with the sha256 that the record keeps of the base's, where it keeps one, before
    anything is published; the other files always.

    Args:
        baked: the folder of a checkpoint or a steered adapter, a GGUF file (of a set the first), or a Hub repository,
            perhaps with ``@revision``, which is downloaded.
        out: the folder to write, or the ``.gguf`` file for a base that is one; or a `Folder` or `GgufFile`. A base that
            was a set of files becomes such a set again.
        last: of a model that was baked more than once, undo the last bake alone; else all.
        progress: told of the bytes that are carried over.

    Raises:
        InputError: (exit code 2) no output of emobake, one whose base cannot be made again of it, or one that was
            changed since; nothing was written.
        OutputError, HubError: (exit code 1) writing or the Hub failed; what was begun has been removed.
    """
    target = parse_output(out)
    if target is None:
        raise InputError("give `out`, the folder or file to write")
    name = ModelName.parse(baked)
    with reading():
        first = open_restorable(_fetched(name))
        steps = [first.record] if last else _steps(first.record)
        _check_steps(name, steps)
        _check_out(target, first, steps)
    advance = progress("restoring", 0, sum(file.size for file in first.undo.files))
    if len(steps) == 1:
        return _result(first, _write(first, target, advance), target, steps)
    with parents(target.target), staging(target.target) as stage:
        found = first
        for number, record in enumerate(steps[1:]):
            with reading():
                found = _step(found, stage.new / f"before-{number}")
            if replace(found.record, earlier=()) != record:
                raise BrokenFileError(
                    f"{name}: is not a bake of what its record says was baked before; it was changed since"
                )
            shutil.rmtree(stage.new / f"before-{number - 1}", ignore_errors=True)
        _check_out(target, found, steps[-1:])
        return _result(found, _write(found, target, advance), target, steps)


def _fetched(name: ModelName) -> Path:
    """Path of an output; that of the Hub is downloaded."""
    if name.is_local:
        return name.path
    if is_adapter(name):
        from ..storage.hub.download import download_adapter

        return download_adapter(name.name, name.revision)
    return open_base(name).fetch()


def _steps(record: Record) -> list[Record]:
    """The bakes of which each was made of the output of the next in the list; the last one first."""

    def is_of_its_kind(earlier: Record) -> bool:
        # An adapter's history may be that of its base, which no bake of the adapter has changed.
        return (earlier.form, earlier.route == "lora") == (record.form, record.route == "lora")

    return [record, *takewhile(is_of_its_kind, reversed(record.history))]


def _check_steps(name: ModelName, steps: list[Record]) -> None:
    """Refuse a model that was baked more than once, if an earlier bake cannot be undone."""
    for number, record in enumerate(steps[1:], 2):
        if reason := why_not(f"{name}: was baked {len(steps)} times; bake {len(steps) - number + 1}", record):
            raise InputError(f"{reason}. `last` undoes the last bake alone")


def _check_out(out: Folder | GgufFile, restorable: Restorable, steps: list[Record]) -> None:
    """Refuse a place that does not go with the base, or that may not be written."""
    place = restorable.place
    is_gguf = restorable.record.form == "gguf"
    if is_gguf != isinstance(out, GgufFile):
        kind = "a GGUF file; give a name that ends in .gguf" if is_gguf else "a folder; give a name without .gguf"
        raise InputError(f"`out` {out.target}: the base of {place} is {kind}")
    if isinstance(out, Folder):
        check_folder(out, [restorable.folder])
        return
    from .bake_gguf import is_our_gguf

    weights = [weight for weight in steps[-1].base.weights if weight.name.endswith(".gguf")]
    # Of a base that is several bakes away, only its record tells the number; a converter makes one file.
    names = _names(out, len(restorable.undo.files) if len(steps) == 1 else max(1, len(weights)))
    model_files = restorable.output.names or ()
    check_files(out, dict.fromkeys(names, is_our_gguf), [restorable.folder / name for name in model_files])


def _names(out: GgufFile, count: int) -> list[Path]:
    """Paths of the files of a GGUF base."""
    from ..formats.gguf.model import split_path

    return [split_path(out.target, number, count) for number in range(1, count + 1)] if count > 1 else [out.target]


def _step(restorable: Restorable, folder: Path) -> Restorable:
    """Undo one bake of several into a temporary `folder`, and open the result."""
    if restorable.record.form == "gguf":
        folder.mkdir()
        made = GgufFile(folder / "model.gguf")
        _write(restorable, made, no_advance)
        return open_restorable(_names(made, len(restorable.undo.files))[0])
    # By links, because it is only read.
    _write(restorable, Folder(folder, link_mode="symlink"), no_advance)
    return open_restorable(folder)


def _write(restorable: Restorable, out: Folder | GgufFile, advance: Advance) -> Restoration:
    """Write the base of an output, once it is seen to be the one that the record names."""
    if isinstance(out, Folder):
        plan = plan_restoration(restorable)
    else:
        plan = plan_restoration(restorable, [path.name for path in _names(out, len(restorable.undo.files))])

    def accept(folder: Path) -> None:
        plan.check(folder, restorable)

    if isinstance(out, Folder):
        write_folder(plan.files, restorable.folder, out, advance, restorable.stamps, accept)
    else:
        write_files(plan.files, restorable.folder, out, advance, restorable.stamps, accept)
    return plan


def _result(restorable: Restorable, plan: Restoration, out: Folder | GgufFile, steps: list[Record]) -> Unbaked:
    record = restorable.record
    base, use = record.base, "" if record.adapter is None else record.adapter.how
    notes = [_NOTES[use]] if use in _NOTES else []
    if record.form == "gguf" and any(weight.name.endswith(".safetensors") for weight in base.weights):
        notes.append("it is the file that llama.cpp's converter made of the base, which is what was baked")
    if base.model and base.revision and record.form == "checkpoint" and use != "merged":
        notes.append(f"what bakes do not carry of {base.model}, such as other forms of its weights, is on the Hub")
    return Unbaked(
        out=out.target if isinstance(out, Folder) else _names(out, len(plan.files))[0],
        model=base.model + (f"@{base.revision}" if base.model and base.revision else ""),
        bakes=len(steps),
        files={file.name: file.size for file in plan.files},
        proved=tuple(plan.digests),
        unproved=plan.unproved,
        left_out=restorable.undo.left_out,
        notes=tuple(notes),
    )
