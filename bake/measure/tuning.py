"""`tune`: the scale of a steering that meets a budget, or that comes closest to the published way of steering.

The published code adds the vectors at the last position of each forward pass; a bias adds them at every position, the
prompt's too, which is different at the same strength. Needs torch, transformers and scipy.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from ..core.arguments import require_choice
from ..core.packages import require
from ..core.progress import Advance, Notice, Progress, no_notice, no_progress
from ..core.steering import steering, weighted_sum
from ..errors import InputError, ModelError
from ..models.likelihood import SteeredModel
from ..models.loading import LiveModel, Runtime
from ..models.steered import open_steered
from ..storage.model_name import ModelName
from ..vectors.find import Vectors, VectorSource
from .neutral_prompts import PROMPTS, Reference, continued, neutral_count, neutral_prompts

MAX_SCALE = 8.0
_FIRST = 0.125
_STEP = 0.005
"""Precision of the scale."""

Match = Literal["last"]
Tried = Callable[[float, float], object]
"""Called with every scale that was tried, and the KL there."""


@dataclass(frozen=True)
class Tuned:
    """A scale, and how it was found."""

    scale: float
    kl: float
    """Mean KL per token at that scale, in nats: from the base for a budget, from last-position steering for a match."""
    kl_at_one: float
    """The same at scale 1."""
    reference: float | None
    """For a match, the mean KL of last-position steering from the base."""
    curve: tuple[tuple[float, float], ...]
    """Every scale that was tried, ascending, and its KL."""
    prompts: int = PROMPTS
    """Number of prompts behind every KL; fewer than `PROMPTS` give rougher figures."""


def tune(
    model: str | os.PathLike[str] | ModelName,
    vectors: Vectors | VectorSource | None = None,
    times: Iterable[float] | None = None,
    *,
    mix: Mapping[str, float] | None = None,
    layers: str | None = None,
    target_kl: float | None = None,
    match: Match | None = None,
    max_scale: float = MAX_SCALE,
    limit: int | None = None,
    runtime: Runtime | None = None,
    tried: Tried = lambda scale, kl: None,
    progress: Progress = no_progress,
    notice: Notice = no_notice,
) -> Tuned:
    """Find the `scale` for `emobake.bake` by a search between 0 and `max_scale`.

    With `target_kl`: the smallest scale at which the mean KL of the steered next-token distribution from the base's
    reaches so many nats, over the base's own greedy answers of 50 tokens to 32 everyday prompts (Brent's method). With
    `match` ``last``: the scale at which steering at every position comes closest to steering at scale 1 at the last
    position of each forward pass, by the mean KL over the answers that the latter gives.

    Args:
        model: a folder or a Hub id, as for `emobake.bake`.
        vectors: a set, as for `emobake.bake`.
        times: weights of the paper's five emotions.
        mix: weights by name instead.
        layers: layers to steer.
        target_kl: the budget in nats per token.
        match: the way of steering to come close to.
        max_scale: upper end of the search.
        limit: number of prompts, for a quick and rougher search; None: all 32.
        runtime: how the model runs.
        tried: told of every scale that was tried.
        progress: told of the answers to the prompts, which come before the first scale.
        notice: told of what the user must not miss, such as a model without a chat template.

    Raises:
        InputError: (exit code 2) bad input.
        ModelError: (exit code 1) the budget is not reached, or the model does not run.
        MissingPackageError: (exit code 1) scipy, torch or transformers is not installed.
    """
    require("scipy.optimize", extra="eval", purpose="tuning")
    if (target_kl is None) == (match is None):
        raise InputError("say what to tune for: `target_kl` X, or `match` last")
    if match is not None:
        require_choice("match", match, get_args(Match))
    if not 0 < max_scale < np.inf or (target_kl is not None and not 0 < target_kl < np.inf):
        raise InputError("`target_kl` and `max_scale` take numbers above 0")
    if limit is not None and limit < 1:
        raise InputError("`limit` takes a number from 1 on")
    weights = steering(times, mix, layers=layers)
    if weights.is_zero:
        raise InputError("all weights are zero, there is nothing to tune; set some with `times` or `mix`")
    runtime = runtime or Runtime()
    live, found = open_steered(model, vectors, accept=lambda found: weighted_sum(found, weights), runtime=runtime)
    if live.note:
        notice(live.note)
    count = neutral_count(limit)
    advance = progress("answers to compare", 0, count)
    curve = _Curve(live, weighted_sum(found, weights), match, runtime.batch_size, tried, count, advance)
    at_one = curve.kl(1.0)
    best = curve.closest(max_scale) if target_kl is None else curve.reach(target_kl, max_scale)
    reached = curve.kl(best)
    reference = None if match is None else curve.mean(SteeredModel(live))
    return Tuned(best, reached, at_one, reference, tuple(sorted(curve.known.items())), count)


@dataclass(eq=False)
class _Curve:
    """Mean KL by scale, from the base or from last-position steering; every scale is measured once."""

    live: LiveModel
    rows: np.ndarray
    """float32 ``[layers, hidden]`` at scale 1."""
    match: Match | None
    batch_size: int
    tried: Tried
    count: int
    """Number of prompts."""
    advance: Advance
    known: dict[float, float] = field(default_factory=dict)
    """Scale -> KL."""

    def __post_init__(self) -> None:
        aim = SteeredModel(self.live) if self.match is None else SteeredModel(self.live, self._rows_at(1.0), "last")
        pairs = continued(aim, neutral_prompts(aim, self.count), self.batch_size, self.advance)
        self.reference = Reference.of(aim, pairs)

    def kl(self, scale: float) -> float:
        """KL at `scale`."""
        scale = float(scale)
        if scale not in self.known:
            self.known[scale] = self.mean(SteeredModel(self.live, self._rows_at(scale)))
            self.tried(scale, self.known[scale])
        return self.known[scale]

    def mean(self, other: SteeredModel) -> float:
        """Mean KL of another model."""
        return float(np.mean(self.reference.divergences(other)))

    def reach(self, target_kl: float, max_scale: float) -> float:
        """The smallest scale at which the KL reaches `target_kl`.

        Raises:
            ModelError: it does not up to `max_scale`.
        """
        from scipy.optimize import brentq

        low, high = 0.0, min(_FIRST, max_scale)
        while self.kl(high) < target_kl:
            if high >= max_scale:
                raise ModelError(
                    f"{self.live.name}: at scale {high:g} the KL is {self.kl(high):.3g} and not {target_kl:g}; raise "
                    "`max_scale`"
                )
            low, high = high, min(2 * high, max_scale)
        # At scale 0 the model is the base: nothing to compute.
        self.known.setdefault(0.0, 0.0)
        return round(float(brentq(lambda scale: self.kl(scale) - target_kl, low, high, xtol=_STEP)), 3)

    def closest(self, max_scale: float) -> float:
        """The scale with the smallest KL."""
        from scipy.optimize import minimize_scalar

        found = minimize_scalar(self.kl, bounds=(0.0, max_scale), method="bounded", options={"xatol": _STEP})
        best = float(found.x)
        if self.kl(best) > min(self.known.values()):
            best = min(self.known, key=lambda scale: self.known[scale])
        return round(best, 3)

    def _rows_at(self, scale: float) -> dict[int, np.ndarray]:
        return {layer: np.float32(scale) * row for layer, row in enumerate(self.rows) if row.any()}
