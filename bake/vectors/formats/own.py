"""The two forms of a vector set that bakes are made from: as published with the paper, and our single file.

Both are described in ``vectors/README.md``; what other projects publish is read by `emobake.vector_imports`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from ...core.strict_json import parse_json_object
from ...core.tensors import ReadAt, decode, encode
from ...core.vector_set import EMOTIONS, MAX_LAYERS, SITE, SITES, Site, Statistics, VectorSet, require_site
from ...errors import BrokenFileError, VectorError
from ...formats.safetensors import parse_header, serialize

FORMAT = "emobake-vectors-1"


def published_files(names: Iterable[str], wanted: Iterable[str] | None, folder: str) -> dict[str, str]:
    """Which of the files `names` in `folder` holds each of the `wanted` emotions (None: all): emotion -> file name.

    Published sets have one file ``<anything>_<emotion>.json`` per emotion, in any case.

    Raises:
        VectorError: no file for a wanted emotion, or more than one.

    """
    found: dict[str, list[str]] = {}
    for name in sorted(names):
        match = re.fullmatch(r"(?:.*[_-])?([^_-]+)\.json", name.lower())
        if match is not None:
            found.setdefault(match[1], []).append(name)
    chosen: dict[str, str] = {}
    for emotion in in_order(found) or [""] if wanted is None else wanted:
        files = found.get(emotion, [])
        if not files:
            have = ", ".join(found) or "no <anything>_<emotion>.json at all"
            raise VectorError(
                f"{folder}: no file ends in _{emotion or '<emotion>'}.json (it has {have}); "
                "add it, or use --mix with what is there"
            )
        if len(files) > 1:
            raise VectorError(f"{folder}: {' and '.join(files)} both claim {emotion!r}; keep one of them")
        chosen[emotion] = files[0]
    return chosen


def in_order(names: Iterable[str]) -> list[str]:
    """The paper's five in the paper's order, then the others by name."""
    return sorted(names, key=lambda name: (EMOTIONS.index(name) if name in EMOTIONS else len(EMOTIONS), name))


def to_published(vectors: VectorSet, prefix: str) -> dict[str, bytes]:
    """The set in the published form: file name ``<prefix>_<emotion>.json`` -> content.

    Every float32 is written with the digits that read back as the same float32. The form has no room for
    metadata, so a set of another site is refused.

    Raises:
        VectorError: the set does not act at the attention output.
    """
    require_site(vectors, SITE)
    return {
        f"{prefix}_{emotion}.json": json.dumps({str(i): [row.tolist()] for i, row in enumerate(rows)}).encode()
        for emotion, rows in zip(vectors.emotions, vectors.rows, strict=True)
    }


def parse_published(files: Iterable[tuple[str, str, bytes]], name: str) -> VectorSet:
    """Read the form published with the paper from `files`: emotion, file name, content.

    Each is a JSON object from layer index ("0" ...) to ``[[hidden floats]]`` or ``[hidden floats]``. They are
    taken one by one, so an iterator that reads them keeps only one in memory.

    Raises:
        VectorError: content that is not of this form, or files of different shapes.
        BrokenFileError: a file that is not JSON.
    """
    tables: dict[str, np.ndarray] = {}
    sha256: dict[str, str] = {}
    for emotion, file, content in files:
        table = tables[emotion] = _table(f"{name}/{file}", content)
        sha256[file] = hashlib.sha256(content).hexdigest()
        expected = next(iter(tables.values())).shape
        if table.shape != expected:
            raise VectorError(
                f"{name}/{file}: {table.shape[0]} layers x {table.shape[1]} floats, but {next(iter(sha256))} has "
                f"{expected[0]} x {expected[1]}; they were made for two models"
            )
    return VectorSet(tuple(tables), np.stack(list(tables.values())), name, sha256)


def _table(file: str, content: bytes) -> np.ndarray:
    table = parse_json_object(content, file)
    layers = len(table)
    if not 0 < layers <= MAX_LAYERS:
        raise VectorError(f"{file}: has {layers} layers; expected 1 to {MAX_LAYERS}")
    rows: list[np.ndarray] = []
    for layer in range(layers):
        row = table.pop(str(layer), None)
        if row is None:
            raise VectorError(f"{file}: layer {layer} of {layers} is missing; keys must be 0 to {layers - 1}")
        if isinstance(row, list) and len(row) == 1 and isinstance(row[0], list):
            row = row[0]
        if not isinstance(row, list) or not row or not all(type(x) in (int, float) for x in row):
            raise VectorError(f"{file}: layer {layer} is not a list of numbers")
        try:
            with np.errstate(over="ignore"):
                rows.append(np.array(row, np.float64).astype(np.float32))
        except OverflowError:
            raise VectorError(f"{file}: layer {layer} has a number beyond float32") from None
        if rows[-1].shape != rows[0].shape:
            raise VectorError(f"{file}: layer {layer} has {len(row)} floats, layer 0 has {len(rows[0])}")
        if not np.isfinite(rows[-1]).all():
            raise VectorError(f"{file}: layer {layer} has a NaN or infinity; the file is damaged, fetch it again")
    return np.stack(rows)


def single_file_metadata(name: str, read: ReadAt) -> Mapping[str, Any]:
    """The metadata of a safetensors file whose header has been checked; empty when it has none."""
    metadata = parse_json_object(read(8, int.from_bytes(read(0, 8), "little")), name).get("__metadata__")
    return metadata if isinstance(metadata, dict) else {}


def parse_single_file(name: str, size: int, read: ReadAt, wanted: Iterable[str] | None, sha256: str = "") -> VectorSet:
    """Read the `wanted` emotions (None: all) from our own form; `read` gives any of its `size` bytes.

    The form is safetensors: one float32 ``[layers, hidden]`` tensor per emotion, with metadata.

    Raises:
        VectorError: an unknown site or format version, another dtype or shape, an emotion that is not there, or a
            value that is not finite.
        BrokenFileError: a header that cannot be right.
    """
    headers = {header.name.lower(): header for header in parse_header(name, size, read)}
    metadata = single_file_metadata(name, read)
    if metadata.get("format") != FORMAT:
        raise VectorError(
            f"{name}: its metadata does not say format {FORMAT!r}; it is not a set of emotion vectors of ours. If it "
            "holds other steering vectors, say where they act: emobake vectors convert --site ... --first-row ..."
        )
    _site(name, metadata)
    emotions = tuple(in_order(headers) if wanted is None else dict.fromkeys(wanted))
    missing = [emotion for emotion in emotions if emotion not in headers]
    if missing or not emotions:
        raise VectorError(
            f"{name}: has no vectors{' for ' * bool(missing)}{', '.join(missing)} "
            f"(it has {', '.join(headers) or 'none'}); name others with --mix"
        )
    shape = headers[emotions[0]].shape
    if len(shape) != 2 or 0 in shape or shape[0] > MAX_LAYERS:
        raise VectorError(f"{name}: {emotions[0]!r} has shape {list(shape)}, not [layers, hidden]")
    rows = np.empty((len(emotions), *shape), np.float32)
    for i, header in enumerate(headers[emotion] for emotion in emotions):
        if header.dtype != "F32" or header.shape != shape:
            raise VectorError(f"{name}: {header.name!r} is {header.dtype} {list(header.shape)}, not F32 {list(shape)}")
        rows[i] = decode(header, read(header.start, header.end - header.start))
        if not np.isfinite(rows[i]).all():
            raise VectorError(f"{name}: {header.name!r} has a NaN or infinity; the file is damaged, fetch it again")
    return with_metadata(VectorSet(emotions, rows, name, {name: sha256}), metadata)


def with_metadata(vectors: VectorSet, metadata: Mapping[str, Any]) -> VectorSet:
    """The set with everything but its vectors taken from `metadata`, as `to_metadata` gives it.

    Raises:
        VectorError: an unknown site.
        BrokenFileError: statistics or extraction that are malformed.
    """
    name, site = vectors.name, _site(vectors.name, metadata)
    base_model, source, license = (str(metadata.get(key, "")) for key in ("base_model", "source", "license"))
    statistics = _statistics(name, str(metadata.get("statistics", "{}")), vectors.layers)
    return replace(
        vectors,
        site=site,
        base_model=base_model,
        source=source,
        license=license,
        statistics={emotion: statistics[emotion] for emotion in vectors.emotions if emotion in statistics},
        extraction=parse_json_object(str(metadata.get("extraction", "{}")), f"{name} (extraction)"),
    )


def _site(name: str, metadata: Mapping[str, Any]) -> Site:
    given = str(metadata.get("site"))
    for site in SITES:
        if site == given:
            return site
    raise VectorError(f"{name}: acts at {given[:60]!r}; known sites are {', '.join(SITES)}")


def _statistics(name: str, text: str, layers: int) -> dict[str, Statistics]:
    found = {}
    for emotion, entry in parse_json_object(text, f"{name} (statistics)").items():
        try:
            errors, cosine = [float(x) for x in entry["standard_error"]], entry["split_half_cosine"]
            found[emotion] = Statistics(int(entry["count"]), tuple(errors), None if cosine is None else float(cosine))
        except (KeyError, TypeError, ValueError, OverflowError):
            errors = []
        if len(errors) != layers:
            raise BrokenFileError(f"{name}: its statistics for {emotion[:60]!r} are malformed; fetch it again")
    return found


def to_metadata(vectors: VectorSet) -> dict[str, str]:
    """What a set says of itself beside its vectors, as a safetensors file's metadata."""
    metadata = {
        "format": FORMAT,
        "site": vectors.site,
        "base_model": vectors.base_model,
        "source": vectors.source,
        "license": vectors.license,
    }
    if vectors.statistics:
        statistics = {emotion: asdict(vectors.statistics[emotion]) for emotion in sorted(vectors.statistics)}
        metadata["statistics"] = json.dumps(statistics, allow_nan=False)
    if vectors.extraction:
        metadata["extraction"] = json.dumps(dict(vectors.extraction), sort_keys=True, allow_nan=False)
    return metadata


def to_single_file(vectors: VectorSet) -> bytes:
    """Write our own form; the same set always gives the same bytes."""
    shape = vectors.rows.shape[1:]
    tables = zip(vectors.emotions, vectors.rows, strict=True)
    return serialize({name: ("F32", shape, encode(rows, "F32")) for name, rows in tables}, to_metadata(vectors))
