"""Experiments: the variants and questions of an evaluation, before anything runs."""

import hashlib
import json

import numpy as np
import pytest
from support.paths import SHARED

import emobake
from emobake.core.steering import steering
from emobake.core.vector_set import EMOTIONS, VectorSet
from emobake.errors import InputError
from emobake.formats.output import read_record
from emobake.measure.experiment import SYSTEM_PROMPT, baked_experiment, recorded_experiment, steered_experiment
from emobake.measure.query_sets import Questions, Seen, comparable, extraction_queries, open_questions
from emobake.measure.recorded_answers import Recorded
from emobake.vectors.registry import registry

QUESTIONS = Questions("q.json", ("One?", "Two?", "Three?", "Four?"), ("a", "a", "b", "b"), "0" * 64)
ROWS = np.arange(5 * 2 * 4, dtype=np.float32).reshape(5, 2, 4) + 1
SET = VectorSet(EMOTIONS, ROWS, name="set")


def keys(experiment):
    return [variant.key for variant in experiment.variants]


def test_each_emotion_on_its_own():
    experiment = steered_experiment(QUESTIONS, SET, None, ["joy", "base"], [-1, 0, 2, 2], control=False)
    assert keys(experiment) == ["@0", "joy@-1", "joy@2", "base@-1", "base@2"]
    joy, base = experiment.directions
    assert (joy.kind, joy.emotions, base.kind, base.emotions) == ("emotion", ("joy",), "base", EMOTIONS)
    assert np.array_equal(joy.rows, ROWS[3]) and np.allclose(base.rows, ROWS.mean(0))
    assert [s.strength for s in experiment.curve(joy)] == [-1, 0, 2]


def test_a_weighted_sum():
    experiment = steered_experiment(
        QUESTIONS, SET, steering(mix={"joy": 1, "anger": -0.5}, scale=2), [], [1], control=False
    )
    (mix,) = experiment.directions
    assert (mix.name, mix.kind, mix.emotions) == ("2 joy-1 anger", "mix", ("joy",))
    assert np.array_equal(mix.rows, 2 * ROWS[3] - ROWS[0])
    (plain,) = steered_experiment(QUESTIONS, SET, steering((0, 0, 0, 1, 0)), [], [1], control=False).directions
    assert (plain.name, plain.kind) == ("joy", "emotion")


def test_a_random_direction_of_the_same_norms():
    rows = ROWS.copy()
    rows[3, 1] = 0
    experiment = steered_experiment(QUESTIONS, VectorSet(EMOTIONS, rows), None, ["joy"], [-1, 1, 4], seed=3)
    joy, control = experiment.directions
    assert control.kind == "control" and control.like == "joy" and control.emotions == ("joy",)
    assert np.allclose(np.linalg.norm(control.rows, axis=1), np.linalg.norm(joy.rows, axis=1))
    assert abs(float((control.rows[0] * joy.rows[0]).sum())) < 0.99 * np.linalg.norm(joy.rows[0]) ** 2
    assert keys(experiment) == ["@0", "joy@-1", "joy@1", "joy@4", "random like joy@1", "random like joy@4"]
    again = steered_experiment(QUESTIONS, VectorSet(EMOTIONS, rows), None, ["joy"], [1], seed=3)
    assert np.array_equal(again.directions[1].rows, control.rows)


def test_a_prompt_beside_each_direction_that_has_target_emotions():
    experiment = steered_experiment(
        QUESTIONS, SET, None, ["joy", "base"], [1], control=False, system_prompt=SYSTEM_PROMPT
    )
    assert keys(experiment) == ["@0", "joy@1", "base@1", "prompt like joy@1"]
    prompt = experiment.directions[2]
    assert (prompt.kind, prompt.like, prompt.rows) == ("prompt", "joy", None)
    assert [experiment.system(variant) for variant in experiment.variants] == ["", "", "", prompt.system]
    assert prompt.system == "Answer with joy. Let joy show in every sentence."
    mixed = steering(mix={"anger": 1, "fear": 1, "joy": 2, "sadness": -1})
    experiment = steered_experiment(QUESTIONS, SET, mixed, [], [1], control=False, system_prompt="Show {emotion}.")
    assert experiment.directions[1].system == "Show anger, fear and joy."
    with pytest.raises(InputError, match="`system_prompt` is empty"):
        steered_experiment(QUESTIONS, SET, None, ["joy"], [1], system_prompt=" ")


