"""Numpy's .npz: one ``[layers, hidden]`` array per emotion. Ours has its metadata as JSON in ``__metadata__``."""

from __future__ import annotations

import io
import json
import math
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ...core.limits import MAX_ANY_EXPANSION, MAX_EMOTIONS, MAX_EXPANSION, MAX_VECTORS
from ...core.strict_json import parse_json_object
from ...core.vector_set import VectorSet
from ...errors import BrokenFileError, VectorError
from .found import Found, reason
from .metadata import FORMAT, to_metadata

_METADATA = "__metadata__"


def read_npz(path: Path) -> Found:
    """Read a .npz file.

    Raises:
        BrokenFileError: damaged, or too large. VectorError: metadata of another version of emobake.
    """
    arrays: dict[str, np.ndarray] = {}
    for member, data in unpack(path):
        name = member.removesuffix(".npy")
        if name in arrays:
            raise BrokenFileError(f"{path}: {name[:60]!r} occurs twice in it")
        arrays[name] = _parse_npy(path, name, data)
    own = arrays.pop(_METADATA, None)
    if own is None:
        return Found(arrays)
    if own.ndim != 0 or own.dtype.kind != "U":
        raise BrokenFileError(f"{path}: its {_METADATA} is not a text")
    metadata = parse_json_object(str(own), f"{path} ({_METADATA})")
    if metadata.get("format") != FORMAT:
        raise VectorError(f"{path}: its metadata does not say format {FORMAT!r}; it is of another version of emobake")
    return Found(arrays, str(metadata.get("site")), 0, metadata=metadata)


def write_npz(vectors: VectorSet, emotion: str) -> bytes:
    """Write a .npz file as numpy does, but with the first date that zip knows, so that bytes do not change by time."""
    arrays = dict(zip(vectors.emotions, vectors.rows, strict=True))
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in sorted(arrays):
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), _to_npy(arrays[name].astype("<f4")))
        metadata = json.dumps(to_metadata(vectors), sort_keys=True)
        archive.writestr(zipfile.ZipInfo(f"{_METADATA}.npy"), _to_npy(np.array(metadata)))
    return stream.getvalue()


def unpack(path: Path) -> Iterator[tuple[str, bytes]]:
    """Unpack a zip archive of at most `MAX_VECTORS` bytes: name and content of each member.

    Raises:
        BrokenFileError: damaged, too large, or much larger than its file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            size, most = sum(member.file_size for member in members), max_content(path.stat().st_size)
            if size > most or len(members) > 8 * MAX_EMOTIONS:
                raise BrokenFileError(
                    f"{path}: unpacks to {size} bytes in {len(members)} members, too many for a set of vectors in a "
                    "file of its size"
                )
            for member in members:
                if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise BrokenFileError(f"{path}: is compressed in another way than numpy does; save it again")
                yield member.filename, archive.read(member)
    # NotImplementedError: an unknown version; RuntimeError: encrypted.
    except (zipfile.BadZipFile, zlib.error, RuntimeError, ValueError, EOFError) as error:
        raise BrokenFileError(f"{path}: is not a whole archive ({reason(error)}); fetch it again") from None


def max_content(size: int) -> int:
    """Bytes that an archive of `size` bytes may unpack to."""
    return min(MAX_VECTORS, max(MAX_ANY_EXPANSION, MAX_EXPANSION * size))


def _parse_npy(path: Path, name: str, data: bytes) -> np.ndarray:
    """Read one array, once its header describes exactly the bytes that are there."""
    stream = io.BytesIO(data)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        shape, fortran, dtype = readers[np.lib.format.read_magic(stream)](stream)
        if dtype.hasobject or stream.tell() + math.prod(shape) * dtype.itemsize != len(data):
            raise ValueError("not plain numbers, or not as many as it says")
        array: np.ndarray = np.frombuffer(data, dtype, offset=stream.tell())
        return array.reshape(shape, order="F" if fortran else "C")
    except (ValueError, KeyError, TypeError, OverflowError, SyntaxError, RecursionError, MemoryError) as error:
        raise BrokenFileError(f"{path}: {name[:60]!r} is not a numpy array ({reason(error)})") from None


def _to_npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.asarray(array, order="C"), allow_pickle=False)
    return stream.getvalue()
