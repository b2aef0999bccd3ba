"""`bake`: from what a user names to a finished output. The command line calls this and nothing below it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from .adapter import gather, make_adapter_plan
from .card import adapters_card, add_documents
from .checkpoint import Checkpoint
from .copying import LinkMode
from .errors import EmobakeError, InputError
from .locate import is_local, is_offline, known_ids, locate, split_revision
from .plan import BakePlan, Write, make_plan
from .routes import choose_route
from .sources import open_folder, reading
from .to_directory import check_output, execute
from .vector_sets import find_vectors
from .vectors import EMOTIONS, Steering, VectorSet, steering

if TYPE_CHECKING:
    from .hub_changes import Pushed, Target
    from .hub_files import Snapshot

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

    From Hub to Hub, without `out`, no weights pass through this machine: the Hub's server copies them.

    Args:
        model: a checkpoint's folder, or a model id on the Hub, perhaps with ``@revision`` (fetched into the Hub's
            cache when there is an `out`).
        vectors: a folder of JSON files as published with arXiv 2502.04075, our safetensors file, the name of a
            published set, a Hub repository (``owner/name``), or a set that is open already. None looks the set up
            by the ids that the model goes by: its own, and those that its card names as its base.
        times: five weights, for anger, disgust, fear, joy, sadness.
        out: the folder to write; needed without `push_to_hub`, unless `dry_run`.
        mix: weights by name instead of `times`.
        layers: layers to steer, such as ``"8-27"``; the others get nothing.
        scale: a factor for all weights.
        targets: stacks that must load the result steered (``transformers``, ``vllm``, ``llama.cpp``, ``mlx``).
        format: ``checkpoint``, or ``peft`` for an adapter.
        each: with ``peft``: one adapter per emotion, at its own weight (1 without `times` and `mix`).
        revision: branch, tag or commit of a Hub model.
        base_model: Hub id to name as the base when `model` is a folder.
        vectors_for: use the set of the model with this Hub id, where `vectors` is None.
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
    given = str(model)
    model, revision = split_revision(model, revision)
    recipes = _recipes(times, mix, scale, layers, each)
    goal = _goal(push_to_hub, private, create_pr, commit_message, overwrite, dry_run)
    target = None if out is None else Path(os.path.abspath(out))  # noqa: PTH100 - resolve() would follow links
    wanted = [emotion for recipe in recipes.values() for emotion, _ in recipe.weights]

    @cache
    def vector_set() -> VectorSet:
        if isinstance(vectors, VectorSet):
            return vectors
        if vectors is not None and vectors_for:
            raise InputError("--vectors and --vectors-for are two ways to name a set; give one")
        ids = known_ids(model, revision, base_model, vectors_for) if vectors is None else ()
        return find_vectors(vectors, wanted, model=given, ids=ids)

    def check(config: Mapping[str, object]) -> None:
        # Before anything large is fetched.
        if format == "checkpoint":
            choose_route(config, given, targets)
        vector_set()

    source, folder = None, None
    with reading():
        if (target is None or dry_run) and not is_local(model, revision) and not is_offline():
            source, checkpoint = _at_a_distance(model, revision, check, from_cache=goal is None)
        else:
            folder, listed = locate(model, revision, check)
            if target is not None and not dry_run:
                local = [Path(vectors)] if isinstance(vectors, str | os.PathLike) and Path(vectors).exists() else []
                check_output(target, (folder, *local), overwrite=overwrite)
            checkpoint = open_folder(folder, hash_files=hash_files, listed=listed)
        base_model = base_model or checkpoint.repo_id
        opened = vector_set()
    plan = _plan(checkpoint, opened, recipes, targets, format, base_model, force)
    if vectors is None and not checkpoint.repo_id and opened.base_model != base_model:
        # With an id the plan warns by itself.
        plan = replace(plan, warnings=(*plan.warnings, f"the vectors are those of {opened.base_model}"))
    result = BakeResult(plan, None if dry_run else target, given, base_model)
    if goal is not None and not base_model:
        notice(f"the model card of {goal.repo_id} will name no base; --base-model ID would")
    if goal is None:
        _write(result, folder, link_mode, overwrite, progress)
        return result
    from .pushing import base_snapshot, push_plan

    if source is None and not is_local(model, revision):
        source = base_snapshot(checkpoint.repo_id, checkpoint.revision, notice)
    if result.out is not None:
        # Whatever the Hub would refuse, before the first byte is written here.
        push_plan(plan, goal, folder=folder, source=source, dry_run=True)
        _write(result, folder, link_mode, overwrite, progress)
    with _after(result, goal):
        pushed = push_plan(plan, goal, folder=folder, source=source, dry_run=dry_run, notice=notice)
    return replace(result, pushed=pushed)


def _at_a_distance(
    model: str, revision: str | None, check: Callable[[Mapping[str, object]], object], *, from_cache: bool
) -> tuple[Snapshot | None, Checkpoint]:
    """A checkpoint on the Hub, without its weights; `from_cache` when the Hub cannot be reached."""
    from .hub_files import open_repository

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
    from .hub_changes import parse_target
    from .to_hub import settle

    return settle(
        parse_target(push_to_hub, None, private, create_pr, commit_message, overwrite), need_token=not dry_run
    )


def _write(
    result: BakeResult,
    folder: Path | None,
    link_mode: LinkMode,
    overwrite: bool,
    progress: Callable[[BakePlan], Callable[[int], None]],
) -> None:
    if result.out is not None and folder is not None:
        execute(
            result.plan, folder, result.out, link_mode=link_mode, overwrite=overwrite, progress=progress(result.plan)
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


def _plan(
    checkpoint: Checkpoint,
    vectors: VectorSet,
    recipes: dict[str, Steering],
    targets: Iterable[str],
    format: Format,
    base_model: str,
    force: bool,
) -> BakePlan:
    if format == "checkpoint":
        plan = make_plan(checkpoint, vectors, recipes[""], targets=targets, force=force)
        return add_documents(plan, checkpoint, vectors, base_model)
    if targets:
        raise InputError("--targets goes with --format checkpoint: an adapter is loaded through PEFT")
    plans = {
        folder: add_documents(
            make_adapter_plan(checkpoint, vectors, recipe, base_model=base_model, force=force),
            checkpoint,
            vectors,
            base_model,
        )
        for folder, recipe in recipes.items()
    }
    if "" in plans:
        return plans[""]
    return gather(plans).with_files(Write("README.md", adapters_card(plans, checkpoint, base_model).encode()))
