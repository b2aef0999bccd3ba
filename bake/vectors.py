"""Emotion vectors: the set as published or in our own format, and the weighted sum that is baked.

A set holds one row of `hidden` floats per emotion and layer; layer 0 is the first decoder block. It acts on
the output of the attention module, before the residual add (arXiv 2502.04075 and the code published with
it). Formats: see ``vectors/README.md``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from .errors import InputError, VectorError
from .headers import ReadAt, decode, encode, parse_header, parse_json_object, serialize

EMOTIONS = ("anger", "disgust", "fear", "joy", "sadness")
"""The paper's emotions, in the order of ``--times``."""

SITE = "attention_output"
FORMAT = "emobake-vectors-1"
MAX_LAYERS = 1024


@dataclass(frozen=True, eq=False)
class VectorSet:
    """Vectors of several emotions for one model."""

    emotions: tuple[str, ...]
    rows: np.ndarray
    """float32 ``[emotions, layers, hidden]``, finite."""
    name: str = "vectors"
    """What the set is called in messages and records (never a local path)."""
    sha256: Mapping[str, str] = field(default_factory=dict)
    """File name -> digest of that file, as it was read."""
    site: str = SITE
    base_model: str = ""
    source: str = ""
    license: str = ""

    @property
    def layers(self) -> int:
        """Number of decoder layers that the set was made for."""
        return int(self.rows.shape[1])

    @property
    def hidden(self) -> int:
        """Width of each row."""
        return int(self.rows.shape[2])


@dataclass(frozen=True)
class Steering:
    """How much of which emotion, and in which layers.

    The bias of layer l gets ``w_l = scale * sum(weight_e * EV_e[l])``.
    """

    weights: tuple[tuple[str, float], ...]
    scale: float = 1.0
    layers: tuple[int, ...] | None = None
    """Layers that are steered, ascending from 0; None means all of them."""

    @property
    def is_zero(self) -> bool:
        """Whether nothing at all would be added."""
        return self.scale == 0 or all(weight == 0 for _, weight in self.weights)


def steering(
    times: tuple[float, ...] | None = None,
    mix: Mapping[str, float] | None = None,
    *,
    scale: float = 1.0,
    layers: str | None = None,
) -> Steering:
    """Build a `Steering` from what a user gives.

    `times` are five weights in the order of `EMOTIONS`; `mix` maps names to weights; exactly one of the two
    is given. `layers` is a list of numbers and inclusive ranges such as ``"8-27"`` or ``"0,4-6"``.

    Raises:
        InputError: both or neither given, the wrong number of weights, a weight that is not finite, or
            a layer list that cannot be read.

    """
    if (times is None) == (mix is None):
        raise InputError("give the weights either as --times (five numbers) or as --mix (name=number,...)")
    if times is not None:
        if len(times) != len(EMOTIONS):
            order = ", ".join(EMOTIONS)
            raise InputError(f"--times takes {len(EMOTIONS)} numbers ({order}), not {len(times)}")
        weights = tuple(zip(EMOTIONS, map(float, times), strict=True))
    else:
        assert mix is not None
        weights = tuple((name.strip().lower(), float(weight)) for name, weight in mix.items())
        if not weights:
            raise InputError("--mix names no emotion; write for example --mix joy=0.5,anger=0.5")
    if not np.isfinite([weight for _, weight in weights] + [scale]).all():
        raise InputError("weights and --scale must be finite numbers")
    return Steering(weights, float(scale), None if layers is None else parse_layers(layers))


def parse_layers(text: str) -> tuple[int, ...]:
    """``"0,4-6"`` -> ``(0, 4, 5, 6)``.

    Raises:
        InputError: not a list of layer numbers and ranges.

    """
    chosen: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,4})\s*(?:-\s*(\d{1,4})\s*)?", part, re.ASCII)
        if match is None:
            raise InputError(f"--layers {text!r} is not a list such as 8-27 or 0,4-6 (layers count from 0)")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise InputError(f"--layers {text!r}: the range {first}-{last} runs backwards")
        chosen.update(range(first, last + 1))
    return tuple(sorted(chosen))


