"""`audit`: tell of any checkpoint or GGUF file whether emotions look baked in, with or without a record of ours."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.constant_rows import ConstantRow, ConstantRows
from ..core.elsewhere import beware
from ..core.record import RECORD_FILE, Record
from ..core.sites import SITE, Site
from ..core.totals import terms_of, total_recipe
from ..core.vector_set import ModelShape, VectorSet, fitted
from ..errors import EmobakeError, InputError
from ..formats.checkpoint.constant_rows import find_rows
from ..formats.checkpoint.model import Checkpoint
from ..formats.checkpoint.open import open_base, open_remote_base
from ..formats.checkpoint.wrappers import family_of
from ..storage.files import reading
from ..storage.model_name import ModelName, is_offline
from ..vectors.find import Vectors, find_vectors
from ..vectors.nearest import Fit, distance, fit
from ..vectors.registry import registry
from .verdict import Finding, Kind, judge, overall, what_it_is
from .verify import verify_alone

_AGREES = 0.02
"""Largest distance between the rows that a record tells and those that are stored, in units of their norm. Rounding to
16 bits is a tenth of it."""

_MORE = 0.01
"""Share that several sets must explain more than the best one does, to be told together."""


@dataclass(frozen=True)
class RecordFound:
    """A record of ours in the model, beside what is stored."""

    recipe: str
    """The sum of all bakes that it tells; empty if it cannot be read."""
    agrees: bool
    """False if something is not as it says."""
    said: tuple[str, ...]
    """Comparisons that were made, and differences from the record, one clause each."""


@dataclass(frozen=True, eq=False)
class Audit:
    """Verdict on the constant rows of a model, and the reasons for it."""

    name: str
    """The model as it was named."""
    family: str
    """Family of the table, or ``model_type``; of a GGUF file its architecture."""
    shape: ModelShape
    kind: Kind
    """``none``, ``own`` (a bias of the model's own), ``known`` (baked in, by a known set) or ``unknown`` (baked in, by
    vectors that are not known)."""
    verdict: str
    """The same in words."""
    findings: tuple[Finding, ...]
    """One for each kind of rows that is stored, those of zeros too."""
    record: RecordFound | None
    """The record of ours; None if the model has none."""
    notes: tuple[str, ...] = ()
    """Comparisons that could not be made, one sentence each."""

    def to_json(self) -> dict[str, Any]:
        """The audit as JSON data."""
        return {
            "model": self.name,
            "family": self.family,
            "layers": self.shape.layers,
            "hidden_size": self.shape.hidden,
            "verdict": self.kind,
            "text": self.verdict,
            "findings": [_finding_json(each) for each in self.findings],
            "record": None
            if self.record is None
            else {
                "recipe": self.record.recipe or None,
                "agrees": self.record.agrees,
                "said": list(self.record.said),
            },
            "notes": list(self.notes),
        }


@dataclass(frozen=True, eq=False)
class _Opened:
    """A model with its rows."""

    name: ModelName
    family: str
    shape: ModelShape
    rows: tuple[ConstantRows, ...]
    record: Mapping[str, Any] | None
    place: str
    """Name of the record in messages."""


def audit(model: str | os.PathLike[str] | ModelName, vectors: Vectors | None = None) -> Audit:
    """Look for rows that a model adds at every position, and tell where they come from.

    They are biases of the attention's or the MLP's output projection, columns behind key/value heads of constant
    output, or what the projection makes of biases of the values. They are compared with the emotions of every
    registered set that has the model's layers and hidden size. Of a model on the Hub, only headers and biases are
    fetched.

    Args:
        model: a folder, a GGUF file, or ``owner/name`` on the Hub, perhaps with ``@revision``.
        vectors: further sets to compare with, as for `emobake.bake`.

    Raises:
        InputError: no such model, or `vectors` that cannot be opened. BrokenFileError: a header, a config or a bias
            that is not what it should be. VectorError: `vectors` for a model of another shape.
        HubError: the network failed. MissingPackageError: a GGUF file that the gguf package has to read.
    """
    name = ModelName.parse(model)
    with reading():
        opened = _open_gguf(name) if name.kind == "gguf" else _open_checkpoint(name)
        acting = {rows.site for rows in opened.rows if rows.acting and rows.is_read}
        sets, notes = _sets(opened.shape, vectors, acting)
        findings = tuple(judge(rows, _fits(rows, sets)) for rows in opened.rows)
        record = None if opened.record is None else _compare(opened, sets)
    kind, text = overall(findings)
    return Audit(str(name), opened.family, opened.shape, kind, text, findings, record, tuple(notes))


def would_ignore(found: Finding) -> tuple[str, ...]:
    """Sentences on the stacks that would run the rows of a finding unsteered; none for rows that nobody has baked."""
    if found.kind not in ("known", "unknown"):
        return ()
    rows = found.rows
    return beware(rows.stacks, rows.as_gguf if _serves(rows, "llama.cpp") else "")


def _serves(rows: ConstantRows, stack: str) -> bool:
    return stack in rows.stacks and rows.stacks[stack].status == "steered"


def _open_checkpoint(name: ModelName) -> _Opened:
    """A checkpoint in a folder, in the Hub's cache while offline, or on the Hub."""
    if name.is_local or is_offline():
        checkpoint = open_base(name).open()
        rows = find_rows(checkpoint, whole=True)
    else:
        from ..storage.hub.errors import fetching

        base, _ = open_remote_base(name)
        checkpoint = base.open()
        with fetching(name.name, name.revision, "a listed file is no longer there; run again"):
            rows = find_rows(checkpoint, whole=False)
    place = f"{checkpoint.name}/{RECORD_FILE}"
    return _Opened(name, _family(checkpoint), checkpoint.shape, rows, checkpoint.record, place)


