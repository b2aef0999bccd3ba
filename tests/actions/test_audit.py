"""Audits of models of every route and form, with a record and without one, and of files that are not models."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.checkpoints import (
    EMOTIONS,
    NUMPY,
    edit_json,
    numbers,
    read_tensors,
    vector_rows,
    write_checkpoint,
    write_safetensors,
    write_vectors,
)
from support.hub_server import Repo
from support.quantised import quantise
from support.reachable import reachable_rows
from support.running import BASE, Run
from support.wrapper_files import write_wrapper

import emobake
from emobake import VectorSet
from emobake.actions.audit import Audit, would_ignore
from emobake.core.stacks import USUAL
from emobake.errors import BrokenFileError, EmobakeError, InputError, VectorError

LAYERS, HIDDEN = 3, 32
SIZES = {"layers": LAYERS, "hidden": HIDDEN}
QWEN3 = {"architectures": ["Qwen3ForCausalLM"], "head_dim": 16}
STABLELM = {"architectures": ["StableLmForCausalLM"], "use_qkv_bias": False}
OUTPUT = "model.layers.{}.self_attn.o_proj.bias"


@pytest.fixture
def ev(tmp_path: Path) -> Path:
    return write_vectors(tmp_path / "ev", LAYERS, HIDDEN)


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "llama", **SIZES)


@pytest.fixture
def baked(llama: Path, ev: Path, tmp_path: Path) -> Path:
    """A Llama with joy of 1.2, by its flag."""
    emobake.bake(llama, ev, mix={"joy": 1.2}, out=tmp_path / "baked")
    return tmp_path / "baked"


def bake(base: Path, vectors: Any, out: Path, mix: dict[str, float] | None = None, **more: Any) -> str:
    """Bake, and return the route."""
    return emobake.bake(base, vectors, mix=mix or {"joy": 1.2}, out=out, **more).plan.route


def saved_again(folder: Path) -> Path:
    """The same model as another tool saves it: one file, tensors by name, no record of ours."""
    tensors = {
        name: np.frombuffer(data, NUMPY[dtype]).reshape(shape)
        for name, (dtype, shape, data) in read_tensors(folder).items()
    }
    for file in (*folder.glob("model*"), folder / "emobake.json"):
        file.unlink()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def weight(found: Audit, emotion: str = "joy", *, number: int = 0) -> float:
    """The weight of an emotion in the mix that is nearest."""
    return found.findings[number].fits[0].weights[emotion]


# --- checkpoints ----------------------------------------------------------------------------------------------


def test_a_bake_by_a_flag_is_told_by_name_and_weight(baked: Path, ev: Path):
    found = emobake.audit(baked, ev)
    assert (found.kind, found.verdict) == ("known", "looks baked in: joy about 1.2, of ev")
    (finding,) = found.findings
    assert abs(weight(found) / 1.2 - 1) < 0.01 and finding.fits[0].explained > 0.999
    assert all(abs(other) < 0.01 for emotion, other in finding.fits[0].weights.items() if emotion != "joy")
    assert finding.rows.beside == "zero" and set(finding.rows.named) == {"q_proj", "k_proj", "v_proj"}
    assert finding.rows.is_apart and finding.rows.own == "flag" and not finding.rows.ignored
    assert {name: s.status for name, s in finding.rows.stacks.items()}["transformers"] == "steered"
    assert any("mistral.rs" in sentence and "UNSTEERED" in sentence for sentence in would_ignore(finding))
    assert found.record is not None and found.record.agrees and found.record.recipe == "1.2 x joy"
    assert found.record.said == ("the rows are those weights",)


def test_the_measure_is_the_norm_in_columns_of_the_projection(baked: Path, ev: Path):
    """A column is what an input of 1 adds: the bias beside the root mean square norm of the columns."""
    for row in emobake.audit(baked, ev).findings[0].rows.rows:
        _, shape, data = read_tensors(baked)[row.tensor.replace("bias", "weight")]
        matrix = np.frombuffer(data, NUMPY["BF16"]).reshape(shape).astype(np.float64)
        rms = np.sqrt(np.mean(np.square(np.linalg.norm(matrix, axis=0))))
        wanted = np.linalg.norm(1.2 * vector_rows("joy", LAYERS, HIDDEN)[row.layer])
        assert row.norm == pytest.approx(wanted, rel=0.01) and row.columns == pytest.approx(wanted / rms, rel=0.01)


def test_cosines_are_those_of_all_layers_and_of_each(baked: Path, ev: Path):
    (best,) = emobake.audit(baked, ev).findings[0].fits
    joy, anger = (vector_rows(emotion, LAYERS, HIDDEN).astype(float) for emotion in ("joy", "anger"))
    whole = (joy * anger).sum() / np.linalg.norm(joy) / np.linalg.norm(anger)
    assert best.cosines["joy"] > 0.999 and best.cosines["anger"] == pytest.approx(whole, abs=0.01)
    one = joy[2] @ anger[2] / np.linalg.norm(joy[2]) / np.linalg.norm(anger[2])
    assert best.layer_cosines["anger"][2] == pytest.approx(one, abs=0.01)


def test_without_the_record_and_saved_by_another_tool(baked: Path, ev: Path):
    found = emobake.audit(saved_again(baked), ev)
    assert found.kind == "known" and found.record is None and not found.findings[0].rows.is_apart
    unknown = emobake.audit(baked)
    assert (unknown.kind, unknown.verdict) == ("unknown", "looks baked in, by vectors that are not known")
    assert any("are zeros, as a bake writes them" in reason for reason in unknown.findings[0].reasons)


def test_a_mix_in_some_layers(llama: Path, ev: Path, tmp_path: Path):
    bake(llama, ev, tmp_path / "out", {"joy": 0.5, "anger": -1}, layers="0,2")
    found = emobake.audit(tmp_path / "out", ev)
    assert found.verdict == "looks baked in: anger about -1 and joy about 0.5 in layers 0,2, of ev"
    assert found.record is not None and found.record.agrees


def test_weights_that_differ_by_layer(llama: Path, ev: Path, tmp_path: Path):
    bake(llama, ev, tmp_path / "one", {"joy": 1})
    bake(tmp_path / "one", ev, tmp_path / "two", {"joy": 2}, layers="1")
    found = emobake.audit(tmp_path / "two", ev)
    assert found.verdict == "looks baked in: joy 1 to 3 by layer, of ev"
    assert found.record is not None and found.record.agrees


def test_a_plain_model_and_a_merged_one_with_biases_of_zero(llama: Path, ev: Path, tmp_path: Path):
    found = emobake.audit(llama, ev)
    assert (found.kind, found.verdict, found.findings, found.record) == ("none", "no bias", (), None)
    bake(llama, ev, tmp_path / "out", layers="1")
    saved_again(tmp_path / "out")
    file = tmp_path / "out" / "model.safetensors"
    zeros = {name: tensor * 0 if name.endswith("bias") else tensor for name, tensor in load_file(file).items()}
    save_file(zeros, file)
    merged = emobake.audit(tmp_path / "out", ev)
    assert (merged.kind, merged.verdict) == ("none", "no bias: 3 are stored, and all of them are zero")
    assert not would_ignore(merged.findings[0])


def test_a_bias_of_the_models_own(tmp_path: Path, ev: Path):
    """GPT-2 has one in every projection; what a bake adds to it shows only where it is large enough."""
    base = write_checkpoint(tmp_path / "gpt2", "gpt2", dtype="F32", **SIZES)
    found = emobake.audit(base, ev)
    assert (found.kind, found.verdict) == ("own", "a bias of the model's own")
    assert found.findings[0].rows.own == "always" and not would_ignore(found.findings[0])
    assert any("cannot be subtracted without the base" in reason for reason in found.findings[0].reasons)
    assert bake(base, ev, tmp_path / "out", {"joy": 2}) == "existing"
    again = emobake.audit(tmp_path / "out", ev)
    assert again.kind == "known" and "on top of a bias of the model's own: joy about" in again.verdict
    assert again.record is not None and again.record.agrees and "hold more than what was baked" in again.record.said[0]
    assert emobake.audit(tmp_path / "out").kind == "own"


def test_a_llama_that_was_trained_with_biases(tmp_path: Path, ev: Path):
    found = emobake.audit(write_checkpoint(tmp_path / "biased", bias=True, **SIZES), ev)
    assert found.kind == "own" and found.findings[0].rows.beside == "alive"
    assert any("nothing tells a bias of the model's own from vectors" in text for text in found.findings[0].reasons)


def test_a_qwen2_that_was_saved_as_llama(tmp_path: Path, ev: Path):
    """Its q, k and v have biases of their own, so only the file or the vectors tell."""
    base = write_checkpoint(tmp_path / "qwen2", "qwen2", **SIZES)
    assert emobake.audit(base, ev).kind == "none"
    assert bake(base, ev, tmp_path / "out") == "llama"
    assert emobake.audit(tmp_path / "out", ev).verdict == "looks baked in: joy about 1.2, of ev"
    assert emobake.audit(tmp_path / "out").kind == "unknown"
    saved_again(tmp_path / "out")
    assert emobake.audit(tmp_path / "out", ev).kind == "known"
    assert emobake.audit(tmp_path / "out").kind == "own"


@pytest.mark.parametrize(
    ("model_type", "fields", "targets", "route"),
    [
        ("qwen3", QWEN3, [], "flag+backend"),
        ("qwen3", QWEN3, ["mlx"], "laguna"),
        ("gemma3_text", {"architectures": ["Gemma3ForCausalLM"], "head_dim": 16}, ["mlx"], "gear"),
    ],
)
def test_other_classes(
    tmp_path: Path, ev: Path, model_type: str, fields: dict[str, Any], targets: list[str], route: str
):
    base = write_checkpoint(tmp_path / "base", model_type, **fields, **SIZES)
    if model_type == "gemma3_text":
        edit_json(base / "config.json", hidden_act=None, hidden_activation="gelu_pytorch_tanh")
    made = emobake.bake(base, ev, mix={"joy": 1.2}, out=tmp_path / "out", targets=targets).plan
    found = emobake.audit(tmp_path / "out", ev)
    assert made.route == route and found.verdict == "looks baked in: joy about 1.2, of ev"
    told = {name: support.status for name, support in found.findings[0].rows.stacks.items()}
    assert {name: told[name] for name in USUAL} == {name: made.stacks[name].status for name in USUAL}


@pytest.mark.torch
@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize(
    ("name", "route"),
    [
        ("mixtral", "granitemoe"),
        ("phi4", "llama"),
        ("helium", "llama"),
        ("minicpm3", "flag+backend"),
        ("granite", "flag"),
        ("gpt_oss", "existing"),
        ("seed_oss-biased", "llama"),
    ],
)
def test_stacks_are_told_as_by_the_bake(tmp_path: Path, ev: Path, name: str, route: str):
    pytest.importorskip("transformers")
    from support.tiny import write_tiny

    base = write_tiny(name, tmp_path / name)
    made = emobake.bake(base, ev, mix={"joy": 1.2}, out=tmp_path / "out").plan
    (tmp_path / "out" / "emobake.json").unlink()
    found = emobake.audit(tmp_path / "out", ev)
    assert made.route == route and found.kind == "known" and "joy about 1." in found.verdict
    told = {stack: support.status for stack, support in found.findings[0].rows.stacks.items()}
    assert {stack: told[stack] for stack in USUAL} == {stack: made.stacks[stack].status for stack in USUAL}


@pytest.mark.torch
@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("name", ["gpt_neox", "starcoder2", "phi", "opt", "bloom", "gpt_bigcode", "gpt_oss"])
def test_families_with_biases_of_their_own(tmp_path: Path, name: str):
    pytest.importorskip("transformers")
    from support.tiny import write_tiny

    found = emobake.audit(write_tiny(name, tmp_path / name))
    assert found.kind == "own" and found.findings[0].rows.site == "attention_output"
    assert len(found.findings[0].rows.acting) == LAYERS and all(row.columns for row in found.findings[0].rows.rows)
    assert not any(would_ignore(each) for each in found.findings)


@pytest.mark.torch
@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("name", ["cohere", "falcon", "granite", "gemma2", "qwen2_moe", "glm4", "helium"])
def test_families_without_biases(tmp_path: Path, name: str):
    """Biases of q, k and v alone are no rows of the output, but where a bake makes rows of those of the values."""
    pytest.importorskip("transformers")
    from support.tiny import write_tiny

    found = emobake.audit(write_tiny(name, tmp_path / name))
    assert (found.kind, [each.rows.how for each in found.findings]) == (
        ("own", ["value"]) if name == "qwen2_moe" else ("none", [])
    )


def test_a_head_of_constant_output(tmp_path: Path, ev: Path):
    base = write_checkpoint(tmp_path / "qwen3", "qwen3", **QWEN3, **SIZES)
    assert bake(base, ev, tmp_path / "out", targets=["llama.cpp"]) == "head"
    for found in (emobake.audit(tmp_path / "out", ev), emobake.audit(saved_again(tmp_path / "out"), ev)):
        assert found.verdict == "looks baked in: joy about 1.2, of ev"
        (finding,) = found.findings
        assert finding.rows.how == "head" and {row.column for row in finding.rows.rows} == {HIDDEN}
        assert finding.rows.stacks["mlx"].status == "refuses" and finding.rows.stacks["vllm"].status == "steered"
        before = read_tensors(base)["model.layers.1.self_attn.o_proj.weight"]
        matrix = np.frombuffer(before[2], NUMPY["BF16"]).reshape(before[1]).astype(np.float64)
        rms = np.sqrt(np.mean(np.square(np.linalg.norm(matrix, axis=0))))
        assert finding.rows.rows[1].unit == pytest.approx(rms, rel=0.001), "of the base's columns alone"
    assert emobake.audit(tmp_path / "out").kind == "unknown"


def test_a_bias_of_the_values(tmp_path: Path):
    base = write_checkpoint(tmp_path / "stablelm", "stablelm", dtype="F32", **STABLELM, **SIZES)
    tensors = load_file(base / "model.safetensors")
    outputs = {layer: tensors[f"model.layers.{layer}.self_attn.o_proj.weight"] for layer in range(LAYERS)}
    rows = np.stack([reachable_rows(outputs, 2, 1, seed=seed) for seed in range(2)])
    vectors = VectorSet(("anger", "joy"), rows, name="reachable")
    assert bake(base, vectors, tmp_path / "out") == "value"
    found = emobake.audit(tmp_path / "out", vectors)
    assert found.verdict == "looks baked in: joy about 1.2, of reachable"
    assert found.findings[0].rows.how == "value" and found.findings[0].rows.beside == "zero"
    assert found.record is not None and found.record.agrees
    assert emobake.audit(tmp_path / "out").kind == "unknown"
    edit_json(tmp_path / "out" / "config.json", use_qkv_bias=False)
    off = emobake.audit(tmp_path / "out", vectors)
    assert off.findings[0].rows.ignored and "transformers" in would_ignore(off.findings[0])[0]
    assert off.record is not None and not off.record.agrees


def test_the_output_of_the_mlp(llama: Path, tmp_path: Path):
    rows = np.stack([vector_rows(emotion, LAYERS, HIDDEN) for emotion in EMOTIONS])
    vectors = VectorSet(EMOTIONS, rows, site="layer_output", name="residual")
    bake(llama, vectors, tmp_path / "out", {"fear": 0.7})
    found = emobake.audit(tmp_path / "out", vectors)
    assert found.verdict == "MLP output: looks baked in: fear about 0.7, of residual"
    assert [each.rows.site for each in found.findings] == ["layer_output"]
    both = bake(tmp_path / "out", write_vectors(tmp_path / "ev", LAYERS, HIDDEN), tmp_path / "two", {"joy": 1})
    assert both == "flag"
    two = emobake.audit(tmp_path / "two", [vectors, tmp_path / "ev"])
    assert two.verdict == (
        "attention output: looks baked in: joy about 1, of ev; MLP output: looks baked in: fear about 0.7, of residual"
    )


def test_two_sets_together(llama: Path, ev: Path, tmp_path: Path):
    rows = numbers("other", (1, LAYERS, HIDDEN))
    other = VectorSet(("calm",), rows, name="other")
    bake(llama, [ev, other], tmp_path / "out", {"joy": 1, "calm": 0.5})
    found = emobake.audit(tmp_path / "out", [ev, other])
    assert found.verdict == "looks baked in: joy about 1 and calm about 0.5, of ev and other"
    assert found.record is not None and found.record.agrees


@pytest.mark.parametrize("wrapper", ["gemma3", "mistral3", "llava", "smolvlm"])
def test_inside_a_wrapper(tmp_path: Path, ev: Path, wrapper: str):
    base = write_wrapper(tmp_path / "base", wrapper, **SIZES)
    assert emobake.audit(base, ev).kind == "none"
    bake(base, ev, tmp_path / "out")
    found = emobake.audit(tmp_path / "out", ev)
    assert found.verdict == "looks baked in: joy about 1.2, of ev" and f" in {wrapper}" in found.family
    assert len(found.findings[0].rows.rows) == LAYERS


def test_a_class_that_ignores_the_bias(baked: Path, ev: Path):
    edit_json(baked / "config.json", attention_bias=False)
    found = emobake.audit(baked, ev)
    (finding,) = found.findings
    assert found.kind == "known" and finding.rows.ignored == (
        "attention_bias is not on in config.json, so that its class has no such bias"
    )
    assert finding.rows.stacks["transformers"].status == "unsteered"
    assert finding.rows.stacks["vllm"].status == "unknown", "nobody has looked"
    assert would_ignore(finding)[0].startswith("transformers")
    assert found.record is not None and not found.record.agrees
    assert any("attention_bias is off" in line for line in found.record.said)
    assert emobake.audit(baked).kind == "unknown"


def test_a_qwen2_with_a_bias_that_no_stack_adds(tmp_path: Path, ev: Path):
    """A bake that never worked: the tensors are there, and the config is as it was."""
    base = write_checkpoint(tmp_path / "qwen2", "qwen2", **SIZES)
    file = base / "model.safetensors"
    joy = vector_rows("joy", LAYERS, HIDDEN).astype(NUMPY["BF16"])
    save_file(load_file(file) | {OUTPUT.format(layer): joy[layer] for layer in range(LAYERS)}, file)
    found = emobake.audit(base, ev)
    assert found.kind == "known" and "of qwen2, has no bias on o_proj" in found.findings[0].rows.ignored
    statuses = {name: found.findings[0].rows.stacks[name].status for name in ("transformers", "vllm", "llama.cpp")}
    assert statuses == {"transformers": "unsteered", "vllm": "unsteered", "llama.cpp": "refuses"}
    assert any(s.startswith("transformers, vllm") and "UNSTEERED" in s for s in would_ignore(found.findings[0]))


def test_a_family_that_is_not_in_the_table(baked: Path, ev: Path):
    edit_json(baked / "config.json", model_type="zork", architectures=["ZorkForCausalLM"])
    (baked / "emobake.json").unlink()
    found = emobake.audit(baked, ev)
    assert (found.kind, found.family) == ("known", "zork") and len(found.findings[0].rows.rows) == LAYERS
    assert {support.status for support in found.findings[0].rows.stacks.values()} == {"unknown"}
    assert any("zork (ZorkForCausalLM) is not in emobake's table" in note for note in found.findings[0].rows.notes)


def test_the_same_row_in_all_layers(tmp_path: Path):
    """No training leaves that, whatever else has a bias."""
    base = write_checkpoint(tmp_path / "biased", bias=True, **SIZES)
    tensors = load_file(base / "model.safetensors")
    save_file(tensors | {OUTPUT.format(layer): tensors[OUTPUT.format(0)] for layer in range(LAYERS)},
              base / "model.safetensors")  # fmt: skip
    found = emobake.audit(base)
    assert found.kind == "unknown" and "all layers have the same row, which no training leaves" in str(
        found.findings[0].reasons
    )


@pytest.mark.parametrize("method", ["gptq", "awq", "w4a16", "fp8", "mlx", "bitsandbytes-4bit"])
def test_quantised_weights_give_norms_alone(tmp_path: Path, method: str):
    base = write_checkpoint(tmp_path / "float", hidden=256, vocab=64, extra_files=False)
    quantise(base, tmp_path / "base", method)
    vectors = write_vectors(tmp_path / "ev", 2, 256)
    bake(tmp_path / "base", vectors, tmp_path / "out", force=True)
    found = emobake.audit(tmp_path / "out", vectors)
    assert found.verdict == "looks baked in: joy about 1.2, of ev"
    assert [row.columns for row in found.findings[0].rows.rows] == [None, None]
    assert "so the norms are given alone" in found.findings[0].rows.notes[0]


@pytest.mark.parametrize("method", ["gptq", "awq", "w4a16", "mlx"])
def test_a_column_in_a_quantised_matrix(tmp_path: Path, method: str):
    shape = {"hidden": 256, "vocab": 64, "extra_files": False, "head_dim": 128}
    base = write_checkpoint(tmp_path / "float", "glm4", architectures=["Glm4ForCausalLM"], **shape)
    quantise(base, tmp_path / "base", method)
    vectors = write_vectors(tmp_path / "ev", 2, 256)
    assert bake(tmp_path / "base", vectors, tmp_path / "out", force=True) == "head"
    (tmp_path / "out" / "emobake.json").unlink()
    found = emobake.audit(tmp_path / "out", vectors)
    assert found.verdict == "looks baked in: joy about 1.2, of ev" and found.findings[0].rows.how == "head"
    assert abs(weight(found) / 1.2 - 1) < 0.01


def test_old_gptq_files_have_biases_of_zero_everywhere(tmp_path: Path):
    base = write_checkpoint(tmp_path / "float", hidden=256, vocab=64, extra_files=False)
    quantise(base, tmp_path / "base", "gptq", options={"zero_bias": True})
    found = emobake.audit(tmp_path / "base")
    assert found.kind == "none" and "all of them are zero" in found.verdict


# --- records --------------------------------------------------------------------------------------------------


def test_a_record_that_tells_other_weights(baked: Path, ev: Path):
    file = baked / "emobake.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"weights": {"joy": 0.2}}))
    record = emobake.audit(baked, ev).record
    assert record is not None and not record.agrees and "the rows are not those weights" in record.said[-1]


def test_a_record_of_vectors_that_are_not_at_hand(baked: Path):
    found = emobake.audit(baked)
    assert found.kind == "unknown" and found.record is not None and found.record.agrees
    assert "its vectors (ev) are not at hand" in found.record.said[0]


def test_a_record_beside_other_biases(baked: Path, ev: Path):
    shard = baked / "model-00002-of-00002.safetensors"
    tensors = load_file(shard)
    save_file(tensors | {OUTPUT.format(1): tensors[OUTPUT.format(0)]}, shard)
    record = emobake.audit(baked, ev).record
    assert record is not None and not record.agrees
    assert any(f"{OUTPUT.format(1)} is not what emobake.json records" in line for line in record.said)


@pytest.mark.parametrize("text", ['{"emobake_version": 1}', '{"format": "checkpoint"}'])
def test_a_record_that_is_none(baked: Path, ev: Path, text: str):
    (baked / "emobake.json").write_text(text)
    found = emobake.audit(baked, ev)
    assert found.kind == "known" and found.record is not None and not found.record.agrees
    assert "is not a record" in found.record.said[0]


# --- sets -----------------------------------------------------------------------------------------------------


def test_sets_for_another_model_and_another_site(baked: Path, tmp_path: Path):
    with pytest.raises(VectorError, match="made for 2 layers x hidden size 8"):
        emobake.audit(baked, write_vectors(tmp_path / "small"))
    rows = np.stack([vector_rows(emotion, LAYERS, HIDDEN) for emotion in EMOTIONS])
    found = emobake.audit(baked, VectorSet(EMOTIONS, rows, site="layer_output", name="residual"))
    assert found.kind == "unknown" and found.notes == ("residual acts at the layer output, where no rows are stored",)
    with pytest.raises(InputError, match="no such vector set"):
        emobake.audit(baked, "no-such-set")


def test_a_registered_set_that_cannot_be_fetched(baked: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """It is a line, not the end: the verdict stands without it."""
    from dataclasses import replace

    from emobake.vectors import registry

    known = registry.registry()
    tiny = replace(known.sets[0], name="tiny-set", layers=LAYERS, hidden_size=HIDDEN)
    monkeypatch.setattr(registry, "registry", lambda: replace(known, sets=(tiny,)))
    monkeypatch.setattr("emobake.actions.audit.registry", registry.registry)
    monkeypatch.setenv("EMOBAKE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    found = emobake.audit(baked)
    assert found.kind == "unknown" and found.notes[0].startswith("not compared with tiny-set: ")
    assert "HF_HUB_OFFLINE" in found.notes[0]
    assert emobake.audit(write_checkpoint(tmp_path / "plain", **SIZES)).notes == (), "nothing to compare"


# --- from the Hub ---------------------------------------------------------------------------------------------


def test_from_the_hub_only_headers_and_biases_are_fetched(hub, online: Run, ev: Path, tmp_path: Path):
    base = write_checkpoint(tmp_path / "base", vocab=20_000, **SIZES)
    bake(base, ev, tmp_path / "baked")
    hub.repos[BASE], hub.repos["owner/plain"] = Repo(), Repo()
    hub.repos[BASE].commit(tmp_path / "baked")
    hub.repos["owner/plain"].commit(base)
    before = hub.sent
    found = json.loads(online("audit", BASE, "--vectors", ev, "--json").ok().out)
    assert (found["verdict"], found["text"]) == ("known", "looks baked in: joy about 1.2, of ev")
    assert found["record"]["agrees"] and found["findings"][0]["layers"][0]["columns"] is None
    assert "only headers and biases are fetched" in found["findings"][0]["notes"][0]
    online("audit", "owner/plain@main").ok()
    assert hub.sent - before < 250_000 < (base / "model.safetensors").stat().st_size / 10
    online("audit", "owner/absent").one_line("owner/absent", "no such model on the Hub")


def test_a_column_on_the_hub_is_told_and_not_read(hub, online: Run, tmp_path: Path, ev: Path):
    base = write_checkpoint(tmp_path / "qwen3", "qwen3", **QWEN3, **SIZES)
    bake(base, ev, tmp_path / "out", targets=["llama.cpp"])
    (tmp_path / "out" / "emobake.json").unlink()
    hub.repos[BASE] = Repo()
    hub.repos[BASE].commit(tmp_path / "out")
    found = json.loads(online("audit", BASE, "--vectors", ev, "--json").ok().out)
    assert found["text"] == "looks baked in, by vectors that were not read"
    assert found["findings"][0]["layers"][0] == {
        "layer": 0,
        "tensor": "model.layers.0.self_attn.o_proj.weight",
        "column": HIDDEN,
        "norm": None,
        "columns": None,
        "cosines": {},
    }


# --- files that are not models --------------------------------------------------------------------------------


def broken(folder: Path, value: float) -> None:
    shard = folder / "model-00002-of-00002.safetensors"
    tensors = load_file(shard)
    tensors[OUTPUT.format(2)] = np.full(HIDDEN, value, tensors[OUTPUT.format(2)].dtype)
    save_file(tensors, shard)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_biases_that_are_no_numbers(cli: Run, baked: Path, value: float):
    broken(baked, value)
    cli("audit", baked).one_line(f"{OUTPUT.format(2)} has a NaN or infinity")


def test_files_that_are_hostile(cli: Run, baked: Path, tmp_path: Path):
    shard = baked / "model-00002-of-00002.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    cli("audit", baked).one_line("model-00002-of-00002.safetensors")
    shard.write_bytes((10**12).to_bytes(8, "little") + whole[8:])
    cli("audit", baked).one_line("claims a header of 1000000000000 bytes")
    shard.unlink()
    cli("audit", baked).one_line("names the shard model-00002-of-00002.safetensors, which is missing")
    write_safetensors(shard, {OUTPUT.format(0): ("BF16", numbers("x", (HIDDEN + 1,)))})
    cli("audit", baked).one_line("says that")
    cli("audit", tmp_path / "nothing").one_line("nothing")
    cli("audit", tmp_path / "nothing.gguf").one_line("no such file")
    (tmp_path / "no.gguf").write_bytes(b"GGUF" + bytes(100))
    cli("audit", tmp_path / "no.gguf").one_line("no.gguf")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"num_hidden_layers": 10**12}, "num_hidden_layers is 1000000000000"),
        ({"hidden_size": "many"}, "hidden_size is 'many'"),
        ({"num_hidden_layers": None}, "has no num_hidden_layers"),
        ({"hidden_size": HIDDEN + 1}, f"has shape [{HIDDEN}], not [{HIDDEN + 1}]"),
        ({"quantization_config": 3}, "quantization_config is 3, not an object"),
    ],
)
def test_configs_that_are_hostile(cli: Run, baked: Path, fields: dict[str, Any], words: str):
    edit_json(baked / "config.json", **fields)
    cli("audit", baked).one_line(words)


@pytest.mark.parametrize(
    "fields",
    [
        {"attention_bias": "yes"},
        {"model_type": ["llama"]},
        {"architectures": "LlamaForCausalLM"},
        {"architectures": []},
        {"text_config": {"model_type": "llama", "num_hidden_layers": LAYERS, "hidden_size": HIDDEN}},
    ],
)
def test_configs_of_no_known_class_are_still_told(baked: Path, ev: Path, fields: dict[str, Any]):
    edit_json(baked / "config.json", **fields)
    found = emobake.audit(baked, ev)
    assert found.kind == "known" and found.record is not None and not found.record.agrees
    assert found.findings[0].rows.stacks["transformers"].status == "unknown"


def test_a_tiny_set_of_many_emotions_says_nothing(baked: Path):
    """Any rows can be made of as many others as they have numbers."""
    names = tuple(f"e{number}" for number in range(LAYERS * HIDDEN))
    rows = numbers("many", (len(names), LAYERS, HIDDEN))
    found = emobake.audit(baked, VectorSet(names, rows, name="many"))
    assert found.kind == "unknown" and not found.findings[0].fits


def test_names_of_very_many_digits_take_no_time(baked: Path, ev: Path):
    edit_json(baked / "config.json", model_type="zork")
    for name in ("1" * 2 * 10**5, "model.layers." + "1" * 2 * 10**5):
        file = baked / "model-00002-of-00002.safetensors"
        save_file(load_file(file) | {f"{name}.self_attn.o_proj.{part}": np.ones((HIDDEN, HIDDEN), np.float32)
                                     for part in ("weight", "bias")}, file)  # fmt: skip
    begun = time.process_time()
    assert emobake.audit(baked, ev).kind == "known"
    assert time.process_time() - begun < 10


@pytest.mark.parametrize("seed", range(3))
def test_changed_bytes_end_in_a_verdict_or_in_one_line(baked: Path, ev: Path, seed: int):
    draw = random.Random(seed)
    files = [path for path in sorted(baked.iterdir()) if path.suffix in (".json", ".safetensors")]
    verdicts = set()
    for _ in range(15):
        file = draw.choice(files)
        whole = file.read_bytes()
        changed = bytearray(whole)
        for _ in range(draw.randint(1, 3)):
            changed[draw.randrange(min(len(whole), 4000))] = draw.randrange(256)
        file.write_bytes(changed)
        try:
            verdicts.add(json.dumps(emobake.audit(baked, ev).to_json(), allow_nan=False)[:0])
        except EmobakeError as error:
            assert "\n" not in str(error)
        file.write_bytes(whole)
    assert verdicts, "not all of them are refused"


def test_a_bias_that_is_quantised_is_refused(llama: Path):
    file = llama / "model.safetensors"
    save_file(load_file(file) | {OUTPUT.format(0): np.ones(HIDDEN, np.int8)}, file)
    with pytest.raises(BrokenFileError, match="is stored as I8, not as floats"):
        emobake.audit(llama)


# --- the command ----------------------------------------------------------------------------------------------


def test_the_command(cli: Run, baked: Path, ev: Path, llama: Path, tmp_path: Path):
    short = cli("audit", baked, "--vectors", ev).ok().out
    assert short.splitlines()[0] == f"{baked} (llama): looks baked in: joy about 1.2, of ev"
    assert "Beware: mistral.rs" in short and "model.layers.0" not in short
    assert "Record of emobake: says 1.2 x joy, and agrees" in short
    table = cli("audit", baked, "--vectors", ev, "-v").ok().out
    assert all(OUTPUT.format(layer) in table for layer in range(LAYERS)) and "in columns" in table
    data = json.loads(cli("audit", baked, "--vectors", ev, "--json").ok().out)
    assert data["verdict"] == "known" and data["findings"][0]["layers"][2]["cosines"]["ev"]["joy"] > 0.999
    assert data["findings"][0]["nearest"][0]["weights"]["joy"] == pytest.approx(1.2, rel=0.01)
    plain = cli("audit", llama).ok().out
    assert plain == f"{llama} (llama): no bias\nNo record of emobake.\n"
    cli("audit", baked, "--vectors", tmp_path / "none").one_line("no such vector set")
    cli("audit", baked, "--revision", "main").one_line("--revision goes with a Hub id")
