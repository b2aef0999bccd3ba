"""The biases of an output: their bytes, what the record says of them, and what the vectors say."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

from ...core.biases import Column, Home, PlannedBias, norm_of, steering_rows
from ...core.check import Check
from ...core.limits import MAX_WIDTH
from ...core.record import Record, RecordedBias, RecordedVectors
from ...core.tensors import FLOATS, TensorHeader, decode, encode
from ...core.vector_set import ModelShape, VectorSet
from ...errors import VerifyError
from .output import Output, StoredModel

_TO_THE_BIT = "equal existing bias + weighted vectors, to the bit"


def stored_biases(output: Output, homes: Iterable[Home]) -> tuple[PlannedBias, ...]:
    """Biases for a plan of the same bake, with the bytes that the output holds; it records each one's norm.

    Raises:
        VerifyError: a bias that the base has room for is missing, in the output or in its record.
    """
    recorded = {entry.tensor: entry for entry in output.record.biases}
    found = []
    for home in homes:
        tensor, entry = output.model.tensors.get(home.tensor), recorded.get(home.tensor)
        if tensor is None or tensor.dtype != home.dtype or (home.column is None and tensor.shape != (home.width,)):
            raise VerifyError(f"{home.tensor} is missing or not {home.dtype} [{home.width}]: UNSTEERED there")
        if entry is None or entry.column != (None if home.column is None else home.column.index):
            raise VerifyError(f"{output.record_name} does not name {home.tensor}, which every bake of this base writes")
        found.append(home.planned(entry.norm, _read_bias(output.model, tensor, entry)))
    return tuple(found)


def stored_values(model: StoredModel, entry: RecordedBias) -> np.ndarray:
    """The values of a bias of a checkpoint or adapter, float32.

    Raises:
        VerifyError: it is missing, or no floats.
    """
    tensor = model.tensors.get(entry.tensor)
    if tensor is None:
        raise VerifyError(f"{model.name}: the record names {entry.tensor}, which no file holds")
    data = _read_bias(model, tensor, entry)
    if entry.column is None:
        return decode(tensor, data)
    return np.asarray(np.frombuffer(data, FLOATS[tensor.dtype]).astype(np.float32))


def changed_tensors(record: Record) -> set[str]:
    """Names of the base's tensors that the bake overwrote."""
    return {entry.tensor for entry in record.biases} - set(record.added)


def check_recorded(output: Output) -> Check:
    """Compare each bias with its digest in the record."""
    name, record = "biases as recorded", output.record
    for entry in record.biases:
        tensor = output.model.tensors.get(entry.tensor)
        if tensor is None:
            return Check(name, False, f"{entry.tensor} is missing: it would run UNSTEERED there")
        if hashlib.sha256(_read_bias(output.model, tensor, entry)).hexdigest() != entry.sha256:
            return Check(name, False, f"{entry.tensor} is not what {output.record_name} records")
    return Check(name, True, f"{len(record.biases)} digests match {output.record_name}")


def check_arithmetic(output: Output, base: StoredModel | None, vectors: VectorSet) -> Check:
    """Compute each bias again by the vectors and the weights in the record, and compare: to the bit, if not solved."""
    name, record = "arithmetic", output.record
    try:
        rows = _recorded_rows(output, vectors)
    except VerifyError as error:
        return Check(name, False, str(error))
    if base is None and not all(map(record.made, record.biases)):
        return Check(name, None, "existing biases were added to; give `base` to compute them again")
    homeless = set(np.flatnonzero(rows.any(axis=1)).tolist()) - {entry.layer for entry in record.biases}
    if homeless:
        return Check(name, False, f"layer {min(homeless)} has no bias for its vector")
    wrong = next(filter(None, (_wrong_bias(output, base, entry, rows) for entry in record.biases)), "")
    if wrong:
        return Check(name, False, wrong)
    how = "make the weighted vectors, to 1 part in 1,000" if record.route == "value" else _TO_THE_BIT
    return Check(name, True, f"{len(record.biases)} biases {how}")


def _wrong_bias(output: Output, base: StoredModel | None, entry: RecordedBias, rows: np.ndarray) -> str:
    """The way in which a bias is not what the arithmetic says; empty if it is."""
    if entry.tensor not in output.model.tensors or entry.layer >= len(rows):
        return f"{entry.tensor} is not the bias of a layer of {output.model.name}"
    return output.misplaced(entry, base, rows[entry.layer])


def misplaced_bias(
    model: StoredModel, record: Record, entry: RecordedBias, base: StoredModel | None, row: np.ndarray
) -> str:
    """`Output.misplaced` of a tensor of the finished `model` that is nothing but a bias on the projection."""
    tensor = model.tensors[entry.tensor]
    if tensor.dtype not in FLOATS or entry.column is not None:
        return f"{entry.tensor} is not the bias of a layer of {model.name}"
    if wrong := wrong_norm(entry, row):
        return wrong
    if entry.tensor not in record.added:
        old = None if base is None else base.tensors.get(entry.tensor)
        if base is None or old is None:
            return f"{entry.tensor} is no tensor of the base"
        row = decode(old, _read(base, old)) + row
    if _read(model, tensor) != encode(row, tensor.dtype):
        return f"{entry.tensor} is not existing bias + weighted vectors"
    return ""


def misplaced_column(
    output: Output, column: Column, entry: RecordedBias, base: StoredModel | None, row: np.ndarray
) -> str:
    """`Output.misplaced` of a bias that is the `column` of a matrix."""
    tensor = output.model.tensors[entry.tensor]
    if wrong := wrong_norm(entry, row):
        return wrong
    home = Home(entry.layer, tensor.name, tensor.dtype, len(row), None, column)
    if not output.record.made(entry):
        old = None if base is None else base.tensors.get(entry.tensor)
        if base is None or old is None:
            return f"{entry.tensor} is no tensor of the base"
        row = home.decode(base.read_column(old, column.index)) + row
    if output.model.read_column(tensor, column.index) != home.encode(row):
        return f"column {column.index} of {entry.tensor} is not existing bias + weighted vectors"
    return ""


def wrong_norm(entry: RecordedBias, row: np.ndarray) -> str:
    """The way in which the recorded norm is not that of `row`; empty if it is."""
    if abs(entry.norm - norm_of(row)) <= 1e-5 * max(1.0, entry.norm):
        return ""
    return f"layer {entry.layer} gains a norm of {norm_of(row):.6g}, not {entry.norm:g}"


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


def _read_bias(model: StoredModel, tensor: TensorHeader, entry: RecordedBias) -> bytes:
    """Read the bytes that store a bias, of a tensor or of a column; raises VerifyError as `_read`."""
    return _read(model, tensor) if entry.column is None else model.read_column(tensor, entry.column)


def _has_all(vectors: VectorSet, record: Record) -> bool:
    return all(emotion in vectors.emotions for emotion, _ in record.steering.weights)
