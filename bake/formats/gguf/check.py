"""Checking a baked GGUF model by its bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ...core.check import Check
from ...core.plan import Rows, Span
from ...core.record import Record, parse_record, recorded_sum
from ...core.tensors import FLOATS, encode
from ...core.vector_set import VectorSet
from ...errors import InputError, VerifyError
from ...storage.copying import read_part
from .architectures import find_gguf_architecture
from .as_llama import moved_rows
from .header import type_name
from .model import RECORD, GgufModel


def read_gguf_record(model: GgufModel) -> Record:
    """What a bake has written into the file about itself.

    Raises:
        InputError: nothing, or not a record of this version's kind.
    """
    if model.record is None:
        raise InputError(f"{model.name}: has no {RECORD} in its metadata, so it is not an output of emobake")
    return parse_record(model.record, f"{model.name} ({RECORD})")


def _check_bytes(
    baked: GgufModel, record: Record, base: str | None, origin: GgufModel | None, vectors: VectorSet | None
) -> Iterator[Check]:
    count = len(baked.files)
    yield Check("header", True, f"{len(baked.tensors)} tensors in {count} file{'s' * (count != 1)}")
    try:
        row = find_gguf_architecture(baked.architecture, record.site, baked.name)
        yield Check("architecture honours the bias", True, f"{row.name}: llama.cpp {row.sites[record.site]} it")
    except InputError as error:
        yield Check("architecture honours the bias", False, str(error))
    yield _recorded(baked, record)
    if origin is not None:
        yield _carried(baked, origin, record)
        yield _metadata(baked, origin)
    else:
        why = "give --base" if base is None else "the base is not a GGUF file"
        yield Check("carried tensors", None, f"not compared; {why}")
    if vectors is not None:
        yield _arithmetic(baked, origin, record, vectors)
    else:
        yield Check("arithmetic", None, "biases compared with the record's digests only; give --vectors")


def _recorded(baked: GgufModel, record: Record) -> Check:
    name = "biases as recorded"
    for entry in record.biases:
        tensor = baked.tensors.get(entry.tensor)
        if tensor is None:
            return Check(name, False, f"{entry.tensor} is missing: it would run UNSTEERED there")
        if hashlib.sha256(baked.read(tensor)).hexdigest() != entry.sha256:
            return Check(name, False, f"{entry.tensor} is not what the record says")
    return Check(name, True, f"{len(record.biases)} digests match {RECORD}")


def _carried(baked: GgufModel, base: GgufModel, record: Record) -> Check:
    name = "carried tensors"
    changed = {entry.tensor for entry in record.biases} - record.added
    missing = sorted(set(base.tensors) - set(baked.tensors))
    extra = sorted(set(baked.tensors) - set(base.tensors) - record.added)
    if missing or extra:
        word, names = ("lacks", missing) if missing else ("has besides", extra)
        return Check(name, False, f"the output {word} {len(names)} tensors, {names[0]} for one")
    moved = moved_rows(base) if base.architecture != baked.architecture else {}
    total = 0
    for tensor in base.tensors.values():
        if tensor.name in changed:
            continue
        other, size = baked.tensors[tensor.name], tensor.end - tensor.start
        expected: Span | Rows = Span(tensor.file, tensor.start, size)
        if tensor.name in moved:
            rows = tensor.rows if len(tensor.shape) > 1 else tensor.shape[0]
            expected = Rows(tensor.file, tensor.start, size // rows, rows, moved[tensor.name])
        same = (tensor.kind, tensor.shape) == (other.kind, other.shape)
        if not same or not _same_bytes(expected, Path(other.file), other.start):
            return Check(name, False, f"{tensor.name} differs from the base")
        total += size
    count = len(base.tensors) - len(changed)
    as_llama = f", {len(moved)} of them with rows in llama's order" if moved else ""
    return Check(name, True, f"{count} tensors, {total / 1e6:,.0f} MB, byte-identical to the base{as_llama}")


def _metadata(baked: GgufModel, base: GgufModel) -> Check:
    """Whether everything that the base says of itself, its tokenizer first of all, is said in the same bytes."""
    name, other = "carried metadata", baked.header.by_key
    changed = ("general.architecture", "general.base_model.", "emobake.", "split.")
    kept = [field for field in base.header.fields if not field.key.startswith(changed)]
    for field in kept:
        prefix, _, rest = field.key.partition(".")
        key = f"{baked.architecture}.{rest}" if prefix == base.architecture else field.key
        found = other.get(key)
        if found is None or (found.kind, found.data) != (field.kind, field.data):
            return Check(name, False, f"{key} is not the base's")
    return Check(name, True, f"{len(kept)} fields, byte-identical to the base")


def _same_bytes(expected: Span | Rows, file: Path, start: int) -> bool:
    with Path(expected.source).open("rb") as reader, file.open("rb") as other:
        other.seek(start)
        return all(other.read(len(piece)) == piece for piece in read_part(reader, expected))


def _arithmetic(baked: GgufModel, base: GgufModel | None, record: Record, vectors: VectorSet) -> Check:
    name = "arithmetic"
    try:
        added = recorded_sum(record, vectors, baked.block_count, baked.embedding_length, baked.name)
    except VerifyError as error:
        return Check(name, False, str(error))
    for entry in record.biases:
        tensor, row = baked.tensors.get(entry.tensor), added[entry.layer] if entry.layer < len(added) else None
        if tensor is None or row is None or type_name(tensor) not in FLOATS:
            return Check(name, False, f"{entry.tensor} is not the bias of a layer of {baked.name}")
        if entry.tensor not in record.added:
            old = None if base is None else base.tensors.get(entry.tensor)
            if base is None or old is None or type_name(old) not in FLOATS:
                return Check(name, None, "existing biases were added to; give --base, a GGUF, to compute them anew")
            row = np.frombuffer(base.read(old), FLOATS[type_name(old)]).astype(np.float32) + row
        if baked.read(tensor) != encode(row, type_name(tensor)):
            return Check(name, False, f"{entry.tensor} is not existing bias + weighted vectors")
    return Check(name, True, f"{len(record.biases)} biases equal existing bias + weighted vectors, to the bit")
