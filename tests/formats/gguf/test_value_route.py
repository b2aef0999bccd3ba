"""A bias of the values, solved from the output projection: what is written, and what is refused."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from support.gguf_files import HEAD, HEADS, HIDDEN, KV_HEADS, LAYERS, Kind, fields_of, tensors_of, write_model

from emobake import GgufFile, InputError, VectorSet, bake, join
from emobake.actions.verify import verify
from emobake.vectors.write import write_set

DRAW = np.random.default_rng(3)
GROUP = HEADS // KV_HEADS


def dequantized(path: Path) -> dict[str, np.ndarray]:
    return {
        t.name: gguf.quants.dequantize(t.data, t.tensor_type).reshape([int(n) for n in reversed(t.shape)])
        for t in gguf.GGUFReader(path).tensors
    }


def reachable(held: dict[str, np.ndarray], keys: int) -> VectorSet:
    """Rows that some values of `keys` key/value heads make, as extracted ones are."""
    rows = np.zeros((1, LAYERS, HIDDEN), np.float32)
    for layer in range(LAYERS):
        values = np.repeat(DRAW.normal(0, 0.5, (keys, HEAD)), HEADS // keys, axis=0).reshape(-1)
        rows[0, layer] = held[f"blk.{layer}.attn_output.weight"] @ values
    return VectorSet(("joy",), rows, "tiny")


def made(found: dict[str, np.ndarray], layer: int, values: np.ndarray) -> np.ndarray:
    """Output of an attention whose values are the same at every position."""
    each = np.repeat(values.reshape(-1, HEAD), HEADS * HEAD // len(values), axis=0).reshape(-1)
    return found[f"blk.{layer}.attn_output.weight"] @ each


@pytest.mark.parametrize("kind", ["F32", "Q8_0", "Q4_K"])
@pytest.mark.parametrize("copies", [1, GROUP])
def test_the_bias_makes_the_row_with_as_few_copies_as_it_takes(tmp_path, kind, copies):
    base, out = tmp_path / "base.gguf", tmp_path / "out.gguf"
    held = write_model(base, "qwen2moe", Kind[kind], qkv_bias=False)
    vectors = reachable(held, KV_HEADS * copies)
    plan = bake(base, vectors, mix={"joy": 1}, out=out).plan
    assert plan.route == "value" and plan.record.cost.cache == copies
    before, after, found = tensors_of(base), tensors_of(out), dequantized(out)
    changed = {name for name in before if before[name] != after[name]}
    copied = {f"blk.{layer}.attn_{part}.weight" for layer in range(LAYERS) for part in "kv"}
    assert changed == (copied if copies > 1 else set()) == set(plan.extended)
    assert set(after) - set(before) == {f"blk.{layer}.attn_v.bias" for layer in range(LAYERS)}
    assert fields_of(out)["qwen2moe.attention.head_count_kv"] == KV_HEADS * copies
    for layer in range(LAYERS):
        bias = found[f"blk.{layer}.attn_v.bias"]
        np.testing.assert_allclose(made(found, layer, bias), vectors.rows[0, layer], atol=1e-5)
        for part in "kv":
            old = held[f"blk.{layer}.attn_{part}.weight"].reshape(KV_HEADS, HEAD, HIDDEN)
            wanted = np.repeat(old, copies, axis=0).reshape(-1, HIDDEN)
            np.testing.assert_array_equal(found[f"blk.{layer}.attn_{part}.weight"], wanted)
    write_set(vectors, tmp_path / "v.safetensors")
    checks = verify(out, base=base, vectors=tmp_path / "v.safetensors")
    assert not [check for check in checks if check.ok is not True], checks


def test_biases_that_are_there_are_kept_and_a_second_bake_adds(tmp_path):
    base, one, two = (tmp_path / f"{name}.gguf" for name in ("base", "one", "two"))
    held = write_model(base, "qwen2moe", qkv_bias=True)
    vectors = reachable(held, HEADS)
    bake(base, vectors, mix={"joy": 1}, out=one)
    again = bake(one, vectors, mix={"joy": 0.5}, out=two).plan
    assert again.record.cost.is_free and not again.extended and again.effect.recipe == "1.5 x joy"
    found = dequantized(two)
    old = np.repeat(held["blk.1.attn_v.bias"].reshape(KV_HEADS, HEAD), GROUP, axis=0).reshape(-1)
    added = made(found, 1, found["blk.1.attn_v.bias"] - old)
    np.testing.assert_allclose(added, 1.5 * vectors.rows[0, 1], atol=1e-4)
    keys = np.repeat(held["blk.1.attn_k.bias"].reshape(KV_HEADS, HEAD), GROUP, axis=0).reshape(-1)
    np.testing.assert_array_equal(found["blk.1.attn_k.bias"], keys)
    write_set(vectors, tmp_path / "v.safetensors")
    for out, of in ((one, base), (two, one)):
        checks = verify(out, base=of, vectors=tmp_path / "v.safetensors")
        assert not [check for check in checks if check.ok is not True], checks
    with pytest.raises(InputError, match="the base again"):
        bake(one, vectors, mix={"joy": -1}, out=tmp_path / "three.gguf")


@pytest.mark.parametrize("shape", [(KV_HEADS * HEAD,), (KV_HEADS, HEAD)])
def test_a_norm_over_the_keys_is_copied_with_them(tmp_path, shape):
    norm = DRAW.normal(1, 0.1, shape).astype(np.float32)
    held = write_model(tmp_path / "base.gguf", "olmo2", tensors={"blk.0.attn_k_norm.weight": norm})
    bake(tmp_path / "base.gguf", reachable(held, HEADS), mix={"joy": 1}, out=tmp_path / "out.gguf")
    found = dequantized(tmp_path / "out.gguf")["blk.0.attn_k_norm.weight"]
    wanted = np.repeat(norm.reshape(KV_HEADS, HEAD), GROUP, axis=0)
    np.testing.assert_array_equal(found, wanted.reshape(-1) if len(shape) == 1 else wanted)


def test_rows_that_no_values_make(tmp_path):
    """A square projection of random weights makes any row, but by values far beyond the usual."""
    write_model(tmp_path / "base.gguf", "stablelm")
    rows = DRAW.normal(0, 0.3, (1, LAYERS, HIDDEN)).astype(np.float32)
    with pytest.raises(InputError, match=r"in layer \d it would be \d+ times as large as values usually are.*peft"):
        bake(tmp_path / "base.gguf", VectorSet(("joy",), rows), mix={"joy": 1}, out=tmp_path / "out.gguf")
    held = write_model(tmp_path / "flat.gguf", "stablelm")
    singular = {f"blk.{i}.attn_output.weight": held[f"blk.{i}.attn_output.weight"] for i in range(LAYERS)}
    for weight in singular.values():
        weight[HIDDEN // 2 :] = 0
    flat = {name: (weight, weight) for name, weight in singular.items()}
    write_model(tmp_path / "flat.gguf", "stablelm", stored=flat, without=tuple(singular))
    with pytest.raises(InputError, match=r"in layer 0 the best one misses the row by \d+\.\d% of its size"):
        bake(tmp_path / "flat.gguf", VectorSet(("joy",), rows), mix={"joy": 1}, out=tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize(
    ("tensors", "fields", "words"),
    [
        (
            {"blk.1.attn_sinks.weight": np.ones(HEADS)},
            {},
            "attn_sinks.weight, so a bias of the values is",
        ),
        ({}, {"stablelm.attention.clamp_kqv": 8.0}, "its values are clamped"),
        ({"blk.0.attn_qkv.weight": np.ones((512, HIDDEN))}, {}, "holds q, k and v in one tensor"),
    ],
)
def test_an_attention_that_does_more(tmp_path, tensors, fields, words):
    held = write_model(tmp_path / "base.gguf", "stablelm", tensors=tensors, fields=fields)
    with pytest.raises(InputError, match=words):
        bake(tmp_path / "base.gguf", reachable(held, HEADS), mix={"joy": 1}, out=tmp_path / "out.gguf")


def test_other_values_do_not_verify(tmp_path):
    base, out = tmp_path / "base.gguf", tmp_path / "out.gguf"
    held = write_model(base, "stablelm")
    vectors = reachable(held, HEADS)
    bake(base, vectors, mix={"joy": 1}, out=out)
    other = VectorSet(("joy",), np.roll(vectors.rows, 1, axis=2), "tiny")
    write_set(other, tmp_path / "v.safetensors")
    checks = verify(out, base=base, vectors=tmp_path / "v.safetensors")
    assert [check.ok for check in checks if check.name == "arithmetic"] == [False]


def test_moods_share_a_file_though_one_of_them_needs_copies(tmp_path):
    base, moods = tmp_path / "base.gguf", tmp_path / "moods"
    held = write_model(base, "qwen2moe", Kind.Q8_0, qkv_bias=False)
    sets = {copies: reachable(held, KV_HEADS * copies) for copies in (1, GROUP)}
    for copies, vectors in sets.items():
        first = bake(base, vectors, mix={"joy": 1}, out=GgufFile(moods / f"joy-{copies}.gguf", share="keep")).plan
        assert first.record.cost.cache == copies
    assert len(list(moods.glob("base.shared*.gguf"))) == 2  # The copies are weights, so they are in a shared file.
    for copies, vectors in sets.items():
        first, one = moods / f"joy-{copies}-00001-of-00002.gguf", tmp_path / f"{copies}.gguf"
        assert not [check for check in verify(first, base=base, vectors=vectors) if check.ok is False]
        bake(base, vectors, mix={"joy": 1}, out=one)
        join(first, tmp_path / "joined.gguf")
        assert (tmp_path / "joined.gguf").read_bytes() == one.read_bytes()
        (tmp_path / "joined.gguf").unlink()
        second = tensors_of(first.with_name(first.name.replace("00001-of", "00002-of")))
        assert tensors_of(first) | second == tensors_of(one)
        assert set(tensors_of(first)) == {f"blk.{layer}.attn_v.bias" for layer in range(LAYERS)}
