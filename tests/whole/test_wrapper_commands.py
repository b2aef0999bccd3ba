"""Every command that runs a model, on a tiny multimodal one whose chat template wants lists of parts.

What the wrapper says, does and measures must be what its language model does on its own, as a plain Llama.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import emobake

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.real

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% for part in message.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Drops a text that is no list, without a word."""


@dataclass(frozen=True)
class Pair:
    """A LLaVA around the language model of `tiny_chat`, and that language model alone, both unsteered."""

    wrapper: Path
    alone: Path


@pytest.fixture(scope="module")
def pair(tiny_chat: Path, tiny_vectors: Path, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    import transformers

    folder = tmp_path_factory.mktemp("llava")
    config = transformers.LlavaConfig(
        text_config=transformers.AutoConfig.from_pretrained(tiny_chat),
        vision_config={"model_type": "clip_vision_model", "hidden_size": 16, "intermediate_size": 24,
                       "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14},
        image_token_index=5,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlavaForConditionalGeneration(config)
    plain = transformers.AutoModelForCausalLM.from_pretrained(tiny_chat)
    model.model.language_model.load_state_dict(plain.model.state_dict())
    model.tie_weights()
    model.save_pretrained(folder / "wrapper")
    for name in ("tokenizer.json", "generation_config.json"):
        shutil.copy(tiny_chat / name, folder / "wrapper")
    fields = json.loads((tiny_chat / "tokenizer_config.json").read_text())
    fields.pop("chat_template", None)
    (folder / "wrapper" / "tokenizer_config.json").write_text(json.dumps(fields))
    (folder / "wrapper" / "chat_template.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    emobake.bake(folder / "wrapper", tiny_vectors, mix={"joy": 0.0}, out=folder / "alone", text_only=True, force=True)
    return Pair(folder / "wrapper", folder / "alone")


@pytest.mark.parametrize("options", [(), ("--text-only",)])
def test_verify(options, pair: Pair, tiny_vectors, cli, tmp_path):
    bake = ("--model", pair.wrapper, "--vectors", tiny_vectors, "--mix", "joy=1", "--out", tmp_path / "out", "-q")
    cli(*bake, *options).ok()
    check = ("--base", pair.wrapper, "--vectors", tiny_vectors, "--stack", "transformers", "--max-new-tokens", 8)
    ran = cli("verify", tmp_path / "out", *check).ok()
    assert "equals the hook at every position" in ran.out and "FAIL" not in ran.out
    assert (tmp_path / "out" / "chat_template.jinja").exists() == bool(options)


def test_chat(pair: Pair, tiny_vectors, cli):
    words = ("--vectors", tiny_vectors, "--prompt", "Hello?", "--max-new-tokens", 8, "--greedy", "--json")
    steered, alone = (cli("chat", "--model", m, "--mix", "joy=2", *words).ok() for m in (pair.wrapper, pair.alone))
    plain = cli("chat", "--model", pair.wrapper, *words).ok()
    answers = [json.loads(ran.out)[0]["answer"] for ran in (steered, alone, plain)]
    assert answers[0] == answers[1] != answers[2] and steered.err == ""


def test_extract(pair: Pair, cli, tmp_path):
    words = ("--limit", 2, "--emotions", "joy,anger", "--max-new-tokens", 4, "-q")
    sets = []
    for name, model in (("wrapper", pair.wrapper), ("alone", pair.alone)):
        cli("vectors", "extract", "--model", model, "--out", tmp_path / f"{name}.safetensors", *words).ok()
        sets.append(emobake.find_vectors(tmp_path / f"{name}.safetensors", ["joy", "anger"]))
    assert sets[0].rows.shape == (2, 3, 32) and np.abs(sets[0].rows).max() > 1e-3
    np.testing.assert_array_equal(sets[0].rows, sets[1].rows)
    emobake.bake(pair.wrapper, tmp_path / "wrapper.safetensors", mix={"joy": 1.0}, dry_run=True)


def test_eval_and_tune(pair: Pair, tiny_vectors, tmp_path):
    from emobake.measure.engines import EvaluationSettings
    from emobake.measure.evaluation import evaluate
    from emobake.measure.tuning import tune
    from emobake.models.loading import Runtime
    from emobake.models.sampling import Sampling

    (tmp_path / "q.json").write_text('["Hello?"]')
    points, scales = [], []
    for name, model in (("wrapper", pair.wrapper), ("alone", pair.alone)):
        data = evaluate(
            model,
            tmp_path / name,
            vectors=tiny_vectors,
            emotions=["joy"],
            strengths=[1.0],
            questions=str(tmp_path / "q.json"),
            scorers=["lexicon"],
            control=False,
            settings=EvaluationSettings(Sampling(4, temperature=0), behaviour=False, samples=0),
        )
        points.append(data["directions"][0]["points"][-1]["kl"])
        scales.append(
            tune(model, tiny_vectors, mix={"joy": 1}, target_kl=0.05, limit=2, runtime=Runtime(batch_size=32)).scale
        )
    assert points[0] > 0 and points[0] == pytest.approx(points[1], rel=1e-5)
    assert scales[0] == pytest.approx(scales[1], rel=1e-5)