def parse_mix(text: str) -> dict[str, float]:
    """``"joy=0.5,anger=-1"`` -> ``{"joy": 0.5, "anger": -1.0}``.

    Raises:
        InputError: not of that form, or a name given twice.

    """
    mix: dict[str, float] = {}
    for part in text.split(","):
        name, equals, number = part.partition("=")
        key = name.strip().lower()
        try:
            weight = float(number)
        except ValueError:
            equals = ""
        if not equals or not key:
            raise InputError(f"--mix {text!r}: {part.strip()!r} is not of the form emotion=number")
        if key in mix:
            raise InputError(f"--mix {text!r}: {key!r} stands twice")
        mix[key] = weight
    return mix


def weighted_sum(vectors: VectorSet, steering: Steering) -> np.ndarray:
    """``w`` as float32 ``[layers, hidden]``, every step of it in float32.

    Raises:
        VectorError: an emotion that the set does not have, a layer beyond its last, or a sum that overflows.

    """
    unknown = [name for name, _ in steering.weights if name not in vectors.emotions]
    if unknown:
        raise VectorError(
            f"{vectors.name}: has no vectors for {', '.join(unknown)} (it has {', '.join(vectors.emotions)}); "
            "add the missing file, or name others with --mix"
        )
    total = np.zeros(vectors.rows.shape[1:], np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for name, weight in steering.weights:
            if weight != 0:
                total += np.float32(weight) * vectors.rows[vectors.emotions.index(name)]
        total *= np.float32(steering.scale)
    if steering.layers is not None:
        beyond = [layer for layer in steering.layers if layer >= vectors.layers]
        if beyond:
            raise VectorError(
                f"--layers names layer {beyond[0]}, but {vectors.name} has layers 0 to {vectors.layers - 1}"
            )
        keep = np.zeros(vectors.layers, bool)
        keep[list(steering.layers)] = True
        total[~keep] = 0
    if not np.isfinite(total).all():
        raise VectorError(f"{vectors.name}: the weighted sum overflows float32; use smaller weights")
    return total


def published_files(names: Iterable[str], wanted: Iterable[str], folder: str) -> dict[str, str]:
    """Which of the files `names` in `folder` holds each of the `wanted` emotions: emotion -> file name.

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
    for emotion in wanted:
        files = found.get(emotion, [])
        if not files:
            have = ", ".join(found) or "no <anything>_<emotion>.json at all"
            raise VectorError(
                f"{folder}: no file ends in _{emotion}.json (it has {have}); add it, or use --mix with what is there"
            )
        if len(files) > 1:
            raise VectorError(f"{folder}: {' and '.join(files)} both claim {emotion!r}; keep one of them")
        chosen[emotion] = files[0]
    return chosen


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


def parse_single_file(name: str, size: int, read: ReadAt, wanted: Iterable[str], sha256: str = "") -> VectorSet:
    """Read the `wanted` emotions from our own form, of which `read` gives any bytes of the `size` there are.

    The form is safetensors: one float32 ``[layers, hidden]`` tensor per emotion, with metadata.

    Raises:
        VectorError: another site, format version, dtype or shape, an emotion that is not there, or a value that
            is not finite.
        BrokenFileError: a header that cannot be right.
    """
    headers = {header.name.lower(): header for header in parse_header(name, size, read)}
    metadata = parse_json_object(read(8, int.from_bytes(read(0, 8), "little")), name).get("__metadata__")
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise VectorError(
            f"{name}: its metadata does not say format {FORMAT!r}; it is not a set of emotion vectors "
            "(vectors/README.md describes the form)"
        )
    site = metadata.get("site")
    if site != SITE:
        raise VectorError(f"{name}: acts at {site!r}; only {SITE!r} is what an attention-output bias does")
    emotions = tuple(dict.fromkeys(wanted))
    missing = [emotion for emotion in emotions if emotion not in headers]
    if missing:
        raise VectorError(
            f"{name}: has no vectors for {', '.join(missing)} (it has {', '.join(headers) or 'none'}); "
            "name others with --mix"
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
    origin = (str(metadata.get(key, "")) for key in ("base_model", "source", "license"))
    return VectorSet(emotions, rows, name, {name: sha256}, SITE, *origin)


def to_single_file(vectors: VectorSet) -> bytes:
    """Write our own form; the same set always gives the same bytes."""
    metadata = {
        "format": FORMAT,
        "site": vectors.site,
        "base_model": vectors.base_model,
        "source": vectors.source,
        "license": vectors.license,
    }
    shape = vectors.rows.shape[1:]
    tables = zip(vectors.emotions, vectors.rows, strict=True)
    return serialize({name: ("F32", shape, encode(rows, "F32")) for name, rows in tables}, metadata)
