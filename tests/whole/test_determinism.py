"""The same inputs give the same bytes, on any day and in any place; `verify` finds every later change."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.checkpoints import (
    NUMPY,
    edit_json,
    read_tensors,
    tree,
    vector_rows,
    write_checkpoint,
    write_json,
    write_safetensors,
    write_vectors,
)
from support.running import TIMES, Ran, Run

KINDS = {
    "llama": {"shards": 2},
    "mistral": {},
    "qwen2": {"dtype": "F16"},
    "gpt2": {"dtype": "F32"},
    "gpt_oss": {"shards": 3},
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A checkpoint of every kind of route."""
    return write_checkpoint(tmp_path / "base", request.param, **KINDS[request.param])


def bake(cli: Run, model: Path, vectors: Path, out: Path, *more: str, times: tuple[str, ...] = TIMES) -> Path:
    cli("--model", model, "--vectors", vectors, *times, "--out", out, "-q", *more).ok()
    return out


# --- the same bytes -------------------------------------------------------------------------------------------


def test_wherever_it_is_baked(cli, kind, vectors, tmp_path):
    first = tree(bake(cli, kind, vectors, tmp_path / "one"))
    assert first == tree(bake(cli, kind, vectors, tmp_path / "a" / "very" / "different" / "place"))
    moved = Path(shutil.copytree(kind, tmp_path / "elsewhere" / kind.name))
    ev = shutil.copytree(vectors, tmp_path / "other" / vectors.name)
    assert first == tree(bake(cli, moved, Path(ev), tmp_path / "two"))
    assert first == tree(bake(cli, kind, vectors, tmp_path / "one", "--overwrite"))


def test_in_other_processes(run_cli, kind, vectors, tmp_path, monkeypatch):
    trees = []
    for seed in ("0", "1", "31337"):
        out = tmp_path / f"seed{seed}"
        env = {"PYTHONHASHSEED": seed, "TZ": f"UTC+{len(seed)}", "LC_ALL": "C" if seed == "0" else "C.UTF-8"}
        run_cli("--model", kind, "--vectors", vectors, *TIMES, "--out", out, "-q", env=env).ok()
        trees.append(tree(out))
    assert trees[0] == trees[1] == trees[2]


def test_the_order_of_the_files_of_a_folder_does_not_matter(cli, kind, vectors, tmp_path, monkeypatch):
    import os

    first = tree(bake(cli, kind, vectors, tmp_path / "one"))
    listdir, scandir, walk = os.listdir, os.scandir, os.walk
    monkeypatch.setattr(os, "listdir", lambda *a: sorted(listdir(*a), reverse=True))
    monkeypatch.setattr(os, "walk", lambda *a, **k: ((r, d, sorted(f, reverse=True)) for r, d, f in walk(*a, **k)))
    assert first == tree(bake(cli, kind, vectors, tmp_path / "two"))
    assert scandir is os.scandir


def test_the_weights_may_be_written_in_any_way(cli, base, vectors, tmp_path):
    """Names in another order are another request only where the order is recorded: the tensors are the same."""
    outs = [bake(cli, base, vectors, tmp_path / "times", times=("--times", "0.5", "0", "0", "0.5", "0"))]
    outs += [bake(cli, base, vectors, tmp_path / "mix", times=("--mix", " Joy = 5e-1 , anger=.5"))]
    outs += [bake(cli, base, vectors, tmp_path / "scale", times=("--mix", "anger=1,joy=1", "--scale", "0.5"))]
    tensors = [read_tensors(out) for out in outs]
    assert tensors[0] == tensors[1] == tensors[2]


@pytest.mark.parametrize("format_", ["checkpoint", "peft"])
def test_nothing_that_is_written_says_where_or_when(cli, kind, vectors, tmp_path, format_):
    written = tree(bake(cli, kind, vectors, tmp_path / "out", "--format", format_))
    own = {name: data for name, data in written.items() if data not in tree(kind).values()}
    assert {"emobake.json", "README.md"} <= set(own)
    for name, data in own.items():
        assert str(tmp_path).encode() not in data and b"/tmp" not in data, name
        # Not "model-00001-of-00002", and not the paper's own number or year.
        dates = re.findall(rb"20\d\d-\d\d-\d\d|\d\d:\d\d:\d\d|\b1[789]\d{8}\b", data) if b"\0" not in data else []
        assert not dates, f"{name}: {dates}"


