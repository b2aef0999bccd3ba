"""Measured strengths: reading them, and scaling a steering to them."""

from __future__ import annotations

import numpy as np
import pytest

from emobake import InputError, VectorSet
from emobake.core.steering import steering
from emobake.core.strengths import Strength, at_measured_strength, explain, parse_strengths

KNOWN = {"joy": Strength(0.8, "emobake eval ...", 0.31, 0.02), "anger": Strength(0.4, "emobake eval ...")}
SET = VectorSet(("anger", "joy", "fear"), np.ones((3, 2, 4), np.float32), "tiny", strengths=KNOWN)


@pytest.mark.parametrize(
    ("mix", "weights"),
    [
        ({"joy": 1}, {"joy": 0.8}),
        ({"joy": 7}, {"joy": 0.8}),
        ({"joy": 1, "anger": 0}, {"joy": 0.8, "anger": 0}),
        # 1 / (1 / 0.8 + 1 / 0.4) = 0.2667, so one third and two thirds of a dose.
        ({"joy": 1, "anger": 1}, {"joy": 0.8 / 3, "anger": 0.4 * 2 / 3}),
    ],
)
def test_doses_add_up_to_one(mix, weights):
    found = at_measured_strength(steering(mix=mix), SET)
    assert {name: weight * found.scale for name, weight in found.weights} == pytest.approx(weights)


@pytest.mark.parametrize(
    ("mix", "words"),
    [
        ({"fear": 1}, "tiny: tells no measured strength for fear"),
        ({"joy": -1}, "above 0"),
        ({"joy": 0}, "all weights are zero"),
    ],
)
def test_what_has_no_measured_strength(mix, words):
    with pytest.raises(InputError, match=words):
        at_measured_strength(steering(mix=mix), SET)


def test_a_line_tells_the_cost_of_one_and_that_a_mix_was_not_measured():
    one, two = (at_measured_strength(steering(mix=mix), SET) for mix in ({"joy": 1}, {"joy": 1, "anger": 1}))
    assert explain(one, SET) == (
        "joy at its measured strength 0.8 (KL 0.31 nats, 2.0% of the answers collapsed); by emobake eval ..."
    )
    assert explain(two, SET).startswith("joy 0.267, anger 0.267: ") and "not measured" in explain(two, SET)


def test_json_there_and_back():
    assert parse_strengths({name: found.as_json() for name, found in KNOWN.items()}) == KNOWN


@pytest.mark.parametrize(
    "entry",
    [
        0.5,
        {"value": 1},
        {"command": "x"},
        {"value": "1", "command": "x"},
        {"value": True, "command": "x"},
        {"value": 0, "command": "x"},
        {"value": -1, "command": "x"},
        {"value": float("nan"), "command": "x"},
        {"value": 1e9, "command": "x"},
        {"value": 1, "command": "x\x1b[2J"},
        {"value": 1, "command": "x" * 1000},
        {"value": 1, "command": "x", "kl": -1},
        {"value": 1, "command": "x", "kl": "much"},
        {"value": 1, "command": "x", "more": 1},
    ],
)
def test_malformed_entries(entry):
    assert parse_strengths({"joy": entry}) is None
