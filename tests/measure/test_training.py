"""Trained vectors on the tiny model: they lower the loss that they claim to lower, and repeat themselves."""

import json

import numpy as np
import pytest

pytest.importorskip("torch")

import emobake
from emobake import InputError, ModelName
from emobake.errors import ModelError
from emobake.measure import queries as q
from emobake.measure.extraction import MeanDifference, extract
from emobake.measure.training import Example, Training, train
from emobake.models.likelihood import SteeredModel, answer_logits, divergences, log_likelihoods
from emobake.models.loading import Runtime, load

pytestmark = pytest.mark.real

EXAMPLES = [Example(([3, 4 + i, 5], [30 + i % 2, 31]), ([3, 4 + i, 5], [50, 51, 52])) for i in range(9)]
SHORT = Training(steps=20, learning_rate=0.5, queries_per_step=3)


@pytest.fixture(scope="module")
def live(tiny_chat):
    return load(ModelName.parse(tiny_chat), Runtime(dtype="float32", device="cpu"))


@pytest.fixture(scope="module")
def difference():
    return np.random.default_rng(0).normal(size=(3, 32)).astype(np.float32) / 10


@pytest.fixture(scope="module")
def trained(live, difference):
    steps = []
    found = train(live, EXAMPLES, difference, SHORT, steps.append)
    assert sum(steps) == SHORT.steps
    return found


def test_the_held_out_answers_become_likelier_at_the_recorded_loss(live, trained):
    """The eighth example is held out; its figures are those of `log_likelihoods` and `divergences`."""
    held_out, base = EXAMPLES[7], SteeredModel(live)
    steered = SteeredModel(live, dict(enumerate(trained.rows)))
    for loss, model in ((trained.before, base), (trained.after, steered)):
        (likelihood,) = log_likelihoods(model, [held_out.emotional])
        assert loss.cross_entropy == pytest.approx(-likelihood / 2, rel=1e-4)
    (kl,) = divergences(answer_logits(base, [held_out.neutral]), steered, [held_out.neutral])
    assert trained.before.kl == 0 and trained.after.kl == pytest.approx(np.mean(kl), rel=1e-3)
    assert trained.after.total(SHORT.kl_weight) < trained.before.total(SHORT.kl_weight) - 0.1
    assert trained.step in (10, 20) and trained.record["step"] == trained.step
    assert not any(parameter.requires_grad for parameter in live.model.parameters())


def test_a_seed_repeats_itself_and_another_does_not(live, difference, trained):
    again = train(live, EXAMPLES, difference, SHORT)
    np.testing.assert_array_equal(again.rows, trained.rows)
    other = train(live, EXAMPLES, difference, Training(20, 0.5, queries_per_step=3, seed=1))
    assert np.abs(other.rows - trained.rows).max() > 1e-4


def test_a_heavier_kl_stays_closer_to_the_base(live, difference, trained):
    assert train(live, EXAMPLES, difference, Training(20, 0.5, 10.0, 3)).after.kl < trained.after.kl


def test_a_layer_without_a_mean_difference_is_left_alone(live, difference):
    rows = train(live, EXAMPLES, difference * [[1], [0], [1]], Training(10, 0.5, 0.0)).rows
    assert rows[0].any() and not rows[1].any() and rows[2].any()


def test_the_training_ends_where_nothing_gets_better(live, difference):
    """A step so large that every one is worse than the base: zero rows are kept."""
    steps = []
    found = train(live, EXAMPLES, difference, Training(500, 300.0, 100.0), steps.append)
    assert found.step == 0 and not found.rows.any() and found.after == found.before
    assert sum(steps) == 500 and len(steps) < 100


def test_a_loss_that_is_no_number_is_said(live, difference):
    with pytest.raises(ModelError, match="diverged at step 10; take a smaller `learning_rate`"):
        train(live, EXAMPLES, difference * np.nan, SHORT)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"learning_rate": 0}, {"kl_weight": -1}, {"queries_per_step": 0}])
def test_settings_out_of_range(wrong):
    with pytest.raises(InputError, match=f"`{next(iter(wrong))}`"):
        Training(**wrong)


def test_the_help_names_the_defaults():
    from emobake.cli.extract import extract as command

    told = {parameter.name: parameter.help for parameter in command.params}
    for name in ("steps", "learning_rate", "kl_weight", "queries_per_step"):
        assert told[name].endswith(f"Default: {getattr(Training(), name):g}."), name


# The last query, which is held out, is the first one again: it is sure to gain from the training.
ASKED = {
    "joy": ["The picnic?", "And the puppy?", "The picnic?"],
    "fear": ["That noise?", "Who is there?", "That noise?"],
}
WORDS = ("--max-new-tokens", 4, "--batch-size", 3)


@pytest.fixture
def words(tiny_chat, tmp_path):
    """The command up to its options."""
    file = tmp_path / "q.json"
    file.write_text(json.dumps(ASKED))
    return ("vectors", "extract", "--model", tiny_chat, "--queries", file, "--out", tmp_path / "v.safetensors", *WORDS)


