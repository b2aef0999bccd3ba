"""PEFT adapters on tiny models of every kind of projection, against hooks."""

import json
import logging
import re

import numpy as np
import pytest
from support.tiny import FAMILIES, HIDDEN, LAYERS, write_tiny, write_vectors

import emobake
from emobake.errors import InputError, UnsupportedModelError
from emobake.formats.checkpoint.families import families

peft = pytest.importorskip("peft")
torch = pytest.importorskip("torch")
from support.tiny_runs import hooked_logits, load, logits  # noqa: E402

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:.*merging LoRA weights"),
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing"),
]

# A Linear without bias, with one, behind a flag; refused as a checkpoint; a Conv1D; parallel and expert blocks.
NAMES = ("llama2", "qwen2.5", "mixtral", "stablelm", "phi", "gpt2", "gpt_oss", "gemma3", "minicpm3", "opt")


@pytest.mark.parametrize("name", NAMES)
def test_an_adapter_equals_the_hook(name, tmp_path):
    logging.getLogger("transformers").setLevel(logging.ERROR)
    base = write_tiny(name, tmp_path / "base")
    table = write_vectors(tmp_path / "ev", LAYERS, HIDDEN)
    rows = table[3] - np.float32(0.5) * table[0]
    emobake.bake(base, tmp_path / "ev", mix={"joy": 1.0, "anger": -0.5}, out=tmp_path / "out", format="peft")
    model, _ = load(base)
    arch = families()[FAMILIES[name].model_type]
    plain = logits(model)
    wanted = hooked_logits(model, arch.projection, dict(enumerate(rows)))
    adapted = peft.PeftModel.from_pretrained(model, tmp_path / "out")
    got = logits(adapted)
    scale = np.abs(wanted).max()
    assert np.abs(got - wanted).max() <= 1e-5 * scale
    assert np.abs(got - plain).max() >= 1e-2 * scale
    with adapted.disable_adapter():
        np.testing.assert_allclose(logits(adapted), plain, atol=1e-5 * scale)


