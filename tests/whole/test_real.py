"""SmolLM2-135M-Instruct, a real chat model, and the published Qwen2.5 vectors, baked and against hooks."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from support.paths import SHARED, SMOLLM2_VECTORS

import emobake
from emobake.core.stacks import USUAL, Support
from emobake.core.steering import steering
from emobake.core.vector_set import EMOTIONS, VectorSet
from emobake.formats.checkpoint.families import HeadForm, ValueForm, families
from emobake.formats.checkpoint.open import open_folder
from emobake.formats.checkpoint.plan import make_plan
from emobake.formats.checkpoint.routes.head import HeadRoute
from emobake.formats.checkpoint.routes.value import ValueRoute
from emobake.storage.local import write_folder
from emobake.vectors.open import open_vectors

peft = pytest.importorskip("peft")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from support.chat_model import greedy, hooked, load, logits, prompt  # noqa: E402

pytestmark = pytest.mark.real

QUESTIONS = ("How was your day?", "My friend forgot my birthday. What should I write to her?")


@pytest.fixture(scope="module")
def models(smollm2):
    return load(smollm2), transformers.AutoTokenizer.from_pretrained(smollm2)


MIXES = {"joy x2": (0, 0, 0, 2, 0), "mix with a negative weight": (0.5, 0, 0, 1.5, -0.5)}


@pytest.mark.parametrize("times", MIXES.values(), ids=MIXES.keys())
def test_a_baked_model_equals_the_hook(smollm2, models, tmp_path, times):
    base, tokenizer = models
    vectors = open_vectors(SMOLLM2_VECTORS, EMOTIONS)
    rows = sum(np.float32(t) * vectors.rows[i] for i, t in enumerate(times))
    emobake.bake(smollm2, SMOLLM2_VECTORS, times, emobake.Folder(tmp_path / "out", "symlink"))
    baked = load(tmp_path / "out")
    for question in QUESTIONS:
        inputs = prompt(tokenizer, question)
        plain = logits(base, inputs)
        with hooked(base, rows):
            wanted, tokens = logits(base, inputs), greedy(base, inputs)
        got = logits(baked, inputs)
        assert (got - wanted).abs().max() <= 1e-3
        assert (got - plain).abs().max() > 1
        assert greedy(baked, inputs) == tokens


@pytest.mark.parametrize("kind", [HeadRoute, ValueRoute])
def test_a_head_and_a_bias_of_the_values_are_the_bias(smollm2, models, tmp_path, kind):
    """A Llama needs neither; here the two forms meet real weights and extracted vectors."""
    base, tokenizer = models
    stacks = dict.fromkeys(USUAL, Support("steered"))
    family = replace(
        families()["llama"],
        head=HeadForm(("attention_bias",), stacks),
        value=ValueForm("attention_bias", stacks=stacks),
    )
    checkpoint, vectors = open_folder(smollm2), open_vectors(SMOLLM2_VECTORS, EMOTIONS)
    plan = make_plan(checkpoint, vectors, steering((0, 0, 0, 2, 0)), route=kind(family, checkpoint.config))
    write_folder(plan.files, smollm2, emobake.Folder(tmp_path / "out"))
    emobake.bake(smollm2, SMOLLM2_VECTORS, (0, 0, 0, 2, 0), emobake.Folder(tmp_path / "flag", "symlink"))
    # The output projection's own bias is left out, and transformers makes it anew, of zeros.
    made, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", dtype=torch.float32, output_loading_info=True
    )
    assert len(info["missing_keys"]) == 30 and all(name.endswith("o_proj.bias") for name in info["missing_keys"])
    flag = load(tmp_path / "flag")
    for question in QUESTIONS:
        inputs = prompt(tokenizer, question)
        with hooked(base, 2 * vectors.rows[EMOTIONS.index("joy")]):
            hook = logits(base, inputs)
        wanted, got = (logits(model, inputs).double().log_softmax(-1) for model in (flag, made.eval()))
        assert (wanted.exp() * (wanted - got)).sum(-1).abs().max() < 1e-7, "KL at every position"
        assert (logits(made, inputs) - hook).abs().max() <= 1e-3


# PEFT says on loading what our card says: it cannot merge a bias where there is none.
@pytest.mark.filterwarnings("ignore:.*merging LoRA weights")
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")  # peft 0.21 asks transformers by an older name
def test_an_adapter_equals_the_hook_and_switches_by_emotion(smollm2, models, tmp_path):
    base, tokenizer = models
    vectors = open_vectors(SMOLLM2_VECTORS, EMOTIONS)
    emobake.bake(smollm2, SMOLLM2_VECTORS, out=tmp_path / "each", format="peft-each")
    assert (tmp_path / "each" / "joy" / "adapter_model.safetensors").stat().st_size < 300_000
    inputs = prompt(tokenizer, QUESTIONS[0])
    wanted = {}
    for i, emotion in enumerate(EMOTIONS):
        with hooked(base, vectors.rows[i]):
            wanted[emotion] = logits(base, inputs)
    adapted = peft.PeftModel.from_pretrained(load(smollm2), tmp_path / "each" / "joy", adapter_name="joy")
    adapted.load_adapter(tmp_path / "each" / "anger", adapter_name="anger")
    for emotion in ("joy", "anger", "joy"):
        adapted.set_adapter(emotion)
        assert (logits(adapted, inputs) - wanted[emotion]).abs().max() <= 1e-3
    assert (wanted["joy"] - wanted["anger"]).abs().max() > 1


def test_verify_runs_both_comparisons_and_finds_a_model_that_is_not_steered(smollm2, tmp_path):
    emobake.bake(smollm2, SMOLLM2_VECTORS, MIXES["joy x2"], emobake.Folder(tmp_path / "out", "symlink"))
    checks = emobake.verify(
        tmp_path / "out", base=str(smollm2), vectors=str(SMOLLM2_VECTORS), stack=["transformers"], max_new_tokens=8
    )
    found = {check.name.partition(": ")[2] or check.name: check for check in checks}
    assert [c.name for c in checks if c.ok is False] == []
    assert found["equals the hook at every position"].ok and found["differs from the unsteered base"].ok
    assert found["beside the paper's last-position hook"].ok is None
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    (tmp_path / "out" / "config.json").write_text(json.dumps({**config, "attention_bias": False}))
    checks = emobake.verify(tmp_path / "out", base=str(smollm2), stack=["transformers"], max_new_tokens=2)
    failed = {check.name.partition(": ")[2] or check.name for check in checks if check.ok is False}
    assert {"config honours the bias", "equals the hook at every position", "differs from the unsteered base"} <= failed


def test_a_missing_stack_fails_and_is_named(smollm2, tmp_path):
    emobake.bake(smollm2, SMOLLM2_VECTORS, MIXES["joy x2"], emobake.Folder(tmp_path / "out", "symlink"))
    checks = emobake.verify(tmp_path / "out", base=str(smollm2), stack=["mlx"], max_new_tokens=1)
    assert checks[-1].ok is False
    assert "mlx" in checks[-1].detail and "pip install" in checks[-1].detail


def test_an_audit_names_the_emotion_and_its_weight(smollm2, tmp_path):
    """By the shipped set, which it finds by the model's shape, and without the record."""
    emobake.bake(smollm2, SMOLLM2_VECTORS, mix={"joy": 1.2}, out=emobake.Folder(tmp_path / "out", "symlink"))
    told = emobake.audit(tmp_path / "out")
    assert told.record is not None and told.record.agrees
    (tmp_path / "out" / "emobake.json").unlink()
    found = emobake.audit(tmp_path / "out")
    assert found.verdict == "looks baked in: joy about 1.2, of smollm2-135m-instruct" and found.record is None
    (finding,) = found.findings
    assert abs(finding.fits[0].weights["joy"] / 1.2 - 1) < 0.01 and finding.fits[0].explained > 0.9999
    assert emobake.audit(smollm2).verdict == "no bias"


