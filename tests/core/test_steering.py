"""Weights, layers, and the weighted sum of a set."""

import numpy as np
import pytest

from emobake import InputError, VectorError
from emobake.core.steering import parse_layers, parse_mix, steering, weighted_sum
from emobake.core.vector_set import EMOTIONS, VectorSet

ROWS = np.random.default_rng(0).normal(size=(5, 3, 4)).astype(np.float32)
SET = VectorSet(EMOTIONS, ROWS, "set", base_model="owner/model", source="here", license="mit")


def test_weighted_sum_is_float32_arithmetic_in_the_order_of_the_emotions():
    times = (0.5, 0.0, 0.1, -2.0, 1.0)
    expected = np.zeros((3, 4), np.float32)
    for weight, rows in zip(times, ROWS, strict=True):
        expected = expected + np.float32(weight) * rows
    np.testing.assert_array_equal(weighted_sum(SET, steering(times)), expected)


def test_scale_multiplies_and_layers_select():
    whole = weighted_sum(SET, steering(None, {"joy": 1.0}))
    part = weighted_sum(SET, steering(None, {"Joy": 1.0}, scale=0.5, layers="1-2"))
    np.testing.assert_array_equal(part[1:], whole[1:] * np.float32(0.5))
    assert not part[0].any()


@pytest.mark.parametrize(("text", "layers"), [("8-10", (8, 9, 10)), ("0,4-5", (0, 4, 5)), ("3, 3", (3,))])
def test_layer_lists(text, layers):
    assert parse_layers(text) == layers


@pytest.mark.parametrize("text", ["", "a", "3-1", "-1", "1-2-3", "1,,2", "99999"])
def test_bad_layer_lists(text):
    with pytest.raises(InputError, match="`layers`"):
        parse_layers(text)


def test_mix():
    assert parse_mix("joy=0.5, Anger=-1") == {"joy": 0.5, "anger": -1.0}


@pytest.mark.parametrize("text", ["joy", "joy=", "=1", "joy=a", "joy=1,joy=2", ""])
def test_bad_mixes(text):
    with pytest.raises(InputError, match="`mix`"):
        parse_mix(text)


@pytest.mark.parametrize(
    ("times", "mix"),
    [(None, None), ((1.0,) * 5, {"joy": 1.0}), ((1.0,), None), ((float("nan"),) * 5, None), (None, {})],
)
def test_bad_weights(times, mix):
    with pytest.raises(InputError):
        steering(times, mix)


def test_a_sum_beyond_float32_is_refused():
    with pytest.raises(VectorError, match="overflows float32"):
        weighted_sum(SET, steering(None, {"joy": 3e38, "anger": 3e38}, scale=1e10))


def test_an_emotion_or_layer_that_the_set_lacks_is_named():
    with pytest.raises(VectorError, match=r"nostalgia.*it has anger, disgust"):
        weighted_sum(SET, steering(None, {"nostalgia": 1.0}))
    with pytest.raises(VectorError, match=r"layer 3.*0 to 2"):
        weighted_sum(SET, steering(None, {"joy": 1.0}, layers="1-3"))