def _family(checkpoint: Checkpoint) -> str:
    family = family_of(checkpoint.config)
    return str(checkpoint.config.get("model_type"))[:60] if family is None else family.label


def _open_gguf(name: ModelName) -> _Opened:
    from ..formats.gguf.constant_rows import find_rows as find_gguf_rows
    from ..formats.gguf.model import RECORD_KEY, open_gguf

    model = open_gguf(name.path)
    place = f"{model.name} ({RECORD_KEY})"
    return _Opened(name, model.architecture[:60], model.shape, find_gguf_rows(model), model.record, place)


def _sets(shape: ModelShape, vectors: Vectors | None, acting: set[Site]) -> tuple[tuple[VectorSet, ...], list[str]]:
    """The sets to compare with, and sentences on those that cannot be; nothing is fetched where no rows act.

    Raises:
        InputError: (its subclasses) a set that the user names cannot be opened, or is for another shape.
    """
    named = [] if vectors is None else list(vectors) if isinstance(vectors, list | tuple) else [vectors]
    found, notes = [fitted(find_vectors(one), shape) for one in named], list[str]()
    for entry in registry().sets if SITE in acting else ():
        if (entry.layers, entry.hidden_size) != (shape.layers, shape.hidden):
            continue
        if entry.name in [each.name for each in found]:
            continue
        try:
            found.append(fitted(find_vectors(entry.name), shape))
        except EmobakeError as error:
            notes.append(f"not compared with {entry.name}: {error}")
    elsewhere = [each for each in found if acting and each.site not in acting]
    notes += [f"{each.name} acts at the {each.site.replace('_', ' ')}, where no rows are stored" for each in elsewhere]
    return tuple(found), notes


def _fits(rows: ConstantRows, sets: Sequence[VectorSet]) -> list[Fit]:
    """The rows beside each set of their site; and beside all of these together, if that explains more than one does."""
    values = {row.layer: row.values for row in rows.acting if row.values is not None}
    same = [each for each in sets if each.site == rows.site]
    fits = [found for each in same if (found := fit(values, [each])) is not None]
    every = fit(values, same) if len(fits) > 1 else None
    if every is not None and every.explained > max(each.explained for each in fits) + _MORE:
        return [*fits, every]
    return fits


