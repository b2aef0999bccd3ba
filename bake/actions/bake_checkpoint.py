"""Baking a checkpoint or adapters: here, to the Hub, or both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..core.outputs import Folder, GgufFile
from ..core.plan import BakePlan, PlannedFile
from ..core.progress import Notice, no_notice
from ..core.sites import SITE
from ..core.vector_set import VectorSet
from ..errors import EmobakeError, HubError, InputError
from ..formats.adapter.plan import gather, make_adapter_plan
from ..formats.adapter.served import FOLDER as SERVED_FOLDER
from ..formats.adapter.served import is_served, with_adapter
from ..formats.checkpoint.language_model import language_model, language_model_config
from ..formats.checkpoint.model import Checkpoint
from ..formats.checkpoint.open import Base, open_base, open_remote_base
from ..formats.checkpoint.plan import make_plan
from ..formats.checkpoint.quantisation import find_quantisation
from ..formats.checkpoint.routes import Route, choose_route, may_have_heads
from ..formats.checkpoint.voice import find_templates
from ..storage.files import Sources, reading
from ..storage.local import check_folder, write_folder
from ..storage.model_name import is_offline
from .request import BakeRequest, BakeResult

if TYPE_CHECKING:
    from ..storage.hub.changes import Pushed
    from ..storage.hub.snapshot import Snapshot
    from ..storage.hub.target import HubTarget


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
    request.check_bounds(plan)
    base_model = request.model.base_model or opened.checkpoint.repo_id
    result = BakeResult(plan, None if out is None or request.dry_run else out.target, str(request.model), base_model)
    result = replace(result, adapter="" if request.adapter is None else request.adapter.name)
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
    """None for adapters, and where the planner chooses."""
    snapshot: Snapshot | None
    """Its commit on the Hub, if its files can be copied from there."""


def _open(request: BakeRequest, out: Folder | None) -> _Opened:
    """Open the base: at a distance if its weights need not come here."""
    model, sets = request.model, request.sets
    with reading():
        on_base = request.adapter is None or request.format == "checkpoint"
        base, snapshot = _open_base(request, here=on_base and out is not None and not request.dry_run)
        route = None
        if request.format == "checkpoint":
            # Before anything large is fetched. A set that is found by the model acts at the paper's site.
            site = SITE if sets.by_model else sets.open(request.emotions).site
            config = language_model_config(base.config, model.name) if request.text_only else base.config
            if not may_have_heads(config, model.name, site):
                route = choose_route(
                    config,
                    model.name,
                    request.targets,
                    site,
                    tensor_parallel=request.tensor_parallel,
                    quantisation=find_quantisation(config, base.quant_configs, model.name),
                )
        sets.open(request.emotions)
        if out is not None and not request.dry_run:
            inputs = [base.folder, None if request.adapter is None else request.adapter.folder]
            check_folder(out, (*filter(None, inputs), *sets.source.paths))
        if request.text_only:
            # Chosen again by the config that the tensors complete.
            return _Opened(language_model(base.open()), None, snapshot)
        checkpoint = base.open()
        # A quantisation config may be a file of its own, which is downloaded with the others.
        said_elsewhere = route is not None and route.quantisation is None and checkpoint.quantisation is not None
        return _Opened(checkpoint, None if said_elsewhere else route, snapshot)


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
        persona, silent = request.persona, tuple[str, ...]()
        if persona is not None:
            persona, silent = find_templates(checkpoint, persona)
        plan = make_plan(
            checkpoint,
            vectors,
            request.recipe(vectors),
            base_model=base_model,
            targets=request.targets,
            force=request.force,
            tensor_parallel=request.tensor_parallel,
            route=opened.route,
            persona=persona,
        )
        plan = replace(plan, warnings=(*silent, *plan.warnings))
        if request.adapter is not None:
            plan = with_adapter(plan, checkpoint, request.adapter, merged=request.merge)
    elif request.targets:
        raise InputError("`targets` goes with `format` checkpoint: an adapter is loaded through PEFT")
    else:
        plans = {
            folder: make_adapter_plan(
                checkpoint,
                vectors,
                request.recipe(vectors, folder),
                adapter=request.adapter,
                base_model=base_model,
                force=request.force,
                persona=request.persona,
            )
            for folder in request.recipes
        }
        plan = gather(plans, checkpoint) if request.format == "peft-each" else plans[""]
    if request.sets.by_model and not checkpoint.repo_id and vectors.base_model != base_model:
        # With an id of its own, the planner warns.
        plan = replace(plan, warnings=(*plan.warnings, f"the vectors are those of {vectors.base_model}"))
    return plan


def _write(request: BakeRequest, result: BakeResult, opened: _Opened) -> None:
    source, stamps = _sources(request, opened), opened.checkpoint.stamps
    if result.out is None or source is None:
        return
    assert isinstance(request.out, Folder)
    patched = [file.name for file in result.plan.files if file.action == "overwrite"]
    if patched and request.out.link_mode in ("hardlink", "symlink"):
        # Of each file that an index names, transformers 5.23, vLLM 0.32 and mlx-lm 0.32 read every tensor.
        request.notice(
            f"{_counted(patched)} copied, not linked: the base's biases are in there, and loaders read every tensor of "
            "a file, so the old ones must not stay beside the new ones"
        )
    if request.adapter is not None:
        stamps |= request.adapter.stamps
    advance = request.progress("carrying over", 0, result.plan.bytes_carried)
    write_folder(result.plan.files, source, request.out, advance, stamps)


def _sources(request: BakeRequest, opened: _Opened) -> Sources | None:
    """The folders that the output is made of; None if the base is on the Hub."""
    folder = opened.checkpoint.folder
    if request.adapter is None:
        return None if folder is None else Sources(folder)
    if request.format != "checkpoint":
        return Sources(request.adapter.folder)
    return None if folder is None else Sources(folder, {SERVED_FOLDER: request.adapter.folder})


def _counted(files: list[str]) -> str:
    return f"{files[0]} was" if len(files) == 1 else f"{files[0]} and {len(files) - 1} more files were"


def _push(request: BakeRequest, result: BakeResult, opened: _Opened) -> BakeResult:
    """Write the result here if it is wanted, and push it."""
    from ..storage.hub.commit import push_items
    from ..storage.hub.contents import items_of
    from ..storage.hub.snapshot import find_snapshot, no_copies

    target, checkpoint, plan = request.push, opened.checkpoint, result.plan
    assert target is not None
    here = request.out is not None  # In earnest; a dry run leaves the base where it is.
    source, problem = opened.snapshot if request.adapter is None or request.format == "checkpoint" else None, ""
    if source is not None and here:
        problem = no_copies(source.repo_id)
    elif source is None and not request.model.is_local and plan.route != "lora":
        source, problem = find_snapshot(checkpoint.repo_id, checkpoint.revision)
    if problem and any(file.action != "write" for file in plan.files):
        request.notice(f"{problem}; its weights are sent from here")
    folder = checkpoint.folder if plan.route != "lora" or request.adapter is None else request.adapter.folder
    served = [file for file in plan.files if request.adapter is not None and is_served(file)]
    own = [file for file in plan.files if file not in served]
    items = items_of(own, target.repo_id, folder=folder, source=source, here=here)
    if request.adapter is not None:
        inside = [PlannedFile.carried(file.name, file.source.partition("/")[2], file.size) for file in served]
        items += items_of(inside, target.repo_id, folder=request.adapter.folder, source=None)

    def push(*, dry_run: bool, notice: Notice = no_notice) -> Pushed:
        message = f"Bake {plan.effect.recipe}"
        return push_items(
            items,
            target,
            message=message,
            source=source,
            stamps=checkpoint.stamps,
            dry_run=dry_run,
            notice=notice,
        )

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