def test_the_biases_are_what_numpy_says(cli, kind, vectors, tmp_path):
    """Computed here from the vectors alone: existing bias or zero, plus 0.5 anger + 0.5 joy, rounded once."""
    model_type = json.loads((kind / "config.json").read_text())["model_type"]
    before, after = read_tensors(kind), read_tensors(bake(cli, kind, vectors, tmp_path / "out"))
    added = np.float32(0.5) * vector_rows("anger", 2, 8) + np.float32(0.5) * vector_rows("joy", 2, 8)
    stem = "h.{}.attn.c_proj" if model_type == "gpt2" else "model.layers.{}.self_attn.o_proj"
    dtype = NUMPY[KINDS[model_type].get("dtype", "BF16")]
    expected = dict(before)
    for layer in range(2):
        name = stem.format(layer) + ".bias"
        kind_of, shape, _ = before[stem.format(layer) + ".weight"]
        old = np.frombuffer(before[name][2], dtype).astype(np.float32) if name in before else np.float32(0)
        expected[name] = (kind_of, shape[:1], (old + added[layer]).astype(dtype).tobytes())
        for part in "qkv" if model_type in ("llama", "mistral") else "":
            name = f"model.layers.{layer}.self_attn.{part}_proj"
            width = before[f"{name}.weight"][1][0]
            expected[f"{name}.bias"] = (kind_of, (width,), bytes(2 * width))
    assert after == expected


# --- baked again ----------------------------------------------------------------------------------------------


def test_the_history_of_three_bakes(cli, base, vectors, tmp_path):
    model = base
    for i, mix in enumerate(("joy=1", "anger=0.25", "fear=-1,sadness=2")):
        model = bake(cli, model, vectors, tmp_path / str(i), times=("--mix", mix))
        cli("verify", model, "--base", base if i == 0 else tmp_path / str(i - 1), "--vectors", vectors).ok()
    record = json.loads((model / "emobake.json").read_text())
    assert [h["weights"] for h in record["history"]] == [{"joy": 1.0}, {"anger": 0.25}]
    assert all("history" not in h for h in record["history"]), "flat, oldest first"
    assert record["weights"] == {"fear": -1.0, "sadness": 2.0}
    first = json.loads((tmp_path / "0" / "emobake.json").read_text())
    assert record["history"][0] == first
    again = base
    for i, mix in enumerate(("joy=1", "anger=0.25", "fear=-1,sadness=2")):
        again = bake(cli, again, vectors, tmp_path / "again" / str(i), times=("--mix", mix))
    assert tree(again) == tree(model)


def test_baking_the_opposite_undoes_a_bake(cli, tmp_path, vectors):
    """Small whole numbers in float32: nothing is rounded."""
    model = write_checkpoint(tmp_path / "m", dtype="F32", bias=True)
    ev = tmp_path / "ev2"
    ev.mkdir()
    write_json(ev / "x_joy.json", {str(i): [[float(j - 3) for j in range(8)]] for i in range(2)})
    whole = {
        # Adding zero leaves no negative zeros, which would come back positive.
        name: ("F32", np.round(np.frombuffer(data, np.float32).reshape(shape)) + np.float32(0))
        for name, (_, shape, data) in read_tensors(model).items()
    }
    write_safetensors(model / "model.safetensors", whole)
    there = bake(cli, model, ev, tmp_path / "there", times=("--mix", "joy=2"))
    back = bake(cli, there, ev, tmp_path / "back", "--force", times=("--mix", "joy=-2"))
    assert read_tensors(there) != read_tensors(model)
    assert read_tensors(back) == read_tensors(model)


# --- verify ---------------------------------------------------------------------------------------------------


def check(cli: Run, out: Path, base: Path, vectors: Path) -> Ran:
    return cli("verify", out, "--base", base, "--vectors", vectors)


def test_verify_passes(cli, kind, vectors, tmp_path):
    out = bake(cli, kind, vectors, tmp_path / "out", "--hash")
    ran = check(cli, out, kind, vectors).ok()
    assert "FAIL" not in ran.out and "to the bit" in ran.out and "byte-identical" in ran.out
    assert cli("verify", out, "-q").ok().out == ""
    found = json.loads(cli("verify", out, "--base", kind, "--vectors", vectors, "--json").ok().out)
    assert all(c["ok"] for c in found), found
    assert {"planned again", "files as planned", "arithmetic", "no other files"} <= {c["name"] for c in found}


def flip(out: Path, tensor: str, *, byte: int = 0, bit: int = 0) -> None:
    """Change one bit of a tensor, where it lies."""
    for file in sorted(out.glob("model*.safetensors")):
        content = bytearray(file.read_bytes())
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        if tensor in header:
            content[8 + length + header[tensor]["data_offsets"][0] + byte] ^= 1 << bit
            file.write_bytes(content)
            return
    raise AssertionError(f"no {tensor}")


