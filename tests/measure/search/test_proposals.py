"""Proposals by Optuna: a function of the seed and of the earlier points, within the space, better than chance."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("optuna")

from emobake.measure.search.points import Figures, Point, front
from emobake.measure.search.proposals import params_of_plain, propose, shape_of, space
from emobake.measure.search.shape import Shape

BASE = Figures({"likelihood": 0.0}, 0.0, 0.0, 0.0, 0.95, 2.0)
LAYERS, BUDGET = 12, 0.5


def measured(number, params):
    """A made-up model: most emotion per KL at a narrow bell at 0.7, without the common part."""
    miss = (params["centre"] - 0.7) ** 2 + (params["common"] - 0.8) ** 2 + params["floor"] ** 2
    figures = Figures({"likelihood": params["kl"] ** 0.5 * np.exp(-2 * miss)}, params["kl"], 1.0, 0.0, 0.95, 2.0)
    return Point(str(number), shape_of(params), figures, params)


def run(seed, count):
    points = [measured(i, params_of_plain(kl, BUDGET)) for i, kl in enumerate((0.02, 0.1, 0.2, 0.35, 0.8))]
    while len(points) < count:
        points.append(measured(len(points), propose(seed, points, BASE, LAYERS, BUDGET)))
    return points


def test_the_same_points_give_the_same_proposal():
    first = run(0, 16)
    assert run(0, 16) == first
    assert propose(1, first, BASE, LAYERS, BUDGET) != propose(0, first, BASE, LAYERS, BUDGET)


def test_proposals_are_within_the_space():
    for point in run(0, 16)[5:]:
        assert point.params.keys() == space(LAYERS, BUDGET).keys()
        for name, distribution in space(LAYERS, BUDGET).items():
            assert distribution.low <= point.params[name] <= distribution.high
        assert all(0 <= layer < LAYERS for layer in point.shape.left_out)


def test_the_search_learns():
    points = run(0, 45)
    early, late = ([p.figures.emotion / p.figures.kl**0.5 for p in part] for part in (points[5:17], points[30:]))
    assert np.mean(late) > 1.5 * np.mean(early)
    assert {p.name for p in front(points)} & {p.name for p in points[17:]}


def test_a_blend_is_one_more_parameter():
    points = run(0, 16)
    with_blend = [replace(p, params={**p.params, "blend": 0.0}) for p in points]
    params = propose(0, with_blend, BASE, LAYERS, BUDGET, blend=True)
    assert params.keys() - space(LAYERS, BUDGET).keys() == {"blend"} and 0 <= params["blend"] <= 1
    assert shape_of(params).blend == params["blend"] and shape_of(points[-1].params).blend == 0


def test_plain_rows_are_a_point_of_the_space():
    params = params_of_plain(0.01, BUDGET)
    assert shape_of(params) == Shape() and shape_of(params_of_plain(0.2, BUDGET, blend=1.0)) == Shape(blend=1.0)
    for name, distribution in space(LAYERS, BUDGET, blend=True).items():
        assert distribution.low <= params[name] <= distribution.high
