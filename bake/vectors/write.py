"""Writing a vector set to the disk, in the form that the output's suffix names."""

from __future__ import annotations

import os
from pathlib import Path

from ..core.vector_set import VectorSet
from ..errors import InputError, OutputError
from ..storage.publish import explain, recover, write_all
from .formats import form_of, writable_suffixes
from .formats.published import to_published


def write_set(
    vectors: VectorSet, out: str | os.PathLike[str], *, emotion: str = "", overwrite: bool = False
) -> tuple[Path, ...]:
    """Write `vectors` as ``.safetensors``, ``.npz`` or ``.gguf``, or without a suffix as a folder of JSON files.

    The same set always gives the same bytes. The output appears whole, by a rename, or not at all. A ``.gguf`` (a
    control vector of llama.cpp) holds one emotion of the layer output and no row for layer 0; a folder is the form
    published with arXiv 2502.04075. Neither has room for statistics.

    Args:
        vectors: the set.
        out: file or folder to write.
        emotion: the emotion to write into a ``.gguf``.
        overwrite: replace an earlier output of the same form.

    Returns:
        The written files.

    Raises:
        InputError: another suffix, no folder to write in, or something is there that may not be replaced.
        VectorError: the set does not fit the form. MissingPackageError: the gguf package is not installed.
        OutputError: the disk refused.
    """
    path = Path(out)
    form = form_of(path)
    if path.suffix and (form is None or form.write is None):
        raise InputError(f"{path}: choose {', '.join(writable_suffixes())}, or no suffix for a folder of JSON files")
    if emotion and not (form and form.one_emotion):
        raise InputError("`emotion` goes with a .gguf, which holds one; the other forms hold all of them")
    recover(path.absolute())
    _check_target(path, is_file=form is not None, overwrite=overwrite)
    if form is not None and form.write is not None:
        files = {path.name: form.write(vectors, emotion)}
    else:
        files = {f"{path.name}/{name}": content for name, content in to_published(vectors, path.name).items()}
    try:
        write_all(path, files, overwrite=overwrite)
    except OSError as error:
        raise OutputError(explain(error, path.absolute())) from None
    return tuple(path.parent / name for name in files)


def _check_target(path: Path, *, is_file: bool, overwrite: bool) -> None:
    if path.exists() and not overwrite:
        raise InputError(f"{path}: exists; choose another name, or `overwrite`")
    if path.exists() and path.is_dir() == is_file:
        raise InputError(f"{path}: is {'a folder' if is_file else 'a file'}, which is not replaced; remove it first")
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path}: its folder does not exist; make it first")
    foreign = [p.name for p in path.iterdir() if p.suffix.lower() != ".json"] if path.is_dir() else []
    if foreign:
        raise InputError(f"{path}: holds {foreign[0]} too, so it is not replaced; choose another folder")
