"""Baked tiny models against forward hooks that add the same vectors, logits against logits.

The reference is the published method: transformers runs the unsteered base, and a hook adds w_l to the output
of each layer's attention module, at every position.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.tiny import FAMILIES, HIDDEN, LAYERS, write_tiny, write_vectors

import emobake
from emobake.errors import InputError
from emobake.formats.checkpoint.families import families

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
from support.tiny_runs import assert_same, hooked_logits, load, logits  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("quiet")]

TIMES = (0.5, 0, 0, -1.0, 0.25)


def steering_sum(rows: np.ndarray) -> np.ndarray:
    """w_l in float32, from the test's own vectors."""
    total = np.zeros(rows.shape[1:], np.float32)
    for weight, of_emotion in zip(TIMES, rows, strict=True):
        total += np.float32(weight) * of_emotion
    return total


# Hybrids: which layers have attention. A vector for another layer has nowhere to go and must not be asked for.
ATTENTION_LAYERS = {"granitemoehybrid": "1"}


def bake(tmp_path: Path, name: str, **options: Any) -> tuple[Path, Path, np.ndarray]:
    """Base, output, and the sum that was baked."""
    base = write_tiny(name, tmp_path / "base", **options)
    rows = write_vectors(tmp_path / "vectors", LAYERS, HIDDEN)
    chosen = ATTENTION_LAYERS.get(name)
    emobake.bake(model=base, vectors=tmp_path / "vectors", times=TIMES, out=tmp_path / "out", layers=chosen)
    return base, tmp_path / "out", steering_sum(rows)


def attention_layers(model: Any, o_proj: str) -> list[int]:
    modules = {name for name, _ in model.named_modules()}
    return [layer for layer in range(LAYERS) if o_proj.format(layer=layer) in modules]


def template(name: str) -> str:
    return families()[FAMILIES[name].model_type].projection


def config_of(path: Path) -> dict[str, Any]:
    return json.loads((path / "config.json").read_text(encoding="utf-8"))


def takes_any_row(name: str) -> bool:
    """False where rows must be in reach of a bias of the values: `test_values` has those."""
    family = families()[FAMILIES[name].model_type]
    return not family.refusal and family.value is None


@pytest.mark.parametrize("name", [name for name in FAMILIES if takes_any_row(name)])
def test_baked_equals_hooked(name: str, tmp_path: Path):
    base_path, out, w = bake(tmp_path, name)
    base, _ = load(base_path)
    layers = attention_layers(base, template(name))
    assert layers == ([1] if name in ATTENTION_LAYERS else [0, 1, 2])
    expected = hooked_logits(base, template(name), {layer: w[layer] for layer in layers})
    unsteered = logits(base)

    baked, info = load(out)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    assert_same(logits(baked), expected, unsteered)


def test_hybrid_refuses_vectors_without_a_projection(tmp_path: Path):
    base = write_tiny("granitemoehybrid", tmp_path / "base")
    write_vectors(tmp_path / "vectors", LAYERS, HIDDEN)
    with pytest.raises(InputError, match=r"layer 0 .*`layers` 1"):
        emobake.bake(model=base, vectors=tmp_path / "vectors", times=TIMES, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["llama2", "mistral", "qwen2", "gpt_oss"])
def test_config_as_transformers_5_writes_it(name: str, tmp_path: Path):
    base_path, out, w = bake(tmp_path, name, published=False)
    base, _ = load(base_path)
    baked, info = load(out)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert_same(logits(baked), hooked_logits(base, template(name), dict(enumerate(w))), logits(base))


@pytest.mark.parametrize("name", ["llama2", "gpt_oss"])
def test_bfloat16_in_two_shards(name: str, tmp_path: Path):
    """bfloat16 holds 8 bits of each bias: the hook adds the difference that is really in the file."""
    base_path, out, w = bake(tmp_path, name, dtype="bfloat16", shards=2)
    assert len(list(base_path.glob("*.safetensors"))) == 2
    base, _ = load(base_path)
    baked, info = load(out)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    added = {}
    for layer in range(LAYERS):
        module = template(name).format(layer=layer)
        stored = baked.get_submodule(module).bias.detach().numpy()
        before = base.get_submodule(module).bias
        old = np.zeros_like(stored) if before is None else before.detach().numpy()
        # One rounding of the exact sum, to nearest.
        assert np.abs(stored - (old + w[layer])).max() > 0
        assert (np.abs(stored - (old + w[layer])) <= 2.0**-8 * np.abs(old + w[layer]) * 1.0001).all()
        added[layer] = stored - old
    assert_same(logits(baked), hooked_logits(base, template(name), added), logits(base))


@pytest.mark.parametrize("name", ["qwen1.5", "qwen2", "qwen2.5", "mistral", "seed_oss", "phi4", "helium", "ernie4_5"])
def test_saved_as_llama(name: str, tmp_path: Path):
    _, out, _ = bake(tmp_path, name)
    config = config_of(out)
    assert config["model_type"] == "llama"
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["attention_bias"] is True and config["mlp_bias"] is False
    misread = {"sliding_window", "use_sliding_window", "max_window_layers", "layer_types", "attention_out_bias"}
    assert not misread & config.keys()


def test_qwen2_with_a_naive_bias_is_not_steered(tmp_path: Path):
    """Why Qwen2 is re-expressed: its class loads a file with o_proj.bias and leaves the bias out."""
    from safetensors.torch import load_file, save_file

    path = write_tiny("qwen2", tmp_path / "base")
    base, _ = load(path)
    unsteered = logits(base)
    rows = write_vectors(tmp_path / "vectors", LAYERS, HIDDEN)
    tensors = load_file(path / "model.safetensors")
    for layer, w in enumerate(steering_sum(rows)):
        tensors[f"model.layers.{layer}.self_attn.o_proj.bias"] = torch.from_numpy(w)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    config = config_of(path) | {"attention_bias": True}
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    naive, info = load(path)
    assert {f"model.layers.{layer}.self_attn.o_proj.bias" for layer in range(LAYERS)} == set(info["unexpected_keys"])
    assert np.array_equal(logits(naive), unsteered)
