"""Trials: the rows as they are at some strengths, those of a second set, then what the sampler proposes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from .panel import Panel
from .points import SECOND, Figures, Point, plain_name, shortfall
from .proposals import params_of_plain, propose, shape_of
from .shape import Material, Shape, by_layer, shaped_rows

STRENGTHS = (0.25, 0.5, 0.75, 1.0, 1.5)
"""Plain strengths, the first trials."""
OTHERS = (0.4, 0.7, 1.0)
"""KL that the unshaped rows of a second set aim at, as multiples of the budget: the trials after the plain ones."""


def next_trial(
    panel: Panel, material: Material, points: Sequence[Point], at_one: float, seed: int, budget: float
) -> Point:
    """Measure the trial that comes after `points`.

    `at_one` is the KL of the rows as they are, on the first prompts.

    Raises:
        MissingPackageError: optuna is not installed.
    """
    number = len(points)
    if number < len(STRENGTHS):
        return _plain_trial(panel, material, STRENGTHS[number], budget)
    name, params = _params(number, seed, points, panel.base, material, budget)
    return _proposed_trial(panel, material, name, params, at_one, tuple(points), budget)


def _plain_trial(panel: Panel, material: Material, strength: float, budget: float) -> Point:
    """The rows as they are, at one strength."""
    shape = Shape(scale=strength)
    figures = panel.measure(by_layer(shaped_rows(material, shape)))
    return Point(plain_name(strength), shape, figures, params_of_plain(figures.kl, budget))


def _params(
    number: int, seed: int, points: Sequence[Point], base: Figures, material: Material, budget: float
) -> tuple[str, dict[str, float]]:
    """Name and parameters of a trial after the plain strengths: the rows of a second set first, if there is one."""
    blend = material.others is not None
    if blend and number < len(STRENGTHS) + len(OTHERS):
        share = OTHERS[number - len(STRENGTHS)]
        return f"{SECOND}{share:g}", params_of_plain(share * budget, budget, blend=1.0)
    return str(number), propose(seed, points, base, len(material.rows), budget, blend=blend)


def _proposed_trial(
    panel: Panel,
    material: Material,
    name: str,
    params: Mapping[str, float],
    at_one: float,
    before: Sequence[Point],
    budget: float,
) -> Point:
    """A proposed shape, at the scale that its KL asks for; it is stopped early unless it promises more than `before`.

    `at_one` is the KL of the rows as they are, on the first prompts.
    """
    shape = _aimed(panel, material, shape_of(params), params["kl"], at_one)
    rows = by_layer(shaped_rows(material, shape))
    return Point(name, shape, panel.measure(rows, lambda begun: shortfall(begun, before, budget)), params)


def _aimed(panel: Panel, material: Material, shape: Shape, kl: float, at_one: float) -> Shape:
    """The shape at the scale whose KL on the first prompts comes near `kl`, in at most two tries.

    KL grows about as the square of the scale.
    """
    scale = (kl / max(at_one, 1e-6)) ** 0.5
    for _ in range(2):
        found = panel.first_kl(by_layer(shaped_rows(material, replace(shape, scale=scale))))
        if kl / 1.25 < found < 1.25 * kl:
            break
        scale *= min(4.0, max(0.25, (kl / max(found, 1e-6)) ** 0.5))
    return replace(shape, scale=round(float(scale), 4))
