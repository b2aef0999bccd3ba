"""`verify`: check a finished output by its bytes, and by running it where it will be served."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.arguments import as_list
from ..core.check import Check
from ..core.record import RECORD_FILE, Record
from ..core.spelling import did_you_mean
from ..core.stacks import STACKS
from ..core.vector_set import VectorSet
from ..errors import EmobakeError, InputError
from ..formats.adapter.check import Adapted
from ..formats.adapter.open import Adapter, base_of, fetch_adapter
from ..formats.adapter.served import FOLDER as SERVED_FOLDER
from ..formats.check.everything import check_bytes, run_checks
from ..formats.check.others import check_others
from ..formats.check.output import Output, StoredModel
from ..formats.checkpoint.check import CheckpointOutput, FolderOutput
from ..formats.checkpoint.language_model import language_model
from ..formats.checkpoint.model import Checkpoint
from ..formats.checkpoint.open import open_base, open_folder, open_remote_base
from ..formats.output import open_output, read_record
from ..storage.comparing import FolderFiles, OutputFiles
from ..storage.files import Sources, reading
from ..storage.model_name import ModelName, is_offline
from ..vectors.find import Vectors, find_vectors, is_named_set

if TYPE_CHECKING:
    from ..storage.hub.snapshot import Snapshot


def verify(
    out: str | os.PathLike[str],
    *,
    base: str | os.PathLike[str] | ModelName | None = None,
    adapter: str | os.PathLike[str] | ModelName | None = None,
    vectors: Vectors | None = None,
    stack: Iterable[str] = (),
    python: str | None = None,
    max_new_tokens: int = 60,
    node_modules: str | os.PathLike[str] | None = None,
    weights: str | None = None,
) -> list[Check]:
    """Check the output of a bake: a checkpoint or adapter in a folder or a Hub repository, or a GGUF file.

    Without torch: headers are consistent, the config (or architecture) makes stacks add the bias, each bias is what the
    record (and with `vectors` the arithmetic) says, and no file lies beside that a loader would read. With `base`, the
    same bake is planned anew, and every file is compared with the plan, byte for byte; without it, with the digests in
    the record. Each name in `stack` also runs the model there.

    On the Hub the weights stay where they are: files are compared by the digests that the Hub keeps. With `stack` they
    are fetched.

    Args:
        out: a folder, a GGUF file, or ``owner/name`` on the Hub, perhaps with ``@revision``.
        base: the unsteered base; of an adapter the one that was given to the bake, or None: the one that it names.
        adapter: the adapter that was given to the bake as the model.
        vectors: the set that was baked, as for `emobake.bake`; default: the one that the record names, if it has a
            name in the registry or on the Hub.
        stack: names of `emobake.core.stacks.STACKS`; needs `base`.
        python: interpreter of the environment that has the stack; default: this one. Not for transformers.
        max_new_tokens: tokens to generate per prompt.
        node_modules: folder of the npm packages of a stack in Node.js; default: that of `python`'s environment.
        weights: type to which the converter of a stack quantises weights, such as ``int8``; the result is compared with
            the float form as well.

    Raises:
        InputError: `out` is no output of emobake, or `base`, `adapter` or `vectors` cannot be opened.
    """
    stacks = tuple(dict.fromkeys(as_list("stack", stack, "['transformers']")))
    if weights is not None:
        able = [name for name, known in STACKS.items() if "weights" in known.options]
        if not stacks or set(stacks) - set(able):
            raise InputError(f"`weights` goes with a `stack` that converts and quantises: {', '.join(able)}")
    with reading(), _given(base, adapter) as given:
        options = {"node_modules": None if node_modules is None else os.path.abspath(node_modules)}  # noqa: PTH100
        runs = _Runs(stacks, python, max_new_tokens, {k: v for k, v in options.items() if v}, weights)
        return _verify(ModelName.parse(out), given, vectors, runs)


def verify_alone(out: str | os.PathLike[str]) -> list[Check]:
    """Check an output as `verify` does without a base, and without looking for its vectors."""
    return _verify(ModelName.parse(out), _Given(), None, _Runs(), by_record=False)


@dataclass(frozen=True)
class _Runs:
    """The stacks to run an output in, and how."""

    stacks: tuple[str, ...] = ()
    python: str | None = None
    max_new_tokens: int = 0
    options: Mapping[str, str] = field(default_factory=dict)
    """Fields of a request, for the stacks that know them."""
    weights: str | None = None


@dataclass(frozen=True, eq=False)
class _Given:
    """The base and the adapter that the user names."""

    base: ModelName | None = None
    adapter: Adapter | None = None
    place: Path | None = None
    """A folder for temporary files."""

    def origin(self, found: _Found, *, whole: bool) -> _Origin | None:
        """The base of the output `found`; None if it was not named."""
        use = "" if found.record.adapter is None else found.record.adapter.how
        if self.base is None:
            return None
        if use and found.record.form == "gguf":
            return _Origin(None, "the base is not a GGUF file")
        if use and self.adapter is None and use != "beside":
            return _Origin(None, "give `adapter`, which was baked as well")
        if use == "merged":
            return self._merged()
        origin = _Origin.open(self.base, found, whole=whole)
        if self.adapter is None or origin.model is None:
            return origin
        if not use:
            raise InputError(f"{found.place}: was not made of an adapter; leave `adapter` out")
        return replace(origin, adapter=self.adapter)

    def _merged(self) -> _Origin:
        from .bake_adapter import merged

        assert self.base is not None and self.adapter is not None and self.place is not None
        folder = self.place / "merged"
        if not folder.exists():
            with merged(self.adapter, self.base, folder):
                pass
        return _Origin(open_folder(folder), adapter=self.adapter)


@contextlib.contextmanager
def _given(
    base: str | os.PathLike[str] | ModelName | None, adapter: str | os.PathLike[str] | ModelName | None
) -> Iterator[_Given]:
    """The base and the adapter that the user names; without a base, the one that the adapter names."""
    name = None if base is None else ModelName.parse(base)
    if adapter is None:
        yield _Given(name)
        return
    opened = fetch_adapter(ModelName.parse(adapter))
    with tempfile.TemporaryDirectory(prefix="emobake-") as place:
        yield _Given(base_of(opened, name), opened, Path(place))


def _verify(
    out: ModelName,
    given: _Given,
    vectors: Vectors | None,
    runs: _Runs,
    *,
    by_record: bool = True,
) -> list[Check]:
    with reading():
        found = _locate(out, whole=bool(runs.stacks))
        origin = None if found.record.adapters else given.origin(found, whole=bool(runs.stacks))
    if found.record.adapters:
        return _beside_adapters(found) + [
            Check(f"{name}: {check.name}", check.ok, check.detail)
            for name in found.record.adapters
            for check in (
                *run_checks([partial(_emotion_of, Path(found.place) / name)]),
                *_verify(
                    ModelName.parse(Path(found.place) / name),
                    given,
                    vectors,
                    runs,
                    by_record=by_record,
                ),
            )
        ]
    named = _named(vectors, found) if by_record or vectors is not None else _Named(None)
    return _checks(found, origin, named, runs)


@dataclass(frozen=True, eq=False)
class _Found:
    """The output with its record; it is opened when it is checked, so that a broken file is a finding."""

    place: Path | str
    record: Record
    remote: Checkpoint | None = None
    """The output on the Hub, if its weights stay there."""
    snapshot: Snapshot | None = None
    """The commit of `remote`."""

    def open(self) -> Output:
        """Open it."""
        if self.remote is not None:
            return CheckpointOutput(self.remote, self.record)
        return open_output(Path(self.place), self.record)

    def files(self, origin: _Origin | None, names: tuple[str, ...] | None) -> OutputFiles:
        """Its files, to be compared with those of the base; `names` are the ones that belong to it (None: all)."""
        base = None if origin is None else origin.folder
        if self.snapshot is not None:
            from ..storage.hub.comparing import CommitFiles

            return CommitFiles(self.snapshot, None if origin is None else origin.snapshot, base)
        place = Path(self.place)
        sources = None if origin is None else origin.sources(self.record)
        return FolderFiles(place.parent if names is not None else place, sources, names)


@dataclass(frozen=True, eq=False)
class _Origin:
    """The base, if its form allows a comparison of bytes; otherwise the reason."""

    model: StoredModel | None
    reason: str = "give `base`"
    snapshot: Snapshot | None = None
    """Its commit on the Hub, if its weights stay there."""
    adapter: Adapter | None = None
    """The adapter of it that was baked."""

    @property
    def folder(self) -> Path | None:
        """Folder of the base; None if its weights stay on the Hub."""
        return None if self.model is None else self.model.folder

    @property
    def whole(self) -> StoredModel | None:
        """The base, with the adapter if there is one."""
        if isinstance(self.model, Checkpoint) and self.adapter is not None:
            return Adapted(self.model, self.adapter)
        return self.model

    def sources(self, record: Record) -> Sources | None:
        """The folders of which an output with this `record` was made."""
        if self.adapter is not None and record.route == "lora":
            return Sources(self.adapter.folder)
        if self.folder is None:
            return None
        return Sources(self.folder, {} if self.adapter is None else {SERVED_FOLDER: self.adapter.folder})

    @classmethod
    def open(cls, name: ModelName, found: _Found, *, whole: bool) -> _Origin:
        """Open the base beside the output; `whole`, or for a comparison of weights, it is fetched."""
        if found.record.form == "gguf":
            if name.kind != "gguf":
                return cls(None, "the base is not a GGUF file")
            from ..formats.gguf.model import open_gguf

            return cls(open_gguf(name.path))
        from_afar = found.remote is not None or (found.record.form != "checkpoint" and not whole)
        if from_afar and not name.is_local and not is_offline():
            base, snapshot = open_remote_base(name)
            return cls(_as_baked(base.open(), found.record), snapshot=snapshot)
        return cls(_as_baked(open_base(name).open(), found.record))


def _as_baked(base: Checkpoint, record: Record) -> Checkpoint:
    """The part of the base that was baked: of a multimodal one, perhaps the language model alone."""
    if record.text_only:
        with contextlib.suppress(InputError):  # A wrong base: that is a finding when the bake is planned again.
            return language_model(base)
    return base


def _beside_adapters(found: _Found) -> list[Check]:
    """Look for files beside the folders of adapters."""
    files = FolderFiles(Path(found.place))
    inside = [name for name in files.sizes if name.split("/")[0] in found.record.adapters]
    return run_checks([lambda: check_others(files, inside)])


def _emotion_of(adapter: Path) -> Iterator[Check]:
    """Check that the adapter in a folder is the one of the emotion that the folder is named after."""
    found = [name for name, _ in read_record(adapter).steering.weights]
    same = found == [adapter.name]
    yield Check("emotion", same, f"{adapter.name} {'is' if same else 'holds'} the adapter of {', '.join(found)}")


def _locate(out: ModelName, *, whole: bool) -> _Found:
    """Find the output and its record. On the Hub, weights are fetched only if the `whole` output is needed."""
    if out.is_local:
        return _Found(out.path, read_record(out.path))
    if whole or is_offline():
        folder = open_base(out).fetch()
        return _Found(folder, read_record(folder))
    from ..storage.http import retrying
    from ..storage.hub.errors import fetching
    from ..storage.hub.snapshot import fetch_all, take_snapshot

    missing = f"has no {RECORD_FILE}, so it is not an output of emobake"
    with fetching(out.name, out.revision, missing):
        snapshot = retrying()(take_snapshot, out.name, out.revision)
        if RECORD_FILE not in snapshot.files:
            raise InputError(f"{out.name}: {missing}")
        if "config.json" not in snapshot.files:
            folder = fetch_all(snapshot)
            return _Found(folder, read_record(folder))
    base, snapshot = open_remote_base(out)
    checkpoint = base.open()
    record = Record.from_json(checkpoint.record or {}, f"{out.name}/{RECORD_FILE}")
    if record.adapter is not None:
        # Two repositories that its bytes come from are compared here.
        with fetching(out.name, out.revision, missing):
            return _Found(fetch_all(snapshot), record)
    return _Found(out.name, record, checkpoint, snapshot)


@dataclass(frozen=True, eq=False)
class _Named:
    """The vectors that were baked; or the reason why they are not at hand."""

    vectors: VectorSet | None
    reason: str = ""


def _named(vectors: Vectors | None, found: _Found) -> _Named:
    """Open the vectors that the user names, or else those that the record names."""
    emotions = [name for name, _ in found.record.steering.weights]
    if vectors is not None:
        return _Named(find_vectors(vectors, emotions, model=str(found.place)))
    origins = found.record.vectors.origins
    unknown = [one.name for one in origins if not is_named_set(one.name)]
    if unknown:
        return _Named(None, f"the record names {unknown[0]!r}, which is no set with a name; give `vectors`")
    try:
        opened = find_vectors([one.name for one in origins], emotions)
    except EmobakeError as error:
        return _Named(None, f"the set that the record names cannot be opened ({error}); give `vectors`")
    digests = found.record.vectors.sha256
    if any(digests.get(file) != digest for file, digest in opened.sha256.items()):
        return _Named(None, f"{opened.name} is not what it was when it was baked; give `vectors` as they were then")
    return _Named(opened)


def _checks(
    found: _Found,
    origin: _Origin | None,
    named: _Named,
    runs: _Runs,
) -> list[Check]:
    base = None if origin is None else origin.whole
    no_base = _Origin(None).reason if origin is None else origin.reason

    def by_bytes() -> Iterator[Check]:
        output = found.open()
        files = found.files(origin, output.names)
        yield from check_bytes(output, files, base, named.vectors, no_base=no_base, no_vectors=named.reason)

    steps: list[Callable[[], Iterator[Check]]] = [by_bytes]
    for stack in runs.stacks:

        def by_run(stack: str = stack) -> Iterator[Check]:
            yield from _run(stack, found, origin, runs)

        steps.append(by_run)
    return run_checks(steps)


def _run(stack: str, found: _Found, origin: _Origin | None, runs: _Runs) -> Iterator[Check]:
    """Run the output in `stack`, and compare it with its base."""
    from ..models import comparison

    record, base = found.record, None if origin is None else origin.whole
    form = "gguf" if record.form == "gguf" else "checkpoint"
    known, runnable = STACKS.get(stack), [name for name, each in STACKS.items() if each.is_run]
    if known is None or not known.is_run:
        like = did_you_mean(stack, runnable)
        raise InputError(f"no stack {stack!r} can be run: choose from {', '.join(runnable)}{like}")
    if form not in known.loads:
        loading = next(name for name, each in STACKS.items() if form in each.loads)
        yield Check(stack, False, f"is not for GGUF files; `stack` {loading} is")
        return
    python, max_new_tokens = runs.python, runs.max_new_tokens
    options = {key: value for key, value in runs.options.items() if key in known.options}
    if base is None or base.folder is None:
        what = ", a GGUF," if form == "gguf" else ""
        raise InputError(f"`stack` {stack} needs `base`{what} to show that the output differs from the unsteered model")
    out = Path(found.place)
    if form == "gguf":
        yield from comparison.gguf_against_base(stack, Path(base.name), out, python, max_new_tokens, options)
        return
    quantisation = base.quantisation if isinstance(base, Checkpoint) else None
    method = None if quantisation is None else quantisation.method
    site, is_adapter = record.vectors.site, record.form == "peft"
    if stack == "transformers":
        output = found.open()
        assert isinstance(output, FolderOutput)  # It is no GGUF file.
        rows = output.added_rows(base)
        use = None if record.adapter is None else record.adapter.how
        adapter = None if origin is None or origin.adapter is None or use == "merged" else origin.adapter.folder
        yield from comparison.against_hooks(
            base.folder, out, rows, site, is_adapter, max_new_tokens, adapter=adapter, use=use, quantised=method
        )
    elif is_adapter:
        yield Check(stack, False, "does not load PEFT adapters with a bias; bake a checkpoint for it")
    else:
        support = found.open().plan_again(base).stacks[stack]
        if method is not None:
            yield from comparison.quantised_in_stack(stack, base.folder, out, support, python, max_new_tokens, method)
            return
        yield from comparison.against_transformers(stack, base.folder, out, support, python, max_new_tokens, options)
        if runs.weights is not None:
            yield from comparison.converted_in_stack(stack, base.folder, out, python, max_new_tokens, runs.weights)
