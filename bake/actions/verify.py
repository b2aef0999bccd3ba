"""Checking a finished output: by its bytes, and by running it where it will be served."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from ..core.record import Check, Record, RecordedBias, parse_record, read_record, recorded_sum
from ..core.side_files import reason_left_out
from ..core.vector_set import VectorSet
from ..errors import EmobakeError, InputError, VerifyError
from ..formats.adapter.check import adapter_biases, check_adapter
from ..formats.checkpoint.families import Site, architectures
from ..formats.checkpoint.model import Checkpoint
from ..formats.safetensors import TensorHeader, decode, encode
from ..storage.files import open_folder, reading
from ..storage.model_name import is_local, is_offline, locate, split_revision
from ..vectors.find import find_vectors
from .gguf_options import is_gguf
from .verify_gguf import verify_gguf

_CHUNK = 2**22


def verify(
    out: str | os.PathLike[str],
    *,
    base: str | None = None,
    revision: str | None = None,
    vectors: str | None = None,
    stack: Iterable[str] = (),
    python: str | None = None,
    max_new_tokens: int = 60,
) -> list[Check]:
    """Check the output of a bake: a checkpoint or adapter in a folder or a Hub repository, or a GGUF file.

    Without torch: every tensor of `base` is carried over byte for byte, each bias is what the manifest (and
    with `vectors` the arithmetic) says, index and headers are consistent, the config honours the biases, and no
    duplicate of the weights lies beside them. Each name in `stack` also runs the model there.

    On the Hub (``owner/name``, perhaps with ``@revision``) the weights stay where they are: whole files are compared by
    the digests that the Hub keeps. With `stack` they are fetched.

    Raises:
        InputError: `out` is no output of emobake, or `base` or `vectors` cannot be opened.
    """
    stack = tuple(dict.fromkeys(stack))
    if is_gguf(os.fspath(out)):
        with reading():
            return verify_gguf(
                Path(out), base=base, vectors=vectors, stack=stack, python=python, max_new_tokens=max_new_tokens
            )
    name, at = split_revision(out, None)
    baked = None
    with reading():
        folder = Path(name) if is_local(name, None) else _at_hand(name, at, bool(stack))
        if folder is None:
            from ..storage.hub.snapshot import open_repository

            _, baked = open_repository(name, at)
            record = parse_record(baked.manifest or {}, f"{name}/emobake.json")
        else:
            record = read_record(folder)
        origin = None if base is None else _open_base(base, revision, at_a_distance=folder is None)
    if folder is not None and record.adapters:
        return [
            Check(f"{name}: {c.name}", c.ok, c.detail)
            for name in record.adapters
            for c in verify(
                folder / name,
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
        assert folder is not None
        steps = [lambda: check_adapter(folder, record, vector_set)]
    else:
        steps = [lambda: _check_bytes(baked or open_folder(folder or Path()), record, origin, vector_set)]
    for each in stack:
        steps.append(lambda each=each: _check_stack(each, folder, origin, record, python, max_new_tokens))  # type: ignore[misc]
    checks: list[Check] = []
    for step in steps:
        try:
            checks.extend(step())
        except EmobakeError as error:
            checks.append(Check("cannot be checked", False, str(error)))
    return checks


def _at_hand(repo_id: str, revision: str | None, whole: bool) -> Path | None:
    """The Hub repository's folder in the cache where it must be here: to run it, or because it is an adapter."""
    if whole or is_offline():
        return locate(repo_id, revision, lambda _: None)[0]
    from ..storage.hub.errors import fetching, retrying
    from ..storage.hub.snapshot import fetch_all, take_snapshot

    with fetching(repo_id, revision, "has no emobake.json, so it is not an output of emobake"):
        snapshot = retrying()(take_snapshot, repo_id, revision)
        if "emobake.json" not in snapshot.files:
            raise InputError(f"{repo_id}: has no emobake.json, so it is not an output of emobake")
        return None if "config.json" in snapshot.files else fetch_all(snapshot)


def _open_base(base: str, revision: str | None, *, at_a_distance: bool) -> Checkpoint:
    """The base; where the output stays on the Hub, so does the base, and one that is here is read for its digests."""
    name, at = split_revision(base, revision)
    if at_a_distance and not is_local(name, at):
        from ..storage.hub.snapshot import open_repository

        return open_repository(name, at)[1]
    return open_folder(locate(name, at, lambda _: None)[0], hash_files=at_a_distance)


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


def _check_stack(
    stack: str, out: Path | None, base: Checkpoint | None, record: Record, python: str | None, max_new_tokens: int
) -> Iterator[Check]:
    assert out is not None, "what runs is here"
    if base is None:
        raise InputError(f"--stack {stack} needs --base, to show that the output differs from the unsteered model")
    from ..models import comparison as compare

    folder = Path(base.name)
    if stack == "transformers":
        yield from compare.against_hooks(
            folder, out, deltas(out, base, record), record.site, record.is_adapter, max_new_tokens
        )
    elif record.is_adapter:
        yield Check(stack, False, "does not load PEFT adapters with a bias; bake a checkpoint for it")
    else:
        yield from compare.against_transformers(stack, folder, out, record.site, python, max_new_tokens)
