"""Atomic output: write to a sibling folder, then rename. A later run clears what a killed one left behind."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from ..core.outputs import LinkMode

try:
    import fcntl
except ImportError:  # Windows: concurrent bakes into one output are not told apart there.
    fcntl = None  # type: ignore[assignment]


def staged_name(out: Path, kind: Literal["new", "old"]) -> str:
    """A fresh name for a sibling of `out`: the ``new`` output that is being written, or the ``old`` one put aside."""
    return _prefix(out, kind) + secrets.token_hex(4)


def staged(out: Path, kind: Literal["new", "old"]) -> list[Path]:
    """Siblings of `out` that `staged_name` named."""
    return sorted(out.parent.glob(_escape(_prefix(out, kind)) + "*"))


@contextlib.contextmanager
def staging(out: Path) -> Iterator[Path]:
    """A locked sibling folder of `out`; whatever is left in it at the end is removed."""
    while True:
        folder = out.parent / staged_name(out, "new")
        folder.mkdir()
        descriptor = -1
        # Another run may clear the folder before it is locked; then start over.
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
def parents(out: Path) -> Iterator[None]:
    """Make the folders above `out`; those that were new are removed again if the run fails."""
    made = [parent for parent in out.parents if not parent.exists()]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for parent in made:
            with contextlib.suppress(OSError):
                parent.rmdir()
        raise


def clear_remains(out: Path) -> None:
    """Remove what killed runs left behind; a folder that a running bake holds locked stays."""
    for folder in (*staged(out, "new"), *staged(out, "old")):
        # Another run may clear the same folder. A half removed one must never be put back as "old".
        with contextlib.suppress(OSError):
            if not _in_use(folder):
                rest = folder.rename(out.parent / staged_name(out, "new"))
                shutil.rmtree(rest, ignore_errors=True)


def explain(error: OSError, out: Path, link_mode: LinkMode = "copy") -> str:
    """Explain a failed write in one line."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"`out` {out}: the disk is full; nothing was kept. Free some space, or try `link_mode` hardlink"
    if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
        return f"`out` {out}: something else was put there meanwhile; nothing was kept. Choose another name"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"`out` {out}: no permission ({error.strerror}: {error.filename}); nothing was kept"
    if error.errno in (errno.EXDEV, errno.EOPNOTSUPP, errno.EMLINK):
        return f"`link_mode` {link_mode} does not work here ({error.strerror}); nothing was kept. Use `link_mode` copy"
    return f"`out` {out}: {error.strerror or error} ({error.filename}); nothing was kept"


def _prefix(out: Path, kind: str) -> str:
    return f".{out.name}.emobake-{kind}-"


def _escape(text: str) -> str:
    """A glob pattern for exactly `text`."""
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
