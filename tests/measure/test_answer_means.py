"""Means of attention outputs on tiny random models of many families, against plain hooks on one text at a time."""

from types import SimpleNamespace

import numpy as np
import pytest
from support import tiny

from emobake.formats.checkpoint.families import families

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from emobake.measure.answer_means import generate_means, measure_means  # noqa: E402
from emobake.models.loading import LiveModel  # noqa: E402
from emobake.models.sampling import Sampling  # noqa: E402

pytestmark = pytest.mark.torch

FAMILIES = ["llama3.1", "qwen2.5", "mistral", "qwen3", "gemma2", "gemma3", "granite", "granitemoehybrid", "olmo2",
            "cohere", "minicpm3", "falcon", "mixtral", "gpt2", "opt", "phi", "gpt_oss"]  # fmt: skip
PROMPTS = [[5, 9, 12, 40, 8], [7, 11], [3, 21, 33, 64, 70, 18, 44, 52]]
ANSWERS = [[30, 31], [32, 33, 34, 35, 36], [90]]


@pytest.fixture(params=FAMILIES)
def live(request, tmp_path):
    folder = tiny.write_tiny(request.param, tmp_path / "model")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = SimpleNamespace(pad_token_id=0, eos_token_id=2, chat_template=None)
    family = families()[model.config.model_type]
    return LiveModel(model, tokenizer, family, "tiny", folder, "", "", tiny.LAYERS, tiny.HIDDEN)


def plainly(live, prompt, answer):
    """float32 ``[layers, hidden]``: one text, no padding, no cache, every activation kept."""
    seen = {}

    def keep(layer):
        def hook(_module, _inputs, output):
            seen[layer] = (output[0] if isinstance(output, tuple) else output)[0].clone()

        return hook

    name = live.family.projection.rpartition(".")[0]
    modules = dict(live.model.named_modules())
    handles = [
        modules[name.format(layer=i)].register_forward_hook(keep(i))
        for i in range(live.layers)
        if name.format(layer=i) in modules
    ]
    with torch.inference_mode():
        live.model(torch.tensor([[*prompt, *answer]]), use_cache=False)
    for handle in handles:
        handle.remove()
    means = np.zeros((live.layers, live.hidden), np.float32)
    for layer, output in seen.items():
        means[layer] = output[len(prompt) :].mean(dim=0).numpy()
    return means


def relative(found, wanted):
    """The largest distance of two rows ``[..., hidden]``, relative to the wanted one's norm."""
    norms = np.linalg.norm(wanted, axis=-1)
    return (np.linalg.norm(found - wanted, axis=-1)[norms > 0] / norms[norms > 0]).max()


def test_padding_on_either_side_changes_nothing(live):
    wanted = np.stack([plainly(live, p, a) for p, a in zip(PROMPTS, ANSWERS, strict=True)])
    assert np.linalg.norm(wanted, axis=-1).any(axis=0).sum() >= 1
    for side in ("right", "left"):
        found = measure_means(live, PROMPTS, ANSWERS, side)
        assert relative(found.means, wanted) < 1e-4, side
    assert found.answers == tuple(map(tuple, ANSWERS))


def test_generating_measures_what_a_pass_over_the_answers_measures(live):
    sampling = Sampling(6, temperature=0)
    found = generate_means(live, PROMPTS, sampling, ["a", "b", "c"])
    assert any(found.answers)
    wanted = np.stack([plainly(live, p, a) for p, a in zip(PROMPTS, found.answers, strict=True) if a])
    kept = [i for i, answer in enumerate(found.answers) if answer]
    assert relative(found.means[kept], wanted) < 1e-4


def test_an_answer_does_not_depend_on_its_neighbours(live):
    for sampling in (Sampling(6), Sampling(6, temperature=0.8, top_p=0.9, seed=3)):
        names = ["a", "b", "c"]
        together = generate_means(live, PROMPTS, sampling, names)
        alone = [generate_means(live, [p], sampling, [n]) for p, n in zip(PROMPTS, names, strict=True)]
        assert together.answers == tuple(one.answers[0] for one in alone)