O_BIAS, Q_BIAS = "model.layers.1.self_attn.o_proj.bias", "model.layers.1.self_attn.q_proj.bias"


def config(**fields: object) -> Callable[[Path, Path], object]:
    return lambda out, ev: edit_json(out / "config.json", **fields)


def add(name: str, text: str = "{}") -> Callable[[Path, Path], object]:
    return lambda out, ev: (out / name).write_text(text)


def zero_a_layer(out: Path, ev: Path) -> None:
    """Zero the biases of layer 1, and drop them from the record."""
    shard = out / "model-00002-of-00002.safetensors"
    content, length = bytearray(shard.read_bytes()), int.from_bytes(shard.read_bytes()[:8], "little")
    start, end = (8 + length + at for at in json.loads(content[8 : 8 + length])[O_BIAS]["data_offsets"])
    content[start:end] = bytes(end - start)
    shard.write_bytes(content)
    manifest = json.loads((out / "emobake.json").read_text())
    manifest["biases"] = [entry for entry in manifest["biases"] if entry["layer"] != 1]
    write_json(out / "emobake.json", manifest)


def without_in_index(out: Path, ev: Path) -> None:
    """Leave the biases out of the weight index."""
    index = json.loads((out / "model.safetensors.index.json").read_text())
    kept = {name: file for name, file in index["weight_map"].items() if not name.endswith("o_proj.bias")}
    write_json(out / "model.safetensors.index.json", index | {"weight_map": kept})


# What is changed -> how, the check that finds it with the base, and the one that finds it without.
TAMPERING: dict[str, tuple[Callable[[Path, Path], object], str, str]] = {
    "a bit of a bias": (lambda out, ev: flip(out, O_BIAS, byte=5), "biases as recorded", "biases as recorded"),
    "the sign of a bias": (lambda out, ev: flip(out, O_BIAS, byte=1, bit=7), "arithmetic", "biases as recorded"),
    "a bit of a carried tensor": (
        lambda out, ev: flip(out, "lm_head.weight", byte=99),
        "model-00001-of-00002.safetensors: lm_head.weight differs",
        "",
    ),
    "a bit of a norm": (lambda out, ev: flip(out, "model.norm.weight"), "model.norm.weight differs", ""),
    "a sibling that is not zero": (lambda out, ev: flip(out, Q_BIAS, byte=3, bit=4), Q_BIAS, "sibling biases"),
    "a carried shard with more bytes": (
        lambda out, ev: lengthen(out / "model-00001-of-00002.safetensors"),
        "cannot be checked",
        "cannot be checked",
    ),
    "the flag turned off": (config(attention_bias=False), "config honours", "config honours"),
    "the flag removed": (config(attention_bias=None), "config honours", "config honours"),
    "the flag as a text": (config(attention_bias="false"), "config honours", "config honours"),
    "the flag as a list": (config(attention_bias=[0]), "config honours", "config honours"),
    "the flag as a number": (config(attention_bias=1), "config honours", "config honours"),
    "another model type": (config(model_type="qwen2"), "config honours", "config honours"),
    "another class": (config(architectures=["Qwen2ForCausalLM"]), "config honours", "config honours"),
    "another class first": (
        config(architectures=["Qwen2ForCausalLM", "LlamaForCausalLM"]),
        "config honours",
        "config honours",
    ),
    "no class": (config(architectures=None), "config honours", "config honours"),
    "code": (config(auto_map={"AutoModelForCausalLM": "x.X"}), "config honours", "config honours"),
    "the base frequency": (config(rope_theta=1.0), "config.json: rope_theta is 1.0, not 10000.0", "config.json"),
    "the epsilon": (config(rms_norm_eps=0.5), "rms_norm_eps", "config.json"),
    "a quantisation": (config(quantization_config={"quant_method": "gptq"}), "quantization_config", "config.json"),
    "a changed tokenizer": (add("tokenizer.json"), "tokenizer.json", "tokenizer.json"),
    "a changed template": (add("chat_template.jinja", "x"), "chat_template.jinja", "chat_template.jinja"),
    "a missing tokenizer": (lambda out, ev: (out / "tokenizer_config.json").unlink(), "is missing", "is missing"),
    "a missing generation config": (
        lambda out, ev: (out / "generation_config.json").unlink(),
        "generation_config.json: is missing",
        "generation_config.json is missing",
    ),
    "a changed generation config": (
        lambda out, ev: edit_json(out / "generation_config.json", temperature=9.0),
        "generation_config.json",
        "generation_config.json",
    ),
    "an added template": (add("additional_chat_template.jinja"), "no other files", "no other files"),
    "a changed licence": (add("LICENSE"), "LICENSE", "LICENSE"),
    "biases that the index lacks": (without_in_index, "index.json: weight_map", "index.json"),
    "a layer without its bias": (zero_a_layer, "planned again", "model-00002-of-00002.safetensors"),
    "an adapter beside": (add("adapter_config.json"), "no other files", "no other files"),
    "code beside": (add("modeling_llama.py", "1"), "no other files", "no other files"),
    "a processor beside": (add("preprocessor_config.json"), "no other files", "no other files"),
    "more weights beside": (add("extra.safetensors", "x"), "no other files", "no other files"),
    "pickled weights beside": (add("pytorch_model.bin", "x"), "no other files", "no other files"),
    "a GGUF beside": (add("q4.gguf", "x"), "no other files", "no other files"),
    "the original beside": (lambda out, ev: (out / "original").mkdir(), "no other files", "no other files"),
    "another vector file": (lambda out, ev: write_vectors(ev, emotions=("joy",), seed="2"), "arithmetic", ""),
    "a truncated shard": (
        lambda out, ev: truncate(out / "model-00001-of-00002.safetensors"),
        "cannot be checked",
        "cannot be checked",
    ),
    "a missing shard": (
        lambda out, ev: (out / "model-00002-of-00002.safetensors").unlink(),
        "cannot be checked",
        "cannot be checked",
    ),
    "a recorded digest": (lambda out, ev: record(out, "biases", 0, sha256="0" * 64), "biases as", "biases as"),
    "a recorded weight": (lambda out, ev: record(out, "weights", None, joy=0.75), "arithmetic", ""),
    "a recorded norm": (lambda out, ev: record(out, "biases", 0, norm=1.0), "arithmetic", ""),
    "a recorded tensor": (lambda out, ev: record(out, "biases", 0, tensor="gone.bias"), "biases as", "biases as"),
    "a recorded digest of a file": (
        lambda out, ev: record(out, "digests", None, **{"config.json": "0" * 64}),
        "another digests",
        "config.json",
    ),
    "a recorded size": (lambda out, ev: record(out, "base", None, weights=[]), "another base", "carried weights"),
    "a recorded route": (lambda out, ev: said(out, route="existing"), "does not apply", ""),
    "a recorded history": (
        lambda out, ev: said(out, history=[json.loads((out / "emobake.json").read_text())]),
        "another history",
        "",
    ),
}


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def lengthen(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"x")


