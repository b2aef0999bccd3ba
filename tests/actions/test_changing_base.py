"""A base that changes under a running bake, with the same size: noticed, and nothing is kept."""

from __future__ import annotations

import os

import pytest
from support.checkpoints import tree, write_vectors

import emobake
from emobake.errors import OutputError
from emobake.storage import local

WEIGHTS = "model-00002-of-00003.safetensors"


def rewrite(file):
    """The same size, another time."""
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def replace(file):
    """The same size and time, another file."""
    found, beside = file.stat(), file.with_name("beside")
    beside.write_bytes(bytes(reversed(file.read_bytes())))
    os.utime(beside, ns=(found.st_atime_ns, found.st_mtime_ns))
    beside.replace(file)


@pytest.fixture
def during(monkeypatch):
    """Let something happen once the first file of the output is written."""

    def install(happens):
        write = local._write

        def writing(files, *arguments, **more):
            write(files[:1], *arguments, **more)
            happens()
            write(files[1:], *arguments, **more)

        monkeypatch.setattr(local, "_write", writing)

    return install


@pytest.mark.parametrize("change", [rewrite, replace])
@pytest.mark.parametrize("name", [WEIGHTS, "config.json", "tokenizer.json", "model.safetensors.index.json"])
@pytest.mark.parametrize("mode", ["copy", "hardlink"])
def test_a_checkpoint(sharded, vectors, tmp_path, during, change, name, mode):
    during(lambda: change(sharded / name))
    out = tmp_path / "out"
    with pytest.raises(OutputError, match=f"{name}: changed while it was used; nothing was kept"):
        emobake.bake(sharded, vectors, mix={"joy": 1}, out=emobake.Folder(out, link_mode=mode))
    assert not out.exists() and not list(tmp_path.glob(".out*"))


def test_a_file_that_plays_no_part_may_change(sharded, vectors, tmp_path, during):
    during(lambda: rewrite(sharded / "modeling_custom.py"))
    emobake.bake(sharded, vectors, mix={"joy": 1}, out=tmp_path / "out")


@pytest.mark.parametrize("form", ["peft", "peft-each"])
def test_an_adapter(sharded, vectors, tmp_path, during, form):
    during(lambda: rewrite(sharded / WEIGHTS))
    with pytest.raises(OutputError, match="changed while it was used"):
        emobake.bake(sharded, vectors, mix={"joy": 1}, out=tmp_path / "out", format=form)


@pytest.mark.parametrize("split", [0, 5])
def test_a_gguf_model(tmp_path, during, split):
    gguf_files = pytest.importorskip("support.gguf_files")
    gguf_files.write_model(tmp_path / "m.gguf", split=split)
    model = sorted(tmp_path.glob("*.gguf"))
    vectors = write_vectors(tmp_path / "ev", layers=gguf_files.LAYERS, hidden=gguf_files.HIDDEN)
    (tmp_path / "outs").mkdir()
    during(lambda: rewrite(model[-1]))
    with pytest.raises(OutputError, match="changed while it was used"):
        emobake.bake(
            model[0], vectors, mix={"joy": 1}, out=emobake.GgufFile(tmp_path / "outs" / "o.gguf", keep_split=split > 0)
        )
    assert tree(tmp_path / "outs") == {}
