"""Likelihoods against transformers' loss, divergences against scipy, last-position steering against real decoding."""

import numpy as np
import pytest

from emobake import ModelName
from emobake.models.hooks import adding

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from emobake.models.likelihood import SteeredModel, answer_logits, batches, divergences, log_likelihoods, norms  # noqa: E402
from emobake.models.loading import Runtime, load  # noqa: E402

pytestmark = pytest.mark.real

PAIRS = [((5, 6, 7), (8, 9)), ((11,), (12, 13, 14, 15)), ((21, 22, 23, 24, 25), (26,))]


@pytest.fixture(scope="module")
def live(tiny_chat):
    return load(ModelName.parse(tiny_chat), Runtime(dtype="float32", device="cpu"))


@pytest.fixture(scope="module")
def rows():
    return {0: np.full(32, 0.3, np.float32), 2: np.linspace(-1, 1, 32, dtype=np.float32)}


def test_likelihoods_are_the_loss_of_transformers(live):
    for pair, found in zip(PAIRS, log_likelihoods(SteeredModel(live), PAIRS), strict=True):
        ids = torch.tensor([[*pair[0], *pair[1]]])
        labels = ids.clone()
        labels[:, : len(pair[0])] = -100
        with torch.inference_mode():
            loss = live.model(input_ids=ids, labels=labels).loss
        assert found == pytest.approx(-float(loss) * len(pair[1]), rel=1e-5)


def test_divergences_are_those_of_scipy(live, rows):
    from scipy.stats import entropy

    known, other = answer_logits(SteeredModel(live), PAIRS), SteeredModel(live, rows)
    found = divergences(known, other, PAIRS)
    for values, *logits in zip(found, known, answer_logits(other, PAIRS), strict=True):
        p, q = (x.double().softmax(-1).numpy() for x in logits)
        assert values == pytest.approx(entropy(p, q, axis=-1), rel=1e-3, abs=1e-6)
    assert min(min(values) for values in found) > 1e-4
    assert max(max(values) for values in divergences(known, SteeredModel(live), PAIRS)) == 0


def test_neither_batch_nor_padding_matters(live, rows):
    together = divergences(answer_logits(SteeredModel(live), PAIRS), SteeredModel(live, rows), PAIRS)
    for pair, values in zip(PAIRS, together, strict=True):
        alone = divergences(answer_logits(SteeredModel(live), [pair]), SteeredModel(live, rows), [pair])[0]
        assert alone == pytest.approx(values, rel=1e-3, abs=1e-5)


def test_last_in_one_pass_is_last_while_decoding(live, rows):
    """Token by token through the cache, with the published hook's ``[:, -1:]``, against one masked pass."""
    found = answer_logits(SteeredModel(live, rows, "last"), PAIRS)
    for (prompt, answer), logits in zip(PAIRS, found, strict=True):
        with torch.inference_mode(), adding(live.model, live.family, rows, "last"):
            out = live.model(input_ids=torch.tensor([prompt]), use_cache=True)
            steps = [out.logits[0, -1]]
            for token in answer[:-1]:
                out = live.model(input_ids=torch.tensor([[token]]), past_key_values=out.past_key_values)
                steps.append(out.logits[0, -1])
        assert torch.allclose(logits, torch.stack(steps), atol=2e-5)
    every = answer_logits(SteeredModel(live, rows), PAIRS)
    assert not torch.allclose(found[0], every[0], atol=1e-2)


def test_batches_hold_everything_once(live, monkeypatch):
    monkeypatch.setattr("emobake.models.likelihood._LOGITS", 4 * 49152 * 12)
    found = batches(live, PAIRS)
    assert sorted(i for batch in found for i in batch) == [0, 1, 2]
    assert found == [[2, 0], [1]]


def test_norms_are_those_of_a_plain_hook(live):
    seen = {"attention_output": [], "layer_output": []}
    layer = live.model.model.layers[1]
    hooks = [
        layer.self_attn.register_forward_hook(lambda _m, _a, out: seen["attention_output"].append(out[0][0])),
        layer.register_forward_hook(
            lambda _m, _a, out: seen["layer_output"].append((out[0] if isinstance(out, tuple) else out)[0])
        ),
    ]
    for prompt, answer in PAIRS:
        with torch.inference_mode():
            live.model(input_ids=torch.tensor([[*prompt, *answer]]))
    for hook in hooks:
        hook.remove()
    found = norms(live, PAIRS)
    for site, outputs in seen.items():
        wanted = torch.cat([x[len(p) :] for x, (p, _) in zip(outputs, PAIRS, strict=True)]).norm(dim=-1).mean()
        assert found[site][1] == pytest.approx(float(wanted), rel=1e-4)


def test_gradients_reach_rows_that_are_tensors(live, rows):
    """The gradient of the likelihood against a difference quotient; the logits are those of arrays."""
    tensors = {layer: torch.tensor(row, requires_grad=True) for layer, row in rows.items()}
    found = answer_logits(SteeredModel(live, tensors), PAIRS, differentiable=True)
    for one, other in zip(found, answer_logits(SteeredModel(live, rows), PAIRS), strict=True):
        torch.testing.assert_close(one.detach(), other)

    def likelihood(step):
        moved = {0: rows[0] + np.float32(step) * np.eye(32, dtype=np.float32)[5], 2: rows[2]}
        return sum(log_likelihoods(SteeredModel(live, moved), PAIRS))

    total = sum(
        logits.log_softmax(-1)[range(len(answer)), list(answer)].sum()
        for logits, (_, answer) in zip(found, PAIRS, strict=True)
    )
    total.backward()
    assert float(tensors[0].grad[5]) == pytest.approx((likelihood(0.02) - likelihood(-0.02)) / 0.04, rel=0.02, abs=1e-3)
    assert tensors[2].grad.abs().sum() > 0
