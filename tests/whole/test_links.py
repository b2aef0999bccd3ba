"""Links and special files in strangers' folders: no file of this machine gets into an output, and nothing waits."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
from support.checkpoints import tree, write_checkpoint
from support.running import Run

import emobake
from emobake import InputError

SECRET = "a private key"
MIX = ("--mix", "joy=1")


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file that nobody wants to publish."""
    file = tmp_path / "home" / "id_rsa"
    file.parent.mkdir()
    file.write_text(SECRET)
    return file


def linked(file: Path, target: Path) -> Path:
    file.unlink(missing_ok=True)
    file.symlink_to(target)
    return file


def leaks(folder: Path) -> list[str]:
    return [name for name, content in tree(folder).items() if SECRET.encode() in content]


@pytest.mark.parametrize(
    "name", ["LICENSE", "NOTICE.txt", "licenses/LICENSE", "README.md", "emobake.json", "notes.txt"]
)
def test_a_link_out_of_the_folder_is_left_out_and_named(
    cli: Run, base: Path, vectors: Path, tmp_path: Path, secret: Path, name: str
):
    (base / name).parent.mkdir(exist_ok=True)
    linked(base / name, secret)
    ran = cli("--model", base, "--vectors", vectors, *MIX, "--out", tmp_path / "out", "--json").ok()
    assert json.loads(ran.out)["left_out"][name] == "a link out of the folder, not followed"
    assert not leaks(tmp_path / "out") and SECRET not in ran.out + ran.err
    again = ("--model", base, "--vectors", vectors, *MIX, "--out", tmp_path / "out2")
    assert f"{name}: a link out of the folder, not followed" in cli(*again).ok().out


def test_a_linked_folder_is_left_out_and_named(cli: Run, base: Path, vectors: Path, tmp_path: Path, secret: Path):
    (secret.parent / "LICENSE").write_text(SECRET)
    (base / "licenses").symlink_to(secret.parent)
    ran = cli("--model", base, "--vectors", vectors, *MIX, "--out", tmp_path / "out", "--json").ok()
    assert json.loads(ran.out)["left_out"]["licenses/"] == "a link out of the folder, not followed"
    assert not leaks(tmp_path / "out")


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors.index.json", "vocab.txt"]
)
def test_a_link_in_place_of_a_needed_file_is_an_error(
    cli: Run, base: Path, sharded: Path, vectors: Path, tmp_path: Path, name: str
):
    model = sharded if "index" in name else base
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes((model / name).read_bytes() if (model / name).exists() else b"words")
    linked(model / name, elsewhere)
    ran = cli("--model", model, "--vectors", vectors, *MIX, "--out", tmp_path / "out")
    ran.one_line(str(model / name), "link out of the model's folder", str(elsewhere), "put a copy of the file in its")
    assert not (tmp_path / "out").exists()


def test_links_within_the_folder_are_followed(cli: Run, base: Path, vectors: Path, tmp_path: Path):
    (base / "texts").mkdir()
    for name in ("LICENSE", "tokenizer.json"):
        (base / name).rename(base / "texts" / name)
        linked(base / name, Path("texts") / name)
    cli("--model", base, "--vectors", vectors, *MIX, "--out", tmp_path / "out").ok()
    assert (tmp_path / "out" / "LICENSE").read_text() == "Do as you like.\n"
    assert not (tmp_path / "out" / "tokenizer.json").is_symlink()


def test_shards_may_lie_on_another_disk(cli: Run, sharded: Path, vectors: Path, tmp_path: Path):
    disk = tmp_path / "disk"
    disk.mkdir()
    for shard in sharded.glob("*.safetensors"):
        shard.rename(disk / shard.name)
        linked(shard, disk / shard.name)
    cli("--model", sharded, "--vectors", vectors, *MIX, "--out", tmp_path / "out").ok()
    cli("verify", tmp_path / "out", "--base", sharded, "--vectors", vectors).ok()


def test_a_shard_that_is_a_link_to_something_else(cli: Run, base: Path, vectors: Path, tmp_path: Path, secret: Path):
    linked(base / "model.safetensors", secret)
    ran = cli("--model", base, "--vectors", vectors, *MIX, "--out", tmp_path / "out")
    ran.one_line("model.safetensors", "not safetensors")
    assert SECRET not in ran.err


def test_a_link_in_the_hubs_cache_leads_to_its_blobs_and_nowhere_else(vectors: Path, tmp_path: Path, secret: Path):
    repo = tmp_path / "models--o--n"
    model, blobs = write_checkpoint(repo / "snapshots" / ("c" * 40), extra_files=False), repo / "blobs"
    blobs.mkdir()
    for number, file in enumerate([*model.iterdir(), model / "LICENSE"]):
        if file.exists():
            file.rename(blobs / f"blob{number}")
        else:
            linked(blobs / f"blob{number}", secret)
        linked(file, Path("../../blobs") / f"blob{number}")
    plan = emobake.bake(model, vectors, mix={"joy": 1}, out=tmp_path / "out").plan
    assert {file.name: file.reason for file in plan.left_out} == {"LICENSE": "a link out of the folder, not followed"}
    assert not leaks(tmp_path / "out")


