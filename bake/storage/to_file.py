"""The executor that writes a GGUF file, or the files of a split set, all or nothing.

Everything is written into a sibling folder and renamed at the end. Of a set, the first file, which is the one that
llama.cpp opens, appears last.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from ..errors import EmobakeError, InputError, OutputError
from ..formats.checkpoint.plan import Assemble, BakePlan, Write
from ..formats.gguf.header import parse_gguf
from ..formats.gguf.model import RECORD, GgufModel
from .copying import Progress, assemble
from .files import read_at
from .staging import clear_remains, explain, parents, staging


def check_gguf_output(
    targets: Sequence[Path], inputs: Sequence[Path], *, overwrite: bool, texts: Sequence[Path] = ()
) -> None:
    """Refuse outputs that would hit the inputs or somebody's files, before anything large is read.

    `texts` are small files beside the models, which replace only what begins as ours do.

    Raises:
        InputError: one of them exists and may not be replaced, or is one of `inputs`.

    """
    sources = {path.resolve() for path in inputs}
    for out in (*targets, *texts):
        target = out.resolve()
        if target in sources:
            raise InputError(f"--out {out}: is the input; choose another name")
        if os.path.lexists(out):
            if not overwrite:
                raise InputError(f"--out {out}: exists already; choose another name or give --overwrite")
            if not (_is_our_text(out) if out in texts else _is_ours(out)):
                raise InputError(f"--out {out}: is not an earlier output of emobake, so --overwrite leaves it alone")
        else:
            parent = next(p for p in target.parents if os.path.exists(p))  # noqa: PTH110 - False where a mode forbids it
            if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
                raise InputError(f"--out {out}: no permission to write in {parent}")


def _is_ours(out: Path) -> bool:
    with contextlib.suppress(EmobakeError, OSError):
        if out.is_file() and not out.is_symlink():
            header = parse_gguf(str(out), out.stat().st_size, read_at(out))
            # The further files of a split set have no metadata but their number.
            return bool(header.text(RECORD)) or (header.number("split.no") or 0) > 0
    return False


def _is_our_text(out: Path) -> bool:
    return out.is_file() and out.read_bytes()[:2000].startswith(b"# Made by emobake")


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


def inputs_of(model: GgufModel) -> list[Path]:
    """The files that a model was opened from."""
    return [Path(header.file) for header in model.files]
