"""`bake`: from what a user names to a finished output. The command line calls this and nothing below it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..core.plan import BakePlan, Write
from ..core.steering import Steering, steering
from ..core.vector_set import EMOTIONS, SITE, VectorSet
from ..errors import EmobakeError, InputError
from ..formats.adapter.plan import gather, make_adapter_plan
from ..formats.checkpoint.card import adapters_card, add_documents
from ..formats.checkpoint.model import Checkpoint
from ..formats.checkpoint.open import open_folder
from ..formats.checkpoint.plan import make_plan
from ..formats.checkpoint.routes import choose_route
from ..storage.copying import LinkMode
from ..storage.files import reading
from ..storage.model_name import is_gguf, is_local, is_offline, locate, split_revision
from ..storage.to_folder import check_output, execute
from ..vectors.find import SetOpener, known_ids
from .gguf_options import GgufOptions, check_gguf_options

if TYPE_CHECKING:
    from ..storage.hub.changes import Pushed, Target
    from ..storage.hub.snapshot import Snapshot

Format = Literal["checkpoint", "peft"]


@dataclass(frozen=True, eq=False)
class BakeResult:
    """What a bake did, or with ``dry_run`` would do."""

    plan: BakePlan
    out: Path | None
    """The finished output; None after a dry run, or when the result is on the Hub only."""
    model: str
    """The base as it was given: a folder or a Hub id."""
    base_model: str
    """Hub id of the base; empty when it is not known."""
    pushed: Pushed | None = None
    """What was done on the Hub, or with ``dry_run`` would be; None when nothing was asked for."""


def bake(
    model: str | os.PathLike[str],
    vectors: str | os.PathLike[str] | VectorSet | None = None,
    times: Iterable[float] | None = None,
    out: str | os.PathLike[str] | None = None,
    *,
    mix: Mapping[str, float] | None = None,
    layers: str | None = None,
    scale: float = 1.0,
    targets: Iterable[str] = (),
    format: Format = "checkpoint",
    each: bool = False,
    revision: str | None = None,
    base_model: str = "",
    vectors_for: str = "",
    site: str = "",
    outtype: str = "",
    converter: str = "",
    keep_split: bool = False,
    modelfile: bool = False,
    link_mode: LinkMode = "auto",
    overwrite: bool = False,
    force: bool = False,
    hash_files: bool = False,
    dry_run: bool = False,
    push_to_hub: str = "",
    private: bool | None = None,
    create_pr: bool = False,
    commit_message: str = "",
    progress: Callable[[BakePlan], Callable[[int], None]] = lambda plan: lambda done: None,
    notice: Callable[[str], object] = lambda line: None,
) -> BakeResult:
    """Bake emotion vectors into a checkpoint; write the steered one to the new folder `out`, or the Hub, or both.

    From Hub to Hub, without `out`, no weights pass through this machine: the Hub's server copies them. A GGUF file as
    `model` is baked into a GGUF file, and a checkpoint with a ``.gguf`` as `out` converted into one.

    Args:
        model: a checkpoint's folder, a GGUF file (of a split set the first), or a model id on the Hub, perhaps with
            ``@revision`` (fetched into the Hub's cache when there is an `out`).
        vectors: a folder of JSON files as published with arXiv 2502.04075, our safetensors file, the name of a
            published set, a Hub repository (``owner/name``), or a set that is open already. None looks the set up
            by the ids that the model goes by: its own, and those that its card names as its base.
        times: five weights, for anger, disgust, fear, joy, sadness.
        out: the folder, or ``.gguf`` file, to write; needed without `push_to_hub`, unless `dry_run`.
        mix: weights by name instead of `times`.
        layers: layers to steer, such as ``"8-27"``; the others get nothing.
        scale: a factor for all weights.
        targets: stacks that must load the result steered (``transformers``, ``vllm``, ``llama.cpp``, ``mlx``).
        format: ``checkpoint``, or ``peft`` for an adapter.
        each: with ``peft``: one adapter per emotion, at its own weight (1 without `times` and `mix`).
        revision: branch, tag or commit of a Hub model.
        base_model: Hub id to name as the base when `model` is a folder.
        vectors_for: use the set of the model with this Hub id, where `vectors` is None.
        site: where the vectors act (`emobake.vectors.SITES`), for a file that does not say; refused where it does and
            says otherwise.
        outtype: with a checkpoint as `model` and a ``.gguf`` as `out`: what llama.cpp's converter writes the weights as
            (``f32``, ``f16``, ``bf16``, ``q8_0``; default 16 bits).
        converter: that converter; default: the one beside this interpreter, or on PATH.
        keep_split: of a split GGUF set, write a set as well.
        modelfile: write an Ollama Modelfile beside the ``.gguf``.
        link_mode: how weight files are carried over; `emobake.copying.carry` describes the modes.
        overwrite: replace an earlier output of emobake once the new one is complete; on the Hub, any model.
        force: write even when all weights are zero.
        hash_files: record the sha256 of every weight file (reads them all).
        dry_run: plan only.
        push_to_hub: the repository to put the result in, by one commit: ``owner/name``, or ``name`` for one's own
            account, and perhaps ``@branch``; made if need be.
        private: for a repository that does not exist yet; None: when the base is private.
        create_pr: open a pull request instead of committing.
        commit_message: default: what was baked.
        progress: given the plan, returns what is called with the number of bytes carried since its last call.
        notice: is told what should not be missed while the Hub is at work, in a line.

    Raises:
        InputError: (exit code 2) the request cannot be carried out; nothing was written.
        OutputError: (exit code 1) writing failed; what was begun has been removed.

    """
    if each and format != "peft":
        raise InputError("--each goes with --format peft")
    if out is None and not (push_to_hub or dry_run):
        raise InputError("give --out, the folder to write, or --push-to-hub (or --dry-run to see the plan)")
    target = None if out is None else Path(os.path.abspath(out))  # noqa: PTH100 - resolve() would follow links
    gguf = GgufOptions(outtype, converter, keep_split, modelfile)
    check_gguf_options(
        str(model),
        target,
        gguf,
        {"--push-to-hub": push_to_hub, "--targets": tuple(targets), "--format peft": format == "peft"},
    )
    request = _Request(
        model=str(model),
        opener=SetOpener(vectors, str(model), vectors_for, site),
        recipes=_recipes(times, mix, scale, layers, each),
        out=target,
        targets=tuple(targets),
        format=format,
        revision=revision,
        base_model=base_model,
        link_mode=link_mode,
        overwrite=overwrite,
        force=force,
        hash_files=hash_files,
        dry_run=dry_run,
        progress=progress,
        notice=notice,
    )
    if is_gguf(request.model):
        return _from_gguf(request, gguf)
    if target is not None and is_gguf(target.name):
        return _to_gguf(request, gguf)
    return _to_checkpoint(request, _goal(push_to_hub, private, create_pr, commit_message, overwrite, dry_run))


@dataclass(frozen=True, eq=False)
class _Request:
    """What `bake` was asked for, whatever the result is written as."""

    model: str
    opener: SetOpener
    recipes: Mapping[str, Steering]
    """Folder inside the output -> weights."""
    out: Path | None
    targets: tuple[str, ...]
    format: Format
    revision: str | None
    base_model: str
    link_mode: LinkMode
    overwrite: bool
    force: bool
    hash_files: bool
    dry_run: bool
    progress: Callable[[BakePlan], Callable[[int], None]]
    notice: Callable[[str], object]

    @property
    def emotions(self) -> list[str]:
        """The emotions that have weights."""
        return [emotion for recipe in self.recipes.values() for emotion, _ in recipe.weights]


def _from_gguf(request: _Request, options: GgufOptions) -> BakeResult:
    from .bake_gguf import bake_gguf

    if request.revision:
        raise InputError(f"--revision goes with a Hub id, and {request.model} is a file")
    if request.link_mode not in ("auto", "copy"):
        raise InputError(f"--link-mode {request.link_mode}: a GGUF file is copied, for its header changes")
    with reading():
        plan = bake_gguf(
            Path(request.model),
            lambda ids: request.opener.open(request.emotions, ids),
            request.recipes[""],
            request.out,
            options,
            base_model=request.base_model,
            vectors_for=request.opener.vectors_for,
            overwrite=request.overwrite,
            force=request.force,
            hash_files=request.hash_files,
            dry_run=request.dry_run,
            progress=request.progress,
        )
    return BakeResult(plan, None if request.dry_run else request.out, request.model, request.base_model)


def _to_gguf(request: _Request, options: GgufOptions) -> BakeResult:
    from .bake_gguf import bake_converted

    def checkpoint(folder: Path | None) -> tuple[BakePlan, str, VectorSet]:
        # Links, for the converter only reads.
        part = replace(request, out=folder, dry_run=folder is None, link_mode="symlink", targets=("llama.cpp",))
        result = _to_checkpoint(replace(part, progress=lambda plan: lambda done: None), None)
        return result.plan, result.base_model, request.opener.open(request.emotions, lambda: ())

    assert request.out is not None
    plan, base_model = bake_converted(
        checkpoint,
        request.out,
        options,
        overwrite=request.overwrite,
        dry_run=request.dry_run,
        progress=request.progress,
    )
    return BakeResult(plan, None if request.dry_run else request.out, request.model, base_model)


def _to_checkpoint(request: _Request, goal: Target | None) -> BakeResult:
    target, dry_run, opener = request.out, request.dry_run, request.opener
    model, revision = split_revision(request.model, request.revision)

    def vector_set() -> VectorSet:
        ids = partial(known_ids, model, revision, request.base_model, opener.vectors_for)
        return opener.open(request.emotions, ids)

    def check(config: Mapping[str, object]) -> None:
        # Before anything large is fetched.
        if request.format == "checkpoint":
            site = SITE if opener.given is None else vector_set().site
            choose_route(config, request.model, request.targets, site)
        vector_set()

    source, folder = None, None
    with reading():
        if (target is None or dry_run) and not is_local(model, revision) and not is_offline():
            source, checkpoint = _at_a_distance(model, revision, check, from_cache=goal is None)
        else:
            folder, listed = locate(model, revision, check)
            if target is not None and not dry_run:
                check_output(target, (folder, *opener.paths), overwrite=request.overwrite)
            checkpoint = open_folder(folder, hash_files=request.hash_files, listed=listed)
        base_model = request.base_model or checkpoint.repo_id
        opened = vector_set()
    plan = _plan(checkpoint, opened, request, base_model)
    if opener.given is None and not checkpoint.repo_id and opened.base_model != base_model:
        # With an id the plan warns by itself.
        plan = replace(plan, warnings=(*plan.warnings, f"the vectors are those of {opened.base_model}"))
    result = BakeResult(plan, None if dry_run else target, request.model, base_model)
    if goal is None:
        _write(result, folder, request)
        return result
    if not base_model:
        request.notice(f"the model card of {goal.repo_id} will name no base; --base-model ID would")
    from .push import base_snapshot, push_plan

    if source is None and not is_local(model, revision):
        source = base_snapshot(checkpoint.repo_id, checkpoint.revision, request.notice)
    if result.out is not None:
        # Whatever the Hub would refuse, before the first byte is written here.
        push_plan(plan, goal, folder=folder, source=source, dry_run=True)
        _write(result, folder, request)
    with _after(result, goal):
        pushed = push_plan(plan, goal, folder=folder, source=source, dry_run=dry_run, notice=request.notice)
    return replace(result, pushed=pushed)


def _at_a_distance(
    model: str, revision: str | None, check: Callable[[Mapping[str, object]], object], *, from_cache: bool
) -> tuple[Snapshot | None, Checkpoint]:
    """A checkpoint on the Hub, without its weights; `from_cache` when the Hub cannot be reached."""
    from ..formats.checkpoint.open import open_repository

    try:
        return open_repository(model, revision, check)
    except InputError:
        raise
    except EmobakeError:
        if not from_cache:
            raise
    folder, listed = locate(model, revision, check)
    return None, open_folder(folder, listed=listed)


def _goal(
    push_to_hub: str, private: bool | None, create_pr: bool, commit_message: str, overwrite: bool, dry_run: bool
) -> Target | None:
    """Where on the Hub the result goes, with everything checked that can be before the model is looked at."""
    if not push_to_hub:
        if private is not None or create_pr or commit_message:
            raise InputError("--private, --public, --create-pr and --commit-message go with --push-to-hub")
        return None
    from ..storage.hub.changes import parse_target
    from ..storage.hub.commit import settle

    return settle(
        parse_target(push_to_hub, None, private, create_pr, commit_message, overwrite), need_token=not dry_run
    )


def _write(result: BakeResult, folder: Path | None, request: _Request) -> None:
    if result.out is not None and folder is not None:
        execute(
            result.plan,
            folder,
            result.out,
            link_mode=request.link_mode,
            overwrite=request.overwrite,
            progress=request.progress(result.plan),
        )


@contextmanager
def _after(result: BakeResult, goal: Target) -> Iterator[None]:
    """A failed push names what is complete here, and what is left to type."""
    rest = f"{result.out} is complete: emobake push {result.out} {goal.repo_id}"
    try:
        yield
    except EmobakeError as error:
        if result.out is None:
            raise
        kind = InputError if isinstance(error, InputError) else EmobakeError
        raise kind(f"{error}. {rest}") from None
    except KeyboardInterrupt:
        if result.out is None:
            raise
        raise EmobakeError(f"interrupted; {rest}") from None


def _recipes(
    times: Iterable[float] | None,
    mix: Mapping[str, float] | None,
    scale: float,
    layers: str | None,
    each: bool,
) -> dict[str, Steering]:
    """Folder inside the output -> weights; one entry ``""`` unless every emotion gets an output of its own."""
    if not each:
        return {"": steering(None if times is None else tuple(times), mix, scale=scale, layers=layers)}
    if times is None and mix is None:
        times = (1.0,) * len(EMOTIONS)
    whole = steering(None if times is None else tuple(times), mix, scale=scale, layers=layers)
    return {name: replace(whole, weights=((name, weight),)) for name, weight in whole.weights if weight}


def _plan(checkpoint: Checkpoint, vectors: VectorSet, request: _Request, base_model: str) -> BakePlan:
    force = request.force
    if request.format == "checkpoint":
        plan = make_plan(checkpoint, vectors, request.recipes[""], targets=request.targets, force=force)
        return add_documents(plan, checkpoint, vectors, base_model)
    if request.targets:
        raise InputError("--targets goes with --format checkpoint: an adapter is loaded through PEFT")
    plans = {
        folder: add_documents(
            make_adapter_plan(checkpoint, vectors, recipe, base_model=base_model, force=force),
            checkpoint,
            vectors,
            base_model,
        )
        for folder, recipe in request.recipes.items()
    }
    if "" in plans:
        return plans[""]
    return gather(plans).with_files(Write("README.md", adapters_card(plans, checkpoint, base_model).encode()))
