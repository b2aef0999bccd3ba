"""The executor that carries a plan out into a local directory, all or nothing.

Everything is written into a sibling folder that is renamed at the end: killed at any moment, the output is
absent or complete (or, when it replaces an older one, that older one), and the next run clears the remains.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open

from .copying import LinkMode, Progress, apply, carry
from .errors import InputError, OutputError
from .plan import BakePlan, Carry, Patch, Write

try:
    import fcntl
except ImportError:  # Windows: concurrent bakes into one output are not told apart there
    fcntl = None  # type: ignore[assignment]


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
        _clear_remains(out)
        with _parents(out), _staging(out) as folder:
            for file in plan.files:
                _write(file, source, folder, link_mode, progress)
            _read_back(plan, folder)
            _publish(folder, out, overwrite=overwrite)
    except OSError as error:
        raise OutputError(_explain(error, out, link_mode)) from error


def _write(file: Carry | Patch | Write, source: Path, folder: Path, link_mode: LinkMode, progress: Progress) -> None:
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


def _prefix(out: Path, kind: str) -> str:
    return f".{out.name}.emobake-{kind}-"


@contextlib.contextmanager
def _staging(out: Path) -> Iterator[Path]:
    """A locked sibling of `out`; whatever is left of it at the end is removed."""
    while True:
        folder = out.parent / (_prefix(out, "new") + secrets.token_hex(4))
        folder.mkdir()
        descriptor = -1
        # Another run may take the folder for remains before the lock is on it; then begin again.
        with contextlib.suppress(FileNotFoundError):
            if fcntl:
                descriptor = os.open(folder, os.O_RDONLY)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            folder.stat()
            break
        if fcntl and descriptor >= 0:
            os.close(descriptor)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if fcntl:
            os.close(descriptor)


@contextlib.contextmanager
def _parents(out: Path) -> Iterator[None]:
    """The folders above `out`; those that had to be made are removed again when the run fails."""
    made = [parent for parent in out.parents if not parent.exists()]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for parent in made:
            with contextlib.suppress(OSError):
                parent.rmdir()
        raise


def _publish(folder: Path, out: Path, *, overwrite: bool) -> None:
    if not (overwrite and out.exists()):
        # Fails when something has come into being there meanwhile, unless that is an empty folder.
        folder.rename(out)
        return
    old = out.parent / (_prefix(out, "old") + secrets.token_hex(4))
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
        for old in sorted(out.parent.glob(_escape(_prefix(out, "old")) + "*")):
            with contextlib.suppress(OSError):
                old.rename(out)
                return


def _clear_remains(out: Path) -> None:
    """Remove what killed runs have left; a folder that a living run holds locked stays."""
    for kind in ("new", "old"):
        for folder in out.parent.glob(_escape(_prefix(out, kind)) + "*"):
            # Another run may be clearing the same; and what is half removed must never be put back as "old".
            with contextlib.suppress(OSError):
                if not _in_use(folder):
                    rest = folder.rename(out.parent / (_prefix(out, "new") + secrets.token_hex(4)))
                    shutil.rmtree(rest, ignore_errors=True)


def _escape(text: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in text)


def _in_use(folder: Path) -> bool:
    if fcntl is None:
        return False
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _explain(error: OSError, out: Path, link_mode: LinkMode) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"--out {out}: the disk is full; nothing was kept. Free some space, or try --link-mode hardlink"
    if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
        return f"--out {out}: something else was put there meanwhile; nothing was kept. Choose another folder"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"--out {out}: no permission ({error.strerror}: {error.filename}); nothing was kept"
    if error.errno in (errno.EXDEV, errno.EOPNOTSUPP, errno.EMLINK):
        return f"--link-mode {link_mode} does not work here ({error.strerror}); nothing was kept. Use --link-mode copy"
    return f"--out {out}: {error.strerror or error} ({error.filename}); nothing was kept"
