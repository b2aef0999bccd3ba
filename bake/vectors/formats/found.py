"""The content of a vector file in any form, and the checks that make a `VectorSet` of it.

What a file does not say about itself is never guessed: reading it is refused until the user says it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ...core.limits import MAX_EMOTIONS, MAX_LAYERS
from ...core.names import EMOTION_RULE, emotion_name, is_emotion_name
from ...core.spelling import did_you_mean
from ...core.tensors import FLOATS
from ...core.vector_set import VectorSet, check_dimensions
from ...errors import VectorError
from ...storage.files import sha256_of
from .metadata import in_order, with_metadata

T = TypeVar("T")


@dataclass(frozen=True)
class Found:
    """Content of a vector file; fields are empty or None where the file says nothing."""

    tables: Mapping[str, np.ndarray]
    """Name -> floats ``[rows, hidden]``, of any float dtype."""
    site: str = ""
    first_row: int | None = None
    """Layer of the first row; -1 for the embeddings."""
    source: str = ""
    open_ended: bool = False
    """True if layers after the last row get nothing by intention."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Metadata as `to_metadata` returns it, in our own files."""


def complete(
    path: Path, found: Found, emotions: Iterable[str] | None, *, site: str = "", first_row: int | None = None
) -> VectorSet:
    """Make a set of the given `emotions` (None: all) of what was `found` in the file `path`.

    Layers before the first row, and layers that a control vector leaves out, get zeros; a row of the embeddings is
    dropped.

    Args:
        path: the file, for its name and digest.
        found: its content.
        emotions: the wanted emotions.
        site: one of `emobake.core.vector_set.SITES`, for a file that does not say it.
        first_row: layer of the first row (-1: embeddings), for a file that does not say it.

    Raises:
        VectorError: a wrong shape or dtype, a NaN or infinity, a wanted emotion that is missing, a site or first row
            that is not said or contradicts the file.
    """
    tables = _checked(path, found.tables, emotions)
    start = _decide(path, "the layer of its first row", "first_row", found.first_row, first_row)
    acts = _decide(path, "where its vectors act", "site", found.site or None, site or None)
    count, hidden = next(iter(tables.values())).shape
    check_dimensions(str(path), count + start, hidden)
    rows = np.stack([table[max(0, -start) :] for table in tables.values()])
    if start > 0:
        rows = np.pad(rows, ((0, 0), (start, 0), (0, 0)))
    digests = {path.name: sha256_of(path)}
    vectors = VectorSet(tuple(tables), rows, path.name, digests, acts, source=found.source, open_ended=found.open_ended)
    return with_metadata(vectors, {**found.metadata, "site": acts}) if found.metadata else vectors


def by_emotion(file: str, tables: Mapping[str, T]) -> dict[str, T]:
    """The `tables` of a file under the names of their emotions.

    Raises:
        VectorError: a name that no emotion can have, or one that occurs twice.
    """
    named: dict[str, T] = {}
    for given, table in tables.items():
        name = emotion_name(given)
        if not is_emotion_name(name):
            raise VectorError(f"{file}: {given[:60]!r} cannot be the name of an emotion; rename it: {EMOTION_RULE}")
        if name in named:
            raise VectorError(f"{file}: {name!r} occurs twice in it, as {given[:60]!r} too")
        named[name] = table
    return named


def reason(error: BaseException) -> str:
    """An error's first line."""
    return str(error).splitlines()[0][:120] if str(error) else type(error).__name__


def _decide(path: Path, what: str, argument: str, said: Any, given: Any) -> Any:
    if said is None and given is None:
        example = "attention_output or layer_output" if argument == "site" else "0 (first block) or -1 (embeddings)"
        raise VectorError(
            f"{path}: does not say {what}; find out, then convert it once (`emobake vectors convert`) with "
            f"`{argument}` {example}"
        )
    if said is not None and given is not None and said != given:
        raise VectorError(f"{path}: says {said} for {what}, which contradicts `{argument}` {given}")
    return given if said is None else said


def _checked(path: Path, tables: Mapping[str, np.ndarray], wanted: Iterable[str] | None) -> dict[str, np.ndarray]:
    """The wanted tables as float32, under valid names of emotions, all of one shape."""
    if len(tables) > MAX_EMOTIONS:
        raise VectorError(f"{path}: holds {len(tables)} tables; expected at most {MAX_EMOTIONS} emotions")
    named = by_emotion(str(path), tables)
    chosen = in_order(named) if wanted is None else list(dict.fromkeys(wanted))
    missing = [name for name in chosen if name not in named]
    if missing or not chosen:
        have = ", ".join(list(named)[:20]) or "none"
        like = did_you_mean(missing[0] if missing else "", named)
        raise VectorError(f"{path}: has no vectors{' for ' * bool(missing)}{', '.join(missing)} (it has {have}){like}")
    return {name: _floats(path, name, named[name], named[chosen[0]].shape, chosen[0]) for name in chosen}


def _floats(path: Path, name: str, table: np.ndarray, shape: tuple[int, ...], first: str) -> np.ndarray:
    if table.ndim != 2 or 0 in table.shape:
        raise VectorError(f"{path}: {name!r} has shape {list(table.shape)}, not [layers, hidden]")
    check_dimensions(f"{path}: {name!r}", *table.shape, most=MAX_LAYERS + 1)
    if table.shape != shape:
        raise VectorError(f"{path}: {name!r} is {list(table.shape)}, but {first!r} is {list(shape)}")
    if table.dtype not in FLOATS.values():
        raise VectorError(f"{path}: {name!r} holds {table.dtype}, not floats")
    with np.errstate(over="ignore"):
        values = table.astype(np.float32)
    if not np.isfinite(values).all():
        raise VectorError(f"{path}: {name!r} has a NaN, or a number that float32 cannot hold")
    return values
