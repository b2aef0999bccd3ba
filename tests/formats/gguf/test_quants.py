"""One column of a matrix in ggml's types, read back through the gguf package."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from emobake.core.biases import Column, Home
from emobake.core.plan import WiderRows
from emobake.formats.gguf.quants import COLUMN_TYPES, zero_bytes_are_zeros
from emobake.formats.gguf.tensor_types import TENSOR_TYPES
from emobake.storage.copying import tails_of

ROWS = 40
VALUES = np.random.default_rng(0).normal(0, 0.02, ROWS).astype(np.float32)
EXACT = {"F32": 0.0, "BF16": 2**-8}


def test_types_are_those_of_the_gguf_package():
    known = {int(kind): (kind.name, *size) for kind, size in gguf.GGML_QUANT_SIZES.items()}
    ours = {kind.number: (name, kind.block, kind.block_bytes) for name, kind in TENSOR_TYPES.items()}
    assert {number: ours.get(number) for number in known} == known


@pytest.mark.parametrize("name", list(COLUMN_TYPES))
def test_a_column_is_what_was_written_and_the_others_are_zero(name):
    kind, block = COLUMN_TYPES[name], TENSOR_TYPES[name]
    home = Home(0, "t", name, ROWS, None, Column(512, kind.stored, kind.unit))
    own = home.encode(VALUES)
    assert len(own) == ROWS * kind.width and len(kind.block) == block.block_bytes
    columns = 2 * max(block.block, 64)
    tail = kind.block + bytes(columns // block.block * block.block_bytes - len(kind.block))
    stored = tails_of(WiderRows("f", 0, 0, ROWS, 0, tail, kind.place, own), 0, ROWS)
    found = gguf.quants.dequantize(stored, gguf.GGMLQuantizationType[name])
    assert found.shape == (ROWS, columns)
    np.testing.assert_allclose(found[:, 0], VALUES, rtol=EXACT.get(name, 1e-3), atol=1e-5)
    np.testing.assert_array_equal(found[:, 0], home.decode(own))
    # Of IQ4 types the others of the first 32 are small, and what they are multiplied by is zero.
    alone = 1 if kind.unit == 1 else 32
    assert not found[:, alone:].any() and (np.abs(found[:, 1:alone]) <= np.abs(VALUES[:, None]) / 100).all()


@pytest.mark.parametrize("name", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_small_values_keep_their_bits(name):
    """The scale is the value itself: a larger number of the pattern would push it below what 16 bits can hold."""
    home = Home(0, "t", name, 1, None, Column(0, COLUMN_TYPES[name].stored, COLUMN_TYPES[name].unit))
    small = np.array([7e-5], np.float32)
    np.testing.assert_allclose(home.decode(home.encode(small)), small, rtol=1e-3)


def test_zero_bytes():
    assert all(zero_bytes_are_zeros(name) for name in COLUMN_TYPES)
    assert all(zero_bytes_are_zeros(name) for name in ("IQ2_XXS", "IQ3_S", "IQ1_M", "MXFP4", "TQ1_0"))
    assert not zero_bytes_are_zeros("I8") and not zero_bytes_are_zeros("no such type")
