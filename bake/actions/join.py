"""`join`: one GGUF file of a set whose second file is shared."""

from __future__ import annotations

import os
from pathlib import Path

from ..core.outputs import GgufFile
from ..core.progress import Progress, no_progress
from ..formats.gguf.model import open_gguf
from ..formats.gguf.share import plan_join
from ..storage.files import reading
from ..storage.local import check_files, write_files
from .bake_gguf import is_our_gguf


def join(
    model: str | os.PathLike[str], out: str | os.PathLike[str] | GgufFile, *, progress: Progress = no_progress
) -> int:
    """Write the one file that a bake without `share` writes, byte for byte; its size.

    Args:
        model: the first file of a set.
        out: the file to write.
        progress: told of the bytes that are carried over.

    Raises:
        InputError: no such set, or the file exists already; OutputError: writing failed, and nothing was kept.
    """
    out = out if isinstance(out, GgufFile) else GgufFile(out)
    with reading():
        opened = open_gguf(Path(model))
        check_files(out, {out.target: is_our_gguf}, opened.paths)
        file = plan_join(opened, out.target.name)
    write_files([file], opened.folder, out, progress("joining", 0, file.size - file.new_bytes), opened.stamps)
    return file.size
