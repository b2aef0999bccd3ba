"""The executor that writes a GGUF file, or the files of a split set, all or nothing.

Everything is written into a sibling folder and renamed at the end. Of a set, the first file, which is the one that
llama.cpp opens, appears last.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ..core.plan import Assemble, BakePlan, Write
from ..errors import OutputError
from .copying import Progress, assemble
from .staging import clear_remains, explain, parents, staging


def execute(plan: BakePlan, out: Path, *, overwrite: bool = False, progress: Progress = lambda _: None) -> None:
    """Write the plan's files into the folder of `out`.

    Memory stays below the size of the plan (the metadata and the biases) plus a few megabytes, whatever the size of
    the tensors. With `overwrite`, what `check_gguf_output` has let pass is replaced once all is complete.

    Raises:
        OutputError: the disk is full, no permission, or what was written does not read back.

    """
    try:
        clear_remains(out)
        with parents(out), staging(out) as folder:
            for file in plan.files:
                if isinstance(file, Assemble):
                    assemble(file, folder / file.name, progress)
                    _compare(file, folder / file.name)
                else:
                    assert isinstance(file, Write), "a GGUF is made of parts"
                    (folder / file.name).write_bytes(file.data)
            _publish([file.name for file in plan.files], folder, out.parent, overwrite=overwrite)
    except OSError as error:
        raise OutputError(explain(error, out, "copy")) from error


def _compare(file: Assemble, path: Path) -> None:
    """Read back every new byte, the header among them. (The gguf package's reader would need more than the memory.)"""
    position, same = 0, path.stat().st_size == file.size + file.new
    with path.open("rb") as written:
        for part in file.parts:
            if isinstance(part, bytes):
                written.seek(position)
                same = same and written.read(len(part)) == part
            position += len(part) if isinstance(part, bytes) else part.size
    if not same:
        raise OutputError(f"{file.name}: was written but does not read back; run again")


def _publish(names: Sequence[str], folder: Path, target: Path, *, overwrite: bool) -> None:
    first, *others = names
    if overwrite and others:
        # Never the first file of one bake beside the others of another.
        (target / first).unlink(missing_ok=True)
    done: list[Path] = []
    try:
        for name in (*others, first):
            if overwrite:
                (folder / name).replace(target / name)
            else:
                _appear(folder / name, target / name)
                done.append(target / name)
    except BaseException:
        for path in done:
            path.unlink(missing_ok=True)
        raise


def _appear(staged: Path, target: Path) -> None:
    """Give a file its name; fails when something has come into being there meanwhile."""
    try:
        target.hardlink_to(staged)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if os.path.lexists(target):
            raise FileExistsError(17, "exists already", str(target)) from None
        staged.rename(target)
