"""Checking a finished output: by its bytes, and by running it where it will be served."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from .adapter_checks import adapter_biases, check_adapter
from .arch import architectures
from .checkpoint import Checkpoint
from .errors import EmobakeError, InputError
from .headers import TensorHeader, decode, encode
from .locate import locate, split_revision
from .record import Check, Record, RecordedBias, read_record
from .side_files import reason_left_out
from .sources import open_folder, reading
from .vector_sets import find_vectors
from .vectors import VectorSet, weighted_sum

_CHUNK = 2**22


def verify(
    out: Path,
    *,
    base: str | None = None,
    revision: str | None = None,
    vectors: str | None = None,
    stack: Iterable[str] = (),
    python: str | None = None,
    max_new_tokens: int = 60,
) -> list[Check]:
    """Check the output of a bake, a checkpoint or an adapter.

    Without torch: every tensor of `base` is carried over byte for byte, each bias is what the manifest (and
    with `vectors` the arithmetic) says, index and headers are consistent, the config honours the biases, and no
    duplicate of the weights lies beside them. Each name in `stack` also runs the model there.

    Raises:
        InputError: `out` is no output of emobake, or `base` or `vectors` cannot be opened.
    """
    with reading():
        record = read_record(out)
        origin = None if base is None else open_folder(locate(*split_revision(base, revision), lambda _: None)[0])
    if record.adapters:
        return [
            Check(f"{name}: {c.name}", c.ok, c.detail)
            for name in record.adapters
            for c in verify(
                out / name,
                base=base,
                revision=revision,
                vectors=vectors,
                stack=stack,
                python=python,
                max_new_tokens=max_new_tokens,
            )
        ]
    emotions = [name for name, _ in record.steering.weights]
    vector_set = None if vectors is None else find_vectors(vectors, emotions, model=str(out))
    steps: list[Callable[[], Iterator[Check]]]
    if record.is_adapter:
        steps = [lambda: check_adapter(out, record, vector_set)]
    else:
        steps = [lambda: _check_bytes(out, record, origin, vector_set)]
    for name in dict.fromkeys(stack):
        steps.append(lambda name=name: _check_stack(name, out, origin, record, python, max_new_tokens))  # type: ignore[misc]
    checks: list[Check] = []
    for step in steps:
        try:
            checks.extend(step())
        except EmobakeError as error:
            checks.append(Check("cannot be checked", False, str(error)))
    return checks


def _check_bytes(out: Path, record: Record, base: Checkpoint | None, vectors: VectorSet | None) -> Iterator[Check]:
    baked = open_folder(out)
    yield Check("index and headers", True, f"{len(baked.tensors)} tensors in {len(baked.weights)} files")
    yield _no_duplicates(baked)
    yield _config_honours(baked)
    yield _recorded(baked, record)
    yield _siblings_zero(baked, record)
    if base is not None:
        yield _carried(out, baked, base, record)
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


def _config_honours(baked: Checkpoint) -> Check:
    name = "config honours the bias"
    arch = architectures().get(str(baked.config.get("model_type")))
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


def _carried(out: Path, baked: Checkpoint, base: Checkpoint, record: Record) -> Check:
    added = record.added
    changed = {entry.tensor for entry in record.biases} - added
    extra = set(baked.tensors) - set(base.tensors) - added
    missing = set(base.tensors) - set(baked.tensors)
    if extra or missing:
        word, names = ("lacks", missing) if missing else ("has besides", extra)
        return Check("carried tensors", False, f"the output {word} {len(names)} tensors, {min(names)} for one")
    total = 0
    for name, header in base.tensors.items():
        if name in changed:
            continue
        other = baked.tensors[name]
        if (header.dtype, header.shape) != (other.dtype, other.shape) or not _same_bytes(
            Path(base.name) / header.file, header, out / other.file, other
        ):
            return Check("carried tensors", False, f"{name} differs from the base")
        total += header.end - header.start
    count = len(base.tensors) - len(changed)
    return Check("carried tensors", True, f"{count} tensors, {total / 1e6:,.0f} MB, byte-identical to the base")


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
    if any(record.vector_sha256.get(file, digest) != digest for file, digest in vectors.sha256.items()):
        return Check(name, False, "these vector files are not the ones that emobake.json records")
    added = weighted_sum(vectors, record.steering)
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
    """What the output adds in each layer: stored bias minus the base's, float32 ``[hidden]``."""
    if record.is_adapter:
        return adapter_biases(out, record)
    baked = open_folder(out)
    result = {}
    for entry in record.biases:
        header = _bias_header(baked, entry)
        value = decode(header, baked.read(header))
        old = None if header.name in record.added else base.tensors.get(header.name)
        result[entry.layer] = value if old is None else value - decode(old, base.read(old))
    return result


def _check_stack(
    stack: str, out: Path, base: Checkpoint | None, record: Record, python: str | None, max_new_tokens: int
) -> Iterator[Check]:
    if base is None:
        raise InputError(f"--stack {stack} needs --base, to show that the output differs from the unsteered model")
    from . import compare

    folder = Path(base.name)
    if stack == "transformers":
        yield from compare.against_hooks(folder, out, deltas(out, base, record), record.is_adapter, max_new_tokens)
    elif record.is_adapter:
        yield Check(stack, False, "does not load PEFT adapters with a bias; bake a checkpoint for it")
    else:
        yield from compare.against_transformers(stack, folder, out, python, max_new_tokens)
