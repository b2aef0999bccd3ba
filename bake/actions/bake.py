"""`bake`: from the user's request to a finished output."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from ..core.arguments import require_choice
from ..core.bounds import Bounds
from ..core.limits import MAX_DEVICES
from ..core.outputs import Folder, GgufFile, parse_output
from ..core.progress import Notice, Progress, no_notice, no_progress
from ..core.recorded_persona import RecordedPersona
from ..core.stacks import parse_targets
from ..core.steering import Steering, steering
from ..core.vector_set import EMOTIONS
from ..errors import InputError
from ..formats.adapter.detect import is_adapter
from ..storage.files import reading
from ..storage.model_name import ModelName
from ..vectors.find import SetOpener, Vectors, VectorSource
from .request import BakeFormat, BakeRequest, BakeResult

if TYPE_CHECKING:
    from ..storage.hub.target import HubTarget


def bake(
    model: str | os.PathLike[str] | ModelName,
    vectors: Vectors | VectorSource | None = None,
    times: Iterable[float] | None = None,
    out: str | os.PathLike[str] | Folder | GgufFile | None = None,
    *,
    mix: Mapping[str, float] | None = None,
    scale: float | Literal["auto"] = 1.0,
    layers: str | None = None,
    push: str | HubTarget | None = None,
    targets: Iterable[str] = (),
    tensor_parallel: int = 1,
    format: BakeFormat | None = None,
    base: str | os.PathLike[str] | ModelName | None = None,
    merge: bool = False,
    text_only: bool = False,
    hash_files: bool = False,
    force: bool = False,
    report: str | os.PathLike[str] | None = None,
    bounds: Bounds | None = None,
    persona: RecordedPersona | None = None,
    dry_run: bool = False,
    progress: Progress = no_progress,
    notice: Notice = no_notice,
    chosen: Notice = no_notice,
) -> BakeResult:
    """Bake emotion vectors into a model, and write the steered one to `out`, or push it to the Hub, or both.

    From Hub to Hub, without `out`, no weights pass through this machine: the Hub's server copies them. A GGUF file as
    `model` is baked into a GGUF file; a checkpoint with a ``.gguf`` as `out` is converted into one. A PEFT adapter as
    `model` is steered itself; or its base is, or both merged.

    Args:
        model: the folder of a checkpoint or an adapter, a GGUF file (of a split set the first), or a model id on the
            Hub, perhaps with ``@revision``; or a `ModelName`, which can name the Hub id of a local model.
        vectors: a folder of JSON files as published with arXiv 2502.04075, a file, the name of a published set, a Hub
            repository (``owner/name``), or an open set; or a `VectorSource`. None: the set of the model, found by its
            id or by the base that its card names.
        times: five weights, for anger, disgust, fear, joy, sadness.
        out: the folder or ``.gguf`` file to write, or a `Folder` or `GgufFile`, which say how. It may be missing with
            `push` or `dry_run`.
        mix: weights by name instead of `times`.
        scale: factor for all weights; ``auto``: the one at which their doses, weight over the strength that a
            measurement chose for the emotion, add up to one. The set must tell the strengths; or `report` must, whose
            best strength is taken then.
        layers: layers to steer, such as ``"8-27"``; None: all.
        push: the Hub repository to push to, or a `HubTarget`, which says how.
        targets: stacks that must load the result steered; names of `emobake.core.stacks.STACKS`.
        tensor_parallel: devices that shall be able to share the attention heads, where the route adds some.
        format: ``checkpoint``; ``peft`` for an adapter; ``peft-each`` for one adapter per emotion, each at its own
            weight (1 without `times` and `mix`). None: what `model` is. Of an adapter, ``checkpoint`` bakes the base,
            and carries the adapter beside it, to be served on top.
        base: the base of an adapter; None: the one that its config names.
        merge: merge an adapter into its base with PEFT (needs torch), and bake the result as a checkpoint.
        text_only: of a multimodal checkpoint, bake the language model alone, as a plain causal language model.
        hash_files: record the sha256 of every weight file (reads them all).
        force: write even if nothing would be steered in total, or so strongly that the model is destroyed, or if
            layers without attention (of a hybrid) lose their vectors.
        report: the output of an evaluation of this very steering: it tells the strength for `scale` ``auto``, and it
            must hold `bounds`; else nothing is written.
        bounds: bounds on what the steering may cost, by the figures of `report`.
        persona: the words and the voice of a persona for the output; `emobake.bake_persona` gives them.
        dry_run: plan only.
        progress: told of the bytes that are carried over.
        notice: told of what the user must not miss while files are written and the Hub is at work.
        chosen: told the strength that `scale` auto chose, and what measured it.

    Raises:
        InputError: (exit code 2) the request cannot be carried out; nothing was written.
        OutputError, HubError: (exit code 1) writing or the Hub failed; what was begun has been removed.
    """
    if out is None and push is None and not dry_run:
        raise InputError("give `out`, the folder to write, or `push` (or `dry_run` to see the plan)")
    if format is not None:
        require_choice("format", format, get_args(BakeFormat))
    with reading():
        name = ModelName.parse(model)
        of_adapter = is_adapter(name)
    if (base is not None or merge) and not of_adapter:
        raise InputError(f"{name}: is no adapter; `base` and `merge` go with one as `model`")
    if merge and format not in (None, "checkpoint"):
        raise InputError("`merge` makes one checkpoint; leave `format` out")
    if text_only and of_adapter:
        raise InputError("`text_only` goes with a checkpoint: an adapter is loaded on top of the whole model")
    format = format or ("peft" if of_adapter and not merge else "checkpoint")
    if text_only and name.kind == "gguf":
        raise InputError(f"{name}: a GGUF file holds a language model alone already; leave `text_only` out")
    if text_only and format != "checkpoint":
        raise InputError("`text_only` goes with `format` checkpoint: an adapter is loaded on top of the whole model")
    is_bound = bounds is not None and bool(bounds.given)
    if is_bound and report is None:
        raise InputError("bounds go with `report`, the output of `emobake eval`; give it")
    if report is not None and not is_bound and scale != "auto":
        raise InputError("`report` goes with `scale` auto or a bound: `max_kl`, `max_collapse`, `max_capability_drop`")
    request = BakeRequest(
        model=name,
        sets=SetOpener(VectorSource.parse(vectors), name),
        recipes=_recipes(times, mix, 1.0 if scale == "auto" else scale, layers, format),
        auto=scale == "auto",
        out=parse_output(out),
        push=None if push is None else _parse_push(push),
        targets=parse_targets(targets),
        tensor_parallel=_devices(tensor_parallel, format),
        format=format,
        base=None if base is None else ModelName.parse(base),
        merge=merge,
        text_only=text_only,
        hash_files=hash_files,
        force=force,
        report=None if report is None else Path(report),
        bounds=bounds or Bounds(),
        persona=persona,
        dry_run=dry_run,
        progress=progress,
        notice=notice,
        chosen=chosen,
    )
    if of_adapter:
        from .bake_adapter import bake_adapter

        return bake_adapter(request)
    if name.kind == "gguf":
        from .bake_gguf import bake_gguf

        return bake_gguf(request)
    if isinstance(request.out, GgufFile):
        from .bake_converted import bake_converted

        return bake_converted(request)
    from .bake_checkpoint import bake_checkpoint

    return bake_checkpoint(request)


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


def _devices(number: object, format: BakeFormat) -> int:
    """The argument `tensor_parallel`, which may be of any type."""
    if type(number) is not int or not 1 <= number <= MAX_DEVICES:
        raise InputError(f"`tensor_parallel` takes a number of devices from 1 to {MAX_DEVICES}, not {number!r}")
    if number > 1 and format != "checkpoint":
        raise InputError("`tensor_parallel` goes with `format` checkpoint: an adapter adds no heads")
    return number


def _parse_push(push: str | HubTarget) -> HubTarget:
    from ..storage.hub.target import HubTarget, parse_target

    if not isinstance(push, str | HubTarget):
        raise InputError(f"`push` takes owner/name or a HubTarget, not {push!r}")
    return parse_target(push)
