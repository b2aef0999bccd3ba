"""Checking a finished output: by its bytes, and by running it where it will be served."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ..core.check import Check
from ..core.record import Record, parse_record
from ..errors import EmobakeError, InputError
from ..formats.adapter.check import check_adapter
from ..formats.checkpoint.check import _check_bytes, deltas
from ..formats.checkpoint.model import Checkpoint
from ..formats.checkpoint.open import open_folder
from ..formats.read_record import read_record
from ..storage.files import reading
from ..storage.model_name import is_gguf, is_local, is_offline, locate, split_revision
from ..vectors.find import find_vectors
from .verify_gguf import verify_gguf


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
            from ..formats.checkpoint.open import open_repository

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
        from ..formats.checkpoint.open import open_repository

        return open_repository(name, at)[1]
    return open_folder(locate(name, at, lambda _: None)[0], hash_files=at_a_distance)


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