def test_the_recipe_by_which_a_bake_is_recognised():
    mixed = steering(mix={"joy": 1, "anger": -0.5, "fear": 0}, scale=2, layers="1")
    (mix,) = steered_experiment(QUESTIONS, SET, mixed, [], [1], control=False).directions
    assert mix.recipe.weights == (("joy", 2.0), ("anger", -1.0)) and mix.recipe.layers == (1,)
    assert mix.recipe.digests["joy"] == hashlib.sha256(ROWS[3].tobytes()).hexdigest()
    (base,) = steered_experiment(QUESTIONS, SET, None, ["base"], [1], control=False).directions
    assert base.recipe.weights == tuple((emotion, 0.2) for emotion in EMOTIONS)


@pytest.mark.parametrize(
    ("emotions", "weights", "strengths", "words"),
    [
        (["joy", "Joy "], None, [1], "given twice"),
        (["envy"], None, [1], "no vectors for envy"),
        (["joy"], None, [], "finite numbers"),
        (["joy"], None, [float("nan")], "finite numbers"),
        ([], steering((0,) * 5), [1], "all weights are zero"),
    ],
)
def test_what_makes_no_experiment(emotions, weights, strengths, words):
    with pytest.raises(InputError, match=words):
        steered_experiment(QUESTIONS, SET, weights, emotions, strengths)


def test_questions_that_the_vectors_were_made_from():
    seen = Seen(frozenset({comparable(" one?  "), comparable("TWO?")}), "those")
    experiment = steered_experiment(QUESTIONS, SET, None, ["joy"], [1], seen=seen)
    assert experiment.held_out == ("b",) and "2 of the 4 queries are among those" in experiment.warnings[0]
    ungrouped = Questions("q.json", QUESTIONS.texts, ("",) * 4, "")
    experiment = steered_experiment(ungrouped, SET, None, ["joy"], [1], seen=seen)
    assert experiment.questions.groups == ("extraction", "extraction", "held-out", "held-out")
    assert experiment.held_out == ("held-out",)
    experiment = steered_experiment(QUESTIONS, SET, None, ["joy"], [1], seen=Seen(frozenset(), "none"))
    assert experiment.held_out == ("a", "b") and not experiment.warnings
    experiment = steered_experiment(QUESTIONS, SET, None, ["joy"], [1])
    assert experiment.held_out is None and "not known" in experiment.warnings[0]


def test_the_shipped_set_was_not_made_from_everyday_queries():
    shipped = emobake.find_vectors("smollm2-135m-instruct", None, model="")
    everyday, own = open_questions("everyday"), open_questions("emobake")
    seen = extraction_queries(shipped.source, shipped.queries, everyday)
    assert len(everyday.texts) == 60 and not seen.texts & {comparable(text) for text in everyday.texts}
    assert extraction_queries(shipped.source, shipped.queries, own).texts == {comparable(text) for text in own.texts}
    assert set(own.groups) == set(EMOTIONS)


