"""Checking a baked checkpoint by its bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ...core.check import Check
from ...core.record import Record, RecordedBias, recorded_sum
from ...core.side_files import reason_left_out
from ...core.tensors import TensorHeader, decode, encode
from ...core.vector_set import Site, VectorSet
from ...errors import EmobakeError, VerifyError
from ..adapter.check import adapter_biases
from .families import architectures
from .model import Checkpoint
from .open import open_folder

_CHUNK = 2**22


def _check_bytes(
    baked: Checkpoint, record: Record, base: Checkpoint | None, vectors: VectorSet | None
) -> Iterator[Check]:
    yield Check("index and headers", True, f"{len(baked.tensors)} tensors in {len(baked.weights)} files")
    yield _no_duplicates(baked)
    yield _config_honours(baked, record.site)
    yield _recorded(baked, record)
    yield _siblings_zero(baked, record)
    if base is not None:
        yield _carried(baked, base, record)
    else:
        yield Check("carried tensors", None, "not compared; give --base")
    if vectors is not None:
        yield _arithmetic(baked, base, record, vectors)
    else:
        yield Check("arithmetic", None, "biases compared with the manifest's digests only; give --vectors")


def _no_duplicates(baked: Checkpoint) -> Check:
    found = [name for name in baked.side_files if "duplicate" in reason_left_out(name)]
    if found:
        return Check("no duplicate weights", False, f"{found[0]} lies beside the steered weights; remove it")
    return Check("no duplicate weights", True, "none beside the steered ones")


def _config_honours(baked: Checkpoint, site: Site) -> Check:
    name = "config honours the bias"
    arch = architectures(site).get(str(baked.config.get("model_type")))
    if arch is None or not (arch.always or arch.flag):
        return Check(name, False, f"{baked.config.get('model_type')} has no such bias: it would load UNSTEERED")
    if not arch.always and not baked.config.get(str(arch.flag), arch.flag_default):
        return Check(name, False, f"{arch.flag} is off in config.json: it would load UNSTEERED")
    return Check(name, True, f"{baked.config['model_type']}: " + (f"{arch.flag} is on" if arch.flag else "always"))


def _bias_header(baked: Checkpoint, entry: RecordedBias) -> TensorHeader:
    header = baked.tensors.get(entry.tensor)
    if header is None:
        raise EmobakeError(f"{baked.name}: the manifest names {entry.tensor}, which no file holds")
    return header


def _recorded(baked: Checkpoint, record: Record) -> Check:
    for entry in record.biases:
        header = _bias_header(baked, entry)
        if hashlib.sha256(baked.read(header)).hexdigest() != entry.sha256:
            return Check("biases as recorded", False, f"{header.name} is not what emobake.json records")
    return Check("biases as recorded", True, f"{len(record.biases)} digests match emobake.json")


def _siblings_zero(baked: Checkpoint, record: Record) -> Check:
    own = {entry.tensor for entry in record.biases}
    siblings = [name for name in sorted(record.added) if name not in own]
    for name in siblings:
        header = baked.tensors.get(name)
        if header is None or any(baked.read(header)):
            return Check("sibling biases", False, f"{name} is missing or not zero")
    return Check("sibling biases", True, f"{len(siblings)} explicit zeros" if siblings else "none are needed")


def _carried(baked: Checkpoint, base: Checkpoint, record: Record) -> Check:
    added = record.added
    changed = {entry.tensor for entry in record.biases} - added
    extra = set(baked.tensors) - set(base.tensors) - added
    missing = set(base.tensors) - set(baked.tensors)
    if extra or missing:
        word, names = ("lacks", missing) if missing else ("has besides", extra)
        return Check("carried tensors", False, f"the output {word} {len(names)} tensors, {min(names)} for one")
    if not Path(baked.name).is_dir():
        return _same_files(baked, base, record, changed)
    total = 0
    for name, header in base.tensors.items():
        if name in changed:
            continue
        other = baked.tensors[name]
        if (header.dtype, header.shape) != (other.dtype, other.shape) or not _same_bytes(
            Path(base.name) / header.file, header, Path(baked.name) / other.file, other
        ):
            return Check("carried tensors", False, f"{name} differs from the base")
        total += header.end - header.start
    count = len(base.tensors) - len(changed)
    return Check("carried tensors", True, f"{count} tensors, {total / 1e6:,.0f} MB, byte-identical to the base")


def _same_files(baked: Checkpoint, base: Checkpoint, record: Record, changed: set[str]) -> Check:
    """By the digests of whole files; those whose biases were overwritten would have to be read."""
    ours, theirs = ({w.name: w for w in model.weights} for model in (baked, base))
    edited = {baked.tensors[name].file for name in changed}
    total = 0
    for name, source in record.files.items():
        if name in edited:
            continue
        if name not in ours or source not in theirs or not ours[name].sha256:
            return Check("carried tensors", False, f"{name} is not there, or its digest is not known")
        if ours[name].sha256 != theirs[source].sha256:
            return Check("carried tensors", False, f"{name} is not the base's {source}")
        total += ours[name].size
    if set(record.files.values()) != set(theirs):
        return Check("carried tensors", False, "the record does not name every weight file of the base")
    count = len(record.files) - len(edited)
    compared = f"{count} file{'s' * (count != 1)}, {total / 1e6:,.0f} MB, with the digests of the base's"
    if edited:
        return Check("carried tensors", None, f"{compared}; {len(edited)} with overwritten biases were not compared")
    return Check("carried tensors", True, compared)


def _same_bytes(path_a: Path, a: TensorHeader, path_b: Path, b: TensorHeader) -> bool:
    if a.start == b.start and path_a.samefile(path_b):
        return True
    with path_a.open("rb") as file_a, path_b.open("rb") as file_b:
        file_a.seek(a.start)
        file_b.seek(b.start)
        left = a.end - a.start
        while left > 0:
            step = min(left, _CHUNK)
            if file_a.read(step) != file_b.read(step):
                return False
            left -= step
    return True


def _arithmetic(baked: Checkpoint, base: Checkpoint | None, record: Record, vectors: VectorSet) -> Check:
    name = "arithmetic"
    try:
        added = recorded_sum(record, vectors, baked.num_hidden_layers, baked.hidden_size, baked.name)
    except VerifyError as error:
        return Check(name, False, str(error))
    if any(entry.layer >= len(added) for entry in record.biases):
        return Check(name, False, f"the record names more layers than the {len(added)} of these vectors")
    new = record.added
    for entry in record.biases:
        header = _bias_header(baked, entry)
        row = added[entry.layer]
        if header.name not in new:
            if base is None:
                return Check(name, None, "existing biases were added to; give --base to compute them anew")
            old = base.tensors[header.name]
            row = decode(old, base.read(old)) + row
        if baked.read(header) != encode(row, header.dtype):
            return Check(name, False, f"{header.name} is not existing bias + weighted vectors")
    return Check(name, True, f"{len(record.biases)} biases equal existing bias + weighted vectors, to the bit")


def deltas(out: Path, base: Checkpoint, record: Record) -> dict[int, np.ndarray]:
    """What the output adds at the site in each layer: stored bias minus the base's, float32 ``[hidden]``."""
    scale = np.float32(record.branch_scale)
    if record.is_adapter:
        return {layer: row * scale for layer, row in adapter_biases(out, record).items()}
    baked = open_folder(out)
    result = {}
    for entry in record.biases:
        header = _bias_header(baked, entry)
        value = decode(header, baked.read(header))
        old = None if header.name in record.added else base.tensors.get(header.name)
        result[entry.layer] = (value if old is None else value - decode(old, base.read(old))) * scale
    return result
