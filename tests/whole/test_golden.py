"""The bytes of every kind of output, held against committed digests: a refactoring must not change one of them.

A release changes `emobake_version` in every record; then, and when an output is changed on purpose, write the file
anew and read the difference: EMOBAKE_WRITE_GOLDEN=1 python -m pytest tests/whole/test_golden.py
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from support import gguf_files
from support.checkpoints import tree, vector_rows, write_checkpoint, write_json, write_vectors

import emobake

SUMS = Path(__file__).parent / "golden" / "SHA256SUMS"
WRITE = os.environ.get("EMOBAKE_WRITE_GOLDEN") == "1"
CHECKPOINTS = {
    "llama": {"shards": 2},
    "mistral": {},
    "qwen2": {"dtype": "F16"},
    "gpt2": {"dtype": "F32"},
    "gpt_oss": {"shards": 3},
}
MIX = "joy=1.5,anger=-0.25"


def committed() -> dict[str, str]:
    lines = SUMS.read_text().splitlines() if SUMS.exists() else []
    return {name: digest for digest, name in (line.split("  ", 1) for line in lines)}


def compare(case: str, files: dict[str, bytes]) -> None:
    found = {f"{case}/{name}": hashlib.sha256(data).hexdigest() for name, data in files.items()}
    wanted = committed()
    if WRITE:
        kept = {name: digest for name, digest in wanted.items() if not name.startswith(f"{case}/")}
        lines = [f"{digest}  {name}\n" for name, digest in sorted((kept | found).items())]
        SUMS.write_text("".join(lines))
        return
    assert found == {name: digest for name, digest in wanted.items() if name.startswith(f"{case}/")}


@pytest.mark.parametrize("model_type", CHECKPOINTS)
def test_checkpoints(cli, vectors, tmp_path, model_type):
    base = write_checkpoint(tmp_path / "base", model_type, **CHECKPOINTS[model_type])
    options = ("--model", base, "--vectors", vectors, "--mix", MIX, "--base-model", "owner/base", "--hash", "-q")
    cli(*options, "--out", tmp_path / "out").ok()
    compare(f"checkpoint/{model_type}", tree(tmp_path / "out"))
    again = ("--model", tmp_path / "out", "--vectors", vectors, "--mix", "fear=1", "--layers", "1", "-q")
    cli(*again, "--out", tmp_path / "again").ok()
    compare(f"again/{model_type}", tree(tmp_path / "again"))


def test_adapters(cli, base, vectors, tmp_path):
    options = ("--model", base, "--vectors", vectors, "--mix", MIX, "--format", "peft", "-q")
    cli(*options, "--out", tmp_path / "one").ok()
    compare("adapter", tree(tmp_path / "one"))
    cli(*options, "--each", "--base-model", "owner/base", "--out", tmp_path / "each").ok()
    compare("adapters", tree(tmp_path / "each"))


@pytest.mark.parametrize("name", ["llama-F32", "llama-Q4_K", "qwen2-Q8_0", "llama-split", "llama-share"])
def test_gguf_models(cli, tmp_path, name):
    architecture, _, kind = name.partition("-")
    split = 5 if kind == "split" else 0
    model = tmp_path / "model.gguf"
    qkv_bias = architecture == "qwen2" or None
    gguf_files.write_model(model, architecture, getattr(Kind, kind, Kind.F32), split=split, qkv_bias=qkv_bias)
    model = sorted(tmp_path.glob("*.gguf"))[0]
    layers, hidden = gguf_files.LAYERS, gguf_files.HIDDEN
    vectors = write_vectors(tmp_path / "ev", layers=layers, hidden=hidden)
    (tmp_path / "out").mkdir()
    more = {"split": ("--keep-split",), "share": ("--share",)}.get(kind, ("--modelfile",))
    options = ("--model", model, "--vectors", vectors, "--mix", MIX, "--base-model", "owner/base", "-q", *more)
    cli(*options, "--out", tmp_path / "out" / "baked.gguf").ok()
    compare(f"gguf/{name}", tree(tmp_path / "out"))


def test_vector_sets(tmp_path):
    rows = np.stack([vector_rows(emotion, 2, 8) for emotion in ("anger", "joy")])
    vectors = emobake.VectorSet(
        ("anger", "joy"), rows, name="ev", base_model="owner/base", license="mit", source="here"
    )
    for name in ("set.safetensors", "set.npz", "folder"):
        emobake.write_set(vectors, tmp_path / name)
    rows[:, 0] = 0
    acting = emobake.VectorSet(("joy",), rows[1:], name="ev", site="layer_output", base_model="owner/base")
    emobake.write_set(acting, tmp_path / "joy.gguf")
    compare("vectors", tree(tmp_path))


@pytest.mark.real
def test_smollm2(cli, smollm2, tmp_path):
    base = shutil.copytree(smollm2, tmp_path / "SmolLM2-135M-Instruct", copy_function=os.link)
    config = json.loads((base / "config.json").read_text())
    del config["transformers_version"]
    (base / "config.json").unlink()
    write_json(base / "config.json", config)
    for case, more in (("smollm2", ()), ("smollm2-adapter", ("--format", "peft"))):
        options = ("--model", base, "--vectors-for", "HuggingFaceTB/SmolLM2-135M-Instruct", "--mix", "joy=1.2", "-q")
        cli(*options, *more, "--link-mode", "hardlink", "--out", tmp_path / case).ok()
        compare(case, tree(tmp_path / case))
