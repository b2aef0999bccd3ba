"""Measures of emotion: the probe on made-up states, likelihoods and readings against one answer at a time."""

import numpy as np
import pytest

pytest.importorskip("sklearn")

from emobake.measure.search.emotion import Contrast, Likely, Probe, likelihoods, read_answers, weighted


def test_a_probe_finds_the_direction_that_differs():
    draw = np.random.default_rng(0)
    states = draw.standard_normal((60, 40)).astype(np.float32)
    states[:20, 7] += 4
    probe = Probe(states[:20], states[20:])
    fresh = draw.standard_normal((10, 40)).astype(np.float32)
    shifted = fresh.copy()
    shifted[:, 7] += 4
    assert (probe.logits(shifted) > probe.logits(fresh) + probe.spread).all() and probe.spread > 0


def test_few_emotional_answers_count_as_much_as_many_others():
    draw = np.random.default_rng(0)
    states = draw.standard_normal((110, 5)).astype(np.float32)
    states[:10, 0] += 2
    probe = Probe(states[:10], states[10:])
    assert (probe.logits(states[:10]) > 0).mean() > 0.7


def test_shares_weigh():
    assert weighted({"joy": 1.0, "fear": 4.0}, {"joy": 2 / 3, "fear": 1 / 3}) == pytest.approx(2.0)
    assert weighted({"fear": 4.0}, {"joy": 2 / 3, "fear": 1 / 3}) == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("now", "rise"),
    [
        (Likely(-2.0, -2.0), 0.5),
        (Likely(-2.0, -9.0), 0.5),  # A neutral answer that becomes unlikely is damage, and no emotion.
        (Likely(-2.0, -1.5), 0.0),  # Both rose alike.
        (Likely(-3.0, -1.5), -1.0),
    ],
)
def test_a_rise_is_over_the_base_and_not_shared_with_neutral_answers(now, rise):
    assert now.rise(Likely(-2.5, -2.0)) == pytest.approx(rise)


@pytest.fixture(scope="module")
def live(tiny_chat):
    pytest.importorskip("torch")
    from emobake.models.loading import Runtime, load
    from emobake.storage.model_name import ModelName

    return load(ModelName.parse(tiny_chat), Runtime())


@pytest.mark.real
def test_likelihoods_are_per_token(live):
    from emobake.models.likelihood import SteeredModel, log_likelihoods

    steered = SteeredModel(live, {1: np.full(32, 0.3, np.float32)})
    texts = [Contrast("joy", "How are you?", (5, 6, 7), (8, 9)), Contrast("joy", "Why?", (11,), (12, 13, 14, 15))]
    for one, found in zip(texts, likelihoods(steered, texts), strict=True):
        (prompt,) = live.prompts([one.query])
        more, less = (log_likelihoods(steered, [(prompt, side)])[0] for side in (one.emotional, one.neutral))
        assert found.emotional == pytest.approx(more / len(one.emotional), abs=1e-4)
        assert found.neutral == pytest.approx(less / len(one.neutral), abs=1e-4)


@pytest.mark.real
def test_an_answer_is_read_as_if_it_were_alone(live):
    import torch

    from emobake.models.likelihood import SteeredModel, log_likelihoods

    prompts = live.prompts(["How are you?", "Tell me about bread and its history.", "Why?"])
    pairs = list(zip(prompts, [(5, 6, 7, 8), (), (9, 10)], strict=True))
    found = read_answers(live, pairs)
    assert not found.states[1].any() and found.log_likelihoods[1] == 0
    for i in (0, 2):
        prompt, answer = pairs[i]
        with torch.inference_mode():
            states = live.model(torch.tensor([[*prompt, *answer]]), output_hidden_states=True).hidden_states
        # hidden_states[0] are the embeddings.
        own = states[live.layers // 2 + 1][0, len(prompt) :].mean(0).numpy()
        assert found.states[i] == pytest.approx(own, abs=1e-4)
        assert found.log_likelihoods[i] == pytest.approx(log_likelihoods(SteeredModel(live), [pairs[i]])[0], abs=1e-3)