@pytest.mark.filterwarnings("ignore:.*merging LoRA weights", "ignore:.*is_gradient_checkpointing")
@pytest.mark.parametrize("form", ["checkpoint", "peft"])
def test_the_python_on_the_card_runs_as_it_stands(smollm2, models, tmp_path, monkeypatch, capsys, form):
    """A push puts the repository's id in; here it is the folder's path."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner" / "SmolLM2").symlink_to(smollm2)
    source = emobake.ModelName.parse(smollm2, base_model="owner/SmolLM2")
    emobake.bake(source, SMOLLM2_VECTORS, mix={"joy": 1.2}, out=emobake.Folder("out"), format=form)
    card = (tmp_path / "out" / "README.md").read_text().replace("THIS_REPO", "./out")
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    said = capsys.readouterr().out
    rows = np.float32(1.2) * open_vectors(SMOLLM2_VECTORS, EMOTIONS).rows[EMOTIONS.index("joy")]
    base, tokenizer = models
    with hooked(base, rows):
        wanted = tokenizer.decode(greedy(base, prompt(tokenizer, QUESTIONS[0])), skip_special_tokens=True)
    assert len(said.split()) > 5
    assert said.strip() == wanted.strip()


@pytest.mark.published
def test_the_published_qwen2_5_vectors_on_qwen2_5_dimensions(tmp_path):
    """Layers, hidden size and heads of Qwen2.5-7B; vocabulary and MLP cut down; random weights in bfloat16."""
    published = SHARED / "seed" / "EMVector" / "qwen2.5"
    config = transformers.Qwen2Config(
        vocab_size=512,
        hidden_size=3584,
        intermediate_size=64,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        max_position_embeddings=32768,
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
    )
    torch.manual_seed(0)
    base = transformers.Qwen2ForCausalLM(config).to(torch.bfloat16)
    with torch.no_grad():
        for name, parameter in base.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.1)
    base.save_pretrained(tmp_path / "base", max_shard_size="500MB")
    result = emobake.bake(tmp_path / "base", published, (0.5, 0, 0, 0.5, 0), tmp_path / "out")
    assert (result.plan.route, len(result.plan.biases)) == ("llama", 28)
    raw = [json.loads((published / f"qwen2.5_{e}.json").read_text()) for e in ("anger", "joy")]
    anger, joy = (np.array([t[str(i)][0] for i in range(28)], np.float32) for t in raw)
    rows = np.float32(0.5) * anger + np.float32(0.5) * joy
    baked = load(tmp_path / "out")
    assert type(baked).__name__ == "LlamaForCausalLM"
    stored = torch.stack([layer.self_attn.o_proj.bias for layer in baked.model.layers]).detach()
    assert torch.equal(stored, torch.tensor(rows).to(torch.bfloat16).float())
    base = load(tmp_path / "base")  # not the one in memory: casting it to bfloat16 has rounded its rotary frequencies
    inputs = {"input_ids": torch.arange(24).reshape(1, -1) * 7}
    plain = logits(base, inputs)
    with hooked(base, stored.numpy()):
        wanted = logits(base, inputs)
    got = logits(baked, inputs)
    assert (got - wanted).abs().max() <= 1e-3
    assert (got - plain).abs().max() > 0.1
    assert isinstance(open_vectors(published, EMOTIONS), VectorSet)
