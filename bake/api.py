"""`bake`: from what a user names to a finished output. The command line calls this and nothing below it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

from .adapter import gather, make_adapter_plan
from .card import add_documents
from .checkpoint import Checkpoint
from .copying import LinkMode
from .errors import InputError
from .locate import known_ids, locate
from .plan import BakePlan, make_plan
from .routes import choose_route
from .sources import open_folder, reading
from .to_directory import check_output, execute
from .vector_sets import find_vectors
from .vectors import EMOTIONS, Steering, VectorSet, steering

Format = Literal["checkpoint", "peft"]


@dataclass(frozen=True, eq=False)
class BakeResult:
    """What a bake did, or with ``dry_run`` would do."""

    plan: BakePlan
    out: Path | None
    """The finished output; None after a dry run."""
    model: str
    """The base as it was given: a folder or a Hub id."""
    base_model: str
    """Hub id of the base; empty when it is not known."""


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
    progress: Callable[[BakePlan], Callable[[int], None]] = lambda plan: lambda done: None,
) -> BakeResult:
    """Bake emotion vectors into a checkpoint and write the steered one to the new folder `out`.

    Args:
        model: a checkpoint's folder, or a model id on the Hub (fetched into the Hub's cache).
        vectors: a folder of JSON files as published with arXiv 2502.04075, our safetensors file, the name of a
            published set, a Hub repository (``owner/name``), or a set that is open already. None looks the set up
            by the ids that the model goes by: its own, and those that its card names as its base.
        times: five weights, for anger, disgust, fear, joy, sadness.
        out: the folder to write; needed unless `dry_run`.
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
        overwrite: replace an earlier output of emobake once the new one is complete.
        force: write even when all weights are zero.
        hash_files: record the sha256 of every weight file (reads them all).
        dry_run: plan only.
        progress: given the plan, returns what is called with the number of bytes carried since its last call.

    Raises:
        InputError: (exit code 2) the request cannot be carried out; nothing was written.
        OutputError: (exit code 1) writing failed; what was begun has been removed.

    """
    if each and format != "peft":
        raise InputError("--each goes with --format peft")
    if out is None and not dry_run:
        raise InputError("give --out, the folder to write (or --dry-run to see the plan)")
    recipes = _recipes(times, mix, scale, layers, each)
    target = None if out is None else Path(os.path.abspath(out))  # noqa: PTH100 - resolve() would follow links
    wanted = [emotion for recipe in recipes.values() for emotion, _ in recipe.weights]

    @cache
    def vector_set() -> VectorSet:
        if isinstance(vectors, VectorSet):
            return vectors
        if vectors is not None and vectors_for:
            raise InputError("--vectors and --vectors-for are two ways to name a set; give one")
        ids = known_ids(model, revision, base_model, vectors_for) if vectors is None else ()
        return find_vectors(vectors, wanted, model=str(model), ids=ids)

    def check(config: Mapping[str, object]) -> None:
        # Before anything large is fetched.
        if format == "checkpoint":
            choose_route(config, str(model), targets)
        vector_set()

    with reading():
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
    if target is not None and not dry_run:
        execute(plan, folder, target, link_mode=link_mode, overwrite=overwrite, progress=progress(plan))
    return BakeResult(plan, None if dry_run else target, str(model), base_model)


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
    return plans[""] if "" in plans else gather(plans)
