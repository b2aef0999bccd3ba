"""Opening a vector set from the disk, whichever of the known forms it is in."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ..core.vector_set import VectorSet
from ..errors import InputError
from ..storage.files import read_at, read_small, sha256_of
from .formats.own import parse_published, parse_single_file, published_files


def open_vectors(
    path: str | os.PathLike[str],
    emotions: Iterable[str] | None = None,
    *,
    site: str = "",
    first_row: int | None = None,
) -> VectorSet:
    """Read a vector set: a folder as published, our single file, or a form that another project publishes.

    Only the given `emotions` are read, or all there are. `site` and `first_row` (the layer of the first row; -1 for
    the embeddings) are for files that do not say them themselves.

    Raises:
        InputError: not there, or not readable; its subclasses for malformed content, and for a file that does not say
            its site or first row when they are not given, or says another.
    """
    path = Path(path)
    name = path.name or path.resolve().name
    if path.is_file():
        if path.suffix.lower() == ".safetensors" and not site and first_row is None:
            return parse_single_file(name, path.stat().st_size, read_at(path), emotions, sha256_of(path))
        from .formats.foreign import read_foreign

        return read_foreign(path, emotions, site=site, first_row=first_row)
    if not path.is_dir():
        raise InputError(f"{path}: no such vector set; give a folder of JSON files or a .safetensors file")
    if not os.access(path, os.R_OK | os.X_OK):
        raise InputError(f"{path}: cannot be read")
    files = published_files(sorted(os.listdir(path)), emotions, str(path))  # noqa: PTH208 - names, not paths
    return parse_published(((e, file, read_small(path / file, str(path / file))) for e, file in files.items()), name)
