"""Names in strangers' files (of emotions, tensors, files) never lead out of the output, nor onto another line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from support.checkpoints import (
    edit_json,
    numbers,
    raw_safetensors,
    tree,
    vector_rows,
    write_checkpoint,
    write_json,
    write_safetensors,
)
from support.running import Run

import emobake
from emobake import Folder, GgufFile, HubTarget, InputError
from emobake.core.plan import PlannedFile, Span, new_file
from emobake.formats.output import read_record
from emobake.storage.hub.commit import push_items
from emobake.storage.hub.contents import Item
from emobake.storage.local import write_files, write_folder

PATHS = ["../../x", "/abs/x", "..", "a/b", "a\\b", "jo\ny"]


def single_file(path: Path, emotion: str) -> Path:
    """Our own form with one emotion of any name."""
    meta = {"format": "emobake-vectors-1", "site": "attention_output"}
    header = {"__metadata__": meta, emotion: {"dtype": "F32", "shape": [2, 8], "data_offsets": [0, 64]}}
    path.write_bytes(raw_safetensors(header, vector_rows("joy", 2, 8).tobytes()))
    return path


@pytest.mark.parametrize("name", PATHS, ids=ascii)
def test_an_adapter_per_emotion_stays_in_its_folder(cli: Run, base: Path, tmp_path: Path, name: str):
    """Once, such a name was a folder: `--out deep/out` wrote into tmp_path, or anywhere."""
    name = name.replace("/abs", str(tmp_path))
    file, out = single_file(tmp_path / "v.safetensors", name), tmp_path / "deep" / "er" / "out"
    before = tree(tmp_path)
    ran = cli("--model", base, "--vectors", file, "--mix", f"{name}=1", "--format", "peft", "--each", "--out", out)
    ran.one_line("cannot be the name of an emotion", "letters, digits")
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", PATHS, ids=ascii)
def test_a_set_with_such_a_name_is_refused_whichever_emotion_is_asked_for(base: Path, tmp_path: Path, name: str):
    file = single_file(tmp_path / "v.safetensors", name)
    words = "cannot be the name of an emotion"
    with pytest.raises(InputError, match=words):
        emobake.open_vectors(file)
    with pytest.raises(InputError, match=words):
        emobake.bake(base, file, mix={"joy": 1}, out=tmp_path / "out", format="peft-each")
    assert not (tmp_path / "out").exists()


def test_two_spellings_of_an_emotion_are_not_one(base: Path, tmp_path: Path):
    """Once, the later of the two was taken without a word."""
    meta = {"format": "emobake-vectors-1", "site": "attention_output"}
    entry = {"dtype": "F32", "shape": [2, 8]}
    header = {
        "__metadata__": meta,
        "Joy": entry | {"data_offsets": [0, 64]},
        "joy": entry | {"data_offsets": [64, 128]},
    }
    (tmp_path / "v.safetensors").write_bytes(raw_safetensors(header, bytes(128)))
    with pytest.raises(emobake.VectorError, match="'joy' occurs twice"):
        emobake.open_vectors(tmp_path / "v.safetensors")


@pytest.mark.parametrize(
    "change",
    [
        {"weights": {"../x": 1.0}},
        {"weights": {"joy\x1b[2J": 1.0}},
        {"files": {"../x": "model.safetensors"}},
        {"files": {"x": "/etc/passwd"}},
        {"base": {"model": "a\n# b", "revision": None, "weights": []}},
        {"base": {"model": None, "revision": None, "weights": [{"name": "../x", "size": 1}]}},
        {"added_tensors": ["x\ny"]},
        {"format": "peft-each", "adapters": [".."]},
        {"format": "peft-each", "adapters": ["a\\b"]},
    ],
    ids=ascii,
)
def test_a_record_with_such_a_name_is_none(cli: Run, base: Path, vectors: Path, tmp_path: Path, change: dict):
    out = tmp_path / "out"
    emobake.bake(base, vectors, mix={"joy": 1}, out=out)
    edit_json(out / "emobake.json", **change)
    with pytest.raises(InputError, match="is not a record that this version of emobake writes"):
        read_record(out)
    cli("verify", out).one_line("is not a record", "bake again")
    # Once, another bake took such a record over as it was, and nobody could read the new one.
    again = cli("--model", out, "--vectors", vectors, "--mix", "joy=1", "--out", tmp_path / "again")
    again.one_line("emobake.json", "is not a record", "start from the original model")
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "a\\..\\x", "C:\\x", "", "a\nb"], ids=ascii)
def test_writers_refuse_a_name_that_leads_out(tmp_path: Path, name: str):
    file = new_file("x", b"1")
    hostile = replace(file, name=name)
    carried = PlannedFile("x", (Span("../secret", 0, 1),))
    before = tree(tmp_path)
    for planned in (hostile, carried):
        with pytest.raises(InputError, match="cannot be the name of a file in an output"):
            write_folder([file, planned], tmp_path, Folder(tmp_path / "out"))
        with pytest.raises(InputError, match="cannot be the name of a file in an output"):
            write_files([planned], tmp_path, GgufFile(tmp_path / "x.gguf"))
    with pytest.raises(InputError, match="cannot be the name of a file in an output"):
        push_items([Item(name, 1, data=b"1")], HubTarget("me/x"), message="no request is made")
    assert tree(tmp_path) == before


def test_tensors_with_a_line_end_in_their_name(cli: Run, base: Path, vectors: Path, tmp_path: Path):
    write_safetensors(base / "model.safetensors", {"a\nb\x1b[2J": ("F32", numbers("a", (2, 2)))})
    ran = cli("--model", base, "--vectors", vectors, "--mix", "joy=1", "--out", tmp_path / "out")
    ran.one_line("model.safetensors", "control characters")
    assert "\x1b" not in ran.err


@pytest.mark.parametrize("shard", ["../x.safetensors", "/x.safetensors", "a/x.safetensors", "a\\x.safetensors"])
def test_shards_of_an_index_lie_in_the_folder(tmp_path: Path, vectors: Path, shard: str):
    model = write_checkpoint(tmp_path / "m", shards=2)
    index = json.loads((model / "model.safetensors.index.json").read_text())
    index["weight_map"]["lm_head.weight"] = shard
    write_json(model / "model.safetensors.index.json", index)
    with pytest.raises(InputError, match="which is not a shard in this folder"):
        emobake.bake(model, vectors, mix={"joy": 1}, dry_run=True)


def test_tensor_names_of_an_unknown_family_are_no_templates(tmp_path: Path, vectors: Path):
    """Once, braces in a name were filled in like a template's: a traceback."""
    model = write_checkpoint(tmp_path / "m", model_type="zebra", architectures=["ZebraForCausalLM"])
    write_safetensors(
        model / "model.safetensors", {"m.{x}.layers.0.self_attn.o_proj.weight": ("F32", numbers("a", (8, 8)))}
    )
    with pytest.raises(emobake.UnsupportedModelError, match="cannot tell which of its tensors"):
        emobake.bake(model, vectors, mix={"joy": 1}, dry_run=True, format="peft")
    edit_json(model / "config.json", model_type="zebra\n# heading")
    with pytest.raises(InputError, match="is no name"):
        emobake.bake(model, vectors, mix={"joy": 1}, dry_run=True, format="peft")
