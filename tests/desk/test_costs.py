"""Warnings before a strength is heard: by a report, by the set's own figures, by its norms."""

import json

import numpy as np
import pytest

from emobake import InputError, VectorSet
from emobake.actions.receipt import measured
from emobake.core.steering import steering
from emobake.core.strengths import Strength
from emobake.desk.costs import Cost, cautions, cost_in_json, has_collapsed

pytest.importorskip("numpy")
ROWS = np.random.default_rng(0).normal(0, 1, (2, 3, 8)).astype(np.float32)
SET = VectorSet(("joy", "fear"), ROWS, strengths={"joy": Strength(1.0, "emobake eval", 0.4, 0.03)})


@pytest.fixture
def report(tmp_path):
    points = [{"strength": x, "collapsed": share} for x, share in ((2, 0.233), (0, 0.0), (1, 0.033))]
    one = {"name": "joy", "weights": {"joy": 1}, "layers": None, "points": points}
    both = {"name": "mix", "weights": {"joy": 1, "fear": 0.5}, "layers": [1], "points": points}
    receipt = {"directions": [{"name": "random", "weights": None, "layers": None, "points": points}, one, both]}
    (tmp_path / "report.json").write_text(json.dumps({"receipt": receipt}))
    return tmp_path


def mix(scale=1.0, layers=None, **weights):
    return steering(mix=weights, scale=scale, layers=layers)


def test_a_report_tells_where_answers_collapse(report):
    assert cautions(SET, mix(joy=1.2), report) == []
    (line,) = cautions(SET, mix(joy=0.9, scale=2), report)
    assert line.startswith("23.3% of the answers collapsed at joy 2") and "nearest to 1.8" in line
    beyond, collapsed, *_ = cautions(SET, mix(joy=2.5), report)
    assert "beyond 2, the largest strength" in beyond and "23.3%" in collapsed
    (line,) = cautions(SET, mix(joy=2, fear=1, layers="1"), report)
    assert "mix 2" in line
    assert measured(report, mix(joy=2, fear=1)) is None, "other layers"
    assert measured(report, mix(joy=-2)) is None, "the other way"
    found = measured(report, mix(joy=1.4))
    assert found.nearest["strength"] == 1 and [point["strength"] for point in found.points] == [1, 2]


def test_the_sets_own_figures_tell_it_where_no_report_does(report):
    (line,) = cautions(SET, mix(joy=1.5))
    assert line == "1.5 times the strongest at which measured answers stayed sane: " + (
        "joy 1 (KL 0.4 nats, 3.0% of the answers collapsed)"
    )
    assert cautions(SET, mix(joy=1)) == [] and cautions(SET, mix(fear=1)) == []
    assert cautions(SET, mix(joy=1, fear=1.5), report) == [], "the dose of joy is 1, and no report tells of the mix"
    assert cautions(SET, mix(joy=0)) == []
    (line,) = cautions(SET, mix(fear=4))
    assert "strength 4" in line and "collapse" in line


def test_no_report_is_said(tmp_path):
    with pytest.raises(InputError, match=r"report\.json"):
        cautions(SET, mix(joy=1), tmp_path)


def test_figures_for_the_page():
    assert cost_in_json(None) is None
    found = cost_in_json(Cost(0.5, 7, (0.1, None, 0.4)))
    assert found["largest"] == {"layer": 2, "dose": 0.4} and found["kl"] == 0.5
    assert Cost(0.0, 1, (None, None)).largest[1] == 0.0
    assert has_collapsed("again and " * 40) and not has_collapsed("It was a fine day, with rain in the evening.")
