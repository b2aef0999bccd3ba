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


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"mix": "joy=1"}, '`mix` takes numbers by name, such as {"joy": 1, "anger": 0.5}, not \'joy=1\''),
        ({"mix": {"joy": "1"}}, "`mix` takes numbers"),
        ({"mix": {1: 1}}, "`mix` takes numbers"),
        ({"mix": [("joy", 1)]}, "`mix` takes numbers"),
        ({"mix": {"joy": 1, "Joy ": 2}}, "the same emotion is given twice"),
        ({"times": "1 0 0 0 0"}, "`times` takes a list, such as (0, 0, 0, 1, 0), not '1 0 0 0 0'"),
        ({"times": 5}, "`times` takes a list"),
        ({"times": {"joy": 1}}, "`times` takes numbers"),
        ({"times": "abcde"}, "`times` takes a list"),
        ({"times": [1, 0, 0, None, 0]}, "`times` takes numbers"),
        ({"mix": {"joy": 1}, "scale": "2"}, "`scale` must be finite numbers"),
        ({"mix": {"joy": 1}, "layers": 3}, "`layers` takes a text"),
    ],
)
def test_wrong_types_are_told_how_to_write_it(arguments, said):
    with pytest.raises(InputError) as caught:
        steering(**arguments)
    assert said in str(caught.value)


def test_numbers_of_any_kind_are_numbers():
    assert steering(np.ones(5, np.float32)) == steering((True, 1, 1.0, np.float64(1), np.array(1)))


def test_a_typo_is_recognised():
    with pytest.raises(VectorError, match=r"has no vectors for yoy .*; did you mean joy\?$"):
        weighted_sum(SET, steering(None, {"yoy": 1.0}))
