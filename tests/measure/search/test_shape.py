"""Shapes of rows: each parameter does what its line says, and the defaults do nothing."""

from dataclasses import replace

import numpy as np
import pytest

from emobake.measure.search.shape import Material, Shape, layer_weights, neutral_directions, shaped_rows

LAYERS, HIDDEN = 6, 16


@pytest.fixture
def material():
    draw = np.random.default_rng(0)
    rows, common = (draw.standard_normal((LAYERS, HIDDEN)).astype(np.float32) for _ in range(2))
    outputs = draw.standard_normal((40, LAYERS, HIDDEN)).astype(np.float32)
    norms = np.linalg.norm(outputs, axis=2).mean(axis=0) * np.arange(1, LAYERS + 1)
    return Material(rows, common, neutral_directions(outputs, 4), norms)


@pytest.mark.parametrize("scale", [0.25, 0.75, 1.0, 1.5])
def test_the_defaults_are_the_plain_strengths(material, scale):
    assert np.array_equal(shaped_rows(material, Shape(scale=scale)), np.float32(scale) * material.rows)


def test_the_norm_over_all_layers_is_kept(material):
    shape = Shape(centre=0.3, width=0.2, floor=0.1, left_out=(2,), common=0.7, neutral=3, norm=0.5)
    rows = shaped_rows(material, shape)
    assert np.linalg.norm(rows) == pytest.approx(np.linalg.norm(material.rows), rel=1e-5)
    assert not rows[2].any() and rows.dtype == np.float32


def test_the_bell():
    weights = layer_weights(5, Shape(centre=0.5, width=0.25, floor=0.2))
    assert weights[2] == 1 and weights[0] == weights[4] < weights[1] == weights[3] < 1
    assert weights[1] == pytest.approx(0.2 + 0.8 * np.exp(-0.5)) and weights[0] > 0.2
    assert layer_weights(1, Shape(left_out=(0, 9)))[0] == 0


def test_other_rows_are_blended_in_at_the_same_norm(material):
    others = 10 * np.random.default_rng(1).standard_normal((LAYERS, HIDDEN)).astype(np.float32)
    both, norm = replace(material, others=others), np.linalg.norm(material.rows)
    assert shaped_rows(both, Shape(blend=1.0)) == pytest.approx(others * norm / np.linalg.norm(others), rel=1e-5)
    half = shaped_rows(both, Shape(blend=0.5))
    towards = [(half * rows).sum() / np.linalg.norm(rows) for rows in (material.rows, others)]
    assert towards[0] == pytest.approx(towards[1], rel=1e-4) and np.linalg.norm(half) == pytest.approx(norm, rel=1e-5)
    assert np.array_equal(shaped_rows(both, Shape()), material.rows)
    assert np.array_equal(shaped_rows(material, Shape(blend=1.0)), material.rows), "nothing to blend in"


def test_the_common_part_is_taken_away(material):
    units = material.common / np.linalg.norm(material.common, axis=1, keepdims=True)
    before = (material.rows * units).sum(axis=1)
    for share in (0.0, 0.5, 1.0):
        rows = shaped_rows(material, Shape(common=share))
        # Up to the one factor that keeps the norm.
        rest = rows - (rows * units).sum(axis=1, keepdims=True) * units
        factor = np.linalg.norm(rest) / np.linalg.norm(material.rows - before[:, None] * units)
        assert (rows * units).sum(axis=1) / factor == pytest.approx((1 - share) * before, abs=1e-5)


def test_neutral_directions_are_taken_away(material):
    rows = shaped_rows(material, Shape(neutral=2))
    along = np.einsum("ldh,lh->ld", material.neutral, rows)
    assert abs(along[:, :2]).max() < 1e-5 < abs(along[:, 2:]).min()


def test_norms_by_layer(material):
    shares = np.linalg.norm(shaped_rows(material, Shape(norm=1.0)), axis=1) / material.norms
    assert shares == pytest.approx([shares[0]] * LAYERS)
    own, half, full = (np.linalg.norm(shaped_rows(material, Shape(norm=x)), axis=1) for x in (0, 0.5, 1))
    assert half / half[0] == pytest.approx(np.sqrt(own / own[0] * (full / full[0])))


def test_directions_are_the_strongest_ones():
    outputs = np.zeros((30, 2, 8), np.float32)
    outputs[:, 0, 3], outputs[:15, 0, 5] = 10, 1
    found = neutral_directions(outputs, 3)
    assert abs(found[0, 0, 3]) > 0.99 and abs(found[0, 1, 5]) > 0.99
    assert not found[0, 2].any() and not found[1].any(), "no more than there are, and none without output"


def test_nothing_left_is_zero(material):
    alone = Material(material.rows, material.rows, material.neutral, material.norms)
    assert not shaped_rows(alone, Shape(common=1.0)).any(), "rounding is not blown up"
    assert not shaped_rows(material, Shape(left_out=tuple(range(LAYERS)))).any()
