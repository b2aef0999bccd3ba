"""Verification of a finished output by its bytes, the same for every form.

A checkpoint, a GGUF model and an adapter each satisfy `Output`; the checks that they share are here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from ..core.biases import steering_rows
from ..core.check import Check
from ..core.limits import MAX_WIDTH
from ..core.plan import Rows, Span
from ..core.record import Record
from ..core.tensors import FLOATS, TensorHeader, decode, encode
from ..core.vector_set import ModelShape, VectorSet
from ..errors import EmobakeError, VerifyError
from ..storage.copying import read_piece


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

    def structure(self) -> Iterator[Check]:
        """Check the form itself: headers, the switch that makes stacks add the bias, explicit zeros."""

    def carried(self, base: StoredModel) -> Iterator[Check]:
        """Compare everything but the biases with `base`."""


def check_bytes(
    output: Output,
    base: StoredModel | None,
    vectors: VectorSet | None,
    *,
    no_base: str = "give `base`",
    no_vectors: str = "",
) -> Iterator[Check]:
    """Check an output by its bytes; `no_base` says why there is no `base` to compare with.

    Raises:
        EmobakeError: a file cannot be read; the checks before it were yielded.
    """
    yield from output.structure()
    yield _recorded(output)
    if base is not None:
        yield from output.carried(base)
    elif set(output.model.tensors) - set(output.record.added):
        yield Check("carried tensors", None, f"not compared; {no_base}")
    if vectors is not None:
        yield _arithmetic(output, base, vectors)
    else:
        why = no_vectors or "give `vectors`"
        yield Check("arithmetic", None, f"biases compared with the record's digests only; {why}")


def compare_tensors(
    output: Output,
    base: StoredModel,
    expected: Callable[[TensorHeader], Span | Rows] = lambda tensor: Span(tensor.file, tensor.start, tensor.size),
    note: str = "",
) -> Check:
    """Compare every tensor but the biases with the bytes of `base` that are `expected` for it.

    Both models are in folders. `note` is added to the finding.
    """
    name, model = "carried tensors", output.model
    found = missing_or_extra(output, base)
    if found is not None:
        return found
    changed = changed_tensors(output.record)
    total = 0
    for tensor in base.tensors.values():
        if tensor.name in changed:
            continue
        other = model.tensors[tensor.name]
        same_form = (tensor.dtype, tensor.shape) == (other.dtype, other.shape)
        if not same_form or not _same_bytes(expected(tensor), base, other, model):
            return Check(name, False, f"{tensor.name} differs from the base")
        total += tensor.size
    count = len(base.tensors) - len(changed)
    return Check(name, True, f"{count} tensors, {total / 1e6:,.0f} MB, byte-identical to the base{note}")


def missing_or_extra(output: Output, base: StoredModel) -> Check | None:
    """A finding if the output lacks a tensor of `base`, or has one that its record does not name."""
    missing = set(base.tensors) - set(output.model.tensors)
    extra = set(output.model.tensors) - set(base.tensors) - set(output.record.added)
    if not missing and not extra:
        return None
    word, names = ("lacks", missing) if missing else ("has besides", extra)
    return Check("carried tensors", False, f"the output {word} {len(names)} tensors, {min(names)} for one")


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
    name, record, model = "arithmetic", output.record, output.model
    try:
        rows = _recorded_rows(output, vectors)
    except VerifyError as error:
        return Check(name, False, str(error))
    for entry in record.biases:
        tensor = model.tensors.get(entry.tensor)
        if tensor is None or entry.layer >= len(rows) or tensor.dtype not in FLOATS:
            return Check(name, False, f"{entry.tensor} is not the bias of a layer of {model.name}")
        row = rows[entry.layer]
        if entry.tensor not in record.added:
            old = None if base is None else base.tensors.get(entry.tensor)
            if base is None or old is None:
                return Check(name, None, "existing biases were added to; give `base` to compute them again")
            row = decode(old, _read(base, old)) + row
        if _read(model, tensor) != encode(row, tensor.dtype):
            return Check(name, False, f"{entry.tensor} is not existing bias + weighted vectors")
    return Check(name, True, f"{len(record.biases)} biases equal existing bias + weighted vectors, to the bit")


def _recorded_rows(output: Output, vectors: VectorSet) -> np.ndarray:
    """Compute what the bake added to its biases: float32 ``[layers, hidden]``.

    Raises:
        VerifyError: these are not the vectors that the record names. VectorError: they do not fit the model.
    """
    record = output.record
    if any(record.vectors.sha256.get(file, digest) != digest for file, digest in vectors.sha256.items()):
        raise VerifyError("these vector files are not the ones that the record names")
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


def _same_bytes(piece: Span | Rows, base: StoredModel, tensor: TensorHeader, model: StoredModel) -> bool:
    assert base.folder is not None and model.folder is not None  # The caller has looked.
    source, file = base.folder / piece.source, model.folder / tensor.file
    if isinstance(piece, Span) and piece.offset == tensor.start and source.samefile(file):
        return True
    with source.open("rb") as reader, file.open("rb") as other:
        other.seek(tensor.start)
        return all(other.read(len(chunk)) == chunk for chunk in read_piece(reader, piece))
