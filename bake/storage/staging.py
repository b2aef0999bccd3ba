"""Writing beside the target first: what is not finished disappears, and the next run clears what a kill has left."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from .copying import LinkMode

try:
    import fcntl
except ImportError:  # Windows: concurrent bakes into one output are not told apart there
    fcntl = None  # type: ignore[assignment]


def prefix(out: Path, kind: str) -> str:
    """How the names of the siblings of `out` begin that are ``new`` or ``old``."""
    return f".{out.name}.emobake-{kind}-"


@contextlib.contextmanager
def staging(out: Path) -> Iterator[Path]:
    """A locked sibling of `out`; whatever is left of it at the end is removed."""
    while True:
        folder = out.parent / (prefix(out, "new") + secrets.token_hex(4))
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
def parents(out: Path) -> Iterator[None]:
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


def clear_remains(out: Path) -> None:
    """Remove what killed runs have left; a folder that a living run holds locked stays."""
    for kind in ("new", "old"):
        for folder in out.parent.glob(escape(prefix(out, kind)) + "*"):
            # Another run may be clearing the same; and what is half removed must never be put back as "old".
            with contextlib.suppress(OSError):
                if not _in_use(folder):
                    rest = folder.rename(out.parent / (prefix(out, "new") + secrets.token_hex(4)))
                    shutil.rmtree(rest, ignore_errors=True)


def escape(text: str) -> str:
    """A pattern of `glob` for exactly `text`."""
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


def explain(error: OSError, out: Path, link_mode: LinkMode) -> str:
    """What a failed write means to the user, in one line."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"--out {out}: the disk is full; nothing was kept. Free some space, or try --link-mode hardlink"
    if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
        return f"--out {out}: something else was put there meanwhile; nothing was kept. Choose another folder"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"--out {out}: no permission ({error.strerror}: {error.filename}); nothing was kept"
    if error.errno in (errno.EXDEV, errno.EOPNOTSUPP, errno.EMLINK):
        return f"--link-mode {link_mode} does not work here ({error.strerror}); nothing was kept. Use --link-mode copy"
    return f"--out {out}: {error.strerror or error} ({error.filename}); nothing was kept"
