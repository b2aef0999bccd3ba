"""Audits of GGUF files of every route, with a record and without one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.gguf_files import HEAD, HEADS, HIDDEN, KV_HEADS, LAYERS, Kind, write_model
from support.reachable import reachable_rows
from support.running import Run

import emobake
from emobake import GgufFile, VectorSet
from emobake.actions.audit import would_ignore
from emobake.errors import UnsupportedModelError

DRAW = np.random.default_rng(11)
ROWS = DRAW.normal(0, 0.3, (3, LAYERS, HIDDEN)).astype(np.float32)
SET = VectorSet(("anger", "fear", "joy"), ROWS, name="tiny")
NORMS = {f"blk.{i}.attn_{part}_norm.weight": np.ones(HEAD, np.float32) for i in range(LAYERS) for part in "qk"}
BAKED = "looks baked in: joy about 1.2, of tiny"


def bake(base: Path, out: Path | GgufFile, vectors: VectorSet = SET, **mix: float) -> str:
    """Bake, and return the route."""
    return emobake.bake(base, vectors, mix=mix or {"joy": 1.2}, out=out).plan.route


def without_record(path: Path) -> Path:
    """The same file with a record's key that nobody knows; its length stays."""
    data = path.read_bytes()
    assert data.count(b"emobake.record") == 1
    path.write_bytes(data.replace(b"emobake.record", b"emobake.recorx"))
    return path


def biases(module: str, size: int = HIDDEN, *, seed: int = 0) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    return {f"blk.{i}.{module}.bias": draw.normal(0, 0.1, size).astype(np.float32) for i in range(LAYERS)}


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_K", "Q6_K"])
def test_a_llama_of_any_type(tmp_path: Path, kind: str):
    base, out = tmp_path / "base.gguf", tmp_path / "out.gguf"
    held = write_model(base, "llama", Kind[kind])
    assert emobake.audit(base, SET).verdict == "no bias"
    assert bake(base, out) == "tensor"
    found = emobake.audit(out, SET)
    assert (found.kind, found.verdict, found.family) == ("known", BAKED, "llama")
    (finding,) = found.findings
    assert finding.fits[0].weights["joy"] == pytest.approx(1.2, rel=1e-3) and finding.rows.is_apart
    for row in finding.rows.rows:
        matrix = held[f"blk.{row.layer}.attn_output.weight"].astype(np.float64)
        rms = np.sqrt(np.mean(np.square(np.linalg.norm(matrix, axis=0))))
        assert row.columns == pytest.approx(np.linalg.norm(1.2 * ROWS[2, row.layer]) / rms, rel=1e-4)
    assert finding.rows.stacks["llama.cpp"].status == "steered" and "vllm" not in finding.rows.stacks
    assert found.record is not None and found.record.agrees and found.record.recipe == "1.2 x joy"
    bare = emobake.audit(without_record(out), SET)
    assert bare.record is None and bare.verdict == BAKED
    assert emobake.audit(out).verdict == "looks baked in, by vectors that are not known"


def test_a_measure_that_the_gguf_package_cannot_make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_model(tmp_path / "base.gguf", "llama", Kind.Q4_K)
    bake(tmp_path / "base.gguf", tmp_path / "out.gguf")

    def refuse(*_: Any) -> None:
        raise UnsupportedModelError("the gguf package cannot read tensors of type Q4_K")

    monkeypatch.setattr("emobake.formats.gguf.constant_rows.dequantize", refuse)
    found = emobake.audit(tmp_path / "out.gguf", SET)
    assert found.verdict == BAKED and [row.columns for row in found.findings[0].rows.rows] == [None] * LAYERS
    assert found.findings[0].rows.notes == (
        "the norms are given alone: the gguf package cannot read tensors of type Q4_K",
    )


def test_a_qwen2_that_was_written_as_llama(tmp_path: Path):
    write_model(tmp_path / "base.gguf", "qwen2")
    assert emobake.audit(tmp_path / "base.gguf", SET).kind == "none"
    assert bake(tmp_path / "base.gguf", tmp_path / "out.gguf") == "llama"
    assert emobake.audit(tmp_path / "out.gguf", SET).verdict == BAKED
    unknown = emobake.audit(tmp_path / "out.gguf")
    assert unknown.kind == "unknown" and unknown.findings[0].rows.beside == "alive", "told by where the biases lie"


