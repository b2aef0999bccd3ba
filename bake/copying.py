"""Carrying one file over: reflink, kernel-side copy, hardlink or symlink; and editing the copy."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

from .plan import Edit

LinkMode = Literal["auto", "reflink", "copy", "hardlink", "symlink"]
LINK_MODES: tuple[LinkMode, ...] = ("auto", "reflink", "copy", "hardlink", "symlink")

_CHUNK = 64 * 2**20
_FICLONE = 0x40049409  # linux/fs.h; the standard library has no name for it
# What a file system, an old kernel or a pair of file systems answers that cannot do the quick way.
_CANNOT = (
    errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTTY, errno.EBADF, errno.ETXTBSY, errno.EPERM,
)  # fmt: skip

Progress = Callable[[int], None]
"""Called with the number of bytes done since the last call."""


def carry(source: Path, target: Path, mode: LinkMode, progress: Progress) -> None:
    """Make `target`, which does not exist, hold the bytes of `source`, whose links are followed.

    ``auto`` is reflink where the file system can, else a kernel-side copy.

    Raises:
        OSError: as the system says it; ``EOPNOTSUPP`` for a reflink that the file system cannot make.

    """
    source = source.resolve()
    if mode == "symlink":
        target.symlink_to(source)
        return
    if mode == "hardlink":
        target.hardlink_to(source)
        return
    if mode in ("auto", "reflink") and _reflink(source, target):
        progress(source.stat().st_size)
        return
    if mode == "reflink":
        raise OSError(errno.EOPNOTSUPP, "this file system cannot reflink", str(target))
    _copy(source, target, progress)


def apply(edits: Iterable[Edit], target: Path) -> None:
    """Overwrite the file `target` in the places that the edits name."""
    with target.open("r+b") as stream:
        for edit in edits:
            stream.seek(edit.offset)
            stream.write(edit.data)


def _reflink(source: Path, target: Path) -> bool:
    try:
        import fcntl
    except ImportError:
        return False
    with source.open("rb") as reader, target.open("xb") as writer:
        try:
            fcntl.ioctl(writer.fileno(), _FICLONE, reader.fileno())
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
        else:
            return True
    target.unlink()
    return False


def _copy(source: Path, target: Path, progress: Progress) -> None:
    with source.open("rb") as reader, target.open("xb") as writer:
        if hasattr(os, "copy_file_range"):
            try:
                while count := os.copy_file_range(reader.fileno(), writer.fileno(), _CHUNK):
                    progress(count)
            except OSError as error:
                if error.errno not in _CANNOT or os.lseek(writer.fileno(), 0, os.SEEK_CUR) != 0:
                    raise
            else:
                return
        shutil.copyfileobj(reader, writer, 2**22)
        progress(writer.tell())
