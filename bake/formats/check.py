"""Verification of a finished output by its bytes, the same for every form.

With the base, the bake is planned anew, and the whole output is compared with that plan, so that nothing can be
forgotten; without it, with the digests that the record keeps. A checkpoint, a GGUF model and an adapter each satisfy
`Output`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..core.biases import Home, PlannedBias, norm_of, steering_rows
from ..core.check import Check
from ..core.limits import MAX_WIDTH
from ..core.plan import CARD_FILE, BakePlan, PlannedFile, Rows
from ..core.record import RECORD_FILE, Record, RecordedBias, RecordedVectors, difference
from ..core.side_files import REPLACED, is_carried, is_duplicate, is_loaded
from ..core.strict_json import parse_json_object
from ..core.tensors import FLOATS, TensorHeader, decode, encode
from ..core.vector_set import ModelShape, VectorSet
from ..errors import EmobakeError, InputError, VerifyError
from ..storage.comparing import OutputFiles

_NAMED = 8
"""Names of one kind in a finding."""


class StoredModel(Protocol):
    """A model whose tensors can be read."""

    @property
    def name(self) -> str:
        """Name in messages."""

    @property
    def folder(self) -> Path | None:
        """Folder of its files; None for a commit on the Hub."""

    @property
    def tensors(self) -> Mapping[str, TensorHeader]:
        """Tensors by name; `TensorHeader.file` is relative to `folder`."""

    def read(self, tensor: TensorHeader, /) -> bytes:
        """Read the bytes of one tensor."""


class Output(Protocol):
    """A finished output: its tensors, its record, and the checks of its form."""

    @property
    def model(self) -> StoredModel:
        """The output's tensors."""

    @property
    def record(self) -> Record:
        """The output's record."""

    @property
    def record_name(self) -> str:
        """Name of the record in messages."""

    @property
    def shape(self) -> tuple[int | None, int]:
        """Number of decoder layers (None if the output does not tell) and hidden size."""

    @property
    def names(self) -> tuple[str, ...] | None:
        """The files that belong to the output; None: all that lie in its folder."""

    def structure(self) -> Iterator[Check]:
        """Check the form itself: headers, the switch that makes stacks add the bias, explicit zeros."""

    def digests(self, files: OutputFiles) -> Mapping[str, str]:
        """Digests of the output as it is, by the names in `Record.digests`; a missing file is left out."""

    def plan_again(self, base: StoredModel) -> BakePlan:
        """Plan the same bake of `base` anew, by the record and with the biases that the output holds.

        Raises:
            VerifyError: the output lacks a bias, or `base` has another form.
            InputError: the bake that the record describes cannot be made of `base`.
        """

    def explain(self, planned: PlannedFile, offset: int) -> str:
        """The field or tensor of a file at `offset`, where it is not as `planned`; empty if that is unknown."""


def check_bytes(
    output: Output,
    files: OutputFiles,
    base: StoredModel | None,
    vectors: VectorSet | None,
    *,
    no_base: str = "give `base`",
    no_vectors: str = "",
) -> Iterator[Check]:
    """Check an output by its bytes; `no_base` says why there is no `base` to compare with.

    With a base, the bake is planned anew, and every file is compared with that plan.

    Raises:
        EmobakeError: a file cannot be read; the checks before it were yielded.
    """
    yield from output.structure()
    yield _recorded(output)
    if base is None:
        yield from _by_record(output, files, no_base)
    else:
        yield from _by_plan(output, files, base)
    if vectors is not None:
        yield _arithmetic(output, base, vectors)
    else:
        why = no_vectors or "give `vectors`"
        yield Check("arithmetic", None, f"biases compared with the record's digests only; {why}")


def stored_biases(output: Output, homes: Iterable[Home]) -> tuple[PlannedBias, ...]:
    """Biases for a plan of the same bake, with the bytes that the output holds; it records each one's norm.

    Raises:
        VerifyError: a bias that the base has room for is missing, in the output or in its record.
    """
    recorded = {entry.tensor: entry for entry in output.record.biases}
    found = []
    for home in homes:
        tensor, entry = output.model.tensors.get(home.tensor), recorded.get(home.tensor)
        if tensor is None or (tensor.dtype, tensor.shape) != (home.dtype, (home.width,)):
            raise VerifyError(f"{home.tensor} is missing or not {home.dtype} [{home.width}]: UNSTEERED there")
        if entry is None:
            raise VerifyError(f"{output.record_name} does not name {home.tensor}, which every bake of this base writes")
        data = output.model.read(tensor)
        digest = hashlib.sha256(data).hexdigest()
        found.append(PlannedBias(home.layer, home.tensor, home.dtype, entry.norm, digest, home.existing is None, data))
    return tuple(found)


