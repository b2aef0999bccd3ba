"""Steered LoRAs of small files: plans, and what is refused before anything is written. Without torch."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import numpy as np
import pytest
from support.adapters import QV, lora_tensors, write_adapter
from support.checkpoints import read_tensors, tree, vector_rows, write_checkpoint, write_vectors

import emobake
from emobake.errors import InputError
from emobake.formats.adapter.open import open_adapter, other_base

O_PROJ = {"self_attn.o_proj": (8, 8)}
PREFIX = "base_model.model.model.layers.0.self_attn"


@pytest.fixture
def made(base, vectors, tmp_path):
    """``made(...)`` writes an adapter and bakes joy into it; returns the config and the tensors of the output."""

    def make(tensors=None, *, options=None, **config):
        adapter = write_adapter(tmp_path / "lora", base, tensors, **config)
        emobake.bake(adapter, vectors, mix={"joy": 1.0}, out=tmp_path / "out", **(options or {}))
        out = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
        (tmp_path / "out" / "model.safetensors").symlink_to("adapter_model.safetensors")
        tensors = read_tensors(tmp_path / "out")
        (tmp_path / "out" / "model.safetensors").unlink()
        return out, tensors

    return make


def bias_of(tensors, layer=0):
    return np.frombuffer(tensors[f"base_model.model.model.layers.{layer}.self_attn.o_proj.lora_B.bias"][2], np.float32)


def test_the_projection_becomes_a_target_of_rank_1(made):
    config, tensors = made(rank_pattern={"q_proj": 2})
    assert config["target_modules"] == ["q_proj", "v_proj", *(f"model.layers.{n}.self_attn.o_proj" for n in range(2))]
    pattern, *rest = config["rank_pattern"]
    assert rest == ["q_proj"] and config["alpha_pattern"] == {pattern: 1} and config["rank_pattern"][pattern] == 1
    assert tensors[f"{PREFIX}.o_proj.lora_A.weight"][1] == (1, 8)
    np.testing.assert_array_equal(bias_of(tensors), vector_rows("joy", 2, 8)[0])


@pytest.mark.parametrize(
    ("fields", "scaling"),
    [
        ({}, 2.0),
        ({"use_rslora": True}, 4 / 2**0.5),
        ({"alpha_pattern": {"o_proj": 3, ".*": 5}}, 1.5),
        ({"lora_alpha": 0.5}, 0.25),
        ({"lora_alpha": -4}, -2.0),
    ],
)
def test_the_bias_is_divided_by_the_factor(fields, scaling, made):
    _, tensors = made(lora_tensors(QV | O_PROJ), target_modules=["q_proj", "v_proj", "o_proj"], **fields)
    np.testing.assert_array_equal(bias_of(tensors), vector_rows("joy", 2, 8)[0] / np.float32(scaling))


def test_a_pattern_gains_an_alternative(made):
    config, _ = made(target_modules=r".*\.(q|v)_proj")
    assert config["target_modules"] == r".*\.(q|v)_proj|(?:model\.layers\.(?:0|1)\.self_attn\.o_proj)"


def test_half_precision_is_carried_and_the_biases_are_float32(made, tmp_path):
    _, tensors = made(lora_tensors(QV | O_PROJ, dtype="BF16"), target_modules=["q_proj", "v_proj", "o_proj"])
    assert {dtype for name, (dtype, _, _) in tensors.items() if name.endswith(".weight")} == {"BF16"}
    assert tensors[f"{PREFIX}.q_proj.lora_B.bias"][0] == "F32"
    checks = emobake.verify(tmp_path / "out", adapter=tmp_path / "lora")
    assert not [c for c in checks if c.ok is False], checks


def test_a_bias_that_exists_is_added_to(made, base, tmp_path):
    tensors = lora_tensors(QV | O_PROJ)
    for name in [n for n in tensors if n.endswith("lora_B.weight")]:
        dtype, values = tensors[name]
        tensors[name.replace("weight", "bias")] = (dtype, values[:, 0])
    old = tensors[f"{PREFIX}.o_proj.lora_B.bias"][1]
    _, found = made(tensors, target_modules=["q_proj", "v_proj", "o_proj"], lora_bias=True)
    np.testing.assert_array_equal(bias_of(found), old + vector_rows("joy", 2, 8)[0] / np.float32(2))
    checks = emobake.verify(tmp_path / "out", adapter=tmp_path / "lora", vectors=str(tmp_path / "ev"))
    assert all(c.ok for c in checks if c.name in ("arithmetic", "planned again", "files as planned")), checks


def test_a_vector_set_of_the_layer_output(base, tmp_path):
    adapter = write_adapter(tmp_path / "lora", base)
    write_vectors(tmp_path / "ev")
    rows = np.stack([vector_rows(e, 2, 8) for e in ("anger", "joy")])
    file = tmp_path / "layer.safetensors"
    emobake.write_set(emobake.VectorSet(("anger", "joy"), rows, site="layer_output"), file)
    result = emobake.bake(adapter, file, mix={"joy": 1}, dry_run=True)
    assert result.plan.biases[0].tensor == "base_model.model.model.layers.0.mlp.down_proj.lora_B.bias"
    gpt2 = write_checkpoint(tmp_path / "gpt2", "qwen2_moe")
    with pytest.raises(InputError, match="no bias is known that acts on the layer output"):
        emobake.bake(adapter, file, mix={"joy": 1}, base=gpt2, dry_run=True)


def test_the_summary_is_one_of_the_command_line(cli, base, vectors, tmp_path):
    adapter = write_adapter(tmp_path / "lora", base, files={"chat_template.jinja": "x", "training_args.bin": "x"})
    ran = cli("--model", adapter, "--vectors", vectors, "--mix", "joy=1", "--out", tmp_path / "out")
    assert ran.code == 0, ran
    for said in ("(steered itself)", "lora_bias: absent -> true", f"--adapter {adapter}", "training_args.bin"):
        assert said in " ".join(ran.out.split()), ran.out
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "x"
    ran = cli(
        "--model", adapter, "--vectors", vectors, "--mix", "joy=1", "--format", "checkpoint", "--out", tmp_path / "b"
    )
    assert ran.code == 0, ran
    for said in ("vllm serve", "--lora-modules lora=", "convert_lora_to_gguf.py", "PeftModel.from_pretrained"):
        assert said in ran.out, ran.out
    some = ("--model", adapter, "--vectors", vectors, "--mix", "joy=1", "--format", "checkpoint", "--dry-run", "--json")
    shown = json.loads(cli(*some).out)
    assert shown["adapter_use"] == "served" and any("--enable-lora" in line for line in shown["serving"])


def nan(tensors):
    bias = np.full(8, np.nan, np.float32)
    return {**tensors, f"{PREFIX}.o_proj.lora_B.bias": ("F32", bias)}


def without(end):
    return {name: value for name, value in lora_tensors(QV).items() if not name.endswith(end)}


BAD = {
    "r as a text": ({"r": "2"}, None, "r is '2', not a rank"),
    "no rank": ({"r": 0}, None, "r is 0"),
    "a huge rank": ({"r": 10**9}, None, "r is 1000000000"),
    "true as a rank": ({"r": True}, None, "r is True"),
    "another rank": ({"r": 3}, None, "which are not of rank 3"),
    "no r": ({"r": ...}, None, "which are not of rank 8"),
    "alpha as a list": ({"lora_alpha": [1]}, None, r"lora_alpha is \[1\]"),
    "alpha of NaN": ({"lora_alpha": float("nan")}, None, "lora_alpha is nan"),
    "alpha of 0": ({"lora_alpha": 0}, None, "lora_alpha is 0"),
    "alpha without end": ({"lora_alpha": 10**400}, None, "lora_alpha is 1000"),
    "a rank pattern of ranks": ({"rank_pattern": {"q_proj": "x"}}, None, "rank_pattern is 'x'"),
    "a list of patterns": ({"alpha_pattern": ["q_proj"]}, None, "alpha_pattern is .*, not an object"),
    "no targets": ({"target_modules": None}, None, "target_modules is None"),
    "targets of numbers": ({"target_modules": [1]}, None, r"target_modules is \[1\]"),
    "a target that is not there": ({"target_modules": ["q_proj"]}, None, "a LoRA of .*v_proj.*does not name"),
    "a broken pattern": ({"target_modules": "(q_proj"}, None, "is not a regular expression"),
    "layers of texts": ({"layers_to_transform": ["0"]}, None, "layers_to_transform is"),
    "a wild container": (
        {"layers_to_transform": [0, 1], "layers_pattern": "(a+)+"},
        None,
        "layers_pattern '.*' is no plain name",
    ),
    "saved modules": ({"modules_to_save": ["(a+)+"]}, None, "modules_to_save is no list of names"),
    "the projection saved": ({"modules_to_save": ["o_proj"]}, None, "modules_to_save holds the projection"),
    "a kind of no name": ({"peft_type": 3}, None, "peft_type is 3"),
    "an init of no name": ({"init_lora_weights": 3}, None, "init_lora_weights is 3"),
    "use_rslora": ({"use_rslora": "yes"}, None, "use_rslora is 'yes'"),
    "a base of no name": ({"base_model_name_or_path": 3}, None, "are no names; give `base`"),
    "no base": ({"base_model_name_or_path": None}, None, "names no base; give `base`"),
    "a path": ({"base_model_name_or_path": "../../etc"}, None, "no Hub id; give `base`"),
    "a path of another machine": ({"base_model_name_or_path": "/home/u/m"}, None, "is not here; give `base`"),
    "a revision of no name": ({"revision": 3}, None, "are no names; give `base`"),
    "no B": ({}, without("0.self_attn.v_proj.lora_B.weight"), "lacks its lora_B.weight"),
    "an unknown tensor": ({}, lora_tensors(QV) | {"x.lora_E": ("F32", np.zeros(2, np.float32))}, "'x.lora_E' is no"),
    "an unknown module": (
        {},
        {name.replace("model.layers", "foo.layers"): v for name, v in lora_tensors(QV).items()},
        "does not have; .*`base`",
    ),
    "another width": ({}, lora_tensors(QV | {"self_attn.q_proj": (8, 9)}), "maps 9 to 8 values, and 8 to 8"),
    "a bias without the switch": ({"target_modules": "all-linear"}, nan(lora_tensors(QV | O_PROJ)), "lora_bias is off"),
    "a bias of NaN": (
        {"target_modules": "all-linear", "lora_bias": True},
        nan(lora_tensors(QV | O_PROJ)),
        "holds NaN or infinity",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_adapters(what, base, vectors, tmp_path):
    config, tensors, said = BAD[what]
    adapter = write_adapter(tmp_path / "lora", base, tensors, **config)
    before = tree(tmp_path)
    with pytest.raises(InputError, match=said) as error:
        emobake.bake(adapter, vectors, mix={"joy": 1.0}, out=tmp_path / "out")
    assert "\n" not in str(error.value) and len(str(error.value)) < 600
    assert tree(tmp_path) == before


def test_a_pickle_is_never_loaded(base, vectors, tmp_path):
    adapter = write_adapter(tmp_path / "lora", base)
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(InputError, match=r"adapter_model.bin: is a pickle, which is never loaded"):
        emobake.bake(adapter, vectors, mix={"joy": 1.0}, out=tmp_path / "out")


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "tokenizer.json"])
def test_links_out_of_the_folder_are_not_followed(name, base, vectors, tmp_path):
    adapter = write_adapter(tmp_path / "lora", base, files={"tokenizer.json": "{}"})
    (adapter / name).rename(tmp_path / name)
    (adapter / name).symlink_to(tmp_path / name)
    with pytest.raises(InputError, match="is a link out of the model's folder"):
        emobake.bake(adapter, vectors, mix={"joy": 1.0}, out=tmp_path / "out")


def test_a_base_beside_the_one_that_is_named(base, vectors, tmp_path):
    adapter = write_adapter(tmp_path / "lora", "/home/u/m")
    result = emobake.bake(adapter, vectors, mix={"joy": 1.0}, base=base, out=tmp_path / "out")
    assert (result.model, result.adapter) == (str(base), str(adapter))
    with pytest.raises(InputError, match="a GGUF file is baked by itself"):
        emobake.bake(adapter, vectors, mix={"joy": 1.0}, base="x.gguf", dry_run=True)
    with pytest.raises(InputError, match="is no adapter; `base` and `merge`"):
        emobake.bake(base, vectors, mix={"joy": 1.0}, base=base, dry_run=True)


def test_the_weights_of_the_base_are_not_read(base, vectors, tmp_path):
    """Only the header: the data may be anything."""
    adapter = write_adapter(tmp_path / "lora", base)
    read = []
    real = os.open

    def opened(path, *args, **options):
        read.append(os.fspath(path))
        return real(path, *args, **options)

    os.open = opened
    try:
        emobake.bake(adapter, vectors, mix={"joy": 1.0}, out=tmp_path / "out")
    finally:
        os.open = real
    file = base / "model.safetensors"
    header = 8 + int.from_bytes(file.read_bytes()[:8], "little")
    file.write_bytes(file.read_bytes()[:header] + bytes(file.stat().st_size - header))
    emobake.bake(adapter, vectors, mix={"joy": 1.0}, out=tmp_path / "again")
    assert tree(tmp_path / "out") == tree(tmp_path / "again")


def test_a_whole_model_with_the_config_of_an_adapter_is_a_checkpoint(base, vectors):
    (base / "adapter_config.json").write_text("{}")
    assert emobake.bake(base, vectors, mix={"joy": 1.0}, dry_run=True).plan.form == "checkpoint"


@pytest.mark.parametrize(
    ("named", "revision", "said"),
    [
        ("a/b", "0" * 40, []),
        ("a/b", None, []),
        ("a/b", "main", []),
        ("a/c", "0" * 40, ["the adapter was trained on 'a/c', not on a/b"]),
        ("a/b", "1" * 40, ["the adapter was trained on the commit 111111111111 of its base, not on 000000000000"]),
    ],
)
def test_another_base_than_the_one_of_the_training(named, revision, said, base, tmp_path):
    adapter = open_adapter(write_adapter(tmp_path / "lora", named, revision=revision))
    there = replace(emobake.open_folder(base), repo_id="a/b", revision="0" * 40)
    assert list(other_base(adapter, there)) == said


def test_an_adapter_is_opened_with_its_digest(base, tmp_path):
    adapter = open_adapter(write_adapter(tmp_path / "lora", base))
    names = set(adapter.tensors)
    assert adapter.digest_of(names) != adapter.digest_of(names - {min(names)})
