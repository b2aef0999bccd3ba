"""Answers in the published layout."""

import json
from pathlib import Path

import pytest
from support.paths import SHARED

from emobake.errors import BrokenFileError, InputError
from emobake.measure.recorded_answers import answers_json, read_results, results_file


def put(root, name, answers):
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(answers_json(answers), encoding="utf-8")
    return file


def test_what_is_written_is_read(tmp_path):
    answers = ["Ja, natürlich! 🎉", 'A "quote"\nand a line.']
    for kind, name in (
        ("base", "base"),
        ("emotion", "joy"),
        ("mix", "0.5 joy+1 anger"),
        ("control", "random like joy"),
    ):
        put(tmp_path / "results", results_file(kind, "Qwen2.5", name, 2.0), answers)
    (tmp_path / "results" / "notes.json").write_text("{}")
    put(tmp_path / "results", "emotion/Qwen2.5/summary/joy.json", ["x"])
    found = read_results(tmp_path, 2, [0, 1])
    assert found == read_results(tmp_path / "results", 2, [0, 1])
    assert {(one.kind, one.name, one.strength) for one in found} == {
        ("base", "base", 2.0),
        ("emotion", "joy", 2.0),
        ("mix", "0.5 joy+1 anger", 2.0),
        ("control", "random like joy", 2.0),
    }
    assert {one.answers for one in found} == {tuple(answers)} and {one.model for one in found} == {"Qwen2.5"}


def test_names_cannot_leave_the_folder():
    assert ".." not in results_file("emotion", "../../x", "../joy", 1).parts
    assert str(results_file("base", "a/b", "", 0.5)) == "base/a_b/0.5.json"


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        ("{}", BrokenFileError, "not a list of answers"),
        ("[1]", BrokenFileError, "not a list of answers"),
        ('["a"', BrokenFileError, "0.json"),
        ('["a", "b"]', InputError, "2 answers to 1 queries"),
    ],
)
def test_what_is_no_recording_is_refused(tmp_path, content, error, words):
    put(tmp_path, "base/m/0.json", []).write_text(content)
    with pytest.raises(error, match=words):
        read_results(tmp_path, 1, [0])


def test_nothing_there(tmp_path):
    with pytest.raises(InputError, match="holds no answers as base/"):
        read_results(tmp_path, 1, [0])
    with pytest.raises(InputError, match="no such folder"):
        read_results(tmp_path / "x", 1, [0])


def test_answers_to_a_sample_of_the_queries(tmp_path):
    put(tmp_path, "base/m/0.json", list("abcdef"))
    put(tmp_path, "base/m/1.json", list("xy"))
    assert [one.answers for one in read_results(tmp_path, 6, [0, 3])] == [("a", "d"), ("x", "y")]
    with pytest.raises(InputError, match="2 answers to 6 queries"):
        read_results(tmp_path, 6, [0, 3, 5])


@pytest.mark.published
def test_the_published_results_are_in_this_layout():
    found = read_results(SHARED / "seed" / "results", 400, range(400))
    assert len(found) == len(list((SHARED / "seed" / "results").rglob("*.json"))) == 13
    assert json.loads(Path(found[0].file).read_text()) == list(found[0].answers)
