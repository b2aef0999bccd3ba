"""Description and arithmetic of sets, and their commands."""

import json
from dataclasses import replace

import numpy as np
import pytest

from emobake import InputError, VectorError, VectorSet, open_vectors
from emobake.core.vector_set import EMOTIONS, Statistics
from emobake.vectors.arithmetic import add_mix, describe, keep_best_layers, remove_common, separation
from emobake.vectors.write import write_set

RANDOM = np.random.default_rng(5)
COMMON = RANDOM.normal(size=(6, 16)).astype(np.float32)
OWN = RANDOM.normal(size=(5, 6, 16)).astype(np.float32)
SET = VectorSet(EMOTIONS, COMMON + 0.5 * OWN, "set", source="here", license="mit")


def test_norms_cosines_and_what_is_shared():
    found = describe(SET)
    np.testing.assert_allclose(found.norms, np.linalg.norm(SET.rows, axis=2), rtol=1e-6)
    anger, joy = SET.rows[0].astype(np.float64), SET.rows[3].astype(np.float64)
    cosine = [a @ j / np.linalg.norm(a) / np.linalg.norm(j) for a, j in zip(anger, joy, strict=True)]
    assert found.cosines[0, 3] == pytest.approx(np.mean(cosine)) == found.cosines[3, 0]
    np.testing.assert_allclose(np.diag(found.cosines), 1)
    assert (found.shared > 0.6).all() and found.advice and not found.problems
    assert describe(replace(SET, rows=OWN)).advice == ()


def test_orthogonal_and_equal_emotions():
    rows = np.zeros((2, 1, 2), np.float32)
    rows[0, 0, 0] = rows[1, 0, 1] = 3
    found = describe(VectorSet(("a", "b"), rows))
    assert (found.cosines[0, 1], found.shared[0], found.layer_cosines[0]) == (0, 0.5, 0)
    found = describe(VectorSet(("a", "b"), rows[[0, 0]]))
    assert found.shared[0] == pytest.approx(1) and found.problems == ("a and b are the same (cosine 1.000)",)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: rows.__setitem__((slice(None), 2), 0), "no vector in layer 2"),
        (lambda rows: rows.__setitem__(3, 0), "joy is zero in every layer"),
        (lambda rows: rows.__setitem__((1, 4), rows[1, 4] * 100), "disgust is"),
        (lambda rows: rows.__setitem__(2, 1.5 * rows[0]), "anger and fear are the same"),
    ],
)
def test_what_looks_wrong_is_said_once(change, words):
    rows = SET.rows.copy()
    change(rows)
    problems = describe(replace(SET, rows=rows)).problems
    assert len(problems) == 1 and words in problems[0], problems


def test_too_few_queries_are_noise():
    statistics = {"joy": Statistics(4, (1.0,) * 6, 0.31), "fear": Statistics(90, (0.1,) * 6, 0.97)}
    (problem,) = describe(replace(SET, statistics=statistics)).problems
    assert "joy is mostly noise (split-half cosine 0.31 with 4 queries)" in problem


def test_one_emotion_has_no_pairs():
    found = describe(VectorSet(("joy",), OWN[:1]))
    assert np.isnan(found.layer_cosines).all() and found.problems == found.advice == ()


