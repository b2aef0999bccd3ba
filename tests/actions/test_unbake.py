"""`unbake` of checkpoints and GGUF files: the base again, to the byte; and what it says where it cannot."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from gguf import GGMLQuantizationType as Kind
from support import gguf_files
from support.checkpoints import DUPLICATES, tree, write_checkpoint, write_json, write_vectors
from support.wrapper_files import write_wrapper

import emobake
from emobake.core.undo import UNDO_FILE, Undo
from emobake.errors import InputError, OutputError
from emobake.formats.gguf.model import RECORD_KEY, UNDO_KEY, open_gguf

LEFT = ("modeling_custom.py", *DUPLICATES)
"""Files of `write_checkpoint` that no bake carries."""


def kept(base: Path) -> dict[str, bytes]:
    """The files of a base that are made again."""
    return {name: data for name, data in tree(base).items() if name not in LEFT}


def bake(base: Path, vectors: Path, out: Path, **options: Any) -> Path:
    return emobake.bake(base, vectors, out=out, **{"mix": {"joy": 1.5, "anger": -0.25}, **options}).out


CHECKPOINTS: dict[str, tuple[str, dict[str, Any], str]] = {
    "flag": ("llama", {}, "flag"),
    "flag in shards": ("llama", {"shards": 3}, "flag"),
    "a bias that is there": ("llama", {"bias": True, "shards": 2}, "existing"),
    "llama": ("mistral", {"shards": 2}, "llama"),
    "llama with biases": ("qwen2", {"dtype": "F16"}, "llama"),
    "existing": ("gpt2", {"dtype": "F32"}, "existing"),
    "existing in 64 bits": ("gpt2", {"dtype": "F64", "shards": 2}, "existing"),
    "existing in shards": ("gpt_oss", {"shards": 3}, "existing"),
}


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_a_checkpoint(case, vectors, tmp_path):
    model_type, options, route = CHECKPOINTS[case]
    base = write_checkpoint(tmp_path / "base", model_type, **options)
    (base / "generation_config.json").write_text("")  # An empty file comes back as well.
    out = bake(base, vectors, tmp_path / "out", hash_files=True)
    assert emobake.read_record(out).route == route
    found = emobake.unbake(out, tmp_path / "again")
    assert tree(tmp_path / "again") == kept(base)
    assert found.out == tmp_path / "again" and found.bakes == 1 and found.notes == ()
    assert set(found.proved) == {name for name in kept(base) if name.endswith(".safetensors")}
    assert found.unproved == ()
    assert set(found.left_out) == {"modeling_custom.py", "pytorch_model.bin", "original/", "x.gguf", "onnx/"} | {
        "consolidated.safetensors"
    }
    assert found.files == {name: len(data) for name, data in kept(base).items()}
    # What was restored gives the same bake: nothing is missing that a bake looks at.
    bake(tmp_path / "again", vectors, tmp_path / "second", hash_files=True)
    names = {name for name in tree(out) if name != "README.md"}
    one, other = tree(out), tree(tmp_path / "second")
    assert {name for name in names if one[name] != other[name]} <= {"emobake.json", UNDO_FILE}, (
        "which name what is left"
    )


def test_files_in_every_spelling(vectors, tmp_path):
    """An index with another layout, a config on one line, a single file by another name, a card that is no text."""
    base = write_checkpoint(tmp_path / "base", shards=2)
    index = base / "model.safetensors.index.json"
    index.write_text(json.dumps(json.loads(index.read_text()), sort_keys=True))
    (base / "config.json").write_bytes(json.dumps(json.loads((base / "config.json").read_text())).encode() + b"\r\n")
    (base / "README.md").write_bytes(b"\xff\xfe no text \x00\n" * 50)
    out = bake(base, vectors, tmp_path / "out")
    emobake.unbake(out, tmp_path / "again")
    assert tree(tmp_path / "again") == kept(base)

    single = write_checkpoint(tmp_path / "single")
    (single / "model.safetensors").rename(single / "gptq_model-4bit.safetensors")
    emobake.unbake(bake(single, vectors, tmp_path / "s"), tmp_path / "s again")
    assert tree(tmp_path / "s again") == {**kept(single)}

    # An index that nothing reads, since one file holds all.
    stale = write_checkpoint(tmp_path / "stale", extra_files=False)
    shutil.copy(index, stale)
    emobake.unbake(bake(stale, vectors, tmp_path / "t"), tmp_path / "t again")
    assert tree(tmp_path / "t again") == tree(stale)


def test_the_record_and_the_command_line(cli, base, vectors, tmp_path):
    words = ("--model", base, "--vectors", vectors, "--mix", "joy=1", "--base-model", "owner/base", "-q")
    cli(*words, "--out", tmp_path / "out").ok()
    record = json.loads((tmp_path / "out" / "emobake.json").read_text())
    assert list(record["undo"]) == ["sha256"]
    ran = cli("unbake", tmp_path / "out", "--out", tmp_path / "again").ok()
    assert f"Restored: {tmp_path / 'again'}" in ran.out and ran.err == ""
    assert "owner/base (9 files" in ran.out
    assert "unproved model.safetensors: the record keeps no digest" in ran.out
    assert "pytorch_model.bin" in ran.out and "proved " not in ran.out.replace("unproved ", "")
    ran = cli("unbake", tmp_path / "out", "--out", tmp_path / "quiet", "-q").ok()
    assert ran.out == ran.err == ""
    ran = cli("unbake", tmp_path / "out", "--out", tmp_path / "json", "--json").ok()
    found = json.loads(ran.out)
    assert found["unproved"] == ["model.safetensors"] and found["proved"] == [] and found["bakes_undone"] == 1
    assert found["base"] == "owner/base" and {"name": "README.md", "size": 106} in found["files"]
    # By a second bake with digests.
    cli(*words, "--hash", "--out", tmp_path / "hashed").ok()
    ran = cli("unbake", tmp_path / "hashed", "--out", tmp_path / "proved").ok()
    assert "proved   model.safetensors: the sha256 of the base" in ran.out and "unproved" not in ran.out


@pytest.mark.parametrize("mode", ["copy", "link", "hardlink", "symlink"])
def test_links(mode, sharded, vectors, tmp_path):
    out = bake(sharded, vectors, tmp_path / "out")
    emobake.unbake(out, emobake.Folder(tmp_path / "again", mode))
    assert {n: (tmp_path / "again" / n).read_bytes() for n in kept(sharded)} == kept(sharded)
    shard, source = tmp_path / "again" / "model-00001-of-00003.safetensors", out / "model-00001-of-00004.safetensors"
    assert shard.is_symlink() == (mode == "symlink")
    assert mode == "link" or shard.samefile(source) == (mode in ("hardlink", "symlink"))
    assert not (tmp_path / "again" / "config.json").is_symlink()


def test_a_patched_file_is_never_a_link(biased, vectors, tmp_path):
    out = bake(biased, vectors, tmp_path / "out")
    before = tree(out)
    emobake.unbake(out, emobake.Folder(tmp_path / "again", "hardlink"))
    assert tree(tmp_path / "again") == kept(biased) and tree(out) == before


def test_several_bakes(cli, sharded, biased, vectors, tmp_path):
    for name, base in (("flag", sharded), ("existing", biased)):
        folders = [base]
        for number, mix in enumerate(({"joy": 1}, {"anger": 0.5}, {"fear": -0.5}), 1):
            folders.append(bake(folders[-1], vectors, tmp_path / f"{name}{number}", mix=mix))
        found = emobake.unbake(folders[3], tmp_path / f"{name} base")
        assert tree(tmp_path / f"{name} base") == kept(base) and found.bakes == 3
        found = emobake.unbake(folders[3], tmp_path / f"{name} last", last=True)
        assert tree(tmp_path / f"{name} last") == tree(folders[2]) and found.bakes == 1
        assert found.left_out == ()
        again = ("unbake", folders[2], "--out", tmp_path / f"{name} last", "--overwrite", "-q")
        cli(*again, "--last").ok()
        assert tree(tmp_path / f"{name} last") == tree(folders[1]), "an output of emobake may be replaced"
        cli(*again).ok()
        assert tree(tmp_path / f"{name} last") == kept(base)
        cli(*again).one_line("is not an earlier output of emobake")
        assert not list(tmp_path.glob(".*")), "a stage is left"


def without_undo(out: Path, *, earlier: bool = False) -> None:
    """Make the record, or the first one in its history, that of a version that kept nothing."""
    record = json.loads((out / "emobake.json").read_text())
    del (record["history"][0] if earlier else record)["undo"]
    write_json(out / "emobake.json", record)


def test_an_earlier_bake_that_cannot_be_undone(cli, base, vectors, tmp_path):
    one = bake(base, vectors, tmp_path / "one")
    without_undo(one)
    (one / UNDO_FILE).unlink()
    two = bake(one, vectors, tmp_path / "two")
    before = tree(tmp_path)
    ran = cli("unbake", two, "--out", tmp_path / "again")
    ran.one_line("was baked 2 times; bake 1: was baked by a version of emobake that kept nothing of the base", "--last")
    assert tree(tmp_path) == before
    emobake.unbake(two, tmp_path / "again", last=True)
    assert tree(tmp_path / "again") == tree(one)


def test_records_of_earlier_versions(cli, base, vectors, tmp_path):
    out = bake(base, vectors, tmp_path / "out", mix={"joy": 1})
    without_undo(out)
    (out / UNDO_FILE).unlink()
    line = cli("unbake", out, "--out", tmp_path / "again").one_line(
        "kept nothing of the base", "take the original model"
    )
    assert str(out) in line and not (tmp_path / "again").exists()
    for words in ((), ("--base", base, "--vectors", vectors)):
        assert "FAIL" not in cli("verify", out, *words).ok().out, "such outputs are as good as before"


def test_a_history_that_is_not_that_of_the_base(cli, base, vectors, tmp_path):
    one = bake(base, vectors, tmp_path / "one")
    two = bake(one, vectors, tmp_path / "two")
    record = json.loads((two / "emobake.json").read_text())
    record["history"][0]["weights"] = {"joy": 9}
    write_json(two / "emobake.json", record)
    before = tree(tmp_path)
    cli("unbake", two, "--out", tmp_path / "again").one_line("is not a bake of what its record says was baked before")
    assert tree(tmp_path) == before and not list(tmp_path.glob(".*"))


def test_what_cannot_be_undone(cli, base, vectors, tmp_path):
    bake(base, vectors, tmp_path / "adapter", format="peft")
    for out in (tmp_path / "adapter",):
        cli("unbake", out, "--out", tmp_path / "a").one_line("is an adapter of its own, and the base is untouched")
    bake(base, vectors, tmp_path / "each", format="peft-each", mix=None)
    cli("unbake", tmp_path / "each", "--out", tmp_path / "a").one_line("holds adapters of its own", "untouched")
    wrapper = write_wrapper(tmp_path / "wrapper")
    bake(wrapper, vectors, tmp_path / "text", text_only=True, mix={"joy": 1})
    ran = cli("unbake", tmp_path / "text", "--out", tmp_path / "a")
    ran.one_line("because the output is the language model alone; take the original model")
    record = json.loads((tmp_path / "text" / "emobake.json").read_text())
    assert record["undo"] == {"irreversible": "the output is the language model alone"}
    assert not (tmp_path / "text" / UNDO_FILE).exists() and not (tmp_path / "a").exists()
    bake(wrapper, vectors, tmp_path / "whole", mix={"joy": 1})
    emobake.unbake(tmp_path / "whole", tmp_path / "a")
    assert tree(tmp_path / "a") == kept(wrapper)


def test_bad_input(cli, base, vectors, tmp_path):
    out = bake(base, vectors, tmp_path / "out")
    before = tree(tmp_path)
    again = ("--out", tmp_path / "again")
    cli("unbake", base, *again).one_line("has no emobake.json, so it is not an output of emobake")
    cli("unbake", tmp_path / "none", *again).one_line("no such folder")
    cli("unbake", tmp_path / "none.gguf", *again).one_line("no such file")
    cli("unbake", out).one_line("--out")
    cli("unbake", out, "--out", tmp_path / "base.gguf").one_line("is a folder; give a name without .gguf")
    cli("unbake", out, "--out", out).one_line("is, contains or lies within the input")
    cli("unbake", out, "--out", out / "in").one_line("is, contains or lies within the input")
    cli("unbake", out, "--out", base).one_line("exists already", "--overwrite")
    cli("unbake", out, "--out", base, "--overwrite").one_line("is not an earlier output of emobake")
    cli("unbake", out, "--revision", "main", *again).one_line("--revision goes with a Hub id")
    cli("unbake", out, "--link-mode", "reflink!", *again).one_line("--link-mode")
    with pytest.raises(InputError, match="give `out`"):
        emobake.unbake(out, None)
    with pytest.raises(InputError, match="`link_mode` takes one of"):
        emobake.unbake(out, emobake.Folder(tmp_path / "again", "some"))
    assert tree(tmp_path) == before


def flipped(file: Path, place: int = -1) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)


def longer(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"\n")


def edited(out: Path, **fields: Any) -> None:
    write_json(out / "emobake.json", json.loads((out / "emobake.json").read_text()) | fields)


def repacked(out: Path, **fields: Any) -> None:
    """Other undo data, to which the record is made to fit."""
    import hashlib
    from dataclasses import replace

    undo = Undo.unpack((out / UNDO_FILE).read_bytes(), "f")
    data = replace(undo, **fields).pack()
    (out / UNDO_FILE).write_bytes(data)
    edited(out, undo={"sha256": hashlib.sha256(data).hexdigest()})


def renamed(out: Path, old: str, new: str) -> None:
    from dataclasses import replace

    undo = Undo.unpack((out / UNDO_FILE).read_bytes(), "f")
    repacked(out, files=tuple(replace(f, name=new) if f.name == old else f for f in undo.files))


SHARD = "model-00001-of-00003.safetensors"
TAMPERED: dict[str, tuple[Any, tuple[str, ...]]] = {
    "weights": (
        lambda out: flipped(out / SHARD),
        ("model-00001-of-00002.safetensors, made again of it, has not the digest",),
    ),
    "weights in the record": (
        lambda out: weights(out, lambda entry: entry | {"sha256": "0" * 64}),
        ("has not the digest that the record keeps",),
    ),
    "sizes in the record": (lambda out: weights(out, lambda entry: entry | {"size": 7}), ("keeps other files",)),
    "names in the record": (lambda out: weights(out, lambda entry: entry | {"name": "x"}), ("keeps other files",)),
    "a weight file less": (
        lambda out: edited(out, base={"model": None, "revision": None, "weights": []}),
        ("keeps other files",),
    ),
    "the undo data": (lambda out: flipped(out / UNDO_FILE), (UNDO_FILE, "is not what emobake.json names")),
    "the undo data are gone": (lambda out: (out / UNDO_FILE).unlink(), (UNDO_FILE, "not found")),
    "the digest of them": (
        lambda out: edited(out, undo={"sha256": "0" * 64}),
        (UNDO_FILE, "is not what emobake.json names"),
    ),
    "the digest is none": (lambda out: edited(out, undo={"sha256": 7}), ("is not a record",)),
    "a tokenizer": (lambda out: flipped(out / "tokenizer.json"), ("tokenizer.json: is not as emobake.json names it",)),
    "a longer tokenizer": (
        lambda out: longer(out / "tokenizer.json"),
        ("tokenizer.json: is missing, or has not the size",),
    ),
    "a licence is gone": (lambda out: (out / "LICENSE").unlink(), ("LICENSE: is missing",)),
    "undo data that name code": (lambda out: renamed(out, "LICENSE", "modeling_x.py"), ("which is no file of a base",)),
    "undo data that name another file": (
        lambda out: repacked(out, sources={"../base/config.json": 1}, files=other_files(out)),
        ("../base/config.json: is missing",),
    ),
    "undo data that lead into a folder": (
        lambda out: renamed(out, "model-00001-of-00002.safetensors", "x/model-00001-of-00002.safetensors"),
        ("keeps other files",),
    ),
}


def other_files(out: Path) -> Any:
    from emobake.core.plan import Span
    from emobake.core.undo import BaseFile

    undo = Undo.unpack((out / UNDO_FILE).read_bytes(), "f")
    weights = [file for file in undo.files if file.name.endswith(".safetensors")]
    made = [BaseFile(file.name, (bytes(file.size),)) for file in weights]
    return (*made, BaseFile("LICENSE", (Span("../base/config.json", 0, 1),)))


def weights(out: Path, change: Any) -> None:
    record = json.loads((out / "emobake.json").read_text())
    record["base"]["weights"][0] = change(record["base"]["weights"][0])
    write_json(out / "emobake.json", record)


@pytest.mark.parametrize("case", TAMPERED)
def test_an_output_that_was_changed(case, cli, vectors, tmp_path):
    change, words = TAMPERED[case]
    base = write_checkpoint(tmp_path / "base", shards=2)
    out = bake(base, vectors, tmp_path / "out", hash_files=True)
    change(out)
    before = tree(tmp_path)
    cli("unbake", out, "--out", tmp_path / "again").one_line(*words)
    assert tree(tmp_path) == before and not list(tmp_path.glob(".*")), "nothing was written"


def test_weights_that_change_meanwhile(monkeypatch, base, vectors, tmp_path):
    out = bake(base, vectors, tmp_path / "out")
    shard = next(out.glob("*.safetensors"))
    from emobake.actions import unbake as module

    real = module.plan_restoration

    def changing(*arguments: Any) -> Any:
        os.utime(shard, (1, 1))
        return real(*arguments)

    monkeypatch.setattr(module, "plan_restoration", changing)
    with pytest.raises(OutputError, match="changed while it was used"):
        emobake.unbake(out, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_verify_looks_at_the_undo_data(cli, base, vectors, tmp_path):
    out = bake(base, vectors, tmp_path / "out")
    for words in ((), ("--base", base)):
        assert "ok   undo data: emobake.undo is as recorded" in cli("verify", out, *words).ok().out
    # The base's card is in there: with another one, the output is no worse.
    (base / "README.md").write_text("another card\n")
    ran = cli("verify", out, "--base", base, "--vectors", vectors).ok()
    assert "info undo data: emobake.undo is not as a bake of this base writes it" in ran.out
    flipped(out / UNDO_FILE)
    assert "FAIL undo data: emobake.undo is not what emobake.json names" in cli("verify", out).out
    (out / UNDO_FILE).unlink()
    assert "info undo data: emobake.undo was removed" in cli("verify", out).ok().out


# --- GGUF files ------------------------------------------------------------------------------------------------------


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """Vectors for the models of `gguf_files`."""
    return write_vectors(tmp_path / "wide", layers=gguf_files.LAYERS, hidden=gguf_files.HIDDEN)


FILES: dict[str, tuple[str, Kind, dict[str, Any]]] = {
    "llama": ("llama", Kind.F32, {}),
    "llama in 4 bits": ("llama", Kind.Q4_K, {}),
    "with biases": (
        "llama",
        Kind.Q8_0,
        {"biases": {f"blk.{n}.attn_output.bias": gguf_files.np.full(256, n + 0.5) for n in range(2)}},
    ),
    "qwen2": ("qwen2", Kind.Q8_0, {}),
    "another alignment": ("qwen2", Kind.Q4_0, {"alignment": 64, "fields": {"general.license": "mit"}}),
    "with a base": ("llama", Kind.F16, {"fields": {"general.base_model.0.name": "B", "general.base_model.count": 1}}),
}


@pytest.mark.parametrize("case", FILES)
def test_a_gguf_file(case, wide, tmp_path):
    architecture, kind, options = FILES[case]
    gguf_files.write_model(tmp_path / "base.gguf", architecture, kind, **options)
    data = (tmp_path / "base.gguf").read_bytes()
    for name, more in (("out", {}), ("mood", {"share": "keep"})):
        out = bake(tmp_path / "base.gguf", wide, emobake.GgufFile(tmp_path / f"{name}.gguf", **more), hash_files=True)
        out = out if out.exists() else tmp_path / "mood-00001-of-00002.gguf"
        found = emobake.unbake(out, tmp_path / f"{name} again.gguf")
        assert found.out.read_bytes() == data and found.proved == (found.out.name,)
    emobake.join(out, tmp_path / "joined.gguf")
    assert emobake.unbake(tmp_path / "joined.gguf", tmp_path / "j.gguf").out.read_bytes() == data
    # What the base lacks in padding at its end, the restored one lacks as well.
    if case == "llama":
        (tmp_path / "base.gguf").write_bytes(data + bytes(-len(data) % 32))
        bake(tmp_path / "base.gguf", wide, tmp_path / "padded.gguf")
        again = emobake.unbake(tmp_path / "padded.gguf", tmp_path / "p.gguf")
        assert again.out.read_bytes() == (tmp_path / "base.gguf").read_bytes()
        assert again.unproved == ("p.gguf",)


def test_padding_that_is_not_zero(wide, tmp_path):
    """Bytes between tensors, of which no reader takes notice, come back as well."""
    import numpy as np

    odd = {"blk.0.attn_q.bias": np.ones(3), "blk.0.attn_k.bias": np.ones(5)}
    gguf_files.write_model(tmp_path / "base.gguf", "qwen2", without=tuple(odd), qkv_bias=False, tensors={})
    model = open_gguf(tmp_path / "base.gguf")
    data = bytearray((tmp_path / "base.gguf").read_bytes())
    ends = [t.end for t in model.header.tensors if t.end % 32] + [min(t.start for t in model.header.tensors)]
    for end in ends:
        data[end - 1 if end == ends[-1] else end] = 7
    header_end = min(t.start for t in model.header.tensors)
    assert data[header_end - 1] == 7 or header_end % 32 == 0
    (tmp_path / "base.gguf").write_bytes(data)
    bake(tmp_path / "base.gguf", wide, tmp_path / "out.gguf")
    assert emobake.unbake(tmp_path / "out.gguf", tmp_path / "again.gguf").out.read_bytes() == data


def test_a_split_set(cli, wide, tmp_path):
    gguf_files.write_model(tmp_path / "base.gguf", split=5)
    first, *_ = files = sorted(tmp_path.glob("base-*.gguf"))
    wanted = [file.read_bytes() for file in files]
    assert len(files) > 2
    for name, more in (("whole", ()), ("kept", ("--keep-split",)), ("shared", ("--share",))):
        words = ("--model", first, "--vectors", wide, "--mix", "joy=1", "--hash", "-q", *more)
        cli(*words, "--out", tmp_path / f"{name}.gguf").ok()
        out = sorted(tmp_path.glob(f"{name}*.gguf"))[0]
        shown = json.loads(cli("unbake", out, "--out", tmp_path / f"{name}-again.gguf", "--json").ok().out)
        again = sorted(tmp_path.glob(f"{name}-again-*.gguf"))
        assert [file.read_bytes() for file in again] == wanted
        assert shown["out"] == str(again[0]) and shown["proved"] == [file.name for file in again]
        assert again[0].name.endswith(f"-of-0000{len(files)}.gguf")
    cli("unbake", tmp_path / "whole.gguf", "--out", tmp_path / "whole-again.gguf").one_line("exists already")


def test_several_bakes_of_a_gguf_file(cli, wide, tmp_path):
    gguf_files.write_model(tmp_path / "base.gguf", "qwen2", Kind.Q8_0)
    data = (tmp_path / "base.gguf").read_bytes()
    bake(tmp_path / "base.gguf", wide, tmp_path / "one.gguf")
    bake(tmp_path / "one.gguf", wide, emobake.GgufFile(tmp_path / "two.gguf", share="keep"), mix={"fear": 1})
    second = tmp_path / "two-00001-of-00002.gguf"
    bake(second, wide, emobake.GgufFile(tmp_path / "three.gguf", share="keep"), mix={"joy": 1})
    third = tmp_path / "three-00001-of-00002.gguf"
    found = emobake.unbake(third, tmp_path / "again.gguf")
    assert found.bakes == 3 and found.out.read_bytes() == data
    found = emobake.unbake(second, tmp_path / "last.gguf", last=True)
    assert found.out.read_bytes() == (tmp_path / "one.gguf").read_bytes()
    # A mood of a mood: the set of two files again, of which the second is no link any more.
    found = emobake.unbake(third, tmp_path / "mood.gguf", last=True)
    assert found.out.name == "mood-00001-of-00002.gguf" and list(found.files) == [
        "mood-00001-of-00002.gguf",
        "mood-00002-of-00002.gguf",
    ]
    for number in ("1", "2"):
        one, other = (tmp_path / f"{name}-0000{number}-of-00002.gguf" for name in ("two", "mood"))
        assert one.read_bytes() == other.read_bytes()
    assert not list(tmp_path.glob(".*"))
    cli("unbake", third, "--out", tmp_path / "one.gguf", "--overwrite", "-q").ok()
    assert (tmp_path / "one.gguf").read_bytes() == data, "an output of emobake may be replaced"


def test_a_base_that_was_moved_comes_back(cli, wide, tmp_path):
    gguf_files.write_model(tmp_path / "base.gguf")
    data = (tmp_path / "base.gguf").read_bytes()
    words = ("--model", tmp_path / "base.gguf", "--vectors", wide, "--mix", "joy=1", "--share", "move", "-q")
    cli(*words, "--out", tmp_path / "joyful.gguf").ok()
    assert not (tmp_path / "base.gguf").exists()
    cli("unbake", tmp_path / "joyful-00001-of-00002.gguf", "--out", tmp_path / "base.gguf", "-q").ok()
    assert (tmp_path / "base.gguf").read_bytes() == data


def replaced(file: Path, old: bytes, new: bytes) -> None:
    data = file.read_bytes()
    assert data.count(old) == 1 and len(old) == len(new)
    file.write_bytes(data.replace(old, new))


def undo_text(out: Path) -> str:
    return open_gguf(out).header.text(UNDO_KEY)


GGUF_TAMPERED: dict[str, tuple[Any, tuple[str, ...]]] = {
    "a weight": (
        lambda out: flipped(out, open_gguf(out).tensors["output.weight"].start),
        ("has not the digest that the record keeps",),
    ),
    "the metadata": (
        lambda out: replaced(out, b"<t17>", b"<u17>"),
        ("its metadata are not those that the record names",),
    ),
    "the undo data": (
        lambda out: replaced(out, undo_text(out)[-40:].encode(), b"A" * 36 + b"AAA="),
        (UNDO_KEY, f"is not what {RECORD_KEY} names"),
    ),
    "undo data that are no text of theirs": (
        lambda out: replaced(out, undo_text(out)[:40].encode(), b"!" * 40),
        (UNDO_KEY, "is not what a bake keeps"),
    ),
    "the record": (lambda out: replaced(out, b'"undo":{"sha256":"', b'"undo":{"sha255":"'), ("kept nothing",)),
    "no record": (lambda out: replaced(out, b"emobake.record", b"emobake.recurd"), ("has no emobake.record",)),
}


@pytest.mark.parametrize("case", GGUF_TAMPERED)
def test_a_gguf_file_that_was_changed(case, cli, wide, tmp_path):
    change, words = GGUF_TAMPERED[case]
    gguf_files.write_model(tmp_path / "base.gguf")
    out = bake(tmp_path / "base.gguf", wide, tmp_path / "out.gguf", hash_files=True)
    change(out)
    before = tree(tmp_path)
    cli("unbake", out, "--out", tmp_path / "again.gguf").one_line(*words)
    assert tree(tmp_path) == before


def test_bad_input_with_gguf_files(cli, wide, tmp_path):
    gguf_files.write_model(tmp_path / "base.gguf")
    out = bake(tmp_path / "base.gguf", wide, tmp_path / "out.gguf")
    cli("unbake", tmp_path / "base.gguf", "--out", tmp_path / "a.gguf").one_line("has no emobake.record")
    cli("unbake", out, "--out", tmp_path / "a").one_line(
        "the base of", "is a GGUF file; give a name that ends in .gguf"
    )
    cli("unbake", out, "--out", out, "--overwrite").one_line("is the input")
    cli("unbake", out, "--out", tmp_path / "base.gguf", "--overwrite").one_line("not an earlier output of emobake")
    cli("unbake", out, "--out", tmp_path / "a.gguf", "--link-mode", "hardlink").one_line("--link-mode hardlink")
    cli("unbake", tmp_path / "wide" / "ev_tiny_joy.json", "--out", tmp_path / "a").one_line("no such folder")
