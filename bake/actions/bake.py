"""`bake`: from the user's request to a finished output."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..core.outputs import Folder, GgufFile, parse_output
from ..core.plan import BakePlan
from ..core.progress import Notice, Progress, no_notice, no_progress
from ..core.sites import SITE
from ..core.stacks import parse_targets
from ..core.steering import Steering, steering
from ..core.vector_set import EMOTIONS, VectorSet
from ..errors import EmobakeError, HubError, InputError
from ..formats.adapter.plan import gather, make_adapter_plan
from ..formats.checkpoint.model import Checkpoint
from ..formats.checkpoint.open import Base, open_base, open_remote_base
from ..formats.checkpoint.plan import make_plan
from ..formats.checkpoint.routes import Route, choose_route
from ..storage.files import reading
from ..storage.local import check_folder, write_folder
from ..storage.model_name import ModelName, is_offline
from ..vectors.find import SetOpener, VectorSource
from .request import BakeFormat, BakeRequest, BakeResult

if TYPE_CHECKING:
    from ..storage.hub.changes import Pushed
    from ..storage.hub.snapshot import Snapshot
    from ..storage.hub.target import HubTarget


def bake(
    model: str | os.PathLike[str] | ModelName,
    vectors: str | os.PathLike[str] | VectorSet | VectorSource | None = None,
    times: Iterable[float] | None = None,
    out: str | os.PathLike[str] | Folder | GgufFile | None = None,
    *,
    mix: Mapping[str, float] | None = None,
    scale: float = 1.0,
    layers: str | None = None,
    push: str | HubTarget | None = None,
    targets: Iterable[str] = (),
    format: BakeFormat = "checkpoint",
    hash_files: bool = False,
    force: bool = False,
    dry_run: bool = False,
    progress: Progress = no_progress,
    notice: Notice = no_notice,
) -> BakeResult:
    """Bake emotion vectors into a model, and write the steered one to `out`, or push it to the Hub, or both.

    From Hub to Hub, without `out`, no weights pass through this machine: the Hub's server copies them. A GGUF file as
    `model` is baked into a GGUF file; a checkpoint with a ``.gguf`` as `out` is converted into one.

    Args:
        model: a checkpoint's folder, a GGUF file (of a split set the first), or a model id on the Hub, perhaps with
            ``@revision``; or a `ModelName`, which can name the Hub id of a local model.
        vectors: a folder of JSON files as published with arXiv 2502.04075, a file, the name of a published set, a Hub
            repository (``owner/name``), or an open set; or a `VectorSource`. None: the set of the model, found by its
            id or by the base that its card names.
        times: five weights, for anger, disgust, fear, joy, sadness.
        out: the folder or ``.gguf`` file to write, or a `Folder` or `GgufFile`, which say how. It may be missing with
            `push` or `dry_run`.
        mix: weights by name instead of `times`.
        scale: factor for all weights.
        layers: layers to steer, such as ``"8-27"``; None: all.
        push: the Hub repository to push to, or a `HubTarget`, which says how.
        targets: stacks that must load the result steered; names of `emobake.core.stacks.STACKS`.
        format: ``checkpoint``; ``peft`` for an adapter; ``peft-each`` for one adapter per emotion, each at its own
            weight (1 without `times` and `mix`).
        hash_files: record the sha256 of every weight file (reads them all).
        force: write even if all weights are zero.
        dry_run: plan only.
        progress: told of the bytes that are carried over.
        notice: told of what the user must not miss while the Hub is at work.

    Raises:
        InputError: (exit code 2) the request cannot be carried out; nothing was written.
        OutputError, HubError: (exit code 1) writing or the Hub failed; what was begun has been removed.
    """
    if out is None and push is None and not dry_run:
        raise InputError("give `out`, the folder to write, or `push` (or `dry_run` to see the plan)")
    name = ModelName.parse(model)
    request = BakeRequest(
        model=name,
        sets=SetOpener(VectorSource.parse(vectors), name),
        recipes=_recipes(times, mix, scale, layers, format),
        out=parse_output(out),
        push=None if push is None else _parse_push(push),
        targets=parse_targets(targets),
        format=format,
        hash_files=hash_files,
        force=force,
        dry_run=dry_run,
        progress=progress,
        notice=notice,
    )
    if name.kind == "gguf" or isinstance(request.out, GgufFile):
        from .bake_gguf import bake_into_gguf

        return bake_into_gguf(request)
    return bake_checkpoint(request)


def bake_checkpoint(request: BakeRequest) -> BakeResult:
    """Bake a checkpoint or adapters, here, to the Hub, or both.

    Raises:
        InputError, OutputError, HubError: as `bake`.
    """
    out = request.out
    assert not isinstance(out, GgufFile)  # `bake` has looked.
    if request.push is not None:
        from ..storage.hub.target import settle

        # Before anything is opened: most pushes that fail lack a token.
        request = replace(request, push=settle(request.push, need_token=not request.dry_run))
    opened = _open(request, out)
    vectors = request.sets.open(request.emotions)
    plan = _plan(request, opened, vectors)
    base_model = request.model.base_model or opened.checkpoint.repo_id
    result = BakeResult(plan, None if out is None or request.dry_run else out.target, str(request.model), base_model)
    if request.push is None:
        _write(request, result, opened)
        return result
    if not base_model:
        request.notice(f"the model card of {request.push.repo_id} will name no base; `base_model` ID would")
    return _push(request, result, opened)


@dataclass(frozen=True, eq=False)
class _Opened:
    """A base whose headers were read."""

    checkpoint: Checkpoint
    route: Route | None
    """None for adapters."""
    snapshot: Snapshot | None
    """Its commit on the Hub, if its files can be copied from there."""


def _open(request: BakeRequest, out: Folder | None) -> _Opened:
    """Open the base: at a distance if its weights need not come here."""
    model, sets = request.model, request.sets
    with reading():
        base, snapshot = _open_base(request, here=out is not None and not request.dry_run)
        route = None
        if request.format == "checkpoint":
            # Before anything large is fetched. A set that is found by the model acts at the paper's site.
            site = SITE if sets.by_model else sets.open(request.emotions).site
            route = choose_route(base.config, model.name, request.targets, site)
        sets.open(request.emotions)
        if out is not None and not request.dry_run:
            check_folder(out, (*([] if base.folder is None else [base.folder]), *sets.source.paths))
        return _Opened(base.open(), route, snapshot)


def _open_base(request: BakeRequest, *, here: bool) -> tuple[Base, Snapshot | None]:
    model = request.model
    if not here and not model.is_local and not is_offline():
        try:
            return open_remote_base(model)
        except HubError:
            # The cache may have it. For a push, the Hub must answer.
            if request.push is not None:
                raise
    return open_base(model, hash_files=request.hash_files), None


def _plan(request: BakeRequest, opened: _Opened, vectors: VectorSet) -> BakePlan:
    checkpoint, base_model = opened.checkpoint, request.model.base_model or opened.checkpoint.repo_id
    if request.format == "checkpoint":
        plan = make_plan(
            checkpoint,
            vectors,
            request.recipe,
            base_model=base_model,
            targets=request.targets,
            force=request.force,
            route=opened.route,
        )
    elif request.targets:
        raise InputError("`targets` goes with `format` checkpoint: an adapter is loaded through PEFT")
    else:
        plans = {
            folder: make_adapter_plan(checkpoint, vectors, recipe, base_model=base_model, force=request.force)
            for folder, recipe in request.recipes.items()
        }
        plan = gather(plans, checkpoint) if request.format == "peft-each" else plans[""]
    if request.sets.by_model and not checkpoint.repo_id and vectors.base_model != base_model:
        # With an id of its own, the planner warns.
        plan = replace(plan, warnings=(*plan.warnings, f"the vectors are those of {vectors.base_model}"))
    return plan


def _write(request: BakeRequest, result: BakeResult, opened: _Opened) -> None:
    if result.out is None or opened.checkpoint.folder is None:
        return
    assert isinstance(request.out, Folder)
    advance = request.progress("carrying over", 0, result.plan.bytes_carried)
    write_folder(result.plan.files, opened.checkpoint.folder, request.out, advance)


def _push(request: BakeRequest, result: BakeResult, opened: _Opened) -> BakeResult:
    """Write the result here if it is wanted, and push it."""
    from ..storage.hub.commit import push_items
    from ..storage.hub.contents import items_of
    from ..storage.hub.snapshot import find_snapshot

    target, checkpoint, plan = request.push, opened.checkpoint, result.plan
    assert target is not None
    source = opened.snapshot
    if source is None and not request.model.is_local:
        source, problem = find_snapshot(checkpoint.repo_id, checkpoint.revision)
        if problem:
            request.notice(f"{problem}; its weights are sent from here")
    items = items_of(plan.files, target.repo_id, folder=checkpoint.folder, source=source)

    def push(*, dry_run: bool, notice: Notice = no_notice) -> Pushed:
        message = f"Bake {plan.steering.recipe}"
        return push_items(items, target, message=message, source=source, dry_run=dry_run, notice=notice)

    if result.out is not None:
        # What the Hub would refuse is found before the first byte is written here.
        push(dry_run=True)
        _write(request, result, opened)
    with _after(result, target):
        return replace(result, pushed=push(dry_run=request.dry_run, notice=request.notice))


@contextmanager
def _after(result: BakeResult, target: HubTarget) -> Iterator[None]:
    """Add to the error of a failed push what is complete here, and the command that is left to type."""
    rest = f"{result.out} is complete: emobake push {result.out} {target.repo_id}"
    try:
        yield
    except EmobakeError as error:
        if result.out is None:
            raise
        kind = InputError if isinstance(error, InputError) else HubError
        raise kind(f"{error}. {rest}") from None
    except KeyboardInterrupt:
        if result.out is None:
            raise
        raise HubError(f"interrupted; {rest}") from None


def _recipes(
    times: Iterable[float] | None,
    mix: Mapping[str, float] | None,
    scale: float,
    layers: str | None,
    format: BakeFormat,
) -> dict[str, Steering]:
    """Folder in the output -> weights; one entry ``""`` unless every emotion gets an adapter of its own."""
    if format != "peft-each":
        return {"": steering(times, mix, scale=scale, layers=layers)}
    if times is None and mix is None:
        times = (1.0,) * len(EMOTIONS)
    whole = steering(times, mix, scale=scale, layers=layers)
    return {name: replace(whole, weights=((name, weight),)) for name, weight in whole.weights if weight}


def _parse_push(push: str | HubTarget) -> HubTarget:
    from ..storage.hub.target import parse_target

    return parse_target(push)
