"""Findings to figures, worked by hand on an experiment of four answers; and the report of them."""

import json
import math

import pytest

from emobake.measure.engines import EvaluationSettings
from emobake.measure.experiment import Direction, Experiment, Variant
from emobake.measure.plots import plot_evaluation
from emobake.measure.query_sets import Questions
from emobake.measure.report import examples_of, write_report
from emobake.measure.scorers.lexicon import Lexicon
from emobake.measure.stages import Findings
from emobake.measure.summary import best, summarize
from emobake.models.sampling import Sampling
from emobake.vectors.pictures import SUFFIXES, picture

LOOP = "so happy " * 60
TEXTS = {"@0": ("A plain answer", "Another one"), "joy@2": ("I am happy", LOOP)}


class Named(Lexicon):
    """Another scorer, to be believed before the lexicon."""

    name, unit, note, rank = "reader", "probability", "", 1


@pytest.fixture
def findings():
    questions = Questions("q.json", ("One?", "Two <b>|</b>?"), ("seen", "new"), "0" * 64)
    study = Experiment(
        questions,
        (Direction("joy", "emotion", ("joy",)),),
        (Variant("", 0.0), Variant("joy", 2.0)),
        ("q.json: one of them was seen",),
        ("new",),
    )
    likelihoods = {
        "@0": [{"tokens": 2, "own": -2.0, "other": -4.0}, {"tokens": 3, "own": -3.0, "other": -6.0}],
        "joy@2": [{"tokens": 4, "own": -8.0, "other": -4.0}, None],
    }
    scores = {
        "lexicon": {"@0": [{"joy": 0.0}, {"joy": 0.0}], "joy@2": [{"joy": 20.0}, {"joy": 50.0}]},
        "reader": {"@0": [{"joy": 0.1}, {"joy": 0.3}], "joy@2": [{"joy": 0.9}, {"joy": 0.8}]},
    }
    kl = {"joy@2": [[0.0] * 19 + [4.0], [1.0] * 20]}
    doses, scales = {"joy": [1.0, 2.0]}, {"attention_output": [4.0, math.nan], "layer_output": [10.0, 20.0]}
    tokens = {"@0": [2, 3], "joy@2": [4, 8]}
    record = {"emobake": "0", "model": "m", "vectors": "v", "answers": "generated"}
    return Findings(study, TEXTS, tokens, likelihoods, kl, scores, doses, scales, record)


@pytest.fixture
def data(findings):
    return summarize(findings, [Lexicon(), Named()], EvaluationSettings(Sampling(8, temperature=0)))


def test_figures_by_hand(data):
    zero, two = data["directions"][0]["points"]
    assert (zero["strength"], two["strength"]) == (0, 2)
    every, new = two["groups"]["all"], two["groups"]["new"]
    assert zero["groups"]["all"]["perplexity"] == pytest.approx(math.e, rel=1e-5)
    assert every["perplexity"] == pytest.approx(math.e**2, rel=1e-5)
    assert every["perplexity_median"] == every["perplexity"] and new["perplexity"] is None
    assert zero["groups"]["all"]["topic"] == 1 and zero["groups"]["all"]["topic_gain"] == 1
    assert every["topic"] == 0 and every["topic_gain"] == -1
    assert every["collapsed"] == 0.5 and new["collapsed"] == 1 and two["groups"]["seen"]["collapsed"] == 0
    assert every["unended"] == 0.5 and every["tokens"] == 6
    assert new["distinct_1"] == pytest.approx(2 / 120, rel=1e-5) and new["words"] == 120
    assert every["scores"] == {"lexicon": {"joy": 35.0}, "reader": {"joy": pytest.approx(0.85)}}
    assert two["kl"] == 24 / 40 and two["kl_worst"] == 2.5  # the largest 2 of 40: 4 and 1
    assert (zero["kl"], zero["kl_worst"]) == (0, 0)
    assert data["layers"]["joy"] == {
        "norm": [1, 2],
        "of_attention_output": [0.25, None],
        "of_layer_output": [0.1, 0.1],
    }
    assert data["questions"]["shown"] == "new" and data["questions"]["held_out"] == ["new"]
    json.dumps(data, allow_nan=False)


def point(strength, joy, collapsed=0.0, perplexity=2.0, topic=0.9):
    measured = {"collapsed": collapsed, "perplexity": perplexity, "topic": topic, "scores": {"s": {"joy": joy}}}
    return {"strength": strength, "groups": {"all": measured}}


@pytest.mark.parametrize(
    ("points", "wanted"),
    [
        ([point(0, 0.1), point(1, 0.5), point(2, 0.9)], 2),
        ([point(0, 0.1), point(1, 0.5), point(2, 0.9, collapsed=0.06)], 1),
        ([point(0, 0.1), point(1, 0.5), point(2, 0.9, perplexity=8.1)], 1),
        ([point(0, 0.1), point(1, 0.5), point(2, 0.9, topic=0.7)], 1),
        ([point(0, 0.1), point(1, 0.5), point(2, 0.9, perplexity=None, topic=None)], 2),
        ([point(-1, 0.6), point(0, 0.1), point(1, 0.5)], -1),
        ([point(0, 0.5), point(1, 0.5), point(2, 0.9, collapsed=1)], None),
        ([point(1, 0.5)], None),
    ],
)
def test_the_best_strength(points, wanted):
    assert best({"points": points, "emotions": ["joy"]}, "all", "s")["strength"] == wanted


def test_the_more_believable_scorer_decides(data):
    assert [one["name"] for one in data["scorers"] if one["main"]] == ["reader"]
    assert data["best"]["joy"] == {
        "strength": None,
        "why": "no strength raises the emotion and keeps the answers sane",
    }


def test_the_report_reads(findings, data):
    texts = findings.experiment.questions.texts
    examples = examples_of(texts, [1], {"joy": [("0", TEXTS["@0"]), ("2", TEXTS["joy@2"])]})
    report = write_report(data, examples, ("dose_response",))
    assert report.startswith("## Evaluation\n") and report.endswith(".\n")
    table = next(line for line in report.splitlines() if line.startswith("| 2 |"))
    assert "0.8" in table and "100.0%" in table and "2.5" in table
    assert "which the vectors were not made from" in report and "The 1 *seen* queries:" in report
    assert "weak measure" in report and "](dose_response.png)" in report and "layers.png" not in report
    assert "Two &lt;b&gt;\\|&lt;/b&gt;?" in report and "<b>" not in report
    assert all(len(line) < 1000 for line in report.splitlines())


def test_a_judges_topic_stands_in_the_table(findings, data):
    assert "topic, reader" not in write_report(data, [])
    for answers in findings.scores["reader"].values():
        for one in answers:
            one["topic"] = 77.0
    report = write_report(summarize(findings, [Lexicon(), Named()], EvaluationSettings(Sampling(8, temperature=0))), [])
    assert "topic, reader (probability)" in report and "| 77 |" in report


def test_a_weak_measure_is_called_weak_wherever_it_stands(data):
    report = write_report(data, [])
    for line in report.splitlines():
        if "lexicon" in line and line.startswith(("|", ">")):
            assert "weak" in line, line


def test_pictures_are_the_same_each_time(data):
    first, second = (
        {
            name + suffix: picture(figure, suffix)
            for name, figure in plot_evaluation(data).items()
            for suffix in SUFFIXES
        }
        for _ in range(2)
    )
    assert sorted(first) == ["dose_response.png", "dose_response.svg", "layers.png", "layers.svg"]
    assert first == second and min(map(len, first.values())) > 5000
    assert b"<svg" in first["dose_response.svg"]
