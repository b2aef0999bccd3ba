"""GGUF in, GGUF out: what is written, byte for byte, read back through the gguf package's own reader."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from support.gguf_files import (
    FF,
    HEAD,
    HEADS,
    HIDDEN,
    KV_HEADS,
    LAYERS,
    Kind,
    control_vector,
    fields_of,
    floats,
    tensors_of,
    write_model,
)

import emobake
from emobake import GgufFile, InputError, ModelName, Record, VectorSet, VectorSource, bake
from emobake.actions.verify import verify
from emobake.formats.gguf.architectures import MODULES, gguf_architectures
from emobake.formats.gguf.model import open_gguf
from emobake.storage.local import write_files
from emobake.vectors.write import write_set

DRAW = np.random.default_rng(7)
ROWS = DRAW.normal(0, 0.3, (2, LAYERS, HIDDEN)).astype(np.float32)
SET = VectorSet(("anger", "joy"), ROWS, "tiny")
OUTPUT = replace(SET, site="layer_output")
BIAS = "blk.{}.attn_output.bias"


@pytest.fixture
def model(tmp_path) -> Path:
    """A float32 llama file."""
    write_model(tmp_path / "base.gguf")
    return tmp_path / "base.gguf"


def biases(path: Path, site: str = "attention_output") -> np.ndarray:
    """The biases of a file ``[layers, hidden]``, once they are seen to be float32."""
    found = tensors_of(path)
    rows = [found[f"{MODULES[site].format(layer=layer)}.bias"] for layer in range(LAYERS)]
    assert {(kind, shape) for kind, shape, _ in rows} == {("F32", (HIDDEN,))}
    return np.stack([np.frombuffer(data, np.float32) for *_, data in rows])


# --- output -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q4_1", "Q8_0", "Q4_K", "Q6_K", "MXFP4"])
def test_the_biases_are_added_and_every_other_tensor_keeps_its_bytes(tmp_path, kind):
    base, out = tmp_path / "base.gguf", tmp_path / "out.gguf"
    write_model(base, kind=Kind[kind])
    result = bake(base, SET, mix={"joy": 2, "anger": -0.5}, out=out)
    before, after = tensors_of(base), tensors_of(out)
    added = {BIAS.format(layer) for layer in range(LAYERS)}
    assert set(after) - set(before) == added
    assert {name: after[name] for name in before} == before
    np.testing.assert_array_equal(biases(out), np.float32(2) * ROWS[1] + np.float32(-0.5) * ROWS[0])
    assert result.plan.route == "tensor" and not result.plan.overwritten
    assert set(result.plan.shown) == {"llama.cpp"} and result.plan.stacks["llama.cpp"].run


def test_metadata_is_carried_over_and_says_what_was_baked(model, tmp_path):
    bake(ModelName.parse(model, base_model="owner/Tiny-Chat"), SET, mix={"joy": 1}, out=tmp_path / "out.gguf")
    before, after = fields_of(model), fields_of(tmp_path / "out.gguf")
    own = {name: value for name, value in after.items() if name not in before or before[name] != value}
    assert before.keys() <= after.keys()
    record, undo = json.loads(own.pop("emobake.record")), base64.b64decode(own.pop("emobake.undo"), validate=True)
    assert record.pop("undo") == {"sha256": hashlib.sha256(undo).hexdigest()}
    # The three counts in front are fields in the package's view.
    assert set(own.pop("emobake.padding")) <= {" "}
    counts = {name: own.pop(name) for name in list(own) if name.startswith("GGUF.")}
    assert counts["GGUF.tensor_count"] == len(tensors_of(model)) + LAYERS
    assert own == {
        "emobake.version": emobake.__version__,
        "emobake.weights": "joy=1",
        "general.base_model.count": 1,
        "general.base_model.0.name": "Tiny Chat",
        "general.base_model.0.organization": "owner",
        "general.base_model.0.repo_url": "https://huggingface.co/owner/Tiny-Chat",
    }
    assert record["format"] == "gguf" and record["weights"] == {"joy": 1}
    assert record["base"] == {
        "model": "owner/Tiny-Chat",
        "revision": None,
        "weights": [{"name": "base.gguf", "size": model.stat().st_size}],
    }
    assert str(tmp_path) not in json.dumps(record)


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_data_lie_at_the_same_place_of_a_page(tmp_path, architecture):
    write_model(tmp_path / "base.gguf", architecture)
    bake(tmp_path / "base.gguf", SET, mix={"joy": 1}, out=tmp_path / "out.gguf")
    before, after = open_gguf(tmp_path / "base.gguf").header.tensors, open_gguf(tmp_path / "out.gguf").tensors
    assert all((after[t.name].start - t.start) % 4096 == 0 for t in before)
    assert (tmp_path / "out.gguf").stat().st_size < (tmp_path / "base.gguf").stat().st_size + 12_000


def test_a_base_model_that_the_file_names_is_replaced_whole(tmp_path):
    more = {f"general.base_model.{key}": value for key, value in {"count": 2, "0.name": "A", "1.name": "B"}.items()}
    write_model(tmp_path / "base.gguf", fields={**more, "general.repo_url": "https://huggingface.co/o/t"})
    bake(tmp_path / "base.gguf", SET, mix={"joy": 1}, out=tmp_path / "out.gguf")
    found = {k: v for k, v in fields_of(tmp_path / "out.gguf").items() if k.startswith("general.base_model.")}
    assert found == {
        "general.base_model.count": 1,
        "general.base_model.0.name": "Tiny",
        "general.base_model.0.repo_url": "https://huggingface.co/o/t",
    }


def test_the_same_bake_gives_the_same_bytes(model, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        bake(model, SET, mix={"joy": 1}, out=tmp_path / name / "out.gguf")
    assert (tmp_path / "a/out.gguf").read_bytes() == (tmp_path / "b/out.gguf").read_bytes()


def test_an_existing_bias_is_added_to(tmp_path):
    old = DRAW.normal(0, 1, (LAYERS, HIDDEN)).astype(np.float32)
    write_model(tmp_path / "base.gguf", biases={BIAS.format(i): row for i, row in enumerate(old)})
    result = bake(tmp_path / "base.gguf", SET, mix={"joy": 1}, out=tmp_path / "out.gguf")
    np.testing.assert_array_equal(biases(tmp_path / "out.gguf"), old + ROWS[1])
    assert result.plan.route == "existing" and not result.plan.added
    assert list(tensors_of(tmp_path / "base.gguf")) == list(tensors_of(tmp_path / "out.gguf"))
    checks = verify(str(tmp_path / "out.gguf"), base=str(tmp_path / "base.gguf"))
    assert all(check.ok is not False for check in checks)


def test_a_baked_file_can_be_baked_again_and_remembers(model, tmp_path):
    bake(model, SET, mix={"joy": 1}, out=tmp_path / "one.gguf")
    bake(tmp_path / "one.gguf", SET, mix={"anger": 2}, out=tmp_path / "two.gguf")
    np.testing.assert_array_equal(biases(tmp_path / "two.gguf"), ROWS[1] + np.float32(2) * ROWS[0])
    record = open_gguf(tmp_path / "two.gguf").record
    assert record is not None and [r["weights"] for r in record["history"]] == [{"joy": 1}]


def test_unsteered_layers_get_zeros(model, tmp_path):
    bake(model, SET, mix={"joy": 1}, layers="1", out=tmp_path / "out.gguf")
    found = biases(tmp_path / "out.gguf")
    assert not found[0].any() and (found[1] == ROWS[1, 1]).all()


@pytest.mark.parametrize("alignment", [8, 64, 4096])
def test_another_alignment_is_kept(tmp_path, alignment):
    write_model(tmp_path / "base.gguf", alignment=alignment)
    bake(tmp_path / "base.gguf", SET, mix={"joy": 1}, out=tmp_path / "out.gguf")
    header = open_gguf(tmp_path / "out.gguf").header
    assert header.alignment == alignment and all(t.start % alignment == 0 for t in header.tensors)
    before, after = tensors_of(tmp_path / "base.gguf"), tensors_of(tmp_path / "out.gguf")
    assert {name: after[name] for name in before} == before


def test_a_file_without_padding_at_its_end(model, tmp_path):
    write_model(tmp_path / "odd.gguf", tensors={"z.weight": np.ones(3, np.float32)})
    data = (tmp_path / "odd.gguf").read_bytes()
    last = open_gguf(tmp_path / "odd.gguf").header.tensors[-1]
    (tmp_path / "odd.gguf").write_bytes(data[: last.end])
    bake(tmp_path / "odd.gguf", SET, mix={"joy": 1}, out=tmp_path / "out.gguf")
    before, after = tensors_of(tmp_path / "odd.gguf"), tensors_of(tmp_path / "out.gguf")
    assert {name: after[name] for name in before} == before


# --- split sets -----------------------------------------------------------------------------------------------


@pytest.fixture
def split(tmp_path) -> Path:
    """The first file of a split set."""
    folder = tmp_path / "set"
    folder.mkdir()
    write_model(folder / "m.gguf", split=7)
    return folder / f"m-00001-of-{len(list(folder.iterdir())):05d}.gguf"


def parts(first: Path) -> list[Path]:
    return sorted(first.parent.glob(f"{first.name[:-20]}-*-of-*.gguf"))


def whole(first: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    found = {}
    for part in parts(first):
        found |= tensors_of(part)
    return found


def test_a_split_set_becomes_one_file(split, model, tmp_path):
    assert len(parts(split)) > 2
    bake(split, SET, mix={"joy": 1}, out=tmp_path / "out.gguf")
    bake(model, SET, mix={"joy": 1}, out=tmp_path / "single.gguf")
    assert tensors_of(tmp_path / "out.gguf") == tensors_of(tmp_path / "single.gguf")
    assert not [name for name in fields_of(tmp_path / "out.gguf") if name.startswith("split.")]


def test_a_split_set_stays_one(split, tmp_path):
    result = bake(split, SET, mix={"joy": 1}, out=GgufFile(tmp_path / "out.gguf", keep_split=True))
    written = sorted(tmp_path.glob("out-*.gguf"))
    assert [p.name for p in written] == sorted(f.name for f in result.plan.files) and len(written) == len(parts(split))
    assert not (tmp_path / "out.gguf").exists()
    before, after = whole(split), whole(written[0])
    assert {name: after[name] for name in before} == before and len(after) == len(before) + LAYERS
    for number, part in enumerate(written):
        fields = fields_of(part)
        assert (fields["split.no"], fields["split.count"]) == (number, len(written))
        assert fields["split.tensors.count"] == len(after)
    opened = open_gguf(written[0])
    assert len(opened.files) == len(written) and opened.record is not None
    checks = verify(str(written[0]), base=str(split))
    assert all(check.ok is not False for check in checks), checks


def test_a_set_that_is_not_whole_is_refused(split, cli, tmp_path):
    some = ("--mix", "joy=1", "--out", tmp_path / "out.gguf", "--vectors")
    write_set(SET, tmp_path / "v.safetensors")
    second = parts(split)[1]
    cli("--model", second, *some, tmp_path / "v.safetensors").one_line("give the first", split.name)
    kept = second.read_bytes()
    second.unlink()
    cli("--model", split, *some, tmp_path / "v.safetensors").one_line(second.name, "is missing")
    second.write_bytes(parts(split)[-1].read_bytes())
    cli("--model", split, *some, tmp_path / "v.safetensors").one_line(second.name, "does not say that it is file 2")
    second.write_bytes(kept)
    cli("--model", split, *some, tmp_path / "v.safetensors").ok()


# --- qwen2 as llama -------------------------------------------------------------------------------------------


def permuted(values: np.ndarray, heads: int) -> np.ndarray:
    """Permute the rows of q and k of a Llama checkpoint as llama.cpp's converter does."""
    shape = values.shape
    return values.reshape(heads, 2, HEAD // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


@pytest.mark.parametrize("kind", [Kind.F32, Kind.Q8_0, Kind.Q4_K, Kind.Q6_K])
def test_a_qwen2_file_becomes_a_llama_file(tmp_path, kind):
    base, out = tmp_path / "base.gguf", tmp_path / "out.gguf"
    held = write_model(base, "qwen2", kind)
    result = bake(base, SET, mix={"joy": 1}, out=out)
    assert result.plan.route == "llama" and result.plan.architecture == "llama"
    before, after = fields_of(base), fields_of(out)
    assert after["general.architecture"] == "llama"
    renamed = {name: value for name, value in before.items() if name.startswith("qwen2.")}
    assert renamed and all(after[f"llama.{name[6:]}"] == value for name, value in renamed.items())
    assert not any(name.startswith("qwen2.") for name in after)
    assert after["tokenizer.ggml.tokens"] == before["tokenizer.ggml.tokens"]
    stored = {t.name: t for t in gguf.GGUFReader(out).tensors}
    for name, values in held.items():
        found = gguf.quants.dequantize(stored[name].data, stored[name].tensor_type).reshape(values.shape)
        heads = {"attn_q": HEADS, "attn_k": KV_HEADS}.get(name.split(".")[2] if "blk" in name else "", 0)
        np.testing.assert_array_equal(found, permuted(values, heads) if heads else values, err_msg=name)
    np.testing.assert_array_equal(biases(out), ROWS[1])
    checks = verify(str(out), base=str(base))
    assert all(check.ok is not False for check in checks)
    assert any("rows in llama's order" in check.detail for check in checks)


@pytest.mark.parametrize(
    ("fields", "tensors", "words"),
    [
        ({"qwen2.attention.sliding_window": 128}, {}, "sliding_window"),
        ({"qwen2.rope.scaling.type": "longrope"}, {}, "longrope"),
        ({"qwen2.rope.dimension_count": HEAD // 2}, {}, "part of each head"),
        ({}, {"output.bias": np.zeros(HIDDEN)}, "output.bias"),
        ({}, {"blk.0.attn_q_norm.weight": np.ones(HEAD)}, "attn_q_norm"),
    ],
)
def test_a_qwen2_file_that_is_no_llama_is_refused(tmp_path, fields, tensors, words):
    write_model(tmp_path / "base.gguf", "qwen2", fields=fields, tensors=tensors)
    with pytest.raises(InputError, match=words):
        bake(tmp_path / "base.gguf", SET, mix={"joy": 1}, out=tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


# --- architectures and sites ----------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["minicpm3", "gemma4", "mimo2"])
def test_an_architecture_that_refuses_the_tensor(tmp_path, architecture):
    write_model(tmp_path / "base.gguf", architecture)
    with pytest.raises(InputError, match=f"llama.cpp refuses {architecture} files.*wrong number of tensors.*peft"):
        bake(tmp_path / "base.gguf", SET, mix={"joy": 1}, out=tmp_path / "out.gguf")


@pytest.mark.parametrize("architecture", ["refact", "falcon-h1"])
def test_an_architecture_that_would_run_unsteered(tmp_path, architecture):
    write_model(tmp_path / "base.gguf", architecture)
    with pytest.raises(InputError, match=r"never adds it.*UNSTEERED"):
        bake(tmp_path / "base.gguf", SET, mix={"joy": 1}, out=tmp_path / "out.gguf")


def test_an_architecture_that_requires_the_bias(tmp_path):
    write_model(tmp_path / "base.gguf", "starcoder2")
    with pytest.raises(InputError, match=r"lacks blk.0.attn_output.bias, which llama.cpp wants"):
        bake(tmp_path / "base.gguf", SET, mix={"joy": 1}, out=tmp_path / "out.gguf")


def test_vectors_of_the_layer_output_go_into_the_mlp(model, tmp_path):
    result = bake(model, OUTPUT, mix={"joy": 2}, out=tmp_path / "out.gguf")
    np.testing.assert_array_equal(biases(tmp_path / "out.gguf", "layer_output"), 2 * ROWS[1])
    assert set(result.plan.added) == {f"blk.{layer}.ffn_down.bias" for layer in range(LAYERS)}
    assert BIAS.format(0) not in tensors_of(tmp_path / "out.gguf")
    write_set(OUTPUT, tmp_path / "v.safetensors")
    bake(
        model, VectorSource(tmp_path / "v.safetensors", site="layer_output"), mix={"joy": 1}, out=tmp_path / "two.gguf"
    )
    checks = verify(str(tmp_path / "two.gguf"), base=str(model), vectors=str(tmp_path / "v.safetensors"))
    assert all(check.ok for check in checks), checks


@pytest.mark.parametrize(
    ("architecture", "key", "scale"), [("granite", 0.25, 0.25), ("minicpm", None, 1.4 / LAYERS**0.5)]
)
def test_a_branch_that_is_scaled_divides_the_vectors_of_the_layer_output(tmp_path, architecture, key, scale):
    fields = {} if key is None else {f"{architecture}.residual_scale": key}
    write_model(tmp_path / "base.gguf", architecture, fields=fields)
    result = bake(tmp_path / "base.gguf", OUTPUT, mix={"joy": 1}, out=tmp_path / "out.gguf")
    np.testing.assert_allclose(biases(tmp_path / "out.gguf", "layer_output") * scale, ROWS[1], rtol=1e-6)
    assert result.plan.record.branch_scale == pytest.approx(scale)
    bake(tmp_path / "base.gguf", SET, mix={"joy": 1}, out=tmp_path / "attention.gguf")
    np.testing.assert_array_equal(biases(tmp_path / "attention.gguf"), ROWS[1])
    write_set(OUTPUT, tmp_path / "v.safetensors")
    bake(tmp_path / "base.gguf", str(tmp_path / "v.safetensors"), mix={"joy": 1}, out=tmp_path / "three.gguf")
    checks = verify(str(tmp_path / "three.gguf"), vectors=str(tmp_path / "v.safetensors"))
    assert [check.ok for check in checks if check.name == "arithmetic"] == [True]


def test_experts_have_no_home_for_the_layer_output(tmp_path):
    write_model(tmp_path / "base.gguf", without=("blk.0.ffn_down.weight", "blk.1.ffn_down.weight"))
    with pytest.raises(InputError, match=r"layer 0 has no ffn_down, so its vector cannot land"):
        bake(tmp_path / "base.gguf", OUTPUT, mix={"joy": 1}, out=tmp_path / "out.gguf")


def test_a_layer_without_attention_is_not_steered_silently(tmp_path):
    write_model(tmp_path / "base.gguf", "granitehybrid", without=("blk.0.attn_output.weight",))
    with pytest.raises(InputError, match="`layers` 1"):
        bake(tmp_path / "base.gguf", SET, mix={"joy": 1}, out=tmp_path / "out.gguf")
    result = bake(tmp_path / "base.gguf", SET, mix={"joy": 1}, out=tmp_path / "out.gguf", layers="1")
    assert result.plan.added == (BIAS.format(1),)


def test_a_site_that_contradicts_the_set(model, tmp_path, cli):
    write_set(SET, tmp_path / "v.safetensors")
    some = ("--model", model, "--vectors", tmp_path / "v.safetensors", "--mix", "joy=1", "--out", tmp_path / "o.gguf")
    cli(*some, "--site", "layer_output").one_line("acts at the attention output, not at the layer output")
    cli(*some, "--site", "attention_output").ok()


def test_every_row_of_the_table_is_well_formed():
    table = gguf_architectures()
    assert {"llama", "granite", "gpt2", "gpt-oss", "phi2"} <= set(table)
    for row in table.values():
        assert (row.sites or row.head or row.value) and set(row.sites) <= set(MODULES)
        assert {row.head, row.value} <= {"", "read", "ran"}
        assert set(row.sites.values()) <= {"accepts", "required", "ignores"}
        assert set(row.ran) <= set(row.sites)
    assert "qwen2" not in table and not table["qwen3"].sites


# --- control vectors ------------------------------------------------------------------------------------------


def test_a_control_vector_is_baked_where_llama_cpp_adds_it(model, tmp_path, cli):
    vector = control_vector(tmp_path / "happy.gguf", {1: ROWS[0, 1]})
    cli("--model", model, "--vectors", vector, "--mix", "happy=-0.7", "--out", tmp_path / "out.gguf").ok()
    found = biases(tmp_path / "out.gguf", "layer_output")
    assert not found[0].any(), "direction.1 is the output of block 1, counted from 0"
    np.testing.assert_array_equal(found[1], np.float32(-0.7) * ROWS[0, 1])
    refused = cli(
        *("--model", model, "--vectors", vector, "--mix", "happy=1", "--out", tmp_path / "two.gguf"),
        *("--site", "attention_output"),
    )
    refused.one_line("happy.gguf", "contradicts --site attention_output")


def test_layers_that_a_control_vector_leaves_out_get_nothing(tmp_path):
    write_model(tmp_path / "base.gguf", fields={"llama.rope.dimension_count": HEAD})
    vector = control_vector(tmp_path / "v.gguf", {1: ROWS[0, 0]})
    longer = control_vector(tmp_path / "long.gguf", {1: ROWS[0, 0], LAYERS: ROWS[0, 1]})
    bake(tmp_path / "base.gguf", str(vector), mix={"v": 1}, out=tmp_path / "out.gguf")
    with pytest.raises(InputError, match=f"made for {LAYERS + 1} layers"):
        bake(tmp_path / "base.gguf", str(longer), mix={"long": 1}, out=tmp_path / "no.gguf")


# --- outputs --------------------------------------------------------------------------------------------------


def test_what_is_there_is_left_alone(model, tmp_path, cli):
    write_set(SET, tmp_path / "v.safetensors")
    out = tmp_path / "out.gguf"
    some = ("--model", model, "--vectors", tmp_path / "v.safetensors", "--mix", "joy=1", "--out")
    out.write_bytes(b"mine")
    cli(*some, out).one_line("exists already")
    cli(*some, out, "--overwrite").one_line("is not an earlier output of emobake")
    cli(*some, model, "--overwrite").one_line("is the input")
    assert out.read_bytes() == b"mine"
    out.unlink()
    cli(*some, out).ok()
    first = out.read_bytes()
    cli(*some, out, "--overwrite", "--scale", "2").ok()
    assert out.read_bytes() != first
    cli(*some, tmp_path / "folder").one_line("give a name that ends in .gguf")
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_a_dry_run_writes_nothing(model, tmp_path, cli):
    write_set(SET, tmp_path / "v.safetensors")
    before = sorted(tmp_path.iterdir())
    some = ("--model", model, "--vectors", tmp_path / "v.safetensors", "--mix", "joy=1", "--dry-run")
    ran = cli(*some).ok()
    assert "Planned: 1 x joy" in ran.out and "1 GGUF file" in ran.out
    cli(*some, "--out", tmp_path / "out.gguf").ok()
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--format", "peft"), "--format peft does not go with a GGUF file"),
        (("--targets", "vllm"), "vllm, of --targets, refuses to load it; it loads folders"),
        (("--push-to-hub", "me/x"), "hf upload"),
        (("--keep-split",), "is one file"),
        (("--outtype", "q8_0"), "go with a checkpoint as --model"),
    ],
)
def test_options_that_do_not_go_with_a_gguf(model, tmp_path, cli, options, words):
    write_set(SET, tmp_path / "v.safetensors")
    some = ("--model", model, "--vectors", tmp_path / "v.safetensors", "--mix", "joy=1", "--out", tmp_path / "o.gguf")
    cli(*some, *options).one_line(words)
    assert not (tmp_path / "o.gguf").exists()


def test_options_that_go_with_a_gguf_alone(base, vectors, tmp_path, cli):
    some = ("--model", base, "--vectors", vectors, "--mix", "joy=1", "--out", tmp_path / "o")
    for options in (("--modelfile",), ("--keep-split",), ("--outtype", "f32"), ("--converter", "x")):
        cli(*some, *options).one_line(options[0])


def test_a_disk_that_is_full_keeps_nothing(model, tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "copy_file_range", full)
    with pytest.raises(emobake.OutputError, match="disk is full"):
        bake(model, SET, mix={"joy": 1}, out=tmp_path / "new" / "out.gguf")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base.gguf"]


def test_without_the_kernels_copy_the_bytes_are_the_same(model, tmp_path, monkeypatch):
    bake(model, SET, mix={"joy": 1}, out=tmp_path / "a.gguf")

    def cannot(*_: object, **__: object) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "copy_file_range", cannot)
    bake(model, SET, mix={"joy": 1}, out=tmp_path / "b.gguf")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_a_base_that_shrinks_meanwhile(model, tmp_path):
    plan = bake(model, SET, mix={"joy": 1}, dry_run=True).plan
    with model.open("r+b") as file:
        file.truncate(model.stat().st_size // 2)
    with pytest.raises(emobake.OutputError, match="became shorter"):
        write_files(plan.files, model.parent, GgufFile(tmp_path / "out.gguf"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base.gguf"]


# --- verify and show ------------------------------------------------------------------------------------------


def test_verify_and_show(model, tmp_path, cli):
    write_set(SET, tmp_path / "v.safetensors")
    out = tmp_path / "out.gguf"
    cli("--model", model, "--vectors", tmp_path / "v.safetensors", "--mix", "joy=2", "--out", out).ok()
    ran = cli("verify", out, "--base", model, "--vectors", tmp_path / "v.safetensors").ok()
    assert ran.out.count("ok  ") == 7 and "FAIL" not in ran.out
    shown = cli("show", out).ok().out
    assert "Baked: 2 x joy" in shown and "base.gguf" in shown and "of the attention output" in shown
    assert json.loads(cli("show", out, "--json").ok().out) == open_gguf(out).record
    cli("show", model).one_line("is not an output of emobake")
    cli("verify", model).one_line("is not an output of emobake")
    cli("show", tmp_path / "none.gguf").one_line("no such file")


def test_show_reads_a_checkpoint_too(base, vectors, tmp_path, cli):
    cli("--model", base, "--vectors", vectors, "--mix", "joy=2", "--out", tmp_path / "o").ok()
    assert "Baked: 2 x joy" in cli("show", tmp_path / "o").ok().out
    cli("show", base).one_line("is not an output of emobake")
    cli("--model", base, "--vectors", vectors, "--format", "peft", "--each", "--out", tmp_path / "each").ok()
    assert "anger" in cli("show", tmp_path / "each").ok().out


@pytest.mark.parametrize("what", ["bias", "tensor", "metadata"])
def test_verify_finds_a_change(model, tmp_path, cli, what):
    out = tmp_path / "out.gguf"
    bake(model, SET, mix={"joy": 2}, out=out)
    data = bytearray(out.read_bytes())
    header = open_gguf(out).header
    if what == "metadata":
        at = data.index(b"<t17>")
    else:
        name = BIAS.format(1) if what == "bias" else "blk.1.ffn_up.weight"
        at = next(t.start for t in header.tensors if t.name == name)
    data[at] ^= 1
    out.write_bytes(data)
    ran = cli("verify", out, "--base", model)
    assert ran.code == 1
    failed = [line for line in ran.out.splitlines() if line.startswith("FAIL")]
    wanted = {
        "bias": "biases as recorded: blk.1.attn_output.bias",
        "tensor": "files as planned: out.gguf: blk.1.ffn_up.weight differs",
        "metadata": "files as planned: out.gguf: the metadata tokenizer.ggml.tokens differs",
    }[what]
    assert wanted in failed[0]
    assert cli("verify", out).code == (0 if what == "tensor" else 1), "without the base, weights cannot be compared"


def test_the_base_again_is_refused_in_a_gguf_too(model, tmp_path):
    bake(model, SET, mix={"joy": 1}, out=tmp_path / "one.gguf")
    with pytest.raises(InputError, match="the base again"):
        bake(tmp_path / "one.gguf", SET, mix={"joy": -1}, out=tmp_path / "two.gguf")
    result = bake(tmp_path / "one.gguf", SET, mix={"joy": -1}, out=tmp_path / "two.gguf", force=True)
    assert not result.plan.effect.steers and fields_of(tmp_path / "two.gguf")["emobake.weights"] == ""
    bake(tmp_path / "one.gguf", SET, mix={"joy": 1}, scale=0.5, out=tmp_path / "more.gguf")
    assert fields_of(tmp_path / "more.gguf")["emobake.weights"] == "joy=1.5", "the sum of both bakes"
    checks = verify(tmp_path / "more.gguf", base=tmp_path / "one.gguf")
    assert not [check for check in checks if check.ok is False], checks
    with pytest.raises(InputError, match="destroys the model"):
        bake(model, SET, mix={"joy": 100}, out=tmp_path / "three.gguf")


def test_a_scaled_branch_does_not_count_as_strength(tmp_path):
    """The vectors are divided by the scale, and act at their own strength all the same."""
    write_model(tmp_path / "base.gguf", "granite", fields={"granite.residual_scale": 0.05})
    plan = bake(tmp_path / "base.gguf", OUTPUT, mix={"joy": 1}, out=tmp_path / "out.gguf").plan
    assert not [warning for warning in plan.warnings if "strength" in warning]


def test_a_gguf_of_a_split_set_is_verified_against_it_and_renamed_bases_too(split, model, tmp_path):
    bake(split, SET, mix={"joy": 1}, out=tmp_path / "out.gguf")
    checks = verify(tmp_path / "out.gguf", base=split)
    assert not [check for check in checks if check.ok is False], checks
    bake(model, SET, mix={"joy": 1}, out=tmp_path / "single.gguf")
    moved = model.rename(tmp_path / "renamed.gguf")
    (tmp_path / "single.gguf").rename(tmp_path / "other.gguf")
    checks = verify(tmp_path / "other.gguf", base=moved)
    assert not [check for check in checks if check.ok is False], checks
    assert [check.ok for check in verify(tmp_path / "other.gguf") if check.name == "files as recorded"] == [True]


def test_a_file_of_an_earlier_version_without_digests(model, tmp_path, monkeypatch):
    whole = Record.to_json
    monkeypatch.setattr(Record, "to_json", lambda record: {k: v for k, v in whole(record).items() if k != "digests"})
    bake(model, SET, mix={"joy": 1}, out=tmp_path / "out.gguf")
    monkeypatch.undo()
    checks = verify(tmp_path / "out.gguf", base=model)
    assert not [check for check in checks if check.ok is False], checks
    (found,) = [check for check in verify(tmp_path / "out.gguf") if check.name == "files as recorded"]
    assert found.ok is None and "earlier version" in found.detail


def test_a_modelfile_beside_it_is_compared(model, tmp_path):
    def found() -> list[bool | None]:
        return [check.ok for check in verify(tmp_path / "out.gguf") if check.name == "Modelfile"]

    bake(model, SET, mix={"joy": 1}, out=GgufFile(tmp_path / "out.gguf", modelfile=True))
    assert found() == [True]
    with (tmp_path / "out.Modelfile").open("a") as file:
        file.write("SYSTEM be brief\n")
    assert found() == [None], "a person may edit it"
    (tmp_path / "out.Modelfile").write_text("FROM elsewhere")
    assert found() == []


def test_a_folder_of_gguf_files_says_what_to_give(model, cli, vectors):
    ran = cli("--model", model.parent, "--vectors", vectors, "--mix", "joy=1", "--out", model.parent.parent / "o")
    ran.one_line("has GGUF files only", "give it as --model")


def test_what_else_a_gguf_is_no_good_for(model, tmp_path, cli):
    bake(model, SET, mix={"joy": 2}, out=tmp_path / "out.gguf")
    cli("push", tmp_path / "out.gguf", "me/x").one_line("hf upload me/x")
    write_set(SET, tmp_path / "v.safetensors")
    some = ("--model", model, "--vectors", tmp_path / "v.safetensors", "--mix", "joy=1", "--out", tmp_path / "o.gguf")
    cli(*some, "--revision", "main").one_line("--revision goes with a Hub id")
    cli(*some, "--link-mode", "hardlink").one_line("--link-mode hardlink", "copied")
    cli("--model", model, "--mix", "joy=1", "--out", tmp_path / "o.gguf").one_line("--vectors-for")


@pytest.mark.parametrize("record", ["{", "[]", "{}", '{"format": "gguf"}', '{"format": "gguf", "history": [1]}'])
def test_a_record_that_is_none(model, tmp_path, cli, record):
    write_model(tmp_path / "odd.gguf", fields={"emobake.record": record})
    for command in ("show", "verify"):
        cli(command, tmp_path / "odd.gguf").one_line(
            "odd.gguf", "emobake.record" if record in ("{", "[]") else "record"
        )


# --- phi3 as llama --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Kind.F32, Kind.Q8_0, Kind.Q4_K])
def test_a_phi3_file_becomes_a_llama_file(tmp_path, kind):
    base, out = tmp_path / "base.gguf", tmp_path / "out.gguf"
    held = write_phi3(base, kind, {"phi3.attention.sliding_window": 2047})
    result = bake(base, SET, mix={"joy": 1}, out=out)
    assert result.plan.route == "llama" and result.plan.record.cost.is_free
    fields = fields_of(out)
    assert fields["general.architecture"] == "llama" and not [name for name in fields if name.startswith("phi3.")]
    assert "llama.attention.sliding_window" not in fields, "llama.cpp ignores it in phi3 files, and would not here"
    stored = {t.name: t for t in gguf.GGUFReader(out).tensors}
    assert not [name for name in stored if "qkv" in name]
    for layer in range(LAYERS):
        q, k, v = np.split(held[f"blk.{layer}.attn_qkv.weight"], [HIDDEN, HIDDEN + KV_HEADS * HEAD])
        gate, up = np.split(held[f"blk.{layer}.ffn_up.weight"], 2)
        wanted = {"attn_q": permuted(q, HEADS), "attn_k": permuted(k, KV_HEADS), "attn_v": v}
        wanted |= {"ffn_gate": gate, "ffn_up": up}
        for name, values in wanted.items():
            tensor = stored[f"blk.{layer}.{name}.weight"]
            assert tensor.tensor_type == kind
            found = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(values.shape)
            np.testing.assert_array_equal(found, values, err_msg=name)
    np.testing.assert_array_equal(biases(out), ROWS[1])
    checks = verify(str(out), base=str(base))
    assert not [check for check in checks if check.ok is False], checks


@pytest.mark.parametrize(
    ("fields", "tensors", "words"),
    [
        ({"phi3.rope.dimension_count": HEAD // 2}, {}, "part of each head"),
        ({}, {"rope_factors_long.weight": np.ones(HEAD // 2)}, "the tensor rope_factors_long.weight"),
        ({"phi3.feed_forward_length": 300}, {}, r"ffn_up.weight has 1024 rows"),
    ],
)
def test_a_phi3_file_that_is_no_llama_is_refused(tmp_path, fields, tensors, words):
    write_phi3(tmp_path / "base.gguf", Kind.F32, fields, tensors)
    with pytest.raises(InputError, match=words):
        bake(tmp_path / "base.gguf", SET, mix={"joy": 1}, out=tmp_path / "out.gguf")


def write_phi3(
    path: Path, kind: Kind, fields: dict[str, Any], tensors: dict[str, np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """Write a phi3 file: q, k and v in one tensor, and the gate before the other half of the MLP."""
    draw = np.random.default_rng(1)
    fused = {}
    for layer in range(LAYERS):
        fused[f"blk.{layer}.attn_qkv.weight"] = floats(kind, (HIDDEN + 2 * KV_HEADS * HEAD, HIDDEN), draw)
        fused[f"blk.{layer}.ffn_up.weight"] = floats(kind, (2 * FF, HIDDEN), draw)
    parts = ("attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up")
    without = tuple(f"blk.{layer}.{part}.weight" for layer in range(LAYERS) for part in parts)
    held = write_model(path, "phi3", kind, fields=fields, tensors=tensors, without=without, stored=fused)
    return held | {name: values for name, (_, values) in fused.items()}
