"""The published form and our single-file form: bytes in, sets out."""

import json
from dataclasses import replace

import numpy as np
import pytest

from emobake import BrokenFileError, VectorError
from emobake.core.strengths import Strength
from emobake.core.vector_set import EMOTIONS, Statistics, VectorSet
from emobake.vectors.formats.published import parse_published, published_files, to_published
from emobake.vectors.formats.single_file import parse_single_file, to_single_file

ROWS = np.random.default_rng(0).normal(size=(5, 3, 4)).astype(np.float32)
SET = VectorSet(EMOTIONS, ROWS, "set", base_model="owner/model", source="here", license="mit")


def read_single(content, wanted=EMOTIONS, name="set.safetensors"):
    return parse_single_file(name, len(content), lambda start, length: content[start : start + length], wanted)


def as_json(rows, nested=True):
    return json.dumps({str(i): [r.tolist()] if nested else r.tolist() for i, r in enumerate(rows)}).encode()


@pytest.mark.parametrize("nested", [True, False])
def test_published_form_keeps_every_bit_of_float32(nested):
    files = [(e, f"Llama_{e}.json", as_json(ROWS[i], nested)) for i, e in enumerate(EMOTIONS)]
    read = parse_published(files, "set")
    assert read.emotions == EMOTIONS
    np.testing.assert_array_equal(read.rows, ROWS)
    assert set(read.sha256) == {f"Llama_{e}.json" for e in EMOTIONS}


def test_own_form_round_trips_and_is_deterministic():
    content = to_single_file(SET)
    read = read_single(content)
    np.testing.assert_array_equal(read.rows, ROWS)
    assert (read.emotions, read.base_model, read.source, read.license) == (EMOTIONS, "owner/model", "here", "mit")
    assert to_single_file(SET) == content


def test_own_form_is_readable_by_the_safetensors_library():
    from safetensors.numpy import load

    np.testing.assert_array_equal(load(to_single_file(SET))["joy"], ROWS[3])


def test_file_names_in_any_case_and_any_prefix():
    names = ["Qwen2.5_JOY.json", "x-anger.json", "readme.md", "fear.json"]
    assert published_files(names, ["joy", "anger", "fear"], "d") == {
        "joy": "Qwen2.5_JOY.json",
        "anger": "x-anger.json",
        "fear": "fear.json",
    }


def test_two_files_for_one_emotion_and_a_missing_one():
    with pytest.raises(VectorError, match="both claim 'joy'"):
        published_files(["a_joy.json", "b_joy.json"], ["joy"], "d")
    with pytest.raises(VectorError, match=r"d: no file ends in _fear.json"):
        published_files(["a_joy.json"], ["fear"], "d")


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"0": [[1.0]], "2": [[1.0]]}, "layer 1 of 2 is missing"),
        ({}, "0 layers"),
        ({"0": [["x"]]}, "not a list of numbers"),
        ({"0": [[True]]}, "not a list of numbers"),
        ({"0": []}, "not a list of numbers"),
        ({"0": [[1.0, 2.0]], "1": [[1.0]]}, "layer 1 has 1 floats, layer 0 has 2"),
        ({"0": [[float("nan")]]}, "NaN or infinity"),
        ({"0": [[1e300]]}, "NaN or infinity"),
    ],
)
def test_malformed_tables(table, words):
    with pytest.raises(VectorError, match=words):
        parse_published([("joy", "m_joy.json", json.dumps(table).encode())], "set")


def test_own_form_keeps_the_site_and_refuses_an_unknown_one():
    assert read_single(to_single_file(replace(SET, site="layer_output"))).site == "layer_output"
    with pytest.raises(VectorError, match="acts at 'somewhere'"):
        read_single(to_single_file(replace(SET, site="somewhere")))


def test_own_form_keeps_statistics_and_the_record_of_the_extraction():
    statistics = {"joy": Statistics(40, (0.5, 0.25, 0.125), 0.9), "fear": Statistics(1, (0.0, 0.0, 0.0), None)}
    content = to_single_file(replace(SET, statistics=statistics, extraction={"seed": 0}))
    read = read_single(content)
    assert (read.statistics, read.extraction) == (statistics, {"seed": 0})
    assert read_single(content, ["joy"]).statistics == {"joy": statistics["joy"]}


def test_own_form_keeps_measured_strengths():
    strengths = {"joy": Strength(0.8, "emobake eval ...", 0.3, 0.02), "fear": Strength(1.5, "by hand")}
    content = to_single_file(replace(SET, strengths=strengths))
    assert read_single(content).strengths == strengths
    assert read_single(content, ["joy"]).strengths == {"joy": strengths["joy"]}
    wrong = replace(SET, strengths={"joy": Strength(-1, "by hand")})
    with pytest.raises(BrokenFileError, match="strengths are malformed"):
        read_single(to_single_file(wrong))


def test_malformed_statistics_are_refused():
    short = replace(SET, statistics={"joy": Statistics(40, (0.5,), 0.9)})
    with pytest.raises(VectorError.__mro__[1], match="statistics for 'joy' are malformed"):
        read_single(to_single_file(short))


def test_the_published_form_round_trips_and_has_no_place_for_another_site():
    files = to_published(SET, "m")
    read = parse_published([(e, f"m_{e}.json", files[f"m_{e}.json"]) for e in EMOTIONS], "set")
    assert read.rows.tobytes() == ROWS.tobytes()
    with pytest.raises(VectorError, match="layer output"):
        to_published(replace(SET, site="layer_output"), "m")


def test_safetensors_that_are_no_vector_set_are_refused():
    from safetensors.numpy import save

    with pytest.raises(VectorError, match="not a set of emotion vectors"):
        read_single(save({"joy": ROWS[0]}))


def test_own_form_gives_only_what_is_asked_for_and_names_what_is_missing():
    read = read_single(to_single_file(SET), ["joy"])
    assert read.emotions == ("joy",)
    np.testing.assert_array_equal(read.rows[0], ROWS[3])
    with pytest.raises(VectorError, match=r"no vectors for nostalgia \(it has anger"):
        read_single(to_single_file(SET), ["joy", "nostalgia"])


@pytest.mark.parametrize("rows", [ROWS[:, :, :0], np.full((5, 3, 4), np.nan, np.float32)])
def test_own_form_with_useless_rows(rows):
    with pytest.raises(VectorError, match=r"shape|NaN"):
        read_single(to_single_file(VectorSet(EMOTIONS, rows)))