def check_others(files: OutputFiles, known: Iterable[str]) -> Iterator[Check]:
    """Look for files besides the `known` ones that a loader would read, and name the rest."""
    others = sorted(files.sizes.keys() - set(known) - {RECORD_FILE, CARD_FILE})
    loaded = [name for name in others if is_loaded(name)]
    for name in loaded[:_NAMED]:
        why = "holds weights that are not steered" if is_duplicate(name) else "changes what a loader makes of the model"
        yield Check("no other files", False, f"{name} lies beside the model and {why}; remove it")
    if not loaded:
        yield Check("no other files", True, "none that a loader would read")
    rest = [name for name in others if name not in loaded]
    if rest:
        more = f" and {len(rest) - _NAMED} more" if len(rest) > _NAMED else ""
        yield Check("other files", None, f"no loader reads {', '.join(rest[:_NAMED])}{more}; not compared")


def _by_plan(output: Output, files: OutputFiles, base: StoredModel) -> Iterator[Check]:
    """Compare all files with a plan of the same bake."""
    try:
        plan = output.plan_again(base)
    except (VerifyError, InputError) as error:
        yield Check("planned again", False, f"the base does not give this output by this record: {error}")
        return
    field = difference(output.record, plan.record)
    if field:
        yield Check("planned again", False, f"{output.record_name} has another {field} than a bake of this base")
    else:
        note = "" if output.record.digests else ", but for the digests that earlier versions left out"
        yield Check("planned again", True, f"{output.record_name} says what a bake of this base says{note}")
    failed, unknown = False, []
    for file in plan.files:
        if file.name in (RECORD_FILE, CARD_FILE):
            continue
        found = _compare(output, files, file)
        if found is None:
            unknown.append(file.name)
        elif found:
            failed = True
            yield Check("files as planned", False, f"{file.name}: {found}")
    if unknown:
        yield Check(
            "files as planned",
            None,
            f"{', '.join(unknown)}: only the size was compared, and the biases in it; "
            "the Hub keeps no digest of what the base gives",
        )
    if not failed:
        compared = [file for file in plan.files if file.name not in (*unknown, RECORD_FILE, CARD_FILE)]
        carried = sum(file.size - file.new_bytes for file in compared)
        moved = sum(isinstance(piece, Rows) for file in plan.files for piece in file.pieces)
        note = f", {moved} tensors with rows in llama's order" if moved else ""
        said = f"{_count(len(compared), 'file')}, byte-identical to the plan{files.means}"
        yield Check("files as planned", True, f"{said}, {carried / 1e6:,.0f} MB of them the base's{note}")
    card = next((file for file in plan.files if file.name == CARD_FILE), None)
    if card is not None and (CARD_FILE not in files.sizes or not files.compare(card).same):
        yield Check("model card", None, f"{CARD_FILE} is not as a bake writes it here (by hand, a push, or a version)")
    if output.names is None:
        yield from check_others(files, [file.name for file in plan.files])


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _compare(output: Output, files: OutputFiles, planned: PlannedFile) -> str | None:
    """Describe the fault of a file; empty if there is none, None if only fetching it could tell."""
    size = files.sizes.get(planned.name)
    if size is None:
        return "is missing"
    compared = files.compare(planned)
    if compared.same is None:
        return None
    if compared.same:
        return ""
    where = "" if compared.offset is None else output.explain(planned, compared.offset)
    if not where and planned.action == "write" and planned.name.endswith(".json"):
        where = _json_difference(files.read(planned.name), planned)
    if not where and size != planned.size:
        where = f"has {size} bytes, not {planned.size}"
    origin = f"the base's {planned.source}" if planned.action == "carry" else "the one that a bake writes"
    return f"{where or 'differs'}; it is not {origin}"


def _json_difference(found: bytes, planned: PlannedFile) -> str:
    """The first field of a JSON object that is not as planned."""
    try:
        ours, theirs = parse_json_object(found, planned.name), parse_json_object(planned.data, planned.name)
        return next(filter(None, (_field_difference(key, ours, theirs) for key in [*theirs, *ours])), "")
    except InputError:
        return "is not valid JSON"
    except RecursionError:
        return ""


