"""The streaming statistics against numpy on all the differences at once."""

from types import SimpleNamespace

import numpy as np
import pytest

from emobake import BrokenFileError
from emobake.measure.contrast_sums import ContrastSums

SHAPE = (3, 4)
DRAWN = np.random.default_rng(0).normal(1, 2, (7, *SHAPE)).astype(np.float32)


def filled(emotions=("joy",), order=range(7)):
    sums = ContrastSums(emotions, SHAPE)
    for i in order:
        sums.add(i, emotions[0], i, DRAWN[i])
    return sums


def test_mean_standard_error_and_split_half_cosine():
    sums, exact = filled(), DRAWN.astype(np.float64)
    np.testing.assert_allclose(sums.mean("joy"), exact.mean(axis=0), rtol=1e-12)
    found = sums.statistics("joy")
    # The norm of the per-coordinate standard errors of the mean.
    expected = np.linalg.norm(exact.std(axis=0, ddof=1) / np.sqrt(7), axis=1)
    np.testing.assert_allclose(found.standard_error, expected, rtol=1e-5)
    a, b = exact[0::2].mean(axis=0), exact[1::2].mean(axis=0)
    cosines = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert found.split_half_cosine == pytest.approx(cosines.mean(), abs=1e-6)
    assert found.count == 7


def test_the_order_and_the_process_make_no_difference():
    parts = filled(order=range(3)), filled(order=range(3, 7))
    both = parts[0].plus(parts[1])
    np.testing.assert_allclose(both.mean("joy"), filled(order=reversed(range(7))).mean("joy"), rtol=1e-12)
    assert both.done == set(range(7))
    # Two processes, as a reduction over them would add them up.
    other = parts[1]
    added = iter([other.totals, other.squares, other.counts])
    joined = iter([sorted(other.done), sorted(other.skipped)])
    processes = SimpleNamespace(sum=lambda array: array + next(added), gather=lambda items: items + next(joined))
    gathered = parts[0].gathered(processes)
    np.testing.assert_array_equal(gathered.mean("joy"), both.mean("joy"))
    assert gathered.done == both.done


def test_too_few_for_statistics():
    assert filled(order=[0]).statistics("joy") is None
    # Two of the even half: a spread, but no two halves.
    assert filled(order=[0, 2]).statistics("joy").split_half_cosine is None


def test_a_contrast_without_an_answer_is_done_but_not_counted():
    sums = filled(order=[0])
    sums.add(1, "joy", 1, np.full(SHAPE, np.nan))
    assert (sums.count("joy"), sums.done, sums.skipped) == (1, {0, 1}, {1})
    np.testing.assert_array_equal(sums.mean("joy"), DRAWN[0])


def test_nothing_counts_twice():
    sums = filled()
    with pytest.raises(ValueError, match="contrast 3"):
        sums.add(3, "joy", 3, DRAWN[3])


def test_the_state_comes_back_from_the_disk(tmp_path):
    sums = filled(("joy", "fear"))
    sums.add(9, "fear", 0, np.full(SHAPE, np.nan))
    sums.save(tmp_path / "s.safetensors")
    read = ContrastSums.load(tmp_path / "s.safetensors", ("joy", "fear"), SHAPE)
    assert (read.done, read.skipped) == (sums.done, {9})
    np.testing.assert_array_equal(read.totals, sums.totals)
    assert read.statistics("joy") == sums.statistics("joy")
    assert ContrastSums.load(tmp_path / "none", ("joy",), SHAPE).done == set()
    assert [p.name for p in tmp_path.iterdir()] == ["s.safetensors"]


def test_another_state_is_refused(tmp_path):
    file = tmp_path / "s.safetensors"
    filled().save(file)
    for emotions, shape in ((("joy", "fear"), SHAPE), (("joy",), (3, 5))):
        with pytest.raises(BrokenFileError, match=r"s\.safetensors.*`restart`"):
            ContrastSums.load(file, emotions, shape)
    content = file.read_bytes()
    for bad in (b"", content[:50], b"\xff" * 64):
        file.write_bytes(bad)
        with pytest.raises(BrokenFileError, match="`restart`"):
            ContrastSums.load(file, ("joy",), SHAPE)
