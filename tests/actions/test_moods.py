"""Moods of one base in a folder: what each has of its own, what stays, and what fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.checkpoints import tree, write_vectors
from support.gguf_files import HIDDEN, LAYERS, write_model
from support.running import Run

import emobake
from emobake import InputError, bake_moods
from emobake.actions.moods import mood_name

THREE = ("--mix", "joy=1", "--mix", "anger=1", "--mix", "joy=0.5,fear=1")
NAMES = ["joy-1", "anger-1", "joy-0.5-fear-1"]


@pytest.fixture
def gguf(tmp_path) -> tuple[str, ...]:
    """Options of a GGUF base and its vectors."""
    write_model(tmp_path / "base.gguf")
    write_vectors(tmp_path / "wide", layers=LAYERS, hidden=HIDDEN)
    return ("--model", str(tmp_path / "base.gguf"), "--vectors", str(tmp_path / "wide"))


def found(cli: Run, *words: object) -> dict:
    return json.loads(cli("moods", *words, "--json").ok().out)


def test_moods_of_a_gguf_file(cli: Run, gguf, tmp_path):
    folder = tmp_path / "moods"
    done = found(cli, folder, *gguf, *THREE)
    assert [one["name"] for one in done["moods"]] == NAMES and not done["failed"]
    for one in done["moods"]:
        assert one["out"] == str(folder / f"{one['name']}-00001-of-00002.gguf")
        assert one["own_bytes"] == Path(one["out"]).stat().st_size < 20_000
    assert done["shared"] == {"base.shared.gguf": (folder / "base.shared.gguf").stat().st_size}
    assert done["shared_bytes"] == sum(done["shared"].values())
    assert done["serve"] == [f"llama-server -m {folder / 'joy-1-00001-of-00002.gguf'}"]
    single = tmp_path / "one.gguf"
    cli("bake", *gguf, "--mix", "joy=0.5,fear=1", "--out", single).ok()
    cli("join", done["moods"][2]["out"], "--out", tmp_path / "joined.gguf").ok()
    assert (tmp_path / "joined.gguf").read_bytes() == single.read_bytes()


def test_moods_of_a_checkpoint(cli: Run, sharded, vectors, tmp_path):
    folder = tmp_path / "moods"
    options = ("--model", sharded, "--vectors", vectors, *THREE, "--link-mode", "hardlink")
    done = found(cli, folder, *options)
    shards = {path.name: path for path in sharded.glob("model-*.safetensors")}
    assert done["shared"] == {name: path.stat().st_size for name, path in shards.items()}
    for one in done["moods"]:
        place = Path(one["out"])
        files = list(place.rglob("*"))
        linked = [file for file in files if any(file.samefile(shard) for shard in shards.values())]
        assert len(linked) == len(shards)
        assert one["own_bytes"] == sum(file.stat().st_size for file in files if file not in linked)
        checks = emobake.verify(place, base=sharded, vectors=vectors)
        assert all(check.ok is not False for check in checks)
    assert f"vllm serve {folder / 'joy-1'}" in done["serve"]


@pytest.mark.parametrize("mode", ["link", "symlink"])
def test_by_other_links(cli: Run, base, vectors, tmp_path, mode):
    cli("moods", tmp_path / "m", "--model", base, "--vectors", vectors, "--mix", "joy=1", "--link-mode", mode).ok()
    weights = next((tmp_path / "m" / "joy-1").glob("model-00001*.safetensors"))
    linked = weights.is_symlink() if mode == "symlink" else weights.stat().st_nlink > 1
    assert linked or mode == "link", "a disk that can reflink shares blocks, which no name shows"


def test_moods_of_the_same_recipe_stay_and_others_need_overwrite(cli: Run, gguf, base, vectors, tmp_path):
    for kind, options in (("gguf", gguf), ("checkpoint", ("--model", base, "--vectors", vectors))):
        folder = tmp_path / kind
        named = ("--name", "happy")
        cli("moods", folder, *options, "--mix", "joy=1", *named).ok()
        before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}
        done = found(cli, folder, *options, "--mix", "joy=1", "--mix", "anger=1", *named, "--name", "angry")
        assert [one["was_there"] for one in done["moods"]] == [True, False]
        assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in before} == before
        other = ("--mix", "joy=2", *named)
        ran = cli("moods", folder, *options, *other)
        assert ran.code == 2 and "happy was not written" in ran.err and "--overwrite" in ran.err and not ran.out
        done = found(cli, folder, *options, *other, "--overwrite")
        assert done["moods"][0]["total"] == "2 x joy" and not done["moods"][0]["was_there"]


def test_what_fails_is_named_and_the_others_are_there(cli: Run, gguf, tmp_path):
    mixes = ("--mix", "joy=1", "--mix", "glee=1", "--mix", "anger=1")
    ran = cli("moods", tmp_path / "m", *gguf, *mixes)
    assert ran.code == 2 and "emobake: glee-1 was not written: " in ran.err and len(ran.err.splitlines()) == 1
    assert "joy-1" in ran.out and "anger-1" in ran.out and "glee" not in ran.out
    assert {name.partition("-0000")[0] for name in tree(tmp_path / "m")} == {"joy-1", "anger-1", "base.shared.gguf"}
    nothing = cli("moods", tmp_path / "n", "--model", tmp_path / "none.gguf", "--mix", "joy=1", "--vectors", "x")
    assert nothing.code == 2 and not nothing.out and not (tmp_path / "n").exists()


def test_the_table_says_what_is_shared_once(cli: Run, gguf, tmp_path):
    out = cli("moods", tmp_path / "m", *gguf, *THREE).ok().out
    rows = {line.split("  ")[0]: line for line in out.splitlines()}
    assert rows.keys() >= set(NAMES) and "base.shared.gguf" in rows["shared by all"] and "5.38" in rows["shared by all"]
    assert "llama-server -m" in out
    assert not cli("moods", tmp_path / "m", *gguf, *THREE, "-q").ok().out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "give --mix once for each mood"),
        (("--mix", "joy=1", "--mix", "joy=1"), "two moods would be named 'joy-1'"),
        (("--mix", "joy=1", "--name", "a", "--name", "b"), "--name is given 2 times and --mix 1 times"),
        (("--mix", "joy=1", "--name", "../a"), "cannot be the name of a mood"),
        (("--mix", "joy=1", "--name", "a/b"), "cannot be the name of a mood"),
        (("--mix", "joy=1", "--name", ".a"), "cannot be the name of a mood"),
        (("--mix", "joy=1", "--name", "a.gguf"), "cannot be the name of a mood"),
        (("--mix", "joy"), "is not of the form"),
    ],
)
def test_words_that_make_no_moods(cli: Run, gguf, tmp_path, options, words):
    cli("moods", tmp_path / "m", *gguf, *options).one_line(words)
    assert not (tmp_path / "m").exists()


def test_from_python(base, vectors, tmp_path):
    moods = bake_moods(base, vectors, tmp_path / "m", {"happy": {"joy": 1}, "none": {"joy": 0}})
    assert [mood.name for mood in moods.there] == ["happy"] and moods.there[0].own > 0
    assert [mood.name for mood in moods.failed] == ["none"], "nothing would be steered"
    with pytest.raises(InputError, match="`link_mode` copy"):
        bake_moods(base, vectors, tmp_path / "m", {"happy": {"joy": 1}}, link_mode="copy")
    with pytest.raises(InputError, match="give `mix`"):
        bake_moods(base, vectors, tmp_path / "m", {})
    assert mood_name({"quiet joy": 0.25, "anger": -1}) == "quiet_joy-0.25-anger--1"
