"""The mix that is nearest to some rows, beside least squares over the whole vectors and cases worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from emobake import VectorSet
from emobake.vectors.nearest import distance, fit

DRAW = np.random.default_rng(2)
ROWS = DRAW.normal(0, 1, (3, 4, 16)).astype(np.float32)
SET = VectorSet(("anger", "fear", "joy"), ROWS, name="ev")


def mixed(*weights: float, noise: float = 0.0) -> dict[int, np.ndarray]:
    rows = np.tensordot(np.array(weights, np.float32), ROWS, 1) + noise * DRAW.normal(0, 1, ROWS.shape[1:])
    return dict(enumerate(rows.astype(np.float32)))


def test_weights_are_those_of_least_squares_over_the_whole_vectors():
    rows = mixed(0.3, 0, 1.2, noise=0.5)
    found = fit(rows, [SET])
    assert found is not None
    whole = np.concatenate([rows[layer] for layer in range(4)]).astype(np.float64)
    matrix = ROWS.reshape(3, -1).T.astype(np.float64)
    wanted, left, *_ = np.linalg.lstsq(matrix, whole, rcond=None)
    assert list(found.weights.values()) == pytest.approx(wanted.tolist())
    assert found.explained == pytest.approx(1 - left[0] / (whole @ whole))
    cosines = matrix.T @ whole / np.linalg.norm(matrix, axis=0) / np.linalg.norm(whole)
    assert list(found.cosines.values()) == pytest.approx(cosines.tolist())
    assert found.nearest[0] == ("joy", pytest.approx(cosines[2]))


def test_a_mix_is_found_to_the_rounding_and_other_terms_are_left_out():
    found = fit(mixed(-0.5, 0, 2), [SET])
    assert found is not None and found.explained > 0.999999
    assert found.terms == (("joy", pytest.approx(2)), ("anger", pytest.approx(-0.5)))


def test_layers_of_zeros_do_not_count():
    rows = {layer: row if layer in (1, 3) else np.zeros(16, np.float32) for layer, row in mixed(0, 0, 1).items()}
    found = fit(rows, [SET])
    assert found is not None and found.weights["joy"] == pytest.approx(1) and found.explained > 0.999999
    assert set(found.layer_cosines["joy"]) == {1, 3}
    assert fit({0: np.zeros(16, np.float32)}, [SET]) is None and fit({}, [SET]) is None


def test_weights_of_each_layers_own():
    rows = {layer: np.float32(1 + layer) * ROWS[2, layer] for layer in range(4)}
    found = fit(rows, [SET])
    assert found is not None and found.explained < 0.95 < 0.999 < found.explained_apart
    assert found.ranges == {"joy": (pytest.approx(1), pytest.approx(4))}


def test_an_emotion_that_is_zero_and_one_that_is_there_twice():
    rows = np.concatenate([ROWS, np.zeros((1, 4, 16), np.float32), ROWS[2:]])
    twice = VectorSet((*SET.emotions, "nothing", "glee"), rows, name="ev")
    with np.errstate(all="raise"):
        found = fit(mixed(0, 0, 1), [twice])
    assert found is not None and np.isnan(found.cosines["nothing"]) and found.weights["nothing"] == 0
    assert found.weights["joy"] + found.weights["glee"] == pytest.approx(1) and found.explained > 0.999
    assert "nothing" not in dict(found.nearest)


def test_sets_together_name_their_emotions():
    other = VectorSet(("joy", "calm"), DRAW.normal(0, 1, (2, 4, 16)).astype(np.float32), name="other")
    rows = {layer: row + other.rows[1, layer] for layer, row in mixed(0, 0, 1).items()}
    found = fit(rows, [SET, other])
    assert found is not None and found.name == "ev and other"
    assert set(dict(found.terms)) == {"joy of ev", "calm"}
    same = fit(rows, [SET, VectorSet(SET.emotions, other.rows[[0, 1, 0]], name="ev")])
    assert same is not None and set(same.weights) == {
        f"{emotion} of set {number}" for number in (1, 2) for emotion in SET.emotions
    }


def test_too_few_numbers_say_nothing():
    assert fit({0: ROWS[0, 0]}, [SET]) is not None
    few = VectorSet(SET.emotions, ROWS[:, :, :8], name="ev")
    assert fit({0: ROWS[0, 0, :8]}, [few]) is None


def test_distance_is_that_of_the_whole_vectors():
    rows, mix = mixed(0, 0, 1), mixed(0, 0, 1.5)
    assert distance(rows, mix) == pytest.approx(0.5, rel=1e-5) and distance(rows, rows) == 0
    del mix[3]
    assert distance(rows, mix) > 0.5
    assert distance({0: np.zeros(4)}, {0: np.ones(4)}) == 1 and distance({}, {}) == 0