def _compare(opened: _Opened, sets: Sequence[VectorSet]) -> RecordFound:
    """Compare the record of a model with its files, and with the rows that are stored."""
    assert opened.record is not None
    try:
        record = Record.from_json(opened.record, opened.place)
    except InputError as error:
        return RecordFound("", False, (str(error),))
    failed = [f"{check.name}: {check.detail}" for check in verify_alone(str(opened.name)) if check.ok is False]
    told = list(_told(record, opened, sets)) if not record.adapters else []
    wrong = [text for is_right, text in told if not is_right]
    said = [*failed, *(text for _, text in told)] or ["the files are as it says"]
    return RecordFound(total_recipe(record), not failed and not wrong, tuple(said))


def _told(record: Record, opened: _Opened, sets: Sequence[VectorSet]) -> Iterator[tuple[bool, str]]:
    """Compare the rows that a record tells with those that are stored: whether they agree, and a clause."""
    names = {entry.tensor for entry in record.biases}
    stored = [
        rows for rows in opened.rows if rows.site == record.vectors.site and names & {r.tensor for r in rows.rows}
    ]
    if not stored:
        yield False, "no rows are stored where it says"
        return
    by_digest = {hashlib.sha256(row.astype("<f4").tobytes()).hexdigest(): row for each in sets for row in each.rows}
    terms = terms_of(record)
    missing = sorted({term.set_name for term in terms if term.digest not in by_digest})
    if missing:
        yield True, f"its vectors ({', '.join(missing)}) are not at hand, so the weights were not compared"
        return
    if not all(map(record.made, record.biases)) or not stored[0].is_read:
        yield True, "its weights were not compared, because the rows hold more than what was baked, or were not read"
        return
    mix: dict[int, np.ndarray] = {}
    for term in terms:
        for layer, weight in term.weights.items():
            if layer < opened.shape.layers:
                mix[layer] = mix.get(layer, 0) + weight * by_digest[term.digest][layer].astype(np.float64)
    mix = {layer: row for layer, row in mix.items() if layer in {each.layer for each in stored[0].rows}}
    rows = {row.layer: row.values for row in stored[0].rows if row.values is not None}
    off = distance(rows, mix)
    if off > _AGREES:
        yield False, f"the rows are not those weights: they are {off:.1%} of their size away"
    else:
        yield True, "the rows are those weights"


def _finding_json(found: Finding) -> dict[str, Any]:
    rows = found.rows
    return {
        "site": rows.site,
        "how": rows.how,
        "form": what_it_is(rows),
        "verdict": found.kind,
        "text": found.text,
        "reasons": list(found.reasons),
        "layers_with_projection": rows.layers,
        "own": rows.own,
        "flag": rows.flag or None,
        "ignored": rows.ignored or None,
        "other_biases": rows.beside,
        "apart": rows.is_apart,
        "same_in_all_layers": rows.is_the_same,
        "layers": [_row_json(row, found.fits) for row in rows.rows],
        "nearest": [
            {
                "set": each.name,
                "weights": {e: round(w, 6) for e, w in each.weights.items()},
                "explained": round(each.explained, 6),
                "explained_by_layer": round(each.explained_apart, 6),
                "cosines": {e: _number(c) for e, c in each.cosines.items()},
            }
            for each in found.fits
        ],
        "stacks": {name: {"status": s.status, "run": s.run, "said": s.clause} for name, s in rows.stacks.items()},
        "beware": list(would_ignore(found)),
        "notes": list(rows.notes),
    }


def _row_json(row: ConstantRow, fits: Sequence[Fit]) -> dict[str, Any]:
    return {
        "layer": row.layer,
        "tensor": row.tensor,
        **({} if row.column is None else {"column": row.column}),
        "norm": None if row.norm is None else _number(row.norm),
        "columns": None if row.columns is None else _number(row.columns),
        "cosines": {
            each.name: {e: _number(c[row.layer]) for e, c in each.layer_cosines.items() if row.layer in c}
            for each in fits
        },
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)