@pytest.mark.published
def test_the_papers_questions_and_what_of_them_is_held_out(tmp_path, monkeypatch):
    """All emotional queries of EmotionQuery+ but one are in EmotionQuery; none of the everyday ones is."""
    seed = SHARED / "seed"
    monkeypatch.setenv("EMOBAKE_CACHE", str(tmp_path))
    for entry in registry().queries:  # as if they had been fetched
        content = (seed / entry.file.path).read_bytes()
        assert hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == entry.file.blob
        (tmp_path / f"{entry.name}-{entry.file.blob[:8]}.json").write_bytes(content)
    asked = open_questions("emotionquery+")
    assert (asked.groups.count("emotional"), asked.groups.count("everyday")) == (250, 150)
    assert open_questions(str(seed / "dataset/EmotionQuery+/EmotionQuery+.json")) == asked
    published = VectorSet(EMOTIONS, ROWS, source="https://github.com/xuanfengzu/EmotionVector")
    for source, queries, what in (
        (published.source, {}, "that the vectors were"),
        ("", {"queries": "emotionquery.json", "queries_sha256": "0" * 64}, "that the vectors were"),
        ("", {}, "that the paper's vectors were"),
    ):
        seen = extraction_queries(source, queries, asked)
        assert sum(comparable(text) in seen.texts for text in asked.texts) == 249 and what in seen.what
    experiment = steered_experiment(
        asked, published, None, ["joy"], [1], seen=extraction_queries(published.source, {}, asked)
    )
    assert experiment.held_out == ("everyday",) and "249 of the 400" in experiment.warnings[0]
    for file in tmp_path.iterdir():  # without a network it stays unknown
        file.unlink()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    experiment = steered_experiment(
        asked, published, None, ["joy"], [1], seen=extraction_queries(published.source, {}, asked)
    )
    assert (
        experiment.held_out is None and "emotionquery cannot be fetched; none can be called" in experiment.warnings[0]
    )


def test_a_sample_is_spread_over_each_group(tmp_path):
    file = tmp_path / "q.json"
    file.write_text(json.dumps({"joy": [f"j{i}" for i in range(10)], "fear": ["f0", "f1"]}))
    found = open_questions(str(file)).limited(3)
    assert found.texts == ("j0", "j3", "j6", "f0", "f1") and found.groups == ("joy",) * 3 + ("fear",) * 2


@pytest.mark.parametrize("content", ["[]", '["a", " "]', "{}", "[1]", "nonsense"])
def test_questions_that_are_none(tmp_path, content):
    (tmp_path / "q.json").write_text(content)
    with pytest.raises(InputError, match=r"q\.json"):
        open_questions(str(tmp_path / "q.json"))


def test_an_unknown_name():
    with pytest.raises(
        InputError, match=r"no such file of queries; sets by name are everyday, emobake, .*emotionquery\+"
    ):
        open_questions("emotionquery++")


def test_recorded_answers_bring_their_own_beginning():
    def recorded(kind, model, name, strength):
        return Recorded(kind, model, name, strength, ("",) * 4, "")

    found = [recorded("base", "m", "base", x) for x in (0, 1)] + [recorded("emotion", "m", "joy", x) for x in (0, 2)]
    experiment = recorded_experiment(QUESTIONS, [*found, recorded("control", "m", "random like joy", 2)])
    assert [one.name for one in experiment.directions] == ["base", "joy", "random like joy"]
    assert [s.strength for s in experiment.curve(experiment.directions[1])] == [0, 2]
    assert experiment.directions[2].like == "joy" and experiment.questions == QUESTIONS
    two = recorded_experiment(QUESTIONS, [*found, recorded("emotion", "n", "joy", 1)])
    assert [one.name for one in two.directions] == ["m: base", "m: joy", "n: joy"]


def test_baked_checkpoints(base, vectors, tmp_path):
    folders = []
    for name, mix in (("one", {"joy": 1.0}), ("two", {"joy": 2.0}), ("both", {"joy": 1.0, "anger": 1.0})):
        folders.append(tmp_path / name)
        emobake.bake(base, vectors, mix=mix, out=folders[-1])
    baked = [(folder, read_record(folder)) for folder in folders]
    experiment = baked_experiment(QUESTIONS, baked)
    assert keys(experiment) == ["@0", "joy@1", "joy@2", "both@1"]
    assert [one.emotions for one in experiment.directions] == [("joy",), ("joy", "anger")]
    with pytest.raises(InputError, match="same weights"):
        baked_experiment(QUESTIONS, [baked[0], baked[0]])
