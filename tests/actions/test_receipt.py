"""Bounds: a bake and a push are held to the report of this very steering."""

import json

import numpy as np
import pytest
from support.gguf_files import HIDDEN, LAYERS, write_model

import emobake
from emobake.core.bounds import Bounds
from emobake.errors import InputError
from emobake.formats.output import read_record


@pytest.fixture
def report(base, vectors, tmp_path):
    """A report of joy at 1 and 2 on `base`, as an evaluation writes it."""
    emobake.bake(base, vectors, mix={"joy": 1}, out=tmp_path / "one")
    record = read_record(tmp_path / "one")

    def point(strength, kl, drop=None):
        return {"strength": strength, "kl": kl, "collapsed": 0.1 * strength, "capability_drop": drop}

    joy = {"name": "joy", "weights": {"joy": 1.0}, "layers": None, "rows_sha256": dict(record.vectors.rows)}
    joy |= {"points": [point(0, 0), point(1, 0.4, 0.02), point(2, 1.5)]}
    joy["chosen"] = {"strength": 2, "best": True, "rule": "the best strength"}
    weights = [[one.name, one.size] for one in record.base.weights]
    folder = tmp_path / "report"
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps({"receipt": {"weights": weights, "directions": [joy]}}))
    (folder / "report.md").write_text("## Evaluation\n")
    return folder


def edited(report, change):
    data = json.loads((report / "report.json").read_text())
    change(data["receipt"])
    (report / "report.json").write_text(json.dumps(data))


def test_a_bake_within_its_bounds(cli, base, vectors, report, tmp_path):
    words = ("--model", base, "--vectors", vectors, "--report", report, "--out", tmp_path / "out")
    cli(*words, "--mix", "joy=0.5", "--scale", 2, "--max-kl", 0.4, "--max-capability-drop", 0.02).ok()
    assert read_record(tmp_path / "out").steering.scale == 2


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--mix", "joy=1", "--max-kl", 0.3), ("joy is beyond --max-kl 0.3: it is 0.4",)),
        (("--mix", "joy=2", "--max-collapse", 0.1), ("--max-collapse 0.1: it is 0.2",)),
        (("--mix", "joy=2", "--max-capability-drop", 1), ("--max-capability-drop 1: the report has no such figure",)),
        (("--mix", "joy=1.5", "--max-kl", 9), ("was not measured, only 0.6667, 1.333 times it",)),
        (("--mix", "joy=-1", "--max-kl", 9), ("was not measured",)),
        (("--mix", "anger=1", "--max-kl", 9), ("does not tell of 1 x anger", "it tells of joy")),
        (("--mix", "joy=1", "--layers", "0", "--max-kl", 9), ("does not tell of",)),
        (("--mix", "joy=1"), ("--report goes with --scale auto or a bound",)),
    ],
)
def test_a_bake_beyond_its_bounds_writes_nothing(cli, base, vectors, report, tmp_path, more, said):
    words = ("--model", base, "--vectors", vectors, "--report", report, "--out", tmp_path / "out")
    cli(*words, *more).one_line(*said)
    assert not (tmp_path / "out").exists()


def test_a_report_of_something_else(cli, base, vectors, report, tmp_path):
    words = ("--model", base, "--vectors", vectors, "--mix", "joy=1", "--max-kl", 9, "--out", tmp_path / "out")
    cli(*words).one_line("bounds go with --report")
    cli(*words, "--report", tmp_path / "none").one_line("none: has no report.json")
    edited(report, lambda receipt: receipt["directions"][0]["rows_sha256"].update(joy="0" * 64))
    cli(*words, "--report", report).one_line("does not tell of 1 x joy by these vectors")
    edited(report, lambda receipt: receipt["weights"][0].__setitem__(1, 7))
    cli(*words, "--report", report).one_line("is the report of another base")
    for broken in (
        '{"receipt": {"weights": [], "directions": 7}}',
        '{"receipt": 1}',
        '{"receipt": {"weights": [[1]]}}',
    ):
        (report / "report.json").write_text(broken)
        cli(*words, "--report", report).one_line("report.json")
    (report / "report.json").write_text("{}")
    cli(*words, "--report", report).one_line("has no receipt")
    assert not (tmp_path / "out").exists()


