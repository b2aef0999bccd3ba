"""The form published with arXiv 2502.04075: a folder of JSON files, one per emotion. See ``docs/vectors.md``."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable

import numpy as np

from ...core.limits import MAX_EMOTIONS, MAX_LAYERS
from ...core.names import emotion_name
from ...core.sites import SITE
from ...core.spelling import did_you_mean
from ...core.strict_json import parse_json_object
from ...core.vector_set import VectorSet, check_dimensions, require_site
from ...errors import VectorError
from .metadata import in_order


def published_files(names: Iterable[str], wanted: Iterable[str] | None, folder: str) -> dict[str, str]:
    """Find the file of each of the `wanted` emotions (None: all) among `names`: emotion -> file name.

    A file is called ``<anything>_<emotion>.json``, in any case.

    Raises:
        VectorError: no file for a wanted emotion, or more than one.
    """
    found: dict[str, list[str]] = {}
    for name in sorted(names):
        match = re.fullmatch(r"(?:.*[_-])?([^_-]+)\.json", name.lower())
        if match is not None:
            found.setdefault(emotion_name(match[1]), []).append(name)
    chosen: dict[str, str] = {}
    for emotion in in_order(found) or [""] if wanted is None else wanted:
        files = found.get(emotion, [])
        if not files:
            have = ", ".join(found) or "no <anything>_<emotion>.json at all"
            raise VectorError(
                f"{folder}: no file ends in _{emotion or '<emotion>'}.json (it has {have})"
                f"{did_you_mean(emotion, found) or '; add it, or name others with `mix`'}"
            )
        if len(files) > 1:
            raise VectorError(f"{folder}: {' and '.join(files)} both claim {emotion!r}; keep one of them")
        chosen[emotion] = files[0]
    if len(chosen) > MAX_EMOTIONS:
        raise VectorError(f"{folder}: holds {len(chosen)} emotions; expected at most {MAX_EMOTIONS}")
    return chosen


def parse_published(files: Iterable[tuple[str, str, bytes]], name: str) -> VectorSet:
    """Read `files`: emotion, file name, content.

    Each is a JSON object from layer index ("0" ...) to ``[[hidden floats]]`` or ``[hidden floats]``. They are consumed
    one by one, so an iterator that reads them keeps only one in memory.

    Raises:
        VectorError: another form, or files of different shapes. BrokenFileError: not JSON.
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


def to_published(vectors: VectorSet, prefix: str) -> dict[str, bytes]:
    """Write a set: file name ``<prefix>_<emotion>.json`` -> content.

    Every float32 is written with the digits that read back as the same float32. The form has no room for metadata,
    so a set of another site is refused.

    Raises:
        VectorError: the set does not act at the attention output.
    """
    require_site(vectors, SITE)
    return {
        f"{prefix}_{emotion}.json": json.dumps({str(i): [row.tolist()] for i, row in enumerate(rows)}).encode()
        for emotion, rows in zip(vectors.emotions, vectors.rows, strict=True)
    }


def _table(file: str, content: bytes) -> np.ndarray:
    keys = content.count(b":")  # Numbers have none.
    table = parse_json_object(content, file) if keys <= MAX_LAYERS else {}
    layers = len(table) or keys
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
        check_dimensions(f"{file}: layer {layer}", layers, len(row))
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
