"""Safetensors: our own single file, and files of other projects with one ``[layers, hidden]`` tensor per emotion."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ...core.limits import MAX_EMOTIONS, MAX_LAYERS
from ...core.spelling import did_you_mean
from ...core.tensors import ReadAt, decode, encode
from ...core.vector_set import VectorSet, check_dimensions
from ...errors import VectorError
from ...formats.safetensors import NewTensor, parse_header, parse_metadata, serialize_bytes
from ...storage.files import read_at
from .found import Found, by_emotion
from .metadata import FORMAT, in_order, parse_site, to_metadata, with_metadata


def parse_single_file(name: str, size: int, read: ReadAt, wanted: Iterable[str] | None, sha256: str = "") -> VectorSet:
    """Read the `wanted` emotions (None: all) from our own form; `read` gives any of its `size` bytes.

    The form has one float32 ``[layers, hidden]`` tensor per emotion, and metadata.

    Raises:
        VectorError: an unknown site or format version, another dtype or shape, a missing emotion, a name that no
            emotion can have, a value that is not finite. BrokenFileError: a wrong header.
    """
    found = parse_header(name, size, read)
    metadata = parse_metadata(name, size, read)
    if metadata.get("format") != FORMAT:
        raise VectorError(
            f"{name}: its metadata does not say format {FORMAT!r}; it is not a set of emotion vectors of ours. If it "
            "holds other steering vectors, convert it once (`emobake vectors convert`) with `site` and `first_row`"
        )
    parse_site(name, metadata)
    headers = by_emotion(name, {header.name: header for header in found})
    emotions = tuple(in_order(headers) if wanted is None else dict.fromkeys(wanted))
    missing = [emotion for emotion in emotions if emotion not in headers]
    if missing or not emotions:
        raise VectorError(
            f"{name}: has no vectors{' for ' * bool(missing)}{', '.join(missing)} "
            f"(it has {', '.join(headers) or 'none'})"
            f"{did_you_mean(missing[0] if missing else '', headers) or '; name others with `mix`'}"
        )
    shape = headers[emotions[0]].shape
    if len(shape) != 2 or 0 in shape or len(emotions) > MAX_EMOTIONS:
        raise VectorError(
            f"{name}: {emotions[0]!r} has shape {list(shape)}, not [layers, hidden], or there are more than "
            f"{MAX_EMOTIONS} emotions"
        )
    check_dimensions(f"{name}: {emotions[0]!r}", *shape)
    for header in (headers[emotion] for emotion in emotions):
        if header.dtype != "F32" or header.shape != shape:
            raise VectorError(f"{name}: {header.name!r} is {header.dtype} {list(header.shape)}, not F32 {list(shape)}")
    rows = np.empty((len(emotions), *shape), np.float32)
    for i, header in enumerate(headers[emotion] for emotion in emotions):
        rows[i] = decode(header, read(header.start, header.size))
        if not np.isfinite(rows[i]).all():
            raise VectorError(f"{name}: {header.name!r} has a NaN or infinity; the file is damaged, fetch it again")
    return with_metadata(VectorSet(emotions, rows, name, {name: sha256}), metadata)


def to_single_file(vectors: VectorSet) -> bytes:
    """Write our own form; the same set always gives the same bytes."""
    shape = vectors.rows.shape[1:]
    tables = zip(vectors.emotions, vectors.rows, strict=True)
    tensors = {name: NewTensor("F32", shape, (encode(rows, "F32"),)) for name, rows in tables}
    return serialize_bytes(tensors, to_metadata(vectors))


def read_foreign_safetensors(path: Path) -> Found:
    """Read a file of another project, which says neither site nor first row.

    Raises:
        BrokenFileError: a wrong header. VectorError: a header of something else than tables, by number or shape.
    """
    read = read_at(path)
    headers = parse_header(str(path), path.stat().st_size, read)
    if len(headers) > MAX_EMOTIONS:
        raise VectorError(f"{path}: holds {len(headers)} tensors; expected at most {MAX_EMOTIONS} emotions")
    for header in headers:
        if len(header.shape) != 2:
            raise VectorError(f"{path}: {header.name!r} has shape {list(header.shape)}, not [layers, hidden]")
        check_dimensions(f"{path}: {header.name!r}", *header.shape, most=MAX_LAYERS + 1)
    return Found({header.name: decode(header, read(header.start, header.size)) for header in headers})
