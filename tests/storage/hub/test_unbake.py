"""Outputs on the Hub, and of models from there, back to their bases. A stand-in server."""

from __future__ import annotations

import json

from support.adapters import write_adapter
from support.checkpoints import tree
from support.hub_server import Repo
from support.pushes import JOY
from support.running import BASE, TARGET


def kept(folder):
    """The files of a base that are made again."""
    gone = ("pytorch_model.bin", "original/", "x.gguf", "onnx/", "consolidated", "modeling_custom.py")
    return {name: data for name, data in tree(folder).items() if not name.startswith(gone)}


def test_from_the_hub_and_back(over, online, hub, repo, sharded, tmp_path):
    over().ok()
    files = hub.repos[TARGET].files()
    assert len(files["emobake.undo"]) < 2000
    ran = online("unbake", TARGET, "--out", tmp_path / "again", "--json").ok()
    assert tree(tmp_path / "again") == kept(sharded)
    found, shards = json.loads(ran.out), sorted(path.name for path in sharded.glob("*-of-*.safetensors"))
    assert found["proved"] == shards and found["unproved"] == [], "the Hub told their digests"
    assert found["base"] == f"{BASE}@{repo.refs['main']}"
    assert found["left_out"] == [] and "is on the Hub" in found["notes"][0]
    ran = online("unbake", f"{TARGET}@{hub.repos[TARGET].refs['main']}", "--out", tmp_path / "again")
    ran.one_line("exists already")
    online("unbake", BASE, "--out", tmp_path / "none").one_line("not an output of emobake")


def test_from_afar_the_same_is_kept(online, hub, repo, vectors, tmp_path, copies):
    online("--model", BASE, "--vectors", vectors, *JOY, "--out", tmp_path / "there", "-q").ok()
    online("--model", BASE, "--vectors", vectors, *JOY, "--push-to-hub", TARGET, "-q").ok()
    assert hub.repos[TARGET].files()["emobake.undo"] == (tmp_path / "there" / "emobake.undo").read_bytes()
    # A push of the folder afterwards has nothing to change.
    assert "Already the same" in online("push", tmp_path / "there", TARGET).ok().out


def test_a_steered_lora_on_the_hub(online, hub, repo, vectors, tmp_path):
    folder = write_adapter(tmp_path / "made", BASE, files={"chat_template.jinja": "x"})
    hub.repos["owner/lora"] = Repo()
    hub.repos["owner/lora"].commit(folder)
    online("--model", "owner/lora", "--vectors", vectors, *JOY, "--push-to-hub", TARGET).ok()
    online("unbake", TARGET, "--out", tmp_path / "again", "-q").ok()
    assert tree(tmp_path / "again") == tree(folder)
