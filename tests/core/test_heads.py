"""Heads that make a constant row: how many, at what cost, and the solved bias of the values."""

from __future__ import annotations

import numpy as np
import pytest

from emobake import InputError
from emobake.core.heads import (
    MAX_GAIN,
    Cost,
    Heads,
    copies_by,
    copies_to_try,
    cost_of_copies,
    cost_of_heads,
    heads_to_add,
    is_shared,
    misses,
    solve_value_bias,
    value_matrix,
)
from emobake.core.tensors import FLOATS

QWEN3_8B = Heads(32, 8, 128, 128)
GEMMA3_1B = Heads(4, 1, 256, 256)


@pytest.mark.parametrize(
    ("heads", "devices", "multiple", "added"),
    [
        (QWEN3_8B, 1, 256, 1),
        (QWEN3_8B, 2, 256, 2),
        (QWEN3_8B, 4, 256, 4),
        (QWEN3_8B, 8, 256, 8),
        # One device more holds each key/value head than there are.
        (GEMMA3_1B, 8, 256, 1),
        (Heads(32, 2, 128, 128), 8, 256, 2),
        # A block of 256 is two heads of a model whose heads share nothing.
        (Heads(32, 32, 128, 128), 1, 256, 2),
        (Heads(32, 32, 128, 128), 1, 32, 1),
        (Heads(32, 32, 128, 128), 4, 256, 4),
    ],
)
def test_the_smallest_number_of_heads(heads, devices, multiple, added):
    assert heads_to_add(heads, tensor_parallel=devices, multiple=multiple) == added
    grown = heads.grown(added)
    assert is_shared(grown, devices) and grown.group == heads.group
    assert not any(
        is_shared(heads.grown(fewer), devices) and fewer * heads.group * heads.value_size % multiple == 0
        for fewer in range(1, added)
    )


def test_no_number_of_heads():
    with pytest.raises(InputError, match=r"`tensor_parallel` 2: no number of heads more than 5 and 5"):
        heads_to_add(Heads(5, 5, 128, 128), tensor_parallel=2, multiple=256)


def test_the_cost():
    assert cost_of_heads(QWEN3_8B, 1) == Cost(1.125, 1.125)
    assert cost_of_copies(QWEN3_8B, 4) == Cost(4, (32 + 4 * 8) / 40)
    assert Cost().is_free and not cost_of_heads(QWEN3_8B, 1).is_free
    assert list(copies_to_try(Heads(12, 2, 4, 4))) == [1, 2, 3, 6]


def attention(output: np.ndarray, values: np.ndarray, heads: Heads) -> np.ndarray:
    """Output of an attention whose scores do not matter, because all positions have the same `values`."""
    each = np.repeat(values.reshape(-1, heads.value_size), heads.queries // (len(values) // heads.value_size), axis=0)
    return output @ each.reshape(-1)


@pytest.mark.parametrize("copies", [1, 2, 4])
def test_a_solved_bias_makes_the_row(copies):
    draw, heads = np.random.default_rng(0), Heads(8, 2, 16, 16)
    output = draw.normal(0, 0.1, (20, 128))
    row = draw.normal(0, 1, 20).astype(np.float32)
    found = solve_value_bias(value_matrix(output, heads, copies), row)
    assert found.bias.dtype == np.float32 and found.bias.shape == (2 * copies * 16,)
    assert found.residual < 1e-6 and not found.fault
    np.testing.assert_allclose(attention(output, found.bias.astype(float), heads), row, atol=1e-6)


def test_a_row_out_of_reach_and_one_that_is_not():
    draw, heads = np.random.default_rng(0), Heads(8, 2, 4, 4)
    output = draw.normal(0, 0.1, (64, 32))
    assert (
        "misses the row"
        in solve_value_bias(value_matrix(output, heads), draw.normal(0, 1, 64).astype(np.float32)).fault
    )
    reached = (output @ draw.normal(0, 1, 32)).astype(np.float32)
    assert "misses" not in solve_value_bias(value_matrix(output, heads, 4), reached).fault, (
        "whatever the rank, with every copy"
    )


def test_a_bias_that_is_large_beside_usual_values():
    left, _, right = np.linalg.svd(np.random.default_rng(0).normal(0, 1, (16, 16)))
    sizes = np.ones(16)
    sizes[-1] = 1 / (2 * MAX_GAIN)
    matrix = left @ np.diag(sizes) @ right
    easy, hard = (solve_value_bias(matrix, left[:, i].astype(np.float32)) for i in (0, 15))
    assert not easy.fault and easy.gain == pytest.approx(1, abs=0.1)
    assert "times as large as values usually are" in hard.fault
    assert solve_value_bias(matrix, np.zeros(16, np.float32)).gain == 0


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_what_rounding_does_is_no_miss(dtype: str) -> None:
    draw = np.random.default_rng(3)
    matrix, bias = draw.normal(0, 1, (64, 64)), draw.normal(0, 1, 64).astype(np.float32)
    row = (matrix @ bias).astype(np.float32)
    stored = bias.astype(FLOATS[dtype]).astype(np.float32)
    assert not misses(matrix, stored, stored, row, dtype)
    assert misses(matrix, stored * np.float32(1.02), stored * np.float32(1.02), row, dtype)
    old = 50 * draw.normal(0, 1, 64).astype(FLOATS[dtype]).astype(np.float32)
    total = (old + bias).astype(FLOATS[dtype]).astype(np.float32)
    assert not misses(matrix, total, total - old, row, dtype), "a large old bias leaves fewer bits to the new one"
    assert misses(matrix, total, -(total - old), row, dtype)


def test_copies_by_a_recorded_cost() -> None:
    assert [copies_by(Cost(cache), 6) for cache in (1.0, 2.0, 3.0, 6.0)] == [1, 2, 3, 6]
    for cache in (0.0, 4.0, 1.5, 1e9, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="no number of copies"):
            copies_by(Cost(cache), 6)