def test_a_set_is_trained_and_recorded_answers_give_it_again(cli, words, tiny_chat, tmp_path):
    answers, again = tmp_path / "a.jsonl", tmp_path / "again.safetensors"
    more = ("--method", "trained", "--steps", 10, "--learning-rate", 0.3, "--seed", 3)
    cli(*words, *more, "--save-answers", answers, "-q").ok()
    made = emobake.open_vectors(tmp_path / "v.safetensors")
    assert made.emotions == ("fear", "joy") and made.rows.any() and not made.statistics
    assert made.extraction["training"]["seed"] == 3 and set(made.extraction["trained"]) == {"fear", "joy"}
    reuse = ("vectors", "extract", "--model", tiny_chat, "--reuse-answers", answers, "--out", again, "--batch-size", 3)
    cli(*reuse, *more, "-q").ok()
    np.testing.assert_allclose(emobake.open_vectors(again).rows, made.rows, rtol=1e-3, atol=1e-5)
    assert "trained for the emotional answers" in cli("vectors", "show", again).ok().out
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".json", ".jsonl", ".safetensors", ".safetensors"]


def test_a_killed_training_keeps_the_emotions_that_are_done(tiny_chat, tmp_path):
    content = json.dumps(ASKED).encode()
    asked = q.ask(q.parse_queries(content, "q.json"), content, "q.json")
    options = {"method": Training(10, 0.5), "sampling": emobake.Sampling(4, temperature=0)}
    tasks = []

    def stop(task, done, total):
        tasks.append(task)
        if task == "training joy" and len(tasks) == 3:
            raise KeyboardInterrupt
        return lambda amount: None

    with pytest.raises(KeyboardInterrupt):
        extract(tiny_chat, tmp_path / "v.safetensors", asked, progress=stop, **options)
    extract(tiny_chat, tmp_path / "v.safetensors", asked, progress=stop, **options)
    assert tasks == ["queries", "training fear", "training joy", "queries", "training joy"]
    extract(tiny_chat, tmp_path / "whole.safetensors", asked, **options)
    rows = [emobake.open_vectors(tmp_path / f"{name}.safetensors").rows for name in ("v", "whole")]
    np.testing.assert_array_equal(*rows)


def test_the_mean_of_a_query_is_subtracted(cli, words, tiny_chat, tmp_path):
    """Over all queries that is what removing the common part leaves; the neutral answers cancel."""
    answers = tmp_path / "a.jsonl"
    cli(*words, "--every-emotion", "--save-answers", answers, "-q").ok()
    plain = emobake.open_vectors(tmp_path / "v.safetensors")
    reuse = (
        "vectors",
        "extract",
        "--model",
        tiny_chat,
        "--reuse-answers",
        answers,
        "--out",
        tmp_path / "s.safetensors",
    )
    cli(*reuse, "--subtract-mean", "--batch-size", 1, "-q").ok()
    found = emobake.open_vectors(tmp_path / "s.safetensors")
    np.testing.assert_allclose(found.rows, plain.rows - plain.rows.mean(axis=0), atol=1e-5)
    assert found.extraction["subtract_mean"] is True and "query by query" in found.source
    assert {e: s.count for e, s in found.statistics.items()} == {"fear": 6, "joy": 6}
    # Of two emotions the differences are each other's negative, and so are their spreads.
    fear, joy = (np.array(found.statistics[e].standard_error) for e in ("fear", "joy"))
    np.testing.assert_allclose(fear, joy, rtol=1e-3)


def test_an_answer_that_is_missing_takes_its_query_out_for_all(tiny_chat, tmp_path):
    lines = [
        {
            "emotion": emotion,
            "query": query,
            "emotional": f"{emotion}, {query}" * (query + emotion != "B?joy"),
            "neutral": "Well.",
        }
        for emotion in ASKED
        for query in ("A?", "B?", "C?")
    ]
    recorded = q.parse_answers("\n".join(map(json.dumps, lines)).encode(), "a.jsonl")
    done = extract(tiny_chat, tmp_path / "v.safetensors", recorded, method=MeanDifference(subtract_mean=True))
    assert [(c.emotion, c.query) for c in done.skipped] == [("joy", "B?"), ("fear", "B?")]
    np.testing.assert_allclose(done.vectors.rows[0], -done.vectors.rows[1], atol=1e-5)


def test_the_best_layers_of_an_extraction(cli, words, tmp_path):
    cli(*words, "--best-layers", 2, "-q").ok()
    made = emobake.open_vectors(tmp_path / "v.safetensors")
    kept = {e: np.flatnonzero(t.any(axis=1)).tolist() for e, t in zip(made.emotions, made.rows, strict=True)}
    assert made.extraction["best_layers"] == kept and all(len(layers) == 2 for layers in kept.values())
    shown = json.loads(cli("vectors", "show", tmp_path / "v.safetensors", "--json").ok().out)
    assert [x > 0 for x in shown["separation"]["joy"]] == [layer in kept["joy"] for layer in range(3)]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--steps", 5), "--steps goes with --method trained"),
        (("--method", "trained", "--best-layers", 2), "go with --method mean"),
        (("--method", "trained", "--limit", 1), "training needs two queries of joy"),
        (("--best-layers", 2, "--limit", 1), "--best-layers needs two queries of joy"),
        (("--subtract-mean",), "--subtract-mean needs the same queries under each emotion"),
        (("--subtract-mean", "--every-emotion", "--emotions", "joy"), "--subtract-mean needs two emotions"),
    ],
)
def test_bad_input(cli, words, more, said, tmp_path):
    cli(*words, *more).one_line(said)
    assert [p.name for p in tmp_path.iterdir()] == ["q.json"]


def test_pairs_without_a_prompt_cannot_be_trained(tiny_chat, tmp_path):
    pairs = q.parse_contrasts(b'{"positive": "Yes!", "negative": "Yes."}\n' * 2, "joy.jsonl")
    with pytest.raises(InputError, match="training needs the query of each answer"):
        extract(tiny_chat, tmp_path / "v.safetensors", pairs, method=Training())