def record(out: Path, field: str, index: int | None, **changes: object) -> None:
    """Change a field of the manifest."""
    manifest = json.loads((out / "emobake.json").read_text())
    (manifest[field] if index is None else manifest[field][index]).update(changes)
    write_json(out / "emobake.json", manifest)


def failures(ran: Ran) -> list[str]:
    assert ran.err == "", ran.err
    return [line for line in ran.out.splitlines() if line.startswith("FAIL")]


def said(out: Path, **fields: object) -> None:
    """Change fields of the record, and leave its nulls alone."""
    write_json(out / "emobake.json", json.loads((out / "emobake.json").read_text()) | fields)


@pytest.mark.parametrize("what", TAMPERING)
def test_verify_finds(cli, base, vectors, tmp_path, what):
    out = bake(cli, base, vectors, tmp_path / "out")
    change, with_base, alone = TAMPERING[what]
    change(out, vectors)
    ran = check(cli, out, base, vectors)
    assert ran.code == 1 and any(with_base in line for line in failures(ran)), ran.out
    ran = cli("verify", out)
    assert ran.code == bool(alone) and (not alone or any(alone in line for line in failures(ran))), ran.out


def test_what_a_person_may_change_is_named_and_accepted(cli, base, vectors, tmp_path):
    out = bake(cli, base, vectors, tmp_path / "out")
    (out / "README.md").write_text("# Mine\n")
    (out / "notes.txt").write_text("x")
    (out / "evaluation").mkdir()
    (out / "evaluation" / "report.json").write_text("{}")
    (out / ".cache").mkdir()
    (out / ".cache" / "x.json").write_text("{}")
    said(out, emobake_version="0.0.9")
    ran = check(cli, out, base, vectors).ok()
    assert "info model card: README.md is not" in ran.out
    assert "info other files: no loader reads evaluation/report.json, notes.txt" in ran.out
    assert cli("verify", out).ok()
    (out / "README.md").unlink()
    check(cli, out, base, vectors).ok()


