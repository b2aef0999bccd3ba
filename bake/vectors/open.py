"""Opening a vector set on the disk, in any known form."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ..core.limits import MAX_VECTORS
from ..core.vector_set import VectorSet
from ..errors import BrokenFileError, InputError
from ..storage.files import read_at, read_small, sha256_of
from .formats import FORMS, form_of
from .formats.found import complete
from .formats.published import parse_published, published_files
from .formats.single_file import parse_single_file


def open_vectors(
    path: str | os.PathLike[str],
    emotions: Iterable[str] | None = None,
    *,
    site: str = "",
    first_row: int | None = None,
) -> VectorSet:
    """Read a vector set: a folder as published, our single file, or a form of another project.

    Args:
        path: the file or folder; ``docs/vectors.md`` describes the forms.
        emotions: the emotions to read; None: all.
        site: where the vectors act, for a file that does not say it.
        first_row: layer of the first row (-1: the embeddings, which are dropped), for a file that does not say it.

    Raises:
        InputError: missing or unreadable, or an unknown form.
        VectorError: malformed; `site` or `first_row` is neither said nor given, or contradicts the file.
        BrokenFileError: damaged, or too large. MissingPackageError: a package for the form is not installed.
    """
    path = Path(path)
    if path.is_file():
        return _open_file(path, emotions, site, first_row)
    if not path.is_dir():
        raise InputError(f"{path}: no such vector set; give a folder of JSON files or a .safetensors file")
    if not os.access(path, os.R_OK | os.X_OK):
        raise InputError(f"{path}: cannot be read")
    # Links are followed, out of the folder too: only what parses as a table of numbers is taken from there.
    files = published_files(sorted(os.listdir(path)), emotions, str(path))  # noqa: PTH208 - names, not paths
    contents = ((emotion, file, read_small(path / file)) for emotion, file in files.items())
    return parse_published(contents, path.name or path.resolve().name)


def _open_file(path: Path, emotions: Iterable[str] | None, site: str, first_row: int | None) -> VectorSet:
    size = path.stat().st_size
    if size > MAX_VECTORS:
        raise BrokenFileError(f"{path}: {size} bytes are too many for a set of vectors")
    if path.suffix.lower() == ".safetensors" and not site and first_row is None:
        return parse_single_file(path.name, size, read_at(path), emotions, sha256_of(path))
    form = form_of(path)
    if form is None:
        known = ", ".join(suffix for form in FORMS for suffix in form.suffixes)
        raise InputError(f"{path}: is no known form of vectors; give {known}, or a folder of JSON files as published")
    return complete(path, form.read(path), emotions, site=site, first_row=first_row)
