"""Writing a vector set to the disk, in the form that the name of the output asks for."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from ..core.vector_set import VectorSet
from ..errors import EmobakeError, InputError, OutputError, VectorError
from .formats.own import to_metadata, to_published, to_single_file


def write_set(
    vectors: VectorSet, out: str | os.PathLike[str], *, emotion: str = "", overwrite: bool = False
) -> tuple[Path, ...]:
    """Write `vectors` as ``.safetensors``, ``.npz`` or ``.gguf``, or without a suffix as a folder of JSON files.

    The same set always gives the same bytes. What is written appears whole, by a rename, or not at all. A ``.gguf``
    (a control vector of llama.cpp) holds one `emotion`, acts at the layer output and has no row for layer 0; a folder
    is the form published with arXiv 2502.04075. Neither has room for statistics.

    Returns:
        The files that were written.

    Raises:
        InputError: another suffix, no folder to write in, something is there already (with `overwrite`: that is not
            of this form).
        EmobakeError: the gguf package is not installed.
        VectorError: the set does not fit the form.
        OutputError: the disk refused.
    """
    path = Path(out)
    suffix = path.suffix.lower()
    if suffix not in _WRITERS and suffix:
        raise InputError(f"{path}: choose {', '.join(_WRITERS)}, or no suffix for a folder of JSON files")
    if emotion and suffix != ".gguf":
        raise InputError("--emotion goes with a .gguf, which holds one; the other forms hold all of them")
    if path.exists() and not overwrite:
        raise InputError(f"{path}: exists; choose another name, or --overwrite")
    if path.is_dir() == bool(suffix) and path.exists():
        raise InputError(f"{path}: is {'a folder' if suffix else 'a file'}, which is not replaced; remove it first")
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path}: its folder does not exist; make it first")
    if suffix:
        content = _WRITERS[suffix](vectors, emotion)
        with _beside(path) as folder:
            (folder / path.name).write_bytes(content)
            (folder / path.name).replace(path)
        return (path,)
    return _write_folder(path, to_published(vectors, path.name))


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A new folder on the same file system as `path`, removed at the end."""
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.absolute().parent) as folder:
            yield Path(folder)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror})") from None


def _write_folder(path: Path, files: dict[str, bytes]) -> tuple[Path, ...]:
    foreign = [p.name for p in path.iterdir() if p.suffix.lower() != ".json"] if path.exists() else []
    if foreign:
        raise InputError(f"{path}: holds {foreign[0]} too, so it is not replaced; choose another folder")
    with _beside(path) as folder:
        new = folder / "new"
        new.mkdir()
        for name, content in files.items():
            (new / name).write_bytes(content)
        if path.exists():
            path.rename(folder / "old")
        new.rename(path)
        shutil.rmtree(folder / "old", ignore_errors=True)
    return tuple(path / name for name in files)


def _npz(vectors: VectorSet, emotion: str) -> bytes:
    """As numpy writes it, but for the time of day: members carry the date that zip counts from."""
    arrays = dict(zip(vectors.emotions, vectors.rows, strict=True))
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in sorted(arrays):
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), _npy(arrays[name].astype("<f4")))
        metadata = json.dumps(to_metadata(vectors), sort_keys=True)
        archive.writestr(zipfile.ZipInfo("__metadata__.npy"), _npy(np.array(metadata)))
    return stream.getvalue()


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.asarray(array, order="C"), allow_pickle=False)
    return stream.getvalue()


def _gguf(vectors: VectorSet, emotion: str) -> bytes:
    """A control vector of llama.cpp, which counts blocks from 0 and refuses a ``direction.0``."""
    try:
        from gguf import GGUFWriter
    except ImportError:
        raise EmobakeError("writing a .gguf needs the gguf package; pip install 'emobake[gguf]'") from None
    if vectors.site != "layer_output":
        raise VectorError(
            f"{vectors.name}: acts at the attention output, and llama.cpp adds a control vector to the layer output; "
            "bake it instead"
        )
    if not emotion and len(vectors.emotions) > 1:
        raise VectorError(f"{vectors.name}: a .gguf holds one emotion; choose one of {', '.join(vectors.emotions)}")
    if emotion and emotion not in vectors.emotions:
        raise VectorError(f"{vectors.name}: has no vectors for {emotion} (it has {', '.join(vectors.emotions)})")
    rows = vectors.rows[vectors.emotions.index(emotion) if emotion else 0]
    if rows[0].any():
        raise VectorError(
            f"{vectors.name}: has a vector for layer 0, and llama.cpp refuses a direction.0; it would be lost"
        )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vector.gguf"
        writer = GGUFWriter(file, "controlvector")
        writer.add_string("controlvector.model_hint", vectors.base_model)
        writer.add_uint32("controlvector.layer_count", len(rows) - 1)
        for layer, row in enumerate(rows[1:], 1):
            writer.add_tensor(f"direction.{layer}", row)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return file.read_bytes()


_WRITERS: dict[str, Callable[[VectorSet, str], bytes]] = {
    ".safetensors": lambda v, _: to_single_file(v),
    ".npz": _npz,
    ".gguf": _gguf,
}
