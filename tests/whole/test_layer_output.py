"""Vectors of the layer output, baked into the bias of the MLP's last projection, against hooks on whole layers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support.tiny import FAMILIES, HIDDEN, LAYERS, write_tiny

import emobake
from emobake.actions.verify import verify
from emobake.formats.checkpoint.families import families
from emobake.vectors.write import write_set

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
from support.tiny_runs import assert_same, hooked_logits, load, logits  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("quiet")]


ROWS = np.random.default_rng(3).normal(0, 0.5, (1, LAYERS, HIDDEN)).astype(np.float32)
SET = emobake.VectorSet(("joy",), ROWS, "tiny", site="layer_output")
ROUTED = ("llama2", "vicuna", "llama3.2-tied", "mistral", "qwen1.5", "qwen2.5", "seed_oss", "granite", "gpt2", "phi",
          "gpt_neox", "starcoder2", "bloom", "gpt_bigcode", "nemotron", "smollm3")  # fmt: skip


def block(name: str) -> str:
    """A module inside a decoder layer, whose parent is the layer."""
    return families()[FAMILIES[name].model_type].block + ".any"


@pytest.mark.parametrize("name", ROUTED)
def test_baked_equals_hooked_layers(name: str, tmp_path: Path):
    base_path = write_tiny(name, tmp_path / "base")
    result = emobake.bake(base_path, SET, mix={"joy": -0.7}, out=tmp_path / "out")
    base, _ = load(base_path)
    baked, info = load(tmp_path / "out")
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    wanted = hooked_logits(base, block(name), dict(enumerate(np.float32(-0.7) * ROWS[0])))
    assert_same(logits(baked), wanted, logits(base))
    attention = families()[FAMILIES[name].model_type].projection
    assert not any(bias.tensor == f"{attention.format(layer=bias.layer)}.bias" for bias in result.plan.biases)


@pytest.mark.parametrize("name", ["llama2", "qwen2.5", "granite"])
def test_verify_checks_the_site_that_was_baked(name: str, tmp_path: Path):
    base = write_tiny(name, tmp_path / "base")
    write_set(SET, tmp_path / "v.safetensors")
    source = emobake.VectorSource(tmp_path / "v.safetensors", site="layer_output")
    emobake.bake(base, source, mix={"joy": 2}, out=tmp_path / "out")
    checks = verify(
        str(tmp_path / "out"), base=str(base), vectors=str(tmp_path / "v.safetensors"), stack=["transformers"]
    )
    assert all(check.ok is not False for check in checks), checks
    assert sum("equals the hook" in check.name for check in checks) == 1
    record = json.loads((tmp_path / "out/emobake.json").read_text())
    assert record["vectors"]["site"] == "layer_output"
    assert record.get("branch_scale") == (0.5 if name == "granite" else None)


@pytest.mark.filterwarnings("ignore:.*merging LoRA weights", "ignore:.*is_gradient_checkpointing")
@pytest.mark.parametrize("name", ["llama2", "qwen3", "granite"])
def test_an_adapter_equals_hooked_layers(name: str, tmp_path: Path):
    peft = pytest.importorskip("peft")
    base_path = write_tiny(name, tmp_path / "base")
    emobake.bake(base_path, SET, mix={"joy": 1}, out=tmp_path / "out", format="peft")
    base, _ = load(base_path)
    wanted, unsteered = hooked_logits(base, block(name), dict(enumerate(ROWS[0]))), logits(base)
    assert_same(logits(peft.PeftModel.from_pretrained(base, tmp_path / "out").eval()), wanted, unsteered)
    write_set(SET, tmp_path / "v.safetensors")
    emobake.bake(base_path, str(tmp_path / "v.safetensors"), mix={"joy": 1}, out=tmp_path / "two", format="peft")
    checks = verify(str(tmp_path / "two"), base=str(base_path), vectors=str(tmp_path / "v.safetensors"))
    assert all(check.ok is not False for check in checks), checks


def test_an_mlp_bias_that_the_base_has_is_added_to(tmp_path: Path):
    base_path = write_tiny("llama2", tmp_path / "base")
    emobake.bake(base_path, SET, mix={"joy": 1}, out=tmp_path / "one")
    result = emobake.bake(tmp_path / "one", SET, mix={"joy": 1}, out=tmp_path / "two")
    assert result.plan.route == "existing"
    base, _ = load(base_path)
    baked, _ = load(tmp_path / "two")
    assert_same(logits(baked), hooked_logits(base, block("llama2"), dict(enumerate(2 * ROWS[0]))), logits(base))


def test_both_sites_in_one_model(tmp_path: Path):
    """An output of one site is a base for the other."""
    base_path = write_tiny("qwen2", tmp_path / "base")
    attention = emobake.VectorSet(("joy",), ROWS / 2, "tiny")
    emobake.bake(base_path, attention, mix={"joy": 1}, out=tmp_path / "one")
    emobake.bake(tmp_path / "one", SET, mix={"joy": 1}, out=tmp_path / "two")
    one, _ = load(tmp_path / "one")
    baked, info = load(tmp_path / "two")
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert_same(logits(baked), hooked_logits(one, block("qwen2"), dict(enumerate(ROWS[0]))), logits(one))


@pytest.mark.parametrize("name", ["gemma2", "olmo2", "mixtral", "granitemoehybrid", "cohere"])
def test_where_nothing_acts_on_the_layer_output_alone(name: str, tmp_path: Path):
    base = write_tiny(name, tmp_path / "base")
    with pytest.raises(emobake.InputError, match="no bias is known that acts on its layers' output alone"):
        emobake.bake(base, SET, mix={"joy": 1}, out=tmp_path / "out")
