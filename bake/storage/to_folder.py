"""The executor that carries a plan out into a local directory, all or nothing.

Everything is written into a sibling folder that is renamed at the end: killed at any moment, the output is
absent or complete (or, when it replaces an older one, that older one), and the next run clears the remains.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ..core.plan import Assemble, BakePlan, Carry, Patch, Write
from ..errors import InputError, OutputError
from .copying import LinkMode, Progress, apply, carry
from .staging import clear_remains, escape, explain, parents, prefix, staging


def check_output(out: Path, inputs: tuple[Path, ...], *, overwrite: bool) -> None:
    """Refuse an output that would hit the inputs or somebody's files, before anything is read.

    Raises:
        InputError: `out` exists and may not be replaced, or is, contains or lies within one of `inputs`.

    """
    target = out.resolve()
    for source in (path.resolve() for path in inputs):
        if target == source or source in target.parents or target in source.parents:
            raise InputError(f"--out {out}: is, contains or lies within the input {source}; choose another folder")
    _restore(out)
    if not os.path.lexists(out):
        parent = next(p for p in target.parents if os.path.exists(p))  # noqa: PTH110 - False where a mode forbids it
        if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
            raise InputError(f"--out {out}: no permission to write in {parent}")
        return
    if not overwrite:
        raise InputError(f"--out {out}: exists already; choose another folder or give --overwrite")
    ours = out.is_dir() and not out.is_symlink() and ((out / "emobake.json").is_file() or not any(out.iterdir()))
    if not ours:
        raise InputError(f"--out {out}: is not an earlier output of emobake, so --overwrite leaves it alone")


def execute(
    plan: BakePlan,
    source: Path,
    out: Path,
    *,
    link_mode: LinkMode = "auto",
    overwrite: bool = False,
    progress: Progress = lambda _: None,
) -> None:
    """Write the plan's files into the new folder `out`, from the checkpoint in the folder `source`.

    Hard and symbolic links stand for whole weight files only; a file with edits is always copied. Memory
    stays below the size of the plan plus a few megabytes, whatever the size of the weights. With `overwrite` an
    existing `out` (which `check_output` has let pass) is replaced once the new one is complete.

    Raises:
        OutputError: the disk is full, no permission, or what was written does not read back.

    """
    try:
        clear_remains(out)
        with parents(out), staging(out) as folder:
            for file in plan.files:
                _write(file, source, folder, link_mode, progress)
            _read_back(plan, folder)
            _publish(folder, out, overwrite=overwrite)
    except OSError as error:
        raise OutputError(explain(error, out, link_mode)) from error


def _write(
    file: Carry | Patch | Write | Assemble, source: Path, folder: Path, link_mode: LinkMode, progress: Progress
) -> None:
    assert not isinstance(file, Assemble), "a GGUF file has an executor of its own"
    target = folder / file.name
    target.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(file, Write):
        target.write_bytes(file.data)
        return
    if isinstance(file, Carry):
        carry(source / file.source, target, link_mode if file.weights else "auto", progress)
    else:
        carry(source / file.source, target, link_mode if link_mode in ("copy", "reflink") else "auto", progress)
        apply(file.edits, target)
    if target.stat().st_size != file.size:
        raise OutputError(f"{file.source}: changed while it was copied; run again")


def _read_back(plan: BakePlan, folder: Path) -> None:
    """Read the headers of what was written through the safetensors library, an independent reader."""
    for file in plan.files:
        if file.name.endswith(".safetensors") and not (isinstance(file, Carry) and file.weights):
            try:
                with safe_open(folder / file.name, framework="numpy") as tensors:
                    tensors.keys()
            except SafetensorError as error:
                raise OutputError(f"{file.name}: was written but does not read back ({error}); run again") from None


def _publish(folder: Path, out: Path, *, overwrite: bool) -> None:
    if not (overwrite and out.exists()):
        # Fails when something has come into being there meanwhile, unless that is an empty folder.
        folder.rename(out)
        return
    old = out.parent / (prefix(out, "old") + secrets.token_hex(4))
    out.rename(old)
    try:
        folder.rename(out)
    except OSError:
        old.rename(out)
        raise
    # `_staging` removes it under this name: an output that is half removed must never be put back.
    old.rename(folder)


def _restore(out: Path) -> None:
    """Put an older output back that a run killed between the two renames had moved aside."""
    if not os.path.lexists(out) and os.path.isdir(out.parent):  # noqa: PTH112 - False where a mode forbids to look
        for old in sorted(out.parent.glob(escape(prefix(out, "old")) + "*")):
            with contextlib.suppress(OSError):
                old.rename(out)
                return
