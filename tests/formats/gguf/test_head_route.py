"""A key/value head whose output is constant: what is written, byte for byte, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
from support.gguf_files import HEAD, HEADS, HIDDEN, KV_HEADS, LAYERS, Kind, fields_of, tensors_of, write_model

from emobake import GgufFile, InputError, VectorSet, bake
from emobake.actions.verify import verify
from emobake.core.heads import Cost
from emobake.formats.gguf.architectures import gguf_architectures
from emobake.formats.gguf.model import open_gguf
from emobake.vectors.write import write_set

DRAW = np.random.default_rng(7)
ROWS = DRAW.normal(0, 0.3, (2, LAYERS, HIDDEN)).astype(np.float32)
SET = VectorSet(("anger", "joy"), ROWS, "tiny")
GROUP = HEADS // KV_HEADS
NORMS = {f"blk.{i}.attn_{part}_norm.weight": np.ones(HEAD, np.float32) for i in range(LAYERS) for part in "qk"}


@pytest.fixture
def model(tmp_path) -> Path:
    """A float32 qwen3 file."""
    write_model(tmp_path / "base.gguf", "qwen3", tensors=NORMS)
    return tmp_path / "base.gguf"


def dequantized(path: Path) -> dict[str, np.ndarray]:
    return {
        t.name: gguf.quants.dequantize(t.data, t.tensor_type).reshape([int(n) for n in reversed(t.shape)])
        for t in gguf.GGUFReader(path).tensors
    }


def rows_of(path: Path, name: str) -> np.ndarray:
    """The bytes of each row."""
    _, shape, data = tensors_of(path)[name]
    return np.frombuffer(data, np.uint8).reshape(shape[1], -1)


KINDS = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]


@pytest.mark.parametrize("kind", [*KINDS, "IQ4_NL", "IQ4_XS"])
def test_every_byte_of_the_base_is_kept(tmp_path, kind):
    base, out = tmp_path / "base.gguf", tmp_path / "out.gguf"
    write_model(base, "qwen3", Kind[kind], tensors=NORMS)
    result = bake(base, SET, mix={"joy": 2}, out=out)
    # A block of 256 is the columns of two key/value heads here.
    added = 2 if "K" in kind or kind == "IQ4_XS" else 1
    before, after, stored = tensors_of(base), tensors_of(out), dequantized(out)
    grown = {f"blk.{i}.attn_{part}.weight" for i in range(LAYERS) for part in ("q", "k", "v", "output")}
    new = {f"blk.{i}.attn_v.bias" for i in range(LAYERS)}
    assert set(after) - set(before) == new == set(result.plan.added) and set(result.plan.extended) == grown
    assert {name: after[name] for name in before if name not in grown} == {
        n: before[n] for n in before if n not in grown
    }
    for layer in range(LAYERS):
        for part, heads in (("q", added * GROUP), ("k", added), ("v", added)):
            name = f"blk.{layer}.attn_{part}.weight"
            old, found = rows_of(base, name), rows_of(out, name)
            assert (found[: len(old)] == old).all() and len(found) == len(old) + heads * HEAD
            assert not stored[name][len(old) :].any()
        name = f"blk.{layer}.attn_output.weight"
        old, found = rows_of(base, name), rows_of(out, name)
        assert (found[:, : old.shape[1]] == old).all()
        columns = stored[name][:, HEADS * HEAD :]
        assert columns.shape[1] == added * GROUP * HEAD
        error = np.abs(columns[:, 0] - 2 * ROWS[1, layer]).max()
        assert error <= {"F32": 0, "BF16": 4e-3}.get(kind, 6e-4) * 2
        assert not columns[:, 1 if "IQ" not in kind else 32 :].any()
        values = stored[f"blk.{layer}.attn_v.bias"]
        assert values[KV_HEADS * HEAD] == 1 and values.sum() == 1 and len(values) == (KV_HEADS + added) * HEAD
    fields = fields_of(out)
    assert fields["qwen3.attention.head_count"] == HEADS + added * GROUP
    assert fields["qwen3.attention.head_count_kv"] == KV_HEADS + added
    assert fields["qwen3.attention.key_length"] == fields["qwen3.attention.value_length"] == HEAD, "no longer computed"
    assert result.plan.route == "head" and result.plan.record.cost == Cost(1 + added / 2, 1 + added / 2)
    checks = verify(out, base=base)
    assert not [check for check in checks if check.ok is False], checks


def test_biases_that_are_there_grow_as_well(tmp_path):
    held = write_model(tmp_path / "base.gguf", "qwen3", tensors=NORMS, qkv_bias=True)
    result = bake(tmp_path / "base.gguf", SET, mix={"joy": 1}, out=tmp_path / "out.gguf")
    found = dequantized(tmp_path / "out.gguf")
    assert not result.plan.added and "blk.0.attn_v.bias" in result.plan.extended
    for part, heads in (("q", GROUP), ("k", 1), ("v", 1)):
        old, new = held[f"blk.1.attn_{part}.bias"], found[f"blk.1.attn_{part}.bias"]
        wanted = np.zeros(heads * HEAD, np.float32)
        wanted[0] = part == "v"
        np.testing.assert_array_equal(new, np.concatenate([old, wanted]))


def test_fused_projections_grow_in_each_part(tmp_path):
    fused = {f"blk.{i}.attn_qkv.weight": DRAW.normal(0, 0.06, (512, HIDDEN)).astype(np.float32) for i in range(LAYERS)}
    parts = tuple(f"blk.{i}.attn_{part}.weight" for i in range(LAYERS) for part in "qkv")
    write_model(tmp_path / "base.gguf", "qwen3", tensors=NORMS | fused, without=parts)
    bake(tmp_path / "base.gguf", SET, mix={"joy": 1}, out=tmp_path / "out.gguf")
    found, old = dequantized(tmp_path / "out.gguf"), fused["blk.0.attn_qkv.weight"]
    q, k, v = np.split(old, [HEADS * HEAD, (HEADS + KV_HEADS) * HEAD])
    zeros = [np.zeros((heads * HEAD, HIDDEN), np.float32) for heads in (GROUP, 1, 1)]
    np.testing.assert_array_equal(
        found["blk.0.attn_qkv.weight"], np.concatenate([q, zeros[0], k, zeros[1], v, zeros[2]])
    )
    bias = found["blk.0.attn_qkv.bias"]
    assert np.flatnonzero(bias).tolist() == [len(bias) - HEAD] and len(bias) == len(old) + (GROUP + 2) * HEAD
    assert not [c for c in verify(tmp_path / "out.gguf", base=tmp_path / "base.gguf") if c.ok is False]


def test_unsteered_layers_have_the_head_as_well(model, tmp_path):
    """The metadata has one number of heads for all layers."""
    bake(model, SET, mix={"joy": 1}, layers="1", out=tmp_path / "out.gguf")
    found = dequantized(tmp_path / "out.gguf")
    assert not found["blk.0.attn_output.weight"][:, HEADS * HEAD :].any()
    np.testing.assert_array_equal(found["blk.1.attn_output.weight"][:, HEADS * HEAD], ROWS[1, 1])


def test_heads_that_devices_can_share(model, tmp_path, cli):
    write_set(SET, tmp_path / "v.safetensors")
    some = ("--model", model, "--vectors", tmp_path / "v.safetensors", "--mix", "joy=1", "--tensor-parallel", "4")
    ran = cli(*some, "--out", tmp_path / "out.gguf").ok()
    assert "cost     key/value cache and attention weights x 2" in ran.out
    assert fields_of(tmp_path / "out.gguf")["qwen3.attention.head_count_kv"] == 4
    values = dequantized(tmp_path / "out.gguf")["blk.0.attn_v.bias"]
    assert np.flatnonzero(values).tolist() == [KV_HEADS * HEAD], "one head is enough for the row"
    checks = verify(tmp_path / "out.gguf", base=model, vectors=tmp_path / "v.safetensors")
    assert not [check for check in checks if check.ok is not True], checks
    shown = cli("show", tmp_path / "out.gguf").ok().out
    assert "gguf qwen3 head" in shown and "x 2" in shown
    with pytest.raises(InputError, match="`tensor_parallel` takes a number of devices"):
        bake(model, SET, mix={"joy": 1}, dry_run=True, tensor_parallel=0)


def test_numbers_of_heads_by_layer(tmp_path):
    """A list in the metadata stays one; layers without attention keep their zero."""
    write_model(tmp_path / "base.gguf", "qwen3", tensors=NORMS, without=("blk.0.attn_output.weight",))
    reader = gguf.GGUFReader(tmp_path / "base.gguf")
    writer = gguf.GGUFWriter(tmp_path / "list.gguf", "qwen3")
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        if "head_count" in field.name:
            writer.add_array(field.name, [0, field.contents()])
        else:
            sub = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=sub)
    writer.add_key_length(HEAD)
    writer.add_value_length(HEAD)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, np.array(tensor.data), raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    bake(tmp_path / "list.gguf", SET, mix={"joy": 1}, layers="1", out=tmp_path / "out.gguf")
    fields = fields_of(tmp_path / "out.gguf")
    assert fields["qwen3.attention.head_count_kv"] == [0, KV_HEADS + 1]
    assert fields["qwen3.attention.head_count"] == [0, HEADS + GROUP]


# --- baked again ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["F32", "Q8_0", "Q4_K"])
def test_a_second_bake_adds_to_the_column(tmp_path, kind):
    names = [tmp_path / f"{name}.gguf" for name in ("base", "one", "two")]
    base, one, two = names
    write_model(base, "qwen3", Kind[kind], tensors=NORMS)
    bake(base, SET, mix={"joy": 1}, out=one)
    again = bake(one, SET, mix={"anger": -0.5}, out=two)
    first, found = dequantized(one), dequantized(two)
    assert {name for name in found if (found[name] != first[name]).any()} == set(again.plan.overwritten)
    assert set(again.plan.overwritten) == {f"blk.{i}.attn_output.weight" for i in range(LAYERS)}
    for layer in range(LAYERS):
        column = found[f"blk.{layer}.attn_output.weight"][:, HEADS * HEAD]
        np.testing.assert_allclose(column, ROWS[1, layer] - 0.5 * ROWS[0, layer], atol=2e-3 if kind != "F32" else 1e-6)
    assert again.plan.record.cost == Cost() and again.plan.effect.recipe == "1 x joy + -0.5 x anger"
    assert fields_of(two)["qwen3.attention.head_count_kv"] == fields_of(one)["qwen3.attention.head_count_kv"]
    write_set(SET, tmp_path / "v.safetensors")
    checks = verify(two, base=one, vectors=tmp_path / "v.safetensors")
    assert not [check for check in checks if check.ok is not True], checks
    checks = verify(two)
    assert not [check for check in checks if check.ok is False], checks


def test_the_base_again_is_refused(model, tmp_path):
    bake(model, SET, mix={"joy": 1}, out=tmp_path / "one.gguf")
    with pytest.raises(InputError, match="the base again"):
        bake(tmp_path / "one.gguf", SET, mix={"joy": -1}, out=tmp_path / "two.gguf")
    result = bake(tmp_path / "one.gguf", SET, mix={"joy": -1}, out=tmp_path / "two.gguf", force=True)
    assert not result.plan.effect.steers
    assert not dequantized(tmp_path / "two.gguf")["blk.0.attn_output.weight"][:, HEADS * HEAD :].any()


def test_a_second_bake_cannot_add_heads(model, tmp_path):
    bake(model, SET, mix={"joy": 1}, out=tmp_path / "one.gguf")
    with pytest.raises(InputError, match=r"`tensor_parallel` 2: .*one.gguf has 3 key/value heads.*bake all weights"):
        bake(tmp_path / "one.gguf", SET, mix={"joy": 1}, out=tmp_path / "two.gguf", tensor_parallel=2)


def test_a_head_that_is_not_what_the_record_says(model, tmp_path):
    out = tmp_path / "out.gguf"
    bake(model, SET, mix={"joy": 1}, out=out)
    tensor = open_gguf(out).tensors["blk.1.attn_v.bias"]
    data = bytearray(out.read_bytes())
    data[tensor.start + KV_HEADS * HEAD * 4 + 3] ^= 1
    out.write_bytes(data)
    with pytest.raises(InputError, match=r"blk.1.attn_v.bias has no head that is constant"):
        bake(out, SET, mix={"joy": 1}, out=tmp_path / "two.gguf")
    failed = [check for check in verify(out) if check.ok is False]
    assert "UNSTEERED" in failed[0].detail


# --- verify -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["column", "behind the column", "zero rows", "the base's part"])
def test_verify_finds_a_change(tmp_path, cli, place):
    base, out = tmp_path / "base.gguf", tmp_path / "out.gguf"
    write_model(base, "qwen3", Kind.Q8_0, tensors=NORMS)
    bake(base, SET, mix={"joy": 1}, out=out)
    tensors = open_gguf(out).tensors
    output, query = tensors["blk.1.attn_output.weight"], tensors["blk.1.attn_q.weight"]
    row = output.size // HIDDEN
    old = HEADS * HEAD // 32 * 34
    at = {
        "column": output.start + 5 * row + old,
        "behind the column": output.start + 6 * row - 1,
        "zero rows": query.end - 1,
        "the base's part": output.start + 5 * row,
    }[place]
    data = bytearray(out.read_bytes())
    data[at] ^= 1
    out.write_bytes(data)
    ran = cli("verify", out, "--base", base)
    assert ran.code == 1
    failed = [line for line in ran.out.splitlines() if line.startswith("FAIL")]
    name = "blk.1.attn_q.weight" if place == "zero rows" else "blk.1.attn_output.weight"
    assert name in failed[0]
    assert cli("verify", out).code == (1 if place == "column" else 0), "without the base, only the biases are known"


def test_other_weights_do_not_verify(model, tmp_path):
    bake(model, SET, mix={"joy": 1}, out=tmp_path / "out.gguf")
    rows = ROWS.copy()
    write_set(VectorSet(("anger", "joy"), rows, "tiny"), tmp_path / "v.safetensors")
    checks = verify(tmp_path / "out.gguf", base=model, vectors=tmp_path / "v.safetensors")
    assert [check.ok for check in checks if check.name == "arithmetic"] == [True]
    record = open_gguf(tmp_path / "out.gguf").record
    assert record is not None and [bias["column"] for bias in record["biases"]] == [HEADS * HEAD] * LAYERS
    assert record["cost"] == {"cache": 1.5, "attention_weights": 1.5}
    assert json.dumps(record).count("tensor_parallel") == 0


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tensors", "fields", "words"),
    [
        ({"blk.1.attn_sinks.weight": np.ones(HEADS)}, {}, r"its attention has blk.1.attn_sinks.weight"),
        ({"blk.1.attn_gate.weight": np.ones((HEADS, HIDDEN))}, {}, "attn_gate"),
        ({"blk.0.attn_output.scale": np.ones(1)}, {}, "attn_output.scale"),
        ({"blk.0.attn_q_norm.weight": np.ones(HIDDEN)}, {}, "a norm over all heads"),
        ({}, {"qwen3.attention.max_alibi_bias": 8.0}, "max_alibi_bias treats heads by their number"),
        ({}, {"qwen3.attention.value_length": 32}, "256 columns, and 4 heads of 32 were expected"),
    ],
)
def test_an_attention_that_another_head_would_change(tmp_path, tensors, fields, words):
    write_model(tmp_path / "base.gguf", "qwen3", tensors=NORMS | tensors, fields=fields)
    with pytest.raises(InputError, match=words):
        bake(tmp_path / "base.gguf", SET, mix={"joy": 1}, out=tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


def test_a_type_in_which_no_value_can_be_written_is_named(tmp_path):
    write_model(tmp_path / "base.gguf", "qwen3", Kind.MXFP4, tensors=NORMS)
    with pytest.raises(InputError, match=r"blk.0.attn_output.weight is MXFP4, in which one value cannot be written"):
        bake(tmp_path / "base.gguf", SET, mix={"joy": 1}, out=tmp_path / "out.gguf")


def test_vectors_of_the_layer_output_have_no_such_route(model, tmp_path):
    with pytest.raises(InputError, match="peft"):
        bake(model, VectorSet(("joy",), ROWS[1:], "t", site="layer_output"), mix={"joy": 1}, out=tmp_path / "o.gguf")


def test_the_evidence_in_the_table():
    table = gguf_architectures()
    assert {"qwen3", "gemma3", "glm4"} <= {name for name, row in table.items() if row.head == "ran"}
    assert {row.head for row in table.values()} <= {"", "read", "ran"}


# --- a model of images --------------------------------------------------------------------------------------------


def test_a_projector_is_named_and_is_no_model(model, tmp_path, cli):
    writer = gguf.GGUFWriter(tmp_path / "mmproj-F16.gguf", "clip")
    writer.add_tensor("mm.0.weight", np.ones((2, 2), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (tmp_path / "not-mmproj.gguf").write_bytes(b"no GGUF")
    write_set(SET, tmp_path / "v.safetensors")
    some = ("--vectors", tmp_path / "v.safetensors", "--mix", "joy=1", "--out", tmp_path / "out.gguf")
    ran = cli("--model", model, *some).ok()
    words = " ".join(ran.out.split())
    assert "mmproj-F16.gguf: for images and sound; the baked model still needs it" in words
    assert "--mmproj" in words and "not-mmproj" not in words
    cli("--model", tmp_path / "mmproj-F16.gguf", *some, "--overwrite").one_line("is an mmproj file", "give the file of")


def test_a_set_of_files_grows_too(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    write_model(folder / "m.gguf", "qwen3", tensors=NORMS, split=7)
    first = min(folder.iterdir())
    bake(first, SET, mix={"joy": 1}, out=GgufFile(tmp_path / "out.gguf", keep_split=True))
    written = min(tmp_path.glob("out-*.gguf"))
    checks = verify(written, base=first)
    assert not [check for check in checks if check.ok is False], checks
    bake(first, SET, mix={"joy": 1}, out=tmp_path / "one.gguf")
    assert len(tensors_of(tmp_path / "one.gguf")) == len(open_gguf(written).tensors)
