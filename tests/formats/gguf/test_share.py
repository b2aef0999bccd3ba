"""Moods of a GGUF file that share one file: what is written, what is reused, what is refused, and joining."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
from support.checkpoints import tree
from support.gguf_files import HEAD, HIDDEN, LAYERS, fields_of, tensors_of, write_model
from support.running import Run

import emobake
from emobake import BrokenFileError, GgufFile, InputError, OutputError, VectorSet, bake, join
from emobake.actions.verify import verify
from emobake.formats.gguf.header import number_field, serialize_gguf
from emobake.formats.gguf.layout import Described
from emobake.formats.gguf.model import open_gguf
from emobake.formats.gguf.share import joined
from emobake.storage import copying
from emobake.vectors.write import write_set

DRAW = np.random.default_rng(7)
ROWS = DRAW.normal(0, 0.3, (2, LAYERS, HIDDEN)).astype(np.float32)
SET = VectorSet(("anger", "joy"), ROWS, "tiny")
BIAS = "blk.{}.attn_output.bias"
NORMS = {f"blk.{layer}.attn_{name}_norm.weight": np.ones(HEAD, np.float32) for layer in range(LAYERS) for name in "qk"}
OLD = {BIAS.format(layer): DRAW.normal(0, 1, HIDDEN) for layer in range(LAYERS)}
BASES = {
    "tensor": ("llama", {}),
    "existing": ("llama", {"biases": OLD}),
    "llama": ("qwen2", {}),
    "head": ("qwen3", {"tensors": NORMS}),
    "aligned": ("llama", {"alignment": 4096}),
    "split": ("llama", {"split": 7}),
}
FIRST, SECOND = "{}-00001-of-00002.gguf", "{}-00002-of-00002.gguf"


@pytest.fixture
def model(tmp_path) -> Path:
    """A float32 llama file."""
    return made(tmp_path, "tensor")


def made(folder: Path, kind: str) -> Path:
    """A base of `BASES`; its first file."""
    architecture, options = BASES[kind]
    write_model(folder / "base.gguf", architecture, **options)
    return min(folder.glob("base*.gguf"))


def mood(model: Path, name: str = "joy", folder: str = "moods", **more) -> Path:
    """Bake a mood that shares; its first file."""
    out = model.parent / folder / f"{name}.gguf"
    bake(model, SET, mix={name: 1}, out=GgufFile(out, share=more.pop("share", "keep"), **more))
    return out.with_name(FIRST.format(name))


def shared(folder: Path) -> list[Path]:
    return sorted(folder.glob("base.shared*.gguf"))


def failed(checks: list[emobake.Check]) -> list[emobake.Check]:
    return [check for check in checks if check.ok is False]


@pytest.mark.parametrize("kind", BASES)
def test_two_moods_share_one_file_and_each_is_the_bake_into_one(tmp_path, kind):
    base = made(tmp_path, kind)
    firsts = {name: mood(base, name) for name in ("joy", "anger")}
    folder = tmp_path / "moods"
    names = sorted(path.name for path in folder.iterdir())
    assert len(names) == 5 and len(shared(folder)) == 1
    assert (shared(folder)[0].name == "base.shared.gguf") == (kind in ("tensor", "aligned", "split"))
    for name, first in firsts.items():
        assert folder.joinpath(SECOND.format(name)).readlink() == Path(shared(folder)[0].name)
        assert not failed(verify(first, base=base, vectors=SET)) and not failed(verify(first))
        bake(base, SET, mix={name: 1}, out=tmp_path / "one.gguf")
        join(first, tmp_path / "joined.gguf")
        assert (tmp_path / "joined.gguf").read_bytes() == (tmp_path / "one.gguf").read_bytes()
        own, rest = tensors_of(first), tensors_of(folder / SECOND.format(name))
        assert own | rest == tensors_of(tmp_path / "one.gguf") and not own.keys() & rest.keys()
        assert {n for n in own if "attn_output" not in n and "attn_v.bias" not in n} == set()
        (tmp_path / "one.gguf").unlink()
        (tmp_path / "joined.gguf").unlink()


def test_the_metadata_are_as_llama_cpp_reads_them(model):
    first = mood(model)
    one, two = fields_of(first), fields_of(first.with_name(SECOND.format("joy")))
    kinds = {field.name: field.types[0].name for field in gguf.GGUFReader(first).fields.values() if field.types}
    assert (one["split.no"], one["split.count"], one["split.tensors.count"]) == (0, 2, len(tensors_of(model)) + LAYERS)
    assert [kinds[f"split.{key}"] for key in ("no", "count", "tensors.count")] == ["UINT16", "UINT16", "INT32"]
    assert (two["split.no"], two["split.count"]) == (1, 2)
    assert {name for name in two if not name.startswith("GGUF.")} == {
        "split.no", "split.count", "emobake.shared", "emobake.padding"
    }  # fmt: skip
    assert fields_of(model).keys() <= one.keys()


@pytest.mark.parametrize("kind", ["tensor", "llama"])
def test_data_lie_at_the_same_place_of_a_page(tmp_path, kind):
    base = made(tmp_path, kind)
    mood(base)
    before, after = open_gguf(base).tensors, open_gguf(tmp_path / "moods" / FIRST.format("joy"))
    assert all((one.start - before[one.name].start) % 4096 == 0 for one in after.files[1].tensors)


def test_a_further_mood_neither_reads_nor_writes_the_shared_file(model, tmp_path, monkeypatch):
    def state() -> tuple[int, ...]:
        # Without the time of access: the header is read.
        found = shared(tmp_path / "moods")[0].stat()
        return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns

    mood(model)
    before = state()

    def refuse(*_: object, **__: object) -> int:
        raise AssertionError

    monkeypatch.setattr(os, "copy_file_range", refuse)
    monkeypatch.setattr(copying, "read_piece", refuse)
    result = bake(model, SET, mix={"anger": 1}, out=GgufFile(tmp_path / "moods" / "anger.gguf", share="keep"))
    assert result.shared is not None and result.shared.found and result.plan.bytes_carried == 0
    assert state() == before
    assert (tmp_path / "moods" / FIRST.format("anger")).stat().st_size < 20_000


def test_a_shared_file_of_another_time_is_read(model, tmp_path):
    mood(model)
    os.utime(model, (1, 1))
    mood(model, "anger")
    assert not failed(verify(tmp_path / "moods" / FIRST.format("anger"), base=model))


@pytest.mark.parametrize("wrong", ["bytes", "byte of a header", "longer", "link", "folder", "base"])
def test_another_file_in_its_place_is_refused(model, tmp_path, wrong):
    mood(model)
    file = shared(tmp_path / "moods")[0]
    stat, data = file.stat(), bytearray(file.read_bytes())
    if wrong == "bytes":
        data[-1] ^= 1
        file.write_bytes(data)
    elif wrong == "byte of a header":
        data[data.index(b"token_embd")] ^= 1
        file.write_bytes(data)
        os.utime(file, ns=(stat.st_mtime_ns, stat.st_mtime_ns))
    elif wrong == "longer":
        file.write_bytes(data + bytes(32))
    elif wrong == "link":
        shutil.move(file, tmp_path / "elsewhere.gguf")
        file.symlink_to(tmp_path / "elsewhere.gguf")
    elif wrong == "folder":
        file.unlink()
        file.mkdir()
    else:
        write_model(model, seed=1)
    before = tree(tmp_path / "moods")
    with pytest.raises(InputError, match=r"base\.shared\.gguf: is not the file that moods of .* share; choose another"):
        mood(model, "anger", overwrite=True)
    assert tree(tmp_path / "moods") == before


def test_a_mood_is_replaced_with_overwrite_alone_and_its_base_stays(model, tmp_path):
    mood(model)
    before, kept = tree(tmp_path), model.read_bytes()
    with pytest.raises(InputError, match="exists already"):
        mood(model)
    assert tree(tmp_path) == before
    out = GgufFile(tmp_path / "moods" / "joy.gguf", share="keep", overwrite=True)
    bake(model, SET, mix={"joy": 2}, out=out)
    assert model.read_bytes() == kept and not failed(verify(tmp_path / "moods" / FIRST.format("joy"), base=model))
    assert tree(tmp_path)["moods/base.shared.gguf"] == before["moods/base.shared.gguf"]


def test_the_file_of_somebody_else_is_left_alone(model, tmp_path):
    (tmp_path / "moods").mkdir()
    (tmp_path / "moods" / SECOND.format("joy")).write_bytes(b"mine")
    with pytest.raises(InputError, match="is not an earlier output of emobake"):
        mood(model, overwrite=True)
    assert [path.name for path in (tmp_path / "moods").iterdir()] == [SECOND.format("joy")]


@pytest.mark.parametrize("kind", ["tensor", "head"])
def test_a_mood_is_baked_again_and_the_file_is_shared_on(tmp_path, kind):
    first = mood(made(tmp_path, kind))
    file = shared(first.parent)[0]
    result = bake(first, SET, mix={"anger": 1}, out=GgufFile(first.with_name("both.gguf"), share="keep"))
    assert result.shared is not None and result.shared.found and result.shared.name == file.name
    assert len(list(first.parent.iterdir())) == 5
    both = first.with_name(FIRST.format("both"))
    assert not failed(verify(both, base=first, vectors=SET))
    bake(first, SET, mix={"anger": 1}, out=tmp_path / "one.gguf")
    join(both, tmp_path / "joined.gguf")
    assert (tmp_path / "joined.gguf").read_bytes() == (tmp_path / "one.gguf").read_bytes()
    # Elsewhere it gets a copy of the shared file, of the same name and bytes; and what was written can be replaced.
    for _ in range(2):
        out = GgufFile(tmp_path / "other" / "both.gguf", share="keep", overwrite=True)
        result = bake(first, SET, mix={"anger": 1}, out=out)
    assert (tmp_path / "other" / file.name).read_bytes() == file.read_bytes()
    assert result.shared is not None and result.shared.found
    with pytest.raises(InputError, match="is the input"):
        bake(first, SET, mix={"anger": 1}, out=GgufFile(first.with_name("joy.gguf"), share="keep", overwrite=True))


def test_a_set_is_kept_split_again_without_what_it_said_of_itself(model, tmp_path):
    first = mood(model)
    bake(first, SET, mix={"anger": 1}, out=GgufFile(tmp_path / "k.gguf", keep_split=True))
    again = tmp_path / FIRST.format("k")
    assert not failed(verify(again, base=first, vectors=SET))
    with pytest.raises(InputError, match="is not a set that shares a file"):
        join(again, tmp_path / "joined.gguf")


def test_without_symbolic_links_the_second_file_has_two_names(model, tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    for name in ("joy", "anger"):
        first = mood(model, name)
        assert first.with_name(SECOND.format(name)).samefile(shared(first.parent)[0])
        assert not failed(verify(first, base=model))
    monkeypatch.setattr(Path, "hardlink_to", refuse)
    with pytest.raises(OutputError, match="no permission"):
        bake(model, SET, mix={"joy": 2}, out=GgufFile(tmp_path / "moods" / "joy2.gguf", share="keep"))
    assert len(list((tmp_path / "moods").iterdir())) == 5


def test_the_same_bytes_twice_and_whoever_is_first(model, tmp_path):
    for folder, names in (("a", ("joy", "anger")), ("b", ("anger", "joy"))):
        for name in names:
            mood(model, name, folder)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


# --- move -----------------------------------------------------------------------------------------------------


def test_move_removes_the_base_once_all_is_there(model, tmp_path, cli: Run):
    bake(model, SET, mix={"joy": 1}, out=tmp_path / "one.gguf")
    write_set(SET, tmp_path / "v.safetensors")
    some = ("--model", model, "--vectors", tmp_path / "v.safetensors", "--mix", "joy=1")
    ran = cli(*some, "--share", "move", "--out", tmp_path / "moods" / "joy.gguf").ok()
    assert "base.shared.gguf (5 MB) is shared; the base, whose place it takes, is removed" in ran.out
    assert "--base" not in ran.out and not model.exists()
    first = tmp_path / "moods" / FIRST.format("joy")
    assert not failed(verify(first))
    join(first, tmp_path / "joined.gguf")
    assert tensors_of(tmp_path / "joined.gguf") == tensors_of(tmp_path / "one.gguf")


def test_move_of_what_would_be_lost_is_refused(tmp_path, model):
    first = mood(model)
    (tmp_path / "old").mkdir()
    with pytest.raises(InputError, match="has biases, which would be lost"):
        mood(made(tmp_path / "old", "existing"), share="move")
    link = tmp_path / "link.gguf"
    link.symlink_to(model)
    for one in (first, link):
        with pytest.raises(InputError, match="is a mood or a link"):
            mood(one, "anger", share="move")
    assert model.exists() and not (tmp_path / "old" / "moods").exists()


def test_move_keeps_a_base_that_the_shared_file_does_not_hold(model, tmp_path):
    mood(model)
    file = shared(tmp_path / "moods")[0]
    stat, data = file.stat(), bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(stat.st_mtime_ns, stat.st_mtime_ns))
    with pytest.raises(OutputError, match=r"does not hold the bytes of .* which was kept"):
        mood(model, "anger", share="move")
    assert model.exists()


# --- hostile sets, and the command line -------------------------------------------------------------------------


def with_places(first: Path, numbers: list[int]) -> None:
    """Write another order into the first file of a set."""
    header = open_gguf(first).header
    fields = [number_field(f.key, numbers) if f.key == "emobake.join" else f for f in header.fields]
    described = [Described(t.name, t.dtype, t.shape, t.size) for t in header.tensors]
    data = first.read_bytes()[header.tensors[0].start :]
    first.write_bytes(serialize_gguf(header.version, header.alignment, fields, described) + data)


@pytest.mark.parametrize("numbers", [[], [0], [0, 1], [0, 2, 1], [0, 1, 1], [0, 1, 2**31], [0, 1, 2, 3]])
def test_an_order_that_is_none_is_refused(model, tmp_path, numbers):
    first = mood(model)
    with_places(first, numbers)
    with pytest.raises(BrokenFileError, match=r"emobake\.join does not tell the order"):
        joined(open_gguf(first))
    assert failed(verify(first))


def test_a_mood_without_its_shared_file_is_a_line(model, tmp_path, cli: Run):
    first = mood(model)
    shared(first.parent)[0].unlink()
    for words in (("show", first), ("verify", first), ("join", first, "--out", tmp_path / "j.gguf")):
        cli(*words).one_line(SECOND.format("joy"), "leads to base.shared.gguf, which is missing, one of the 2 files")


def test_options(model, tmp_path, cli: Run, base, vectors):
    write_set(SET, tmp_path / "v.safetensors")
    some = ("--model", model, "--vectors", tmp_path / "v.safetensors", "--mix", "joy=1", "--out", tmp_path / "o.gguf")
    cli(*some, "--share", "--keep-split").one_line("--share and --keep-split")
    cli("--model", base, "--vectors", vectors, "--mix", "joy=1", "--out", tmp_path / "o", "--share").one_line("--share")
    planned = json.loads(cli(*some, "--share", "--dry-run", "--json").ok().out)
    assert planned["shared"] == {"name": "base.shared.gguf", "size": 5382752, "found": False, "moved": False}
    assert not list(tmp_path.glob("o-*"))
    assert "base.shared.gguf (5 MB) is shared " in cli(*some, "--share").ok().out
    joined = cli("join", tmp_path / FIRST.format("o"), "--out", tmp_path / "j.gguf").ok().out
    assert "Joined" in joined and "llama-server -m" in joined
    cli("join", tmp_path / FIRST.format("o"), "--out", tmp_path / "j.gguf").one_line("exists already")
    cli("join", model, "--out", tmp_path / "k.gguf").one_line("is not a set that shares a file")
    with pytest.raises(InputError, match="`share`"):
        bake(model, SET, mix={"joy": 1}, out=replace(GgufFile(tmp_path / "x.gguf"), share="all"))