def _field_difference(key: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    if key not in ours:
        return f"lacks {key[:80]}"
    if key not in theirs:
        return f"has {key[:80]} besides"
    if isinstance(ours[key], dict) and isinstance(theirs[key], dict):
        inner = (_field_difference(name, ours[key], theirs[key]) for name in [*theirs[key], *ours[key]])
        return next((f"{key[:80]}: {found}" for found in inner if found), "")
    if type(ours[key]) is not type(theirs[key]) or ours[key] != theirs[key]:
        return f"{key[:80]} is {json.dumps(ours[key])[:80]}, not {json.dumps(theirs[key])[:80]}"
    return ""


def _by_record(output: Output, files: OutputFiles, no_base: str) -> Iterator[Check]:
    """Compare with what the record itself keeps, for want of a base."""
    record = output.record
    if record.digests:
        found = output.digests(files)
        wrong = [name for name, digest in record.digests.items() if found.get(name) != digest]
        for name in wrong:
            what = "is missing" if name not in found else "is not the one that the bake wrote or carried"
            yield Check("files as recorded", False, f"{name} {what}")
        if not wrong:
            yield Check("files as recorded", True, f"{len(record.digests)} digests match {output.record_name}")
    else:
        yield Check(
            "files as recorded",
            None,
            f"{output.record_name} is of an earlier version and has no digests: config, "
            f"tokenizer and the like were not checked; {no_base}",
        )
    yield from _weights_by_record(output, files, no_base)
    if output.names is None:
        known = [*record.digests, *record.files]
        if not record.digests:
            known += [name for name in files.sizes if is_carried(name) or name.lower() in REPLACED]
        if not record.digests or record.text_only:
            known += [tensor.file for tensor in output.model.tensors.values()]
        yield from check_others(files, known)


def _weights_by_record(output: Output, files: OutputFiles, no_base: str) -> Iterator[Check]:
    """Compare the sizes of carried weight files, and digests where both are known without reading them."""
    record = output.record
    if not set(output.model.tensors) - set(record.added):
        return
    weights = {weight.name: weight for weight in record.base.weights}
    changed = changed_tensors(record)
    overwritten = {tensor.file for name, tensor in output.model.tensors.items() if name in changed}
    proved = 0
    for name, source in record.files.items():
        weight = weights.get(source)
        if weight is None or files.sizes.get(name) != weight.size:
            yield Check("carried weights", False, f"{name} is not of the size of the base's {source}, or not there")
            return
        digest = files.weight_digest(name)
        if digest and weight.sha256 and name not in overwritten:
            proved += 1
            if digest != weight.sha256:
                yield Check("carried weights", False, f"{name} is not the base's {source}")
                return
    if record.files and proved == len(record.files):
        yield Check("carried weights", True, f"{proved} files have the digests of the base's")
    else:
        sized = "only their sizes compared" if record.files else "not compared"
        yield Check("carried weights", None, f"{sized}; {no_base}")


def changed_tensors(record: Record) -> set[str]:
    """Names of the base's tensors that the bake overwrote."""
    return {entry.tensor for entry in record.biases} - set(record.added)


def added_rows(output: Output, base: StoredModel) -> dict[int, np.ndarray]:
    """Layer -> what the output adds at the site of its vectors: stored bias minus the base's, float32 ``[hidden]``.

    Raises:
        VerifyError: a bias of the record is missing.
    """
    scale = np.float32(output.record.branch_scale)
    rows = {}
    for entry in output.record.biases:
        header = output.model.tensors.get(entry.tensor)
        if header is None:
            raise VerifyError(f"{output.model.name}: the record names {entry.tensor}, which no file holds")
        value = decode(header, _read(output.model, header))
        old = None if entry.tensor in output.record.added else base.tensors.get(entry.tensor)
        rows[entry.layer] = (value if old is None else value - decode(old, _read(base, old))) * scale
    return rows


def run_checks(steps: list[Callable[[], Iterator[Check]]]) -> list[Check]:
    """Run steps one after another; a step that cannot finish becomes a failed finding."""
    checks: list[Check] = []
    for step in steps:
        try:
            checks.extend(step())
        except EmobakeError as error:
            checks.append(Check("cannot be checked", False, str(error)))
    return checks


def _recorded(output: Output) -> Check:
    name, record = "biases as recorded", output.record
    for entry in record.biases:
        tensor = output.model.tensors.get(entry.tensor)
        if tensor is None:
            return Check(name, False, f"{entry.tensor} is missing: it would run UNSTEERED there")
        if hashlib.sha256(_read(output.model, tensor)).hexdigest() != entry.sha256:
            return Check(name, False, f"{entry.tensor} is not what {output.record_name} records")
    return Check(name, True, f"{len(record.biases)} digests match {output.record_name}")


def _arithmetic(output: Output, base: StoredModel | None, vectors: VectorSet) -> Check:
    name, record = "arithmetic", output.record
    try:
        rows = _recorded_rows(output, vectors)
    except VerifyError as error:
        return Check(name, False, str(error))
    if base is None and {entry.tensor for entry in record.biases} - set(record.added):
        return Check(name, None, "existing biases were added to; give `base` to compute them again")
    homeless = set(np.flatnonzero(rows.any(axis=1)).tolist()) - {entry.layer for entry in record.biases}
    if homeless:
        return Check(name, False, f"layer {min(homeless)} has no bias for its vector")
    wrong = next(filter(None, (_wrong_bias(output, base, entry, rows) for entry in record.biases)), "")
    if wrong:
        return Check(name, False, wrong)
    return Check(name, True, f"{len(record.biases)} biases equal existing bias + weighted vectors, to the bit")


def _wrong_bias(output: Output, base: StoredModel | None, entry: RecordedBias, rows: np.ndarray) -> str:
    """The way in which a bias is not what the arithmetic says; empty if it is."""
    tensor = output.model.tensors.get(entry.tensor)
    if tensor is None or entry.layer >= len(rows) or tensor.dtype not in FLOATS:
        return f"{entry.tensor} is not the bias of a layer of {output.model.name}"
    row = rows[entry.layer]
    if abs(entry.norm - norm_of(row)) > 1e-5 * max(1.0, entry.norm):
        return f"layer {entry.layer} gains a norm of {norm_of(row):.6g}, not {entry.norm:g}"
    if entry.tensor not in output.record.added:
        old = None if base is None else base.tensors.get(entry.tensor)
        if base is None or old is None:
            return f"{entry.tensor} is no tensor of the base"
        row = decode(old, _read(base, old)) + row
    if _read(output.model, tensor) != encode(row, tensor.dtype):
        return f"{entry.tensor} is not existing bias + weighted vectors"
    return ""


def _recorded_rows(output: Output, vectors: VectorSet) -> np.ndarray:
    """Compute what the bake added to its biases: float32 ``[layers, hidden]``.

    Raises:
        VerifyError: these are not the vectors that the record names. VectorError: they do not fit the model.
    """
    record = output.record
    if any(record.vectors.sha256.get(file, digest) != digest for file, digest in vectors.sha256.items()):
        raise VerifyError("these vector files are not the ones that the record names")
    rows_now = RecordedVectors.of(vectors, record.steering).rows if _has_all(vectors, record) else {}
    if any(record.vectors.rows.get(emotion, digest) != digest for emotion, digest in rows_now.items()):
        raise VerifyError("these vectors are not the ones that the record names")
    if vectors.site != record.vectors.site:
        raise VerifyError(f"{vectors.name} acts at the {vectors.site}, the record says {record.vectors.site}")
    layers, hidden = output.shape
    if layers is None:
        last = max((entry.layer for entry in record.biases), default=0)
        layers = max(vectors.layers, last + 1) if vectors.open_ended else vectors.layers
    return steering_rows(
        vectors,
        record.steering,
        ModelShape(output.model.name, layers, hidden),
        branch_scale=record.branch_scale,
        force=True,
    )


def _read(model: StoredModel, tensor: TensorHeader) -> bytes:
    """Read a bias. A record names its tensor, which may be any other one.

    Raises:
        VerifyError: it has more bytes than any bias.
    """
    if tensor.size > 8 * MAX_WIDTH:
        raise VerifyError(f"{model.name}: {tensor.name[:120]} has {tensor.size} bytes, so it is not a bias")
    return model.read(tensor)


def _has_all(vectors: VectorSet, record: Record) -> bool:
    return all(emotion in vectors.emotions for emotion, _ in record.steering.weights)
