"""Checkpoints with a bias of the values, against the hook on the base in transformers, and byte by byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.reachable import reachable_rows
from support.tiny import HIDDEN, LAYERS, write_tiny

import emobake
from emobake import VectorSet
from emobake.errors import BrokenFileError, InputError, UnsupportedModelError

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
from safetensors.torch import load_file, save_file  # noqa: E402
from support.tiny_runs import assert_same, hooked_logits, load, logits  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("quiet")]

O_PROJ = "model.layers.{layer}.self_attn.o_proj"
HEADS = 4
# name -> key/value heads of the base, and as many as rows of any values need
FAMILIES = {"stablelm": 2, "stablelm-biased": 4, "qwen2_moe": 2}


def write(folder: Path, name: str, keys: int, **options: Any) -> tuple[Path, VectorSet]:
    """A base, and a set that values of `keys` key/value heads make."""
    base = write_tiny(name, folder / "base", **options)
    tensors = {k: v for file in base.glob("*.safetensors") for k, v in load_file(file).items()}
    weights = {n: tensors[f"{O_PROJ.format(layer=n)}.weight"].float().numpy() for n in range(LAYERS)}
    return base, VectorSet(("joy",), reachable_rows(weights, HEADS, keys)[None], "tiny")


def config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_it_equals_the_hook(name: str, copied: bool, shards: int, tmp_path: Path):
    own = FAMILIES[name]
    base, vectors = write(tmp_path, name, HEADS if copied else own, shards=shards)
    model, _ = load(base)
    plain, expected = logits(model), hooked_logits(model, O_PROJ, dict(enumerate(2 * vectors.rows[0])))
    plan = emobake.bake(base, vectors, mix={"joy": 2}, out=tmp_path / "out").plan
    keys = HEADS if copied else own
    assert plan.route == "value" and plan.record.cost.cache == keys / own
    assert config(tmp_path / "out")["num_key_value_heads"] == keys
    assert plan.biases[0].norm == pytest.approx(4), "that of the row, not of the values"

    baked, info = load(tmp_path / "out")
    assert not any(info.values()), info
    assert_same(logits(baked), expected, plain)
    for beside in ({"base": base, "vectors": vectors, "stack": ["transformers"]}, {}):
        checks = emobake.verify(tmp_path / "out", **beside)
        assert not [check for check in checks if check.ok is False], checks


@pytest.mark.parametrize("name", FAMILIES)
def test_a_second_bake_adds_to_the_first_and_takes_it_away(name: str, tmp_path: Path):
    base, vectors = write(tmp_path, name, HEADS)
    model, _ = load(base)
    plain, expected = logits(model), hooked_logits(model, O_PROJ, dict(enumerate(3 * vectors.rows[0])))
    emobake.bake(base, vectors, mix={"joy": 1}, out=tmp_path / "one")
    second = emobake.bake(tmp_path / "one", vectors, mix={"joy": 2}, out=tmp_path / "two").plan
    assert second.record.cost.is_free and second.effect.recipe.startswith("3 x joy")
    assert_same(logits(load(tmp_path / "two")[0]), expected, plain)
    checks = emobake.verify(tmp_path / "two", base=tmp_path / "one", vectors=vectors)
    assert not [check for check in checks if check.ok is False], checks
    emobake.bake(tmp_path / "two", vectors, mix={"joy": -3}, out=tmp_path / "zero", force=True)
    assert_same(logits(load(tmp_path / "zero")[0]), plain, expected)


def test_every_other_byte_is_kept(tmp_path: Path):
    base, vectors = write(tmp_path, "qwen2_moe", 2, dtype="bfloat16")
    plan = emobake.bake(base, vectors, mix={"joy": 1}, out=tmp_path / "out").plan
    old, new = load_file(base / "model.safetensors"), load_file(next((tmp_path / "out").glob("*.safetensors")))
    biases = {f"model.layers.{layer}.self_attn.v_proj.bias" for layer in range(LAYERS)}
    assert set(plan.overwritten) == biases and old.keys() == new.keys() and not plan.added
    assert {name for name in old if not torch.equal(old[name], new[name])} == biases
    checks = emobake.verify(tmp_path / "out", base=base, vectors=vectors)
    assert not [check for check in checks if check.ok is False], "16 bits round the bias"


def test_a_change_is_found(tmp_path: Path):
    base, vectors = write(tmp_path, "stablelm", HEADS)
    emobake.bake(base, vectors, mix={"joy": 1}, out=tmp_path / "out")
    file = next(file for file in (tmp_path / "out").glob("*.safetensors") if _holds(file, "v_proj.bias"))
    tensors = load_file(file)
    tensors["model.layers.1.self_attn.v_proj.bias"] *= 1.5
    save_file(tensors, file, {"format": "pt"})
    failed = {check.name for check in emobake.verify(tmp_path / "out", vectors=vectors) if check.ok is False}
    assert {"biases as recorded", "arithmetic"} <= failed
    fields = config(tmp_path / "out")
    (tmp_path / "out" / "config.json").write_text(json.dumps(fields | {"use_qkv_bias": False}))
    failed = {check.name for check in emobake.verify(tmp_path / "out") if check.ok is False}
    assert "config honours the bias" in failed


def test_a_record_that_claims_a_billion_copies(tmp_path: Path):
    base, vectors = write(tmp_path, "stablelm", 2)
    emobake.bake(base, vectors, mix={"joy": 1}, out=tmp_path / "out")
    record = json.loads((tmp_path / "out" / "emobake.json").read_text())
    record["cost"] = {"cache": 1e9, "attention_weights": 1e9}
    (tmp_path / "out" / "emobake.json").write_text(json.dumps(record))
    failed = [check for check in emobake.verify(tmp_path / "out", base=base) if check.ok is False]
    assert any("no number of copies" in check.detail for check in failed), failed


def _holds(file: Path, name: str) -> bool:
    return any(key.endswith(name) for key in load_file(file))


def test_what_is_refused(tmp_path: Path):
    base, vectors = write(tmp_path, "stablelm", 2)
    # A square projection makes any row, but only by values that drown the model's own.
    draw = np.random.default_rng(0).normal(0, 1, (1, LAYERS, HIDDEN)).astype(np.float32)
    with pytest.raises(UnsupportedModelError, match=r"no bias of the values makes the rows: in layer . it would be"):
        emobake.bake(base, VectorSet(("joy",), draw), mix={"joy": 1}, out=tmp_path / "out")
    fields = config(base)
    (base / "config.json").write_text(json.dumps(fields | {"qk_layernorm": True}))
    reached = write(tmp_path / "again", "stablelm", HEADS)[1]
    with pytest.raises(UnsupportedModelError, match="misses the row"):
        emobake.bake(base, reached, mix={"joy": 1}, out=tmp_path / "out")
    (base / "config.json").write_text(json.dumps(fields | {"num_key_value_heads": 3}))
    with pytest.raises(InputError, match="does not tell its heads"):
        emobake.bake(base, vectors, mix={"joy": 1}, out=tmp_path / "out")
    (base / "config.json").write_text(json.dumps(fields | {"num_key_value_heads": 1}))
    with pytest.raises(BrokenFileError, match="as the config's heads say"):
        emobake.bake(base, vectors, mix={"joy": 1}, out=tmp_path / "out")
    (base / "config.json").write_text(json.dumps(fields | {"use_qkv_bias": True}))
    with pytest.raises(BrokenFileError, match=r"the config says that .* has a bias, but no file holds one"):
        emobake.bake(base, vectors, mix={"joy": 1}, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_bias_that_the_base_ignores_is_not_woken(tmp_path: Path):
    base, vectors = write(tmp_path, "stablelm", 2)
    file = base / "model.safetensors"
    tensors = load_file(file) | {"model.layers.0.self_attn.k_proj.bias": torch.ones(HIDDEN // 2)}
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(BrokenFileError, match="which the base's class ignores"):
        emobake.bake(base, vectors, mix={"joy": 1}, out=tmp_path / "out")
