"""`tune` on the tiny model: the search finds what a plain scan finds, and says what it cannot."""

import json

import numpy as np
import pytest

pytest.importorskip("torch")

from emobake.errors import InputError, ModelError
from emobake.measure.tuning import tune
from emobake.models.loading import Runtime

pytestmark = pytest.mark.real

BATCH = Runtime(batch_size=32)


@pytest.fixture(scope="module")
def budget(tiny_chat, tiny_vectors):
    return tune(tiny_chat, tiny_vectors, mix={"joy": 1}, target_kl=0.05, runtime=BATCH)


def test_a_budget_is_met(budget):
    assert budget.kl == pytest.approx(0.05, rel=0.05) and budget.reference is None
    curve = dict(budget.curve)
    assert curve[0.0] == 0 and curve[1.0] == budget.kl_at_one and curve[budget.scale] == budget.kl
    below = [kl for scale, kl in budget.curve if scale < budget.scale - 0.02]
    assert max(below) < 0.05, "a smaller scale would have reached the budget"


def test_what_is_found_is_what_the_report_measures(budget, tiny_chat, tiny_vectors, tmp_path):
    from emobake.measure.engines import EvaluationSettings
    from emobake.measure.evaluation import evaluate
    from emobake.models.sampling import Sampling

    (tmp_path / "q.json").write_text('["Hello?"]')
    data = evaluate(
        tiny_chat,
        tmp_path / "r",
        vectors=tiny_vectors,
        emotions=["joy"],
        strengths=[budget.scale],
        questions=str(tmp_path / "q.json"),
        scorers=["lexicon"],
        control=False,
        settings=EvaluationSettings(Sampling(2, temperature=0), BATCH, behaviour=False, samples=0),
    )
    assert data["directions"][0]["points"][-1]["kl"] == pytest.approx(budget.kl, rel=1e-3)


def test_last_position_steering_is_matched_best(tiny_chat, tiny_vectors):
    found = tune(tiny_chat, tiny_vectors, mix={"joy": 1, "anger": 0.5}, match="last", max_scale=2.0, runtime=BATCH)
    assert found.kl <= 1.0001 * min(kl for _, kl in found.curve) and found.kl <= found.kl_at_one
    assert 0 < found.scale < 2 and found.kl < found.reference
    scales = np.array([scale for scale, _ in found.curve])
    assert (np.diff(scales) > 0).all() and scales[0] > 0


def test_weights_that_are_zero(tiny_chat, tiny_vectors):
    with pytest.raises(InputError, match="all weights are zero"):
        tune(tiny_chat, tiny_vectors, mix={"joy": 0}, target_kl=1)


def test_a_budget_out_of_reach(tiny_chat, tiny_vectors):
    with pytest.raises(ModelError, match=r"at scale 0\.01 the KL is .* raise `max_scale`"):
        tune(tiny_chat, tiny_vectors, mix={"joy": 1}, target_kl=5.0, max_scale=0.01, runtime=BATCH)


def test_on_the_command_line(cli, tiny_chat, tiny_vectors, budget, tmp_path):
    words = ("tune", "--model", tiny_chat, "--vectors", tiny_vectors, "--mix", "joy=1", "--batch-size", 32)
    ran = cli(*words, "--target-kl", 0.05, "--plot", tmp_path / "curve.svg", "--json").ok()
    found = json.loads(ran.out)
    assert found["scale"] == budget.scale and (tmp_path / "curve.svg").read_bytes().startswith(b"<?xml")


def test_a_quick_look(cli, tiny_chat, tiny_vectors):
    told = []

    def progress(task, done, total):
        told.append((task, total))
        return told.append

    quick = tune(tiny_chat, tiny_vectors, mix={"joy": 1}, target_kl=0.05, limit=3, runtime=BATCH, progress=progress)
    assert quick.prompts == 3 and told == [("answers to compare", 3), 3], "progress comes before the first scale"
    words = ("tune", "--model", tiny_chat, "--vectors", tiny_vectors, "--mix", "joy=1", "--target-kl", 0.05)
    ran = cli(*words, "--limit", 3).ok()
    assert f"Bake with --scale {quick.scale:g}" in ran.out and "the figures are of 3 of the 32 prompts" in ran.err
    assert ran.err.startswith("3 prompts are answered"), "something is said at once, on a terminal and off it"
    ran = cli(*words, "--limit", 3, "-q").ok()
    assert ran.out == f"{quick.scale:g}\n" and ran.err.startswith("Warning")
    assert json.loads(cli(*words, "--limit", 99, "--json").ok().out)["prompts"] == 32


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ((), "--target-kl X, or --match last"),
        (("--target-kl", 1, "--match", "last"), "--target-kl X, or --match last"),
        (("--target-kl", 1, "--scale", 2), "--scale is the result of this command"),
        (("--target-kl", 1, "--plot", "curve.jpg"), ".png or .svg"),
        (("--target-kl", "inf"), "above 0"),
        (("--target-kl", 1, "--mix", "joy=0"), "'joy' is given twice"),
        (("--target-kl", 1, "--vectors", "./none"), "no such vector set"),
    ],
)
def test_bad_input(cli, tiny_chat, tiny_vectors, more, said):
    words = ("tune", "--model", tiny_chat, "--vectors", tiny_vectors, "--mix", "joy=1")
    cli(*words, *more).one_line(said)