def test_an_adapter_is_held_to_its_bounds(cli, base, vectors, report, tmp_path):
    words = ("--model", base, "--vectors", vectors, "--report", report, "--format", "peft", "--mix", "joy=1")
    cli(*words, "--max-kl", 0.3, "--out", tmp_path / "out").one_line("joy is beyond --max-kl 0.3: it is 0.4")
    cli(*words, "--max-kl", 9, "--each", "--out", tmp_path / "out").one_line("bounds go neither with adapters")
    assert not (tmp_path / "out").exists()
    cli(*words, "--max-kl", 0.4, "--out", tmp_path / "out").ok()


def test_a_gguf_file_is_held_to_its_bounds(cli, report, tmp_path):
    """Its weights are other files than the report names; the rows are compared."""
    rows = np.random.default_rng(0).normal(0, 0.1, (1, LAYERS, HIDDEN)).astype(np.float32)
    emobake.write_set(emobake.VectorSet(("joy",), rows), tmp_path / "joy.safetensors")
    write_model(tmp_path / "base.gguf")
    words = ("--model", tmp_path / "base.gguf", "--vectors", tmp_path / "joy.safetensors")
    words += ("--mix", "joy=1", "--report", report, "--out", tmp_path / "out.gguf")
    cli(*words, "--max-kl", 9).one_line("does not tell of 1 x joy by these vectors")
    cli(*words[:6], "--out", tmp_path / "known.gguf").ok()
    known = read_record(tmp_path / "known.gguf").vectors.rows
    edited(report, lambda receipt: receipt["directions"][0]["rows_sha256"].update(known))
    cli(*words, "--max-kl", 0.3).one_line("joy is beyond --max-kl 0.3: it is 0.4")
    assert not (tmp_path / "out.gguf").exists()
    cli(*words, "--max-kl", 0.4).ok()


def test_a_second_bake_has_no_report(cli, vectors, report, tmp_path):
    words = ("--model", tmp_path / "one", "--vectors", vectors, "--mix", "joy=1", "--report", report, "--max-kl", 9)
    cli(*words, "--out", tmp_path / "two").one_line("tells of one steering of one base")


def test_a_push_beyond_its_bounds_sends_nothing(online, hub, report, tmp_path):
    words = ("push", tmp_path / "one", "me/joyful", "--max-kl", 0.3)
    online(*words).one_line("bounds go with --report")
    online(*words, "--report", report).one_line("is beyond --max-kl 0.3: it is 0.4")
    assert "me/joyful" not in hub.repos
    online("push", tmp_path / "one", "me/joyful", "--max-kl", 0.5, "--report", report).ok()


def test_bounds_are_numbers_from_0_on():
    with pytest.raises(InputError, match="`max_kl` takes a number from 0 on"):
        Bounds(max_kl=-1)
    assert Bounds(max_kl=1).beyond({"kl": float("nan")}) and not Bounds(max_kl=1).beyond({"kl": 1})


def test_auto_takes_the_best_strength_of_the_report(cli, base, vectors, report, tmp_path):
    words = ("--model", base, "--vectors", vectors, "--report", report, "--auto", "--out", tmp_path / "out")
    ran = cli(*words, "--mix", "joy=0.5").ok()
    assert read_record(tmp_path / "out").steering.scale == 4 and "joy at 2, the best strength in" in ran.err
    more = (*words, "--overwrite")
    beyond = cli(*more, "--mix", "joy=1", "--max-kl", 1)
    assert beyond.code == 2 and "is beyond --max-kl 1: it is 1.5" in beyond.err
    cli(*more, "--mix", "anger=1").one_line("does not tell of anger")
    cli(*more, "--mix", "joy=-1").one_line("does not tell of joy in these proportions")
    assert "does not tell of" in cli(*more, "--mix", "joy=1", "--layers", "0").err
    edited(report, lambda receipt: receipt["directions"][0]["chosen"].update(best=False))
    cli(*more, "--mix", "joy=1").one_line("calls no strength of joy the best")
    edited(report, lambda receipt: receipt["directions"][0].pop("chosen"))
    cli(*more, "--mix", "joy=1").one_line("its receipt cannot be read (KeyError)", code=2)