def test_a_folder_that_looks_like_the_hubs_cache(vectors: Path, tmp_path: Path, secret: Path):
    repo = tmp_path / "models--o--n"
    model = write_checkpoint(repo / "snapshots" / ("c" * 40), extra_files=False)
    for blobs in (repo / "blobs", tmp_path / "blobs"):
        blobs.symlink_to(secret.parent)
        linked(model / "LICENSE", blobs / secret.name)
        plan = emobake.bake(model, vectors, mix={"joy": 1}, dry_run=True).plan
        assert [file.name for file in plan.left_out] == ["LICENSE"]


@pytest.mark.parametrize("kind", ["pipe", "socket", "link to a device", "folder"])
@pytest.mark.parametrize("name", ["LICENSE", "README.md", "config.json", "model.safetensors", "notes.txt"])
def test_special_files_are_never_waited_for(
    cli: Run, base: Path, vectors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str
):
    (base / name).unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(base / name)
    elif kind == "socket":
        monkeypatch.chdir(base)  # The path of a socket must be short.
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(name)
    elif kind == "folder":
        (base / name).mkdir()
    else:
        (base / name).symlink_to("/dev/zero")
    ran = cli("--model", base, "--vectors", vectors, *MIX, "--out", tmp_path / "out")
    if name in ("config.json", "model.safetensors"):
        ran.one_line("config.json" if name == "config.json" else "safetensors")
    elif name == "LICENSE" and kind in ("pipe", "socket"):
        ran.one_line("LICENSE", "not a file that can be copied")
    else:
        ran.ok()
        assert not (tmp_path / "out" / "LICENSE").exists() or name != "LICENSE"


def test_pipes_in_adapters_reports_and_sets_of_vectors(cli: Run, base: Path, vectors: Path, tmp_path: Path):
    out = tmp_path / "adapter"
    emobake.bake(base, vectors, mix={"joy": 1}, out=out, format="peft")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        whole = (out / name).read_bytes()
        (out / name).unlink()
        os.mkfifo(out / name)
        assert "is not a file" in cli("verify", out).out
        (out / name).unlink()
        (out / name).write_bytes(whole)
    cli("verify", out).ok()
    (vectors / "ev_tiny_joy.json").unlink()
    os.mkfifo(vectors / "ev_tiny_joy.json")
    with pytest.raises(InputError, match=r"ev_tiny_joy\.json: is not a file"):
        emobake.open_vectors(vectors)
    os.mkfifo(tmp_path / "v.npz")
    with pytest.raises(InputError, match=r"v\.npz: no such vector set"):
        emobake.open_vectors(tmp_path / "v.npz")
    os.mkfifo(tmp_path / "m.gguf")
    with pytest.raises(InputError, match=r"m\.gguf: no such file"):
        emobake.bake(tmp_path / "m.gguf", vectors, mix={"joy": 1}, out=tmp_path / "o.gguf")


@pytest.mark.parametrize("name", ["LICENSE", "notes.txt", "extra/LICENSE", "tokenizer.json", "extra"])
def test_a_push_follows_no_link(online: Run, hub, base: Path, vectors: Path, tmp_path: Path, secret: Path, name: str):
    out = tmp_path / "out"
    emobake.bake(base, vectors, mix={"joy": 1}, out=out)
    (out / name).parent.mkdir(exist_ok=True)
    linked(out / name, secret.parent if name == "extra" else secret)
    ran = online("push", out, "me/joyful")
    ran.one_line(str(out / name), "link", "not followed")
    assert not hub.requests


def test_a_push_follows_links_to_weights(online: Run, hub, base: Path, vectors: Path, tmp_path: Path, secret: Path):
    out = tmp_path / "out"
    emobake.bake(base, vectors, mix={"joy": 1}, out=emobake.Folder(out, "symlink"))
    assert (out / "model-00001-of-00002.safetensors").is_symlink()
    online("push", out, "me/joyful").ok()
    emobake.bake(base, vectors, mix={"joy": 1}, out=emobake.Folder(tmp_path / "adapter"), format="peft")
    linked(tmp_path / "adapter" / "more.safetensors", secret)
    online("push", tmp_path / "adapter", "me/adapter").one_line("more.safetensors", "not safetensors")


@pytest.mark.parametrize("name", ["report.json", "report.md", "layers.png"])
def test_a_report_is_not_made_of_links(
    online: Run, hub, base: Path, vectors: Path, tmp_path: Path, secret: Path, name: str
):
    out, report = tmp_path / "out", tmp_path / "report"
    emobake.bake(base, vectors, mix={"joy": 1}, out=out)
    report.mkdir()
    (report / "report.json").write_text("{}")
    (report / "report.md").write_text("## Evaluation\n")
    linked(report / name, secret)
    online("push", out, "me/joyful", "--report", report).one_line(str(report / name), "is a link", "not followed")
    assert not hub.requests
