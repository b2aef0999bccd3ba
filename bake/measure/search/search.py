"""`search`: shaped rows that raise an emotion more, and damage the model less, than the vectors as they are.

Trials, validation and test use disjoint queries. docs/evaluation.md defines the measures. Needs the ``search`` extra.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..._version import __version__
from ...core.arguments import as_list
from ...core.packages import require
from ...core.progress import Notice, Progress, no_notice, no_progress
from ...core.steering import Steering, steering, weighted_sum
from ...core.vector_set import EMOTIONS, ModelShape, VectorSet, fitted, require_site
from ...errors import InputError, ModelError
from ...models.loading import LiveModel, Runtime, fingerprint
from ...models.steered import open_steered
from ...storage.model_name import ModelName
from ...vectors.find import SetOpener, Vectors, VectorSource
from ..ledger import Ledger, WorkFolder
from ..processes import Processes
from ..scorers.base import LEXICON, Scorer
from ..scorers.open import open_scorers
from .emotion import Contrast
from .panel import CONDITIONS, Context, Gauge, Panel, Size, neutral_outputs, own_contrasts, written_contrasts
from .parts import Part, Parts, shipped_parts
from .points import (
    SECOND,
    Figures,
    Point,
    SearchBounds,
    candidates,
    chosen,
    compare,
    plain_name,
    tuned_name,
)
from .results import Searched, check_target, write_searched
from .shape import Material, Shape, by_layer, neutral_directions, shaped_rows
from .trials import STRENGTHS, next_trial
from .tuned_set import best_strength, tuned_set

TUNED = (0.25, 0.5, 0.75, 1.0)
"""Strengths of the chosen rows in the test."""
TRIALS, BUDGET_KL = 60, 0.5
VALIDATED = 6
"""Points that are measured on the validation queries."""
TRIAL, VALIDATION, TEST = Size(40, 32, 6), Size(64, 50, 12), Size(64, 50, 12)

Tried = Callable[[Point], object]
"""Called with every finished trial."""


@dataclass(frozen=True)
class SearchSettings:
    """Settings of a search."""

    budget_kl: float = BUDGET_KL
    """Mean KL of the chosen point at most, in nats per token."""
    trials: int = TRIALS
    """Number of trials, plain strengths among them."""
    seed: int = 0
    """Seed of the parts of the queries, of the sampler and of the answers."""
    runtime: Runtime = field(default_factory=Runtime)
    """Device, dtype and batch size."""

    def __post_init__(self) -> None:
        if not 0 < self.budget_kl < np.inf:
            raise InputError("`budget_kl` takes a number above 0")
        if self.trials < len(STRENGTHS):
            raise InputError(f"`trials` takes a number from {len(STRENGTHS)} on: so many plain strengths come first")
        if self.seed < 0:
            raise InputError("`seed` takes a number from 0 on")


def search(
    model: str | os.PathLike[str] | ModelName,
    out: str | os.PathLike[str],
    vectors: Vectors | VectorSource | None = None,
    times: Iterable[float] | None = None,
    *,
    mix: Mapping[str, float] | None = None,
    layers: str | None = None,
    blend: Vectors | None = None,
    scorers: Sequence[str | Scorer] = (),
    settings: SearchSettings | None = None,
    overwrite: bool = False,
    restart: bool = False,
    tried: Tried = lambda point: None,
    progress: Progress = no_progress,
    notice: Notice = no_notice,
) -> Searched | None:
    """Search for a shape of the vectors, test it on held-out queries, and write it as a vector set.

    Beside `out` stand ``<name>.search.json``, with all trials, and its pictures. A killed search continues after its
    last finished trial. Under ``accelerate launch`` each process measures its share of the queries.

    Args:
        model: a folder or a Hub id, as for `emobake.bake`.
        out: the .safetensors file to write.
        vectors: a set, as for `emobake.bake`.
        times: weights of the paper's five emotions; those above 0 are raised.
        mix: weights by name instead.
        layers: layers to steer.
        blend: a second set for the same weights, such as one of trained vectors. The share of its rows, from none to
            all, is one more parameter.
        scorers: further measures of emotion: text classifiers, or objects with the interface of `Scorer`. The lexicon
            is refused, because it is kept for the test.
        settings: budget, number of trials, seed, and how the model runs.
        overwrite: replace an earlier `out`.
        restart: forget the finished trials of an interrupted search to the same `out`.
        tried: told of every finished trial, those of an earlier run included.
        progress: told of the trials, the validation and the test.
        notice: told of what the user must not miss.

    Returns:
        The result; None for all processes but the first.

    Raises:
        InputError: (exit code 2) bad input; nothing was written.
        ModelError: (exit code 1) the model does not run, or no point is within the bounds; finished work is kept.
        OutputError: (exit code 1) `out` cannot be written.
        MissingPackageError: (exit code 1) optuna, scikit-learn, torch or transformers is not installed.
    """
    require("optuna", extra="search", purpose="a search")
    require("sklearn", extra="search", purpose="a search")
    settings, target = settings or SearchSettings(), check_target(out, overwrite=overwrite)
    weights = steering(times, mix, layers=layers)
    shares = _shares(weights)
    second = None if blend is None else _open_second(blend, model, weights)
    opened = _scorers(scorers, settings.runtime)

    def accept(found: VectorSet) -> None:
        weighted_sum(found, weights)
        if second is not None:
            require_site(second, found.site)

    live, found = open_steered(model, vectors, accept=accept, runtime=settings.runtime)
    others = None
    if second is not None:
        second = fitted(second, ModelShape(live.name, live.layers, live.hidden))
        others = _nonzero(second, weights)
    processes = Processes()
    if live.note and processes.is_first:
        notice(live.note)
    begun = _begun(live, found, weights, settings, opened, second)
    work = WorkFolder(Path(f"{target}.partial"), processes, begun, "a search", restart=restart)
    context = Context(live, processes, settings.runtime.batch_size, settings.seed)
    run = _Run(context, settings, work, shipped_parts(settings.seed), shares, opened, progress)
    base_rows = _nonzero(found, weights)
    panel, gauge = run.trial_panel()
    material = _material(live, found, base_rows, panel, others)
    points = run.trials(panel, material, tried)
    base, validated, best = run.validate(panel, gauge, material, points)
    test = run.test(gauge, material, best, points)
    if not processes.is_first:
        return None
    rows, strength = shaped_rows(material, best.shape), best_strength(test, len(points), settings.seed)
    result = Searched(
        replace(tuned_set(found, second, weights, rows, strength, settings.seed), name=target.name),
        best,
        tuple(points),
        panel.base,
        tuple(validated),
        base,
        run.bounds.rule,
        test,
        {key: value for key, value in begun.items() if key != "weights"} | {"trials": len(points)},
    )
    result = write_searched(result, target, overwrite=overwrite)
    work.remove()
    return result


@dataclass(frozen=True, eq=False)
class _Run:
    """The stages of a search."""

    context: Context
    settings: SearchSettings
    work: WorkFolder
    parts: Parts
    shares: Mapping[str, float]
    scorers: Sequence[Scorer]
    progress: Progress

    @property
    def bounds(self) -> SearchBounds:
        return SearchBounds(self.settings.budget_kl)

    def trial_panel(self) -> tuple[Panel, Gauge]:
        """The panel of the trials, and the measures of emotion: their examples are those of trials and validation."""
        part, second = self.parts.train, self.parts.validation
        few = self._contrasts("train", part, TRIAL)
        examples = Part(part.everyday, (*part.written, *second.written))
        known = self._contrasts("examples", examples, replace(TRIAL, contrasts=len(part.everyday)), others=True)
        gauge = Gauge.made(self.context, self.shares, known, self.scorers)
        return Panel(self.context, gauge, part.everyday, few, TRIAL), gauge

    def trials(self, panel: Panel, material: Material, tried: Tried) -> list[Point]:
        """Plain strengths, then what the sampler proposes; finished ones are taken from the ledger."""
        ledger, budget, count = self.work.ledger("trials"), self.settings.budget_kl, self.settings.trials
        points: list[Point] = []
        while str(len(points)) in ledger.done and len(points) < count:
            points.append(Point.from_json(ledger.done[str(len(points))]))
            tried(points[-1])
        advance = self.progress("trials", len(points), count)
        at_one = panel.first_kl(by_layer(material.rows))
        for number in range(len(points), count):
            point = next_trial(panel, material, points, at_one, self.settings.seed, budget)
            points.append(point)
            self._keep(ledger, str(number), point)
            tried(point)
            advance(1)
        return points

    def validate(
        self, panel: Panel, gauge: Gauge, material: Material, points: Sequence[Point]
    ) -> tuple[Figures, list[Point], Point]:
        """Measure the best points on other queries: the base there, the points, and the one that the rule chooses.

        Raises:
            ModelError: none of them is within the bounds.
        """
        part = self.parts.validation
        known = self._contrasts("validation", part, VALIDATION)
        other = Panel(self.context, gauge, part.everyday, known, VALIDATION)
        ledger = self.work.ledger("validation")
        waiting = candidates(points, panel.base, self.bounds)
        advance = self.progress("validation", 0, min(VALIDATED, len(waiting)))
        found: list[Point] = []
        for point in waiting:
            if len(found) >= VALIDATED and chosen(found, other.base, self.bounds):
                break
            found.append(self._again(other, material, point, ledger, advance))
        best = chosen(found, other.base, self.bounds)
        if best is None:
            raise ModelError(
                f"{self.context.live.name}: none of {len(points)} trials keeps to the bounds on the validation queries "
                f"({self.bounds.rule}); run again with more `trials`, or `restart` with another `budget_kl`"
            )
        return other.base, found, best

    def test(self, gauge: Gauge, material: Material, best: Point, trials: Sequence[Point]) -> dict[str, Any]:
        """Measure plain strengths, and the chosen rows at some, on the test queries, with the lexicon.

        With a second set, its unshaped rows of the trials, too.
        """
        part = self.parts.test
        known = self._contrasts("test", part, TEST)
        panel = Panel(self.context, gauge, part.everyday, known, TEST, lexicon=True, top_p=0.9)
        ledger = self.work.ledger("test")
        plain = {x: Point(plain_name(x), Shape(scale=x), best.figures, {}) for x in STRENGTHS}
        tuned = {
            x: replace(best, name=tuned_name(x), shape=replace(best.shape, scale=x * best.shape.scale)) for x in TUNED
        }
        second = {point.shape.scale: point for point in trials if point.name.startswith(SECOND)}
        measured = {"plain": plain, "tuned": tuned} | ({"second": second} if second else {})
        advance = self.progress("test", 0, sum(map(len, measured.values())))
        for points in measured.values():
            for strength, point in points.items():
                points[strength] = self._again(panel, material, point, ledger, advance)
        rows = {
            name: [{"strength": strength, **point.figures.to_json()} for strength, point in points.items()]
            for name, points in measured.items()
        }
        return {
            "queries": list(part.everyday),
            "base": panel.base.to_json(),
            **rows,
            "comparison": compare([*plain.values()], [*tuned.values()], panel.base, self.bounds),
        }

    def _again(
        self, panel: Panel, material: Material, point: Point, ledger: Ledger, advance: Callable[[int], object]
    ) -> Point:
        """Measure a point on another panel."""
        if point.name not in ledger.done:
            figures = panel.measure(by_layer(shaped_rows(material, point.shape)))
            self._keep(ledger, point.name, replace(point, figures=figures))
        advance(1)
        return Point.from_json(ledger.done[point.name])

    def _keep(self, ledger: Ledger, key: str, point: Point) -> None:
        """Record a finished point; all processes have the same one, and the first writes it."""
        value = {key: point.to_json()}
        if self.context.processes.is_first:
            ledger.add(value)
        ledger.done |= value

    def _contrasts(self, name: str, part: Part, size: Size, *, others: bool = False) -> list[Contrast]:
        """The answers for the measures; with `others`, those with emotions that are not raised, too.

        For the paper's emotions they were written; for others they are the base's own.
        """
        emotions = list(self.shares) + [e for e in EMOTIONS if others and e not in self.shares]
        queries = {e: part.everyday[: size.contrasts] for e in emotions if e not in EMOTIONS}
        found = own_contrasts(self.context, queries, self.work.ledger("contrasts"), name) if queries else []
        for emotion in emotions:
            if emotion in EMOTIONS:
                found += written_contrasts(self.context, part.written, emotion)
        missing = [emotion for emotion in self.shares if not any(one.emotion == emotion for one in found)]
        if missing:
            raise ModelError(
                f"{self.context.live.name}: gives no answers as a person with {missing[0]}; the emotion cannot be "
                "measured"
            )
        return found


def _open_second(blend: Vectors, model: str | os.PathLike[str] | ModelName, weights: Steering) -> VectorSet:
    second = SetOpener(VectorSource.parse(blend), ModelName.parse(model)).open(None)
    weighted_sum(second, weights)
    return second


def _nonzero(vectors: VectorSet, weights: Steering) -> np.ndarray:
    """The weighted sum; refuse one that is zero everywhere."""
    rows = weighted_sum(vectors, weights)
    if not rows.any():
        raise InputError(f"{vectors.name}: the weighted sum is zero in every layer; choose other weights or layers")
    return rows


def _material(live: LiveModel, found: VectorSet, rows: np.ndarray, panel: Panel, others: np.ndarray | None) -> Material:
    outputs = neutral_outputs(live, panel.pairs)
    common = found.rows.mean(axis=0, dtype=np.float64) if len(found.emotions) > 1 else np.zeros_like(rows)
    return Material(
        rows,
        common.astype(np.float32),
        neutral_directions(outputs),
        np.linalg.norm(outputs.astype(np.float64), axis=2).mean(axis=0),
        others,
    )


def _shares(weights: Steering) -> dict[str, float]:
    raised = {name: weight for name, weight in weights.weights if weight > 0}
    if not raised:
        raise InputError("no weight is above 0, so there is no emotion to raise; set one with `times` or `mix`")
    return {name: weight / sum(raised.values()) for name, weight in raised.items()}


def _scorers(given: Sequence[str | Scorer], runtime: Runtime) -> list[Scorer]:
    given = as_list("scorers", given, "['SamLowe/roberta-base-go_emotions']")
    names = [one if isinstance(one, str) else one.name for one in given]
    if LEXICON in names:
        raise InputError(
            "`scorers` lexicon: is kept for the test of a search, so that the search cannot be made for it"
        )
    opened = open_scorers([one for one in given if isinstance(one, str)], runtime.device)
    return [*opened, *(one for one in given if not isinstance(one, str))]


def _begun(
    live: LiveModel,
    found: VectorSet,
    weights: Steering,
    settings: SearchSettings,
    scorers: Sequence[Scorer],
    second: VectorSet | None,
) -> dict[str, Any]:
    """Everything that the trials depend on, as JSON data without local paths."""
    import optuna
    import sklearn
    import torch
    import transformers

    return {
        "emobake": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "optuna": optuna.__version__,
        "scikit-learn": sklearn.__version__,
        "model": live.base_model or live.family.label,
        "dtype": str(live.model.dtype).removeprefix("torch."),
        "vectors": found.name,
        "rows_sha256": hashlib.sha256(found.rows.tobytes()).hexdigest(),
        "blend": None if second is None else second.name,
        "blend_sha256": None if second is None else hashlib.sha256(second.rows.tobytes()).hexdigest(),
        "mix": dict(weights.weights),
        "layers": None if weights.layers is None else list(weights.layers),
        "budget_kl": settings.budget_kl,
        "seed": settings.seed,
        "scorers": [scorer.name for scorer in scorers],
        **CONDITIONS,
        "weights": fingerprint(live),
    }