def test_a_file_with_biases_of_its_own(tmp_path: Path):
    held = biases("attn_output") | biases("ffn_down", seed=1)
    write_model(tmp_path / "llama.gguf", "llama", biases=held, qkv_bias=True)
    trained = emobake.audit(tmp_path / "llama.gguf", SET)
    assert trained.kind == "own" and [each.rows.site for each in trained.findings] == [
        "attention_output",
        "layer_output",
    ]
    write_model(tmp_path / "coder.gguf", "starcoder2", biases=held, qkv_bias=True)
    always = emobake.audit(tmp_path / "coder.gguf", SET)
    assert always.kind == "own" and {each.rows.own for each in always.findings} == {"always"}
    assert bake(tmp_path / "coder.gguf", tmp_path / "out.gguf", joy=2) == "existing"
    baked = emobake.audit(tmp_path / "out.gguf", SET)
    assert baked.kind == "known" and "on top of a bias of the model's own: joy about 2" in baked.verdict


@pytest.mark.parametrize("kind", ["F32", "BF16", "Q8_0", "Q4_1", "Q4_K", "IQ4_XS"])
def test_a_head_of_constant_output(tmp_path: Path, kind: str):
    base, out = tmp_path / "base.gguf", tmp_path / "out.gguf"
    held = write_model(base, "qwen3", Kind[kind], tensors=NORMS)
    assert bake(base, out) == "head"
    for found in (emobake.audit(out, SET), emobake.audit(without_record(out), SET)):
        assert found.verdict == BAKED
        (finding,) = found.findings
        assert finding.rows.how == "head" and {row.column for row in finding.rows.rows} == {HEADS * HEAD}
        assert finding.fits[0].weights["joy"] == pytest.approx(1.2, rel=0.01)
        matrix = held["blk.1.attn_output.weight"].astype(np.float64)
        rms = np.sqrt(np.mean(np.square(np.linalg.norm(matrix, axis=0))))
        assert finding.rows.rows[1].unit == pytest.approx(rms, rel=0.01), "of the base's columns alone"
    assert emobake.audit(out).kind == "unknown"


def test_a_head_in_fused_projections(tmp_path: Path):
    fused = {f"blk.{i}.attn_qkv.weight": DRAW.normal(0, 0.06, (512, HIDDEN)).astype(np.float32) for i in range(LAYERS)}
    parts = tuple(f"blk.{i}.attn_{part}.weight" for i in range(LAYERS) for part in "qkv")
    write_model(tmp_path / "base.gguf", "qwen3", tensors=NORMS | fused, without=parts)
    assert bake(tmp_path / "base.gguf", tmp_path / "out.gguf") == "head"
    assert emobake.audit(without_record(tmp_path / "out.gguf"), SET).verdict == BAKED