def test_a_refused_architecture_points_to_the_adapter(tmp_path):
    base = write_tiny("stablelm", tmp_path / "base")
    write_vectors(tmp_path / "ev", LAYERS, HIDDEN)
    with pytest.raises(UnsupportedModelError, match="`format` peft"):
        emobake.bake(base, tmp_path / "ev", (0, 0, 0, 1, 0), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_architecture_that_the_table_does_not_have(tmp_path):
    base = write_tiny("llama2", tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(
        json.dumps({**config, "model_type": "zork", "architectures": ["ZorkForCausalLM"]})
    )
    write_vectors(tmp_path / "ev", LAYERS, HIDDEN)
    result = emobake.bake(base, tmp_path / "ev", (0, 0, 0, 1, 0), tmp_path / "out", format="peft")
    assert result.plan.biases[1].tensor == "base_model.model.model.layers.1.self_attn.o_proj.lora_B.bias"


def test_each_writes_complete_adapters_and_verify_reads_them_all(tmp_path):
    base = write_tiny("llama2", tmp_path / "base")
    write_vectors(tmp_path / "ev", LAYERS, HIDDEN)
    emobake.bake(
        base,
        tmp_path / "ev",
        mix={"joy": 2.0, "fear": 0.0, "anger": 1.0},
        out=tmp_path / "out",
        format="peft-each",
    )
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["README.md", "anger", "emobake.json", "joy"]
    # The card's own commands load them.
    card = (tmp_path / "out" / "README.md").read_text()
    commands = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]
    names = {}
    exec(commands.replace("THIS_REPO", str(tmp_path / "out")).replace("BASE", str(base)), names)
    assert set(names["model"].peft_config) == {"joy", "anger"} and names["model"].active_adapter == "anger"
    checks = emobake.verify(tmp_path / "out", vectors=str(tmp_path / "ev"))
    assert {c.name.split(":")[0] for c in checks} == {"no other files", "anger", "joy"}
    assert all(c.ok for c in checks)
    config = tmp_path / "out" / "joy" / "adapter_config.json"
    config.write_text(config.read_text().replace('"lora_bias": true', '"lora_bias": false'))
    assert [c.ok for c in emobake.verify(tmp_path / "out") if c.name == "joy: config honours the bias"] == [False]


def test_verify_runs_an_adapter_in_transformers(tmp_path):
    base = write_tiny("mixtral", tmp_path / "base")
    write_vectors(tmp_path / "ev", LAYERS, HIDDEN)
    emobake.bake(base, tmp_path / "ev", (0, 0, 0, 1, 0), tmp_path / "out", format="peft")
    checks = emobake.verify(tmp_path / "out", base=str(base), stack=["transformers"], max_new_tokens=4)
    assert not [c for c in checks if c.ok is False], checks
    assert any("equals the hook" in c.name for c in checks)


def test_targets_want_a_checkpoint(tmp_path):
    base = write_tiny("llama2", tmp_path / "base")
    write_vectors(tmp_path / "ev", LAYERS, HIDDEN)
    with pytest.raises(InputError, match="`targets` goes with"):
        emobake.bake(base, tmp_path / "ev", (0, 0, 0, 1, 0), tmp_path / "out", format="peft", targets=["vllm"])


TAMPERING = {
    "adapter_config.json": ({"target_modules": "x"}, "adapter_config.json: target_modules is", "adapter_config.json"),
    "the base": ({"base_model_name_or_path": "a/b"}, "base_model_name_or_path", "adapter_config.json"),
    "a rank": ({"lora_alpha": 2}, "lora_alpha is 2, not 1", "adapter_config.json"),
    "lora_bias as a text": ({"lora_bias": "true"}, "config honours the bias", "config honours the bias"),
}


@pytest.mark.parametrize("what", TAMPERING)
def test_verify_compares_an_adapter_with_its_plan(what, tmp_path):
    base = write_tiny("llama2", tmp_path / "base")
    write_vectors(tmp_path / "ev", LAYERS, HIDDEN)
    out = tmp_path / "out"
    emobake.bake(base, tmp_path / "ev", (0, 0, 0, 1, 0), out, format="peft")
    checks = emobake.verify(out, base=base, vectors=str(tmp_path / "ev"))
    assert all(check.ok for check in checks), checks
    change, with_base, alone = TAMPERING[what]
    config = json.loads((out / "adapter_config.json").read_text())
    (out / "adapter_config.json").write_text(json.dumps(config | change))
    for given, said in ((base, with_base), (None, alone)):
        found = [f"{c.name}: {c.detail}" for c in emobake.verify(out, base=given) if c.ok is False]
        assert any(said in line for line in found), found


def test_verify_finds_what_lies_beside_adapters(tmp_path):
    base = write_tiny("llama2", tmp_path / "base")
    write_vectors(tmp_path / "ev", LAYERS, HIDDEN)
    out = tmp_path / "out"
    emobake.bake(base, tmp_path / "ev", mix={"joy": 1.0, "fear": 1.0}, out=out, format="peft-each")
    assert not [c for c in emobake.verify(out, base=base) if c.ok is False]
    (out / "adapter_config.json").write_text("{}")
    (out / "joy" / "adapter_model.bin").write_text("x")
    found = [c.name for c in emobake.verify(out) if c.ok is False]
    assert found == ["no other files", "joy: no other files"]


def test_the_warnings_of_every_adapter_are_given(tmp_path):
    base = write_tiny("llama2", tmp_path / "base")
    write_vectors(tmp_path / "ev", LAYERS, HIDDEN)
    result = emobake.bake(base, tmp_path / "ev", mix={"joy": 1.0, "fear": 6.0}, format="peft-each", dry_run=True)
    assert any("strength" in warning for warning in result.plan.warnings)
