"""Proposals: the next parameters to try, by Optuna's multi-objective sampler. Needs optuna.

A proposal is a function of the seed and of the earlier points alone, so a run that was killed goes on as it would have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...core.packages import require
from .points import Figures, Point, violations
from .shape import NEUTRAL_DIRECTIONS, Shape

STARTUP = 12
"""Points, plain strengths among them, before the sampler learns from them."""
KL_SPREAD = 0.3, 1.2
"""Ends of the KL that trials aim at, as multiples of the budget."""
NOBODY = -1
"""Number of a layer that stands for none."""


def propose(
    seed: int, points: Sequence[Point], base: Figures, layers: int, budget: float, *, blend: bool = False
) -> dict[str, float]:
    """Parameters of the next trial; with `blend`, a share of other rows is one of them.

    The objectives are the emotion (up) and the mean KL (down); answers that repeat themselves break a constraint. The
    sampler is the multi-objective tree-structured Parzen estimator (Ozaki et al. 2022, doi 10.1613/jair.1.13188), one
    parameter at a time: within 60 trials of a made-up model that found more than all at once.

    Raises:
        MissingPackageError: optuna is not installed.
    """
    optuna = require("optuna", extra="search", purpose="a search")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = space(layers, budget, blend=blend)
    sampler = optuna.samplers.TPESampler(n_startup_trials=STARTUP, seed=seed * 100_003 + len(points))
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    for point in points:
        study.add_trial(
            optuna.trial.create_trial(
                values=[point.figures.emotion, point.figures.kl],
                params={name: point.params[name] for name in distributions},
                distributions=distributions,
                constraints=violations(point.figures, base),
            )
        )
    return dict(study.ask(distributions).params)


def space(layers: int, budget: float, *, blend: bool = False) -> dict[str, Any]:
    """Name -> distribution of each parameter."""
    from optuna.distributions import FloatDistribution, IntDistribution

    found = {
        "kl": FloatDistribution(KL_SPREAD[0] * budget, KL_SPREAD[1] * budget, log=True),
        "centre": FloatDistribution(0, 1),
        "width": FloatDistribution(0.08, 1, log=True),
        "floor": FloatDistribution(0, 1),
        "left_1": IntDistribution(NOBODY, layers - 1),
        "left_2": IntDistribution(NOBODY, layers - 1),
        "common": FloatDistribution(0, 1),
        "neutral": IntDistribution(0, NEUTRAL_DIRECTIONS),
        "norm": FloatDistribution(0, 1),
    }
    return found | {"blend": FloatDistribution(0, 1)} if blend else found


def shape_of(params: Mapping[str, float]) -> Shape:
    """The shape of these parameters at scale 1; its scale is found by the KL that it aims at."""
    left_out = {int(params[name]) for name in ("left_1", "left_2")} - {NOBODY}
    return Shape(
        centre=params["centre"],
        width=params["width"],
        floor=params["floor"],
        left_out=tuple(sorted(left_out)),
        common=params["common"],
        neutral=int(params["neutral"]),
        norm=params["norm"],
        blend=params.get("blend", 0.0),
    )


def params_of_plain(kl: float, budget: float, blend: float = 0.0) -> dict[str, float]:
    """Parameters of the rows as they are, where the KL is `kl`; beyond the ends of the space it is the end.

    At a `blend` of 1 they are those of the other rows as they are.
    """
    low, high = (end * budget for end in KL_SPREAD)
    flat = Shape()
    return {
        "kl": min(max(kl, low), high),
        "centre": flat.centre,
        "width": flat.width,
        "floor": flat.floor,
        "left_1": NOBODY,
        "left_2": NOBODY,
        "common": flat.common,
        "neutral": flat.neutral,
        "norm": flat.norm,
        "blend": blend,
    }