def test_a_record_of_an_earlier_version_says_what_was_not_checked(cli, base, vectors, tmp_path):
    out = bake(cli, base, vectors, tmp_path / "out")
    manifest = json.loads((out / "emobake.json").read_text())
    del manifest["digests"], manifest["vectors"]["rows_sha256"]
    write_json(out / "emobake.json", manifest)
    ran = cli("verify", out).ok()
    assert "info files as recorded: emobake.json is of an earlier version and has no digests: config" in ran.out
    assert "FAIL" not in check(cli, out, base, vectors).ok().out
    edit_json(out / "config.json", rope_theta=1.0)
    assert check(cli, out, base, vectors).code == 1
    (out / "pytorch_model.bin").write_text("x")
    assert cli("verify", out).code == 1


def test_verify_waits_for_no_pipe(cli, base, vectors, tmp_path):
    out = bake(cli, base, vectors, tmp_path / "out")
    (out / "README.md").unlink()
    os.mkfifo(out / "README.md")
    os.mkfifo(out / "notes.txt")
    assert "info other files: no loader reads notes.txt" in check(cli, out, base, vectors).ok().out
    (out / "tokenizer.json").unlink()
    os.mkfifo(out / "tokenizer.json")
    assert check(cli, out, base, vectors).code == 1 and cli("verify", out).code == 1


def test_a_link_to_the_base_is_not_read(cli, base, vectors, tmp_path, monkeypatch):
    out = bake(cli, base, vectors, tmp_path / "out", "--link-mode", "hardlink")
    monkeypatch.setattr("emobake.storage.comparing.read_piece", lambda reader, piece: iter((b"not the base",)))
    (out / "tokenizer.json").unlink()
    ran = check(cli, out, base, vectors)
    shown = failures(ran)
    assert not any("model-00001" in line for line in shown) and any("tokenizer.json" in line for line in shown)


def test_verify_streams(cli, vectors, tmp_path):
    """A carried file of 64 MB, copied, is compared in a few megabytes."""
    import tracemalloc

    large = write_checkpoint(tmp_path / "large", vocab=4_000_000 // 2, dtype="BF16", extra_files=False)
    out = bake(cli, large, vectors, tmp_path / "out")
    assert (out / "model-00001-of-00002.safetensors").stat().st_size > 60e6
    import emobake

    tracemalloc.start()
    checks = emobake.verify(out, base=large, vectors=str(vectors))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert all(check.ok for check in checks), checks
    assert peak < 25e6


def test_verify_finds_a_changed_existing_bias(cli, biased, vectors, tmp_path):
    out = bake(cli, biased, vectors, tmp_path / "out")
    flip(out, "h.0.attn.c_proj.bias", bit=3)
    ran = check(cli, out, biased, vectors)
    assert ran.code == 1 and "FAIL arithmetic" in ran.out and "FAIL biases as recorded" in ran.out


def test_verify_against_the_wrong_base(cli, base, vectors, tmp_path):
    out = bake(cli, base, vectors, tmp_path / "out")
    other = write_checkpoint(tmp_path / "other", vocab=17)
    ran = cli("verify", out, "--base", other)
    assert ran.code == 1 and "FAIL files as planned" in ran.out


@pytest.mark.parametrize(
    ("content", "words"),
    [("{", ("not valid JSON",)), ("{}", ("bake again",)), ('{"format": "checkpoint", "weights": []}', ("bake again",))],
)
def test_verify_of_a_broken_record(cli, base, vectors, tmp_path, content, words):
    out = bake(cli, base, vectors, tmp_path / "out")
    (out / "emobake.json").write_text(content)
    cli("verify", out).one_line("emobake.json", *words)


def test_verify_of_what_is_no_output(cli, base, tmp_path):
    cli("verify", base).one_line(str(base), "no emobake.json", "bake it first")
    cli("verify", tmp_path / "nowhere").one_line("nowhere", "no such folder")


WEIRD = [
    ("biases", [3]),
    ("biases", [{"tensor": O_BIAS}]),
    ("biases", [{"tensor": O_BIAS, "sha256": "0", "layer": 99}]),
    ("weights", {"joy": "much"}),
    ("added_tensors", [3, None]),
    ("steered_layers", 7),
    ("vectors", []),
    ("vectors", None),
]


@pytest.mark.parametrize(("field", "value"), WEIRD, ids=str)
def test_verify_of_a_strange_record(cli, base, vectors, tmp_path, field, value):
    out = bake(cli, base, vectors, tmp_path / "out")
    edit_json(out / "emobake.json", **{field: value})
    if value is None:
        manifest = json.loads((out / "emobake.json").read_text()) | {field: None}
        write_json(out / "emobake.json", manifest)
    ran = check(cli, out, base, vectors)
    assert ran.code in (1, 2) and "unexpected" not in ran.err, ran.err