@pytest.mark.parametrize("copies", [1, HEADS // KV_HEADS])
def test_a_bias_of_the_values(tmp_path: Path, copies: int):
    held = write_model(tmp_path / "base.gguf", "qwen2moe", Kind.Q8_0, qkv_bias=False)
    outputs = {layer: held[f"blk.{layer}.attn_output.weight"] for layer in range(LAYERS)}
    rows = np.stack([reachable_rows(outputs, HEADS, KV_HEADS * copies, seed=seed) for seed in range(2)])
    vectors = VectorSet(("anger", "joy"), rows, name="reachable")
    assert bake(tmp_path / "base.gguf", tmp_path / "out.gguf", vectors) == "value"
    found = emobake.audit(tmp_path / "out.gguf", vectors)
    assert found.verdict == "looks baked in: joy about 1.2, of reachable" and found.findings[0].rows.how == "value"
    assert found.record is not None and found.record.agrees
    assert emobake.audit(without_record(tmp_path / "out.gguf")).kind == "unknown"


def test_values_of_the_models_own(tmp_path: Path):
    write_model(tmp_path / "base.gguf", "qwen2moe", qkv_bias=True)
    found = emobake.audit(tmp_path / "base.gguf", SET)
    assert found.kind == "own" and found.findings[0].rows.how == "value"
    write_model(tmp_path / "qwen3.gguf", "qwen3", tensors=NORMS, qkv_bias=True)
    assert emobake.audit(tmp_path / "qwen3.gguf", SET).kind == "none", "no bake makes a bias of its values"


def test_the_output_of_the_mlp(tmp_path: Path):
    write_model(tmp_path / "base.gguf", "granite", fields={"granite.residual_scale": 0.5})
    residual = VectorSet(SET.emotions, ROWS, site="layer_output", name="residual")
    bake(tmp_path / "base.gguf", tmp_path / "out.gguf", residual, fear=0.7)
    found = emobake.audit(tmp_path / "out.gguf", residual)
    assert found.verdict == "MLP output: looks baked in: fear about 0.7, of residual", "the branch is scaled"
    assert found.record is not None and found.record.agrees


@pytest.mark.parametrize(
    ("architecture", "words", "status"),
    [("qwen3", "refuses qwen3 files", "refuses"), ("ernie4_5", "never adds it", "unsteered"), ("zork", "", "unknown")],
)
def test_biases_that_llama_cpp_does_not_add(tmp_path: Path, architecture: str, words: str, status: str):
    joy = {f"blk.{i}.attn_output.bias": 1.2 * ROWS[2, i] for i in range(LAYERS)}
    write_model(tmp_path / "base.gguf", architecture, biases=joy)
    found = emobake.audit(tmp_path / "base.gguf", SET)
    assert found.verdict == BAKED and words in found.findings[0].rows.ignored
    assert found.findings[0].rows.stacks["llama.cpp"].status == status
    assert bool([s for s in would_ignore(found.findings[0]) if s.startswith("llama.cpp")]) == (status == "unsteered")


def test_a_split_set_and_one_that_shares(tmp_path: Path):
    write_model(tmp_path / "base.gguf", "llama", split=5)
    bake(tmp_path / "base-00001-of-00005.gguf", GgufFile(tmp_path / "kept.gguf", keep_split=True))
    bake(tmp_path / "base-00001-of-00005.gguf", GgufFile(tmp_path / "moods" / "joy.gguf", share="keep"))
    for first in (tmp_path / "kept-00001-of-00005.gguf", tmp_path / "moods" / "joy-00001-of-00002.gguf"):
        found = emobake.audit(first, SET)
        assert found.verdict == BAKED and found.findings[0].rows.is_apart
        assert found.record is not None and found.record.agrees
        assert emobake.audit(first).kind == "unknown"


def test_files_that_are_hostile(cli: Run, tmp_path: Path):
    write_model(tmp_path / "nan.gguf", "llama", biases={"blk.1.attn_output.bias": np.full(HIDDEN, np.nan)})
    cli("audit", tmp_path / "nan.gguf").one_line("blk.1.attn_output.bias has a NaN or infinity")
    write_model(tmp_path / "wide.gguf", "llama", biases={"blk.1.attn_output.bias": np.ones(HIDDEN + 1)})
    cli("audit", tmp_path / "wide.gguf").one_line("not floats [256]")
    write_model(tmp_path / "deep.gguf", "llama", fields={"llama.nextn_predict_layers": 9})
    cli("audit", tmp_path / "deep.gguf").one_line("nextn_predict_layers is 9 of 2 blocks")
    write_model(tmp_path / "set.gguf", "llama", split=5)
    (tmp_path / "set-00003-of-00005.gguf").unlink()
    cli("audit", tmp_path / "set-00001-of-00005.gguf").one_line("is missing")
    write_model(tmp_path / "heads.gguf", "qwen3", tensors=biases("attn_v", 7))
    cli("audit", tmp_path / "heads.gguf").one_line("blk.0.attn_v.bias is F32 of shape [7], not floats [128]")
    whole = (tmp_path / "nan.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[:-100])
    cli("audit", tmp_path / "cut.gguf").one_line("cut.gguf")


def test_the_types_that_are_measured_are_those_of_the_package(tmp_path: Path):
    """A file of any type that the package reads is measured a block at a time, without cutting one."""
    base = tmp_path / "base.gguf"
    for kind in (Kind.Q5_1, Kind.Q3_K, Kind.IQ4_NL):
        held = write_model(base, "llama", kind, biases=biases("attn_output"))
        (found,) = emobake.audit(base).findings
        matrix = held["blk.0.attn_output.weight"].astype(np.float64)
        assert found.rows.rows[0].unit == pytest.approx(np.linalg.norm(matrix) / np.sqrt(HIDDEN), rel=1e-4)
