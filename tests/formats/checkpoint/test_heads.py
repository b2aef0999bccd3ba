"""One more key/value head, without torch: the files that are rewritten, from Hub to Hub too, and hostile fields."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.checkpoints import edit_json, tree, write_vectors
from support.hub_server import Repo
from support.pushes import addressed, without_attributes
from support.running import TARGET

import emobake
from emobake.errors import EmobakeError
from emobake.formats.checkpoint.open import open_folder
from emobake.formats.safetensors import NewTensor, serialize_bytes

LAYERS, HIDDEN, HEADS, KEYS, HEAD = 2, 8, 4, 2, 4
CONFIG = {
    "model_type": "glm4",
    "architectures": ["Glm4ForCausalLM"],
    "num_hidden_layers": LAYERS,
    "hidden_size": HIDDEN,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KEYS,
    "head_dim": HEAD,
    "torch_dtype": "float32",
}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A checkpoint in three files, the last of which holds no attention."""
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    generator, where = np.random.default_rng(0), {}
    shapes = {"q_proj": (HEADS * HEAD, HIDDEN), "k_proj": (KEYS * HEAD, HIDDEN), "v_proj": (KEYS * HEAD, HIDDEN)}
    shapes["o_proj"] = (HIDDEN, HEADS * HEAD)
    files: list[dict[str, NewTensor]] = [{}, {}, {}]
    for layer in range(LAYERS):
        for name, shape in shapes.items():
            values = generator.normal(size=shape).astype(np.float32)
            files[layer][f"model.layers.{layer}.self_attn.{name}.weight"] = NewTensor("F32", shape, (values.tobytes(),))
    files[2]["model.embed_tokens.weight"] = NewTensor("F32", (5, HIDDEN), (bytes(5 * HIDDEN * 4),))
    for number, tensors in enumerate(files, 1):
        file = f"model-{number:05d}-of-00003.safetensors"
        (folder / file).write_bytes(serialize_bytes(tensors, {"format": "pt"}))
        where |= dict.fromkeys(tensors, file)
    index = {"metadata": {"total_size": 0, "total_parameters": 0}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture
def vectors(tmp_path: Path) -> Path:
    return write_vectors(tmp_path / "ev")


def test_only_files_with_attention_are_rewritten(base: Path, vectors: Path, tmp_path: Path):
    plan = emobake.bake(base, vectors, mix={"joy": 1}, out=tmp_path / "out", targets=["vllm", "llama.cpp"]).plan
    assert plan.route == "head" and plan.record.cost.cache == 1.5
    assert [file.action for file in plan.files if file.weights] == ["assemble", "assemble", "carry"]
    assert plan.record.assembled == ("model-00001-of-00004.safetensors", "model-00002-of-00004.safetensors")
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    made = open_folder(tmp_path / "out")
    assert index["metadata"]["total_size"] == sum(tensor.size for tensor in made.tensors.values())
    tensors = made.tensors.values()
    assert index["metadata"]["total_parameters"] == sum(
        int(np.prod(t.shape)) for t in tensors if t.name in (*plan.added, *plan.extended)
    ) - sum(int(np.prod(t.shape)) for t in open_folder(base).tensors.values() if t.name in plan.extended)
    assert not [check for check in emobake.verify(tmp_path / "out", base=base, vectors=vectors) if check.ok is False]


def test_from_hub_to_hub(over, online, hub, base: Path, vectors: Path, tmp_path: Path):
    """Only the files that hold attention pass through this machine, and the summary says how much that is."""
    hub.repos["owner/glm"] = Repo()
    hub.repos["owner/glm"].commit(base)
    shown = json.loads(over("--json", model="owner/glm").ok().out)
    sent = {file["name"]: file for file in shown["hub"]["files"]}
    assert sent["model-00003-of-00004.safetensors"]["action"] == "copy"
    rewritten = [sent[f"model-0000{number}-of-00004.safetensors"] for number in (1, 2)]
    assert all(file["action"] != "copy" and file["bytes"] > 0 for file in rewritten)
    online("--model", "owner/glm", "--vectors", vectors, "--mix", "joy=1", "--out", tmp_path / "out", "-q").ok()
    assert without_attributes(hub.repos[TARGET]) == addressed(tree(tmp_path / "out"), TARGET)
    assert "FAIL" not in online("verify", TARGET, "--base", "owner/glm", "--vectors", vectors).ok().out


@pytest.mark.parametrize(
    "fields",
    [
        {"num_attention_heads": 0},
        {"num_attention_heads": "4"},
        {"num_attention_heads": 10**12},
        {"num_key_value_heads": -1},
        {"num_key_value_heads": 2.0},
        {"num_key_value_heads": True},
        {"head_dim": 10**9},
        {"head_dim": [4]},
        {"attention_bias": "yes"},
    ],
)
def test_hostile_fields_are_refused(base: Path, vectors: Path, tmp_path: Path, fields: dict[str, Any]):
    edit_json(base / "config.json", **fields)
    with pytest.raises(EmobakeError) as error:
        emobake.bake(base, vectors, mix={"joy": 1}, out=tmp_path / "out")
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_more_heads_for_more_devices(base: Path, vectors: Path):
    for devices, keys in {1: 3, 2: 4, 4: 4, 8: 4}.items():
        plan = emobake.bake(base, vectors, mix={"joy": 1}, dry_run=True, tensor_parallel=devices).plan
        assert plan.record.cost.cache == keys / KEYS and plan.record.tensor_parallel == devices
    with pytest.raises(EmobakeError, match="an adapter adds no heads"):
        emobake.bake(base, vectors, mix={"joy": 1}, dry_run=True, tensor_parallel=2, format="peft")


@pytest.mark.parametrize("is_on", [True, False])
def test_biases_that_the_base_has_or_ignores(base: Path, vectors: Path, tmp_path: Path, is_on: bool):
    """What the class adds is kept in front of the new rows; what it ignores must not be woken by the switch."""
    edit_json(base / "config.json", attention_bias=is_on)
    file = base / "model-00003-of-00003.safetensors"
    index = json.loads((base / "model.safetensors.index.json").read_text())
    tensors = {"model.embed_tokens.weight": NewTensor("F32", (5, HIDDEN), (bytes(5 * HIDDEN * 4),))}
    for layer in range(LAYERS):
        for name, rows in {"q_proj": HEADS * HEAD, "k_proj": KEYS * HEAD, "v_proj": KEYS * HEAD}.items():
            values = np.arange(1, rows + 1, dtype=np.float32)
            tensors[f"model.layers.{layer}.self_attn.{name}.bias"] = NewTensor("F32", (rows,), (values.tobytes(),))
    file.write_bytes(serialize_bytes(tensors, {"format": "pt"}))
    index["weight_map"] |= dict.fromkeys(tensors, file.name)
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    if not is_on:
        with pytest.raises(EmobakeError, match="which the base's class ignores"):
            emobake.bake(base, vectors, mix={"joy": 1}, out=tmp_path / "out")
        return
    emobake.bake(base, vectors, mix={"joy": 1}, out=tmp_path / "out")
    made = open_folder(tmp_path / "out")
    bias = made.tensors["model.layers.1.self_attn.v_proj.bias"]
    assert np.frombuffer(made.read(bias), np.float32).tolist() == [*range(1, 9), 1.0, 0.0, 0.0, 0.0]
    assert not [check for check in emobake.verify(tmp_path / "out", base=base, vectors=vectors) if check.ok is False]


def test_a_bias_that_is_missing(base: Path, vectors: Path):
    edit_json(base / "config.json", attention_bias=True)
    with pytest.raises(EmobakeError, match="no file holds"):
        emobake.bake(base, vectors, mix={"joy": 1}, dry_run=True)