def test_without_the_common_part_nothing_is_shared():
    statistics = {"joy": Statistics(4, (1.0,) * 6, 0.9)}
    found = remove_common(replace(SET, statistics=statistics))
    np.testing.assert_allclose(found.rows.sum(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(found.rows, SET.rows - SET.rows.mean(axis=0), atol=1e-6)
    assert found.source == "here; without the mean over the emotions" and not found.statistics
    assert describe(found).shared.max() < 1e-6
    with pytest.raises(VectorError, match="one emotion only"):
        remove_common(VectorSet(("joy",), OWN[:1]))


def test_a_new_emotion_is_the_weighted_sum():
    found = add_mix(SET, "Bittersweet", {"joy": 0.5, "sadness": -2})
    assert found.emotions == (*EMOTIONS, "bittersweet")
    np.testing.assert_array_equal(found.rows[:5], SET.rows)
    np.testing.assert_array_equal(found.rows[5], np.float32(0.5) * SET.rows[3] + np.float32(-2) * SET.rows[4])
    assert found.source == "here; bittersweet = 0.5 x joy + -2 x sadness"
    alone = add_mix(SET, "joy", {"joy": 2}, only=True)
    assert alone.emotions == ("joy",)
    np.testing.assert_array_equal(alone.rows[0], 2 * SET.rows[3])
    for name, mix, error in (
        ("joy", {"fear": 1}, InputError),
        ("a/b", {"joy": 1}, InputError),
        ("x", {"y": 1}, VectorError),
    ):
        with pytest.raises(error):
            add_mix(SET, name, mix)


# --- the commands ---------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path):
    write_set(SET, tmp_path / "v.safetensors")
    return tmp_path / "v.safetensors"


def test_show(cli, file):
    out = cli("vectors", "show", file).ok().out
    assert "v.safetensors  6 layers x 16" in out and "acts at: attention output" in out
    assert f"{np.linalg.norm(SET.rows[3, 4]):.3f}" in out
    assert "--remove-common" in out
    data = json.loads(cli("vectors", "show", file, "--json").ok().out)
    assert data["norms"]["joy"][4] == pytest.approx(np.linalg.norm(SET.rows[3, 4]), abs=1e-5)
    assert data["cosines"]["joy"]["joy"] == pytest.approx(1) and data["site"] == "attention_output"


def test_show_what_was_shipped(cli):
    ran = cli("vectors", "show", "smollm2-135m-instruct").ok()
    assert "split-half cosine" in ran.out and "Problem" not in ran.out
    assert "emotional prompt: Answer as a person" in ran.out


def test_a_set_of_many_emotions_fits_the_page(cli, tmp_path):
    names = tuple(f"e{i:03}" for i in range(171))
    rows = RANDOM.normal(size=(171, 2, 4)).astype(np.float32)
    write_set(VectorSet(names, rows), tmp_path / "many.npz")
    out = cli("vectors", "show", tmp_path / "many.npz", "--plot", tmp_path / "many.png").ok().out
    assert "The first 10 of 171" in out and max(map(len, out.splitlines())) < 300
    assert len(json.loads(cli("vectors", "show", tmp_path / "many.npz", "--json").ok().out)["norms"]) == 171


def test_plot(cli, file, tmp_path):
    pytest.importorskip("matplotlib")
    for name in ("a.png", "b.png"):
        cli("vectors", "show", file, "--plot", tmp_path / name).ok()
    picture = (tmp_path / "a.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and picture == (tmp_path / "b.png").read_bytes()
    size = [int.from_bytes(picture[i : i + 4], "big") for i in (16, 20)]
    assert size[0] > 1000 and size[1] > 400
    cli("vectors", "show", file, "--plot", tmp_path / "a.jpg").one_line("a.jpg", ".png")
    cli("vectors", "show", file, "--plot", tmp_path / "nowhere" / "a.png").one_line(
        "a.png", "cannot be written", code=1
    )


def test_mix(cli, file, tmp_path):
    out = tmp_path / "m.safetensors"
    cli("vectors", "mix", file, "--name", "bittersweet", "--mix", "joy=0.5,sadness=0.5", "--out", out).ok()
    assert open_vectors(out).emotions == (*EMOTIONS, "bittersweet")
    cli("vectors", "mix", file, "--remove-common", "--out", out).one_line("m.safetensors", "--overwrite")
    both = ("--remove-common", "--name", "x", "--mix", "joy=1", "--only", "--overwrite")
    cli("vectors", "mix", file, *both, "--out", out).ok()
    found = open_vectors(out)
    assert found.emotions == ("x",)
    np.testing.assert_allclose(found.rows[0], SET.rows[3] - SET.rows.mean(axis=0), atol=1e-6)
    for wrong in (["--name", "x"], ["--mix", "joy=1"], [], ["--remove-common", "--only"]):
        cli("vectors", "mix", file, *wrong, "--out", tmp_path / "w.npz").one_line("--name", "--mix")
    cli("vectors", "mix", file, "--name", "x", "--mix", "envy=1", "--out", tmp_path / "w.npz").one_line("envy")


def test_convert(cli, file, tmp_path):
    cli("vectors", "convert", file, tmp_path / "ev").ok()
    assert cli("vectors", "convert", tmp_path / "ev", tmp_path / "w.npz", "--license", "mit").ok().err == ""
    np.testing.assert_array_equal(open_vectors(tmp_path / "w.npz").rows, SET.rows)
    assert open_vectors(tmp_path / "w.npz").license == "mit"
    np.savez(tmp_path / "theirs.npz", joy=SET.rows[3])
    said = ("--site", "layer_output", "--first-row", "1", "--base-model", "owner/model", "--source", "theirs")
    ran = cli("vectors", "convert", tmp_path / "theirs.npz", tmp_path / "joy.safetensors", *said).ok()
    assert "no vector in layer 0" in ran.err
    found = open_vectors(tmp_path / "joy.safetensors")
    assert (found.layers, found.site, found.base_model, found.source) == (7, "layer_output", "owner/model", "theirs")
    cli("vectors", "convert", tmp_path / "joy.safetensors", tmp_path / "joy.gguf").ok()
    np.testing.assert_array_equal(open_vectors(tmp_path / "joy.gguf").rows, found.rows)
    cli("vectors", "convert", tmp_path / "theirs.npz", tmp_path / "x.npz").one_line("--first-row")


def test_list(cli):
    out = cli("vectors", "list").ok().out
    for words in ("llama3.1-8b-instruct", "openbmb/MiniCPM3-4B", "3584", "shipped with emobake", "vectors extract"):
        assert words in out


def test_separation_is_the_length_of_the_mean_over_the_spread_of_single_differences():
    drawn = np.random.default_rng(1).normal((3.0, 0.0), (1.0, 4.0), (400, 2)).astype(np.float32)
    errors = tuple(np.abs(drawn.std(axis=0, ddof=1)) / np.sqrt(400))
    found = VectorSet(("joy", "awe"), np.stack([drawn.mean(axis=0), drawn[0]])[:, :, None])
    found = replace(found, statistics={"joy": Statistics(400, errors, 0.9)})
    # In a layer with one number the measure is the classical effect size; chance makes none.
    assert separation(found, "joy") == pytest.approx([3.0, 0.0], abs=0.25)
    assert np.isnan(separation(found, "awe")).all()
    np.testing.assert_array_equal(describe(found).separation[0], separation(found, "joy"))


def test_the_layers_that_separate_best_are_kept():
    errors = {"joy": (1.0, 0.1, 1.0, 0.2, 1.0, 1.0), "fear": (0.1, 1.0, 1.0, 1.0, 1.0, 0.1)}
    rows = np.ones((2, 6, 4), np.float32)
    statistics = {emotion: Statistics(9, error, 0.9) for emotion, error in errors.items()}
    made = VectorSet(("joy", "fear"), rows, "set", statistics=statistics, extraction={"model": "m"})
    kept = keep_best_layers(made, 2)
    assert [np.flatnonzero(table.any(axis=1)).tolist() for table in kept.rows] == [[1, 3], [0, 5]]
    assert kept.extraction == {"model": "m", "best_layers": {"joy": [1, 3], "fear": [0, 5]}}
    assert kept.statistics["joy"].standard_error == (0, 0.1, 0, 0.2, 0, 0) and "2 layers" in kept.source
    np.testing.assert_array_equal(keep_best_layers(made, 99).rows, rows)
    with pytest.raises(VectorError, match="no statistics of anger"):
        keep_best_layers(SET, 2)
