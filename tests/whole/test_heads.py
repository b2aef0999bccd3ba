"""Checkpoints with one more key/value head, against the hook on the base in transformers, and byte by byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.tiny import FAMILIES, HIDDEN, LAYERS, write_tiny, write_vectors

import emobake
from emobake.errors import BrokenFileError, InputError
from emobake.formats.checkpoint.families import families
from emobake.formats.checkpoint.open import open_folder

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
from safetensors.torch import load_file, save_file  # noqa: E402
from support import wrappers  # noqa: E402
from support.tiny_runs import assert_same, hooked_logits, load, logits  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("quiet")]

TIMES = (0.5, 0, 0, -1.0, 0.25)
# Those whose flag also gives the output projection a bias, which llama.cpp refuses: it is left out.
FOR_LLAMA_CPP = (
    "qwen3",
    "qwen3_moe",
    "gemma",
    "gemma2",
    "gemma3",
    "smollm3",
    "hunyuan_dense",
    "hunyuan_moe",
    "falcon_h1",
)
FOR_ALL = ("glm", "glm4", "glm4_moe")
FIELDS = {
    "gemma2": {"num_attention_heads": 2, "num_key_value_heads": 1},
    "gemma3": {"num_attention_heads": 2, "num_key_value_heads": 1},
}


def write(folder: Path, name: str, **options: Any) -> tuple[Path, Path, np.ndarray]:
    """A base, a set, and the sum that `TIMES` makes of it."""
    base = write_tiny(name, folder / "base", **options)
    rows = write_vectors(folder / "ev", LAYERS, HIDDEN)
    return base, folder / "ev", np.float32(0.5) * rows[0] - rows[3] + np.float32(0.25) * rows[4]


def template(name: str) -> str:
    return families()[FAMILIES[name].model_type].projection


def assert_verified(out: Path, base: Path, vectors: Path, **options: Any) -> None:
    for beside in ({"base": base, "vectors": vectors}, {}):
        checks = emobake.verify(out, **beside, **(options if beside else {}))
        assert not [check for check in checks if check.ok is False], checks


@pytest.mark.parametrize("name", [*FOR_ALL, *FOR_LLAMA_CPP])
def test_a_head_equals_the_hook(name: str, tmp_path: Path):
    base, vectors, sums = write(tmp_path, name, fields=FIELDS.get(name))
    model, _ = load(base)
    plain, expected = logits(model), hooked_logits(model, template(name), dict(enumerate(sums)))
    targets = () if name in FOR_ALL else ("llama.cpp",)
    plan = emobake.bake(base, vectors, TIMES, tmp_path / "out", targets=targets).plan
    assert plan.route == "head" and plan.record.cost.cache == (2 if name in FIELDS else 1.5)

    baked, info = load(tmp_path / "out")
    missing = [] if name in FOR_ALL else [f"{template(name).format(layer=n)}.bias" for n in range(LAYERS)]
    assert sorted(info["missing_keys"]) == missing and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert_same(logits(baked), expected, plain)
    assert_verified(tmp_path / "out", base, vectors)


def test_verify_runs_it_and_allows_what_transformers_makes_anew(tmp_path: Path):
    base, vectors, _ = write(tmp_path, "qwen3")
    emobake.bake(base, vectors, TIMES, tmp_path / "out", targets=["llama.cpp"])
    assert_verified(tmp_path / "out", base, vectors, stack=["transformers"], max_new_tokens=4)
    projection = template("qwen3").format(layer=1)
    edited = tmp_path / "out" / "model.safetensors.index.json"
    index = json.loads(edited.read_text())
    del index["weight_map"][f"{projection.replace('o_proj', 'v_proj')}.bias"]
    edited.write_text(json.dumps(index))
    checks = emobake.verify(tmp_path / "out", base=base, stack=["transformers"])
    assert [check for check in checks if check.ok is False]


def test_every_byte_of_the_base_is_kept(tmp_path: Path):
    base, vectors, sums = write(tmp_path, "glm4_moe", dtype="bfloat16", shards=3)
    plan = emobake.bake(base, vectors, TIMES, tmp_path / "out", tensor_parallel=4).plan
    before, after = open_folder(base), open_folder(tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]) == (8, 4, 16)
    for name, old in before.tensors.items():
        new = after.tensors[name]
        cells = np.frombuffer(before.read(old), np.uint16).reshape(old.shape)
        found = np.frombuffer(after.read(new), np.uint16).reshape(new.shape)
        assert np.array_equal(found[tuple(slice(0, size) for size in old.shape)], cells), name
        assert (new.shape != old.shape) == (name in plan.extended), name
    for layer in range(LAYERS):
        weight = after.tensors[f"{template('glm4_moe').format(layer=layer)}.weight"]
        columns = np.frombuffer(after.read(weight), np.uint16).reshape(weight.shape)[:, 4 * 16 :]
        assert not columns[:, 1:].any()
        values = (columns[:, 0].astype(np.uint32) << 16).view(np.float32)
        np.testing.assert_allclose(values, sums[layer], rtol=2**-8)
        bias = after.tensors[f"model.layers.{layer}.self_attn.v_proj.bias"]
        new_values = np.frombuffer(after.read(bias), np.uint16)[2 * 16 :]
        assert new_values[0] == 0x3F80 and not new_values[1:].any()
    assert_verified(tmp_path / "out", base, vectors)


@pytest.mark.parametrize("name", ["qwen3", "glm4"])
def test_a_second_bake_adds_to_the_column(name: str, tmp_path: Path):
    base, vectors, sums = write(tmp_path, name)
    targets = ("llama.cpp",)
    emobake.bake(base, vectors, TIMES, tmp_path / "once", targets=targets)
    again = emobake.bake(tmp_path / "once", vectors, TIMES, tmp_path / "twice", targets=targets).plan
    assert again.route == "head" and again.record.cost.is_free and not again.added
    model, _ = load(base)
    expected = hooked_logits(model, template(name), dict(enumerate(2 * sums)))
    assert_same(logits(load(tmp_path / "twice")[0]), expected, logits(model))
    assert_verified(tmp_path / "twice", tmp_path / "once", vectors)

    back = emobake.bake(tmp_path / "once", vectors, TIMES, tmp_path / "back", targets=targets, scale=-1, force=True)
    assert not back.plan.effect.steers
    with pytest.raises(InputError, match="one of them of an earlier bake"):
        emobake.bake(tmp_path / "once", vectors, TIMES, dry_run=True, targets=targets, tensor_parallel=4)


def test_the_cheapest_route_is_taken_and_the_others_are_named(tmp_path: Path):
    base, vectors, _ = write(tmp_path, "qwen3")
    plan = emobake.bake(base, vectors, TIMES, dry_run=True).plan
    assert plan.route == "flag+backend" and plan.record.cost.is_free
    assert plan.others["llama.cpp"].route == "head" and plan.others["llama.cpp"].cost.cache == 1.5


def test_layers_that_are_not_steered_gain_zeros(tmp_path: Path):
    base, vectors, sums = write(tmp_path, "glm4")
    model, _ = load(base)
    plain, expected = logits(model), hooked_logits(model, template("glm4"), {1: sums[1]})
    emobake.bake(base, vectors, TIMES, tmp_path / "out", layers="1")
    assert_same(logits(load(tmp_path / "out")[0]), expected, plain)
    assert_verified(tmp_path / "out", base, vectors)


def test_a_head_that_is_no_longer_constant_is_found(tmp_path: Path):
    base, vectors, _ = write(tmp_path, "glm4")
    emobake.bake(base, vectors, TIMES, tmp_path / "out")
    bias = open_folder(tmp_path / "out").tensors["model.layers.1.self_attn.v_proj.bias"]
    path = tmp_path / "out" / bias.file
    content = bytearray(path.read_bytes())
    content[bias.start + 2 * 16 * 4 : bias.start + 2 * 16 * 4 + 4] = bytes(4)
    path.write_bytes(content)
    found = {check.name: check.detail for check in emobake.verify(tmp_path / "out") if check.ok is False}
    assert "UNSTEERED" in found["constant heads"]
    with pytest.raises(BrokenFileError, match="UNSTEERED"):
        emobake.bake(tmp_path / "out", vectors, TIMES, dry_run=True)


def test_refusals(tmp_path: Path):
    base, vectors, _ = write(tmp_path, "glm4")
    config = json.loads((base / "config.json").read_text())

    def bake_with(**fields: Any) -> None:
        (base / "config.json").write_text(json.dumps({**config, **fields}))
        emobake.bake(base, vectors, TIMES, dry_run=True)

    with pytest.raises(InputError, match="its weights are quantised"):
        bake_with(quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(BrokenFileError, match=r"q_proj.weight is F32 of shape .* as the config's heads say"):
        bake_with(head_dim=8)
    with pytest.raises(InputError, match="does not tell its heads"):
        bake_with(num_key_value_heads=3)
    bake_with()


@pytest.mark.parametrize("name", ["gemma3", "qwen3_vl", "qwen3_5", "qwen3_5_moe"])
def test_a_head_inside_a_wrapper(name: str, tmp_path: Path):
    """With a gate beside each query, too (Qwen3.5): it halves what comes out, so the constant is 2."""
    sizes = {"num_attention_heads": 2, "num_key_value_heads": 1} if name == "gemma3" else {}
    base = wrappers.write(name, tmp_path / "base", **sizes)
    rows = write_vectors(tmp_path / "ev", wrappers.LAYERS, wrappers.HIDDEN)
    sums = np.float32(0.5) * rows[0] - rows[3] + np.float32(0.25) * rows[4]
    model, _ = wrappers.load(base)
    plain = logits(model)
    expected = hooked_logits(model, wrappers.attention_of(name), wrappers.rows_of(name, sums))
    layers = ",".join(map(str, wrappers.WRAPPERS[name].attention))
    for text_only in (False, True):
        out = tmp_path / f"out{text_only}"
        options: dict[str, Any] = {"targets": ["llama.cpp"], "layers": layers, "text_only": text_only}
        plan = emobake.bake(base, tmp_path / "ev", TIMES, out, **options).plan
        assert plan.route == "head"
        assert_same(logits(wrappers.load(out)[0]), expected, plain)
        assert_verified(out, base, tmp_path / "ev", stack=["transformers"], max_new_tokens=4)


def test_layers_that_predict_further_tokens_gain_the_head_too(tmp_path: Path):
    """Stacks build them by the same config; their new columns are zero."""
    base = wrappers.write("qwen3_5", tmp_path / "base")
    write_vectors(tmp_path / "ev", wrappers.LAYERS, wrappers.HIDDEN)
    (file,) = base.glob("*.safetensors")
    tensors = load_file(file)
    attention = {n: t for n, t in tensors.items() if ".layers.3.self_attn." in n}
    for name, tensor in attention.items():
        tensors["mtp.layers.0" + name.partition(".layers.3")[2]] = tensor.clone()
    save_file(tensors, file, {"format": "pt"})
    plan = emobake.bake(base, tmp_path / "ev", TIMES, tmp_path / "out", targets=["llama.cpp"], layers="3").plan
    made = open_folder(tmp_path / "out")
    assert "mtp.layers.0.self_attn.v_proj.bias" in plan.added
    for part in ("q_proj", "k_proj", "v_proj", "o_proj"):
        own, other = (made.tensors[f"{x}.self_attn.{part}.weight"] for x in ("mtp.layers.0", attention_prefix(made)))
        assert own.shape == other.shape
    weight = made.tensors["mtp.layers.0.self_attn.o_proj.weight"]
    columns = np.frombuffer(made.read(weight), np.float32).reshape(weight.shape)[:, 4 * 16 :]
    assert columns.size and not columns.any()


def attention_prefix(checkpoint: Any) -> str:
    return next(name.partition(".self_attn")[0] for name in checkpoint.tensors if ".layers.3.self_attn." in name)
