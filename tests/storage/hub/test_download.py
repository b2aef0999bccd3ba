"""Models from the Hub, by way of huggingface_hub's own code and a stand-in server (`hub_server`)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support.checkpoints import DUPLICATES, SIDE_FILES, edit_json, read_tensors, tree, write_checkpoint
from support.hub_server import Repo, StandInHub
from support.running import IMPATIENT, TIMES, Ran, run_process

ID = "owner/tiny-model"


@pytest.fixture
def repo(hub: StandInHub, base: Path) -> Repo:
    """The base, on branch ``main``."""
    hub.repos[ID] = Repo()
    hub.repos[ID].commit(base)
    return hub.repos[ID]


Bake = Callable[..., Ran]


@pytest.fixture
def bake(hub: StandInHub, vectors: Path, tmp_path: Path) -> Bake:
    """``bake(*options, model=ID, out="out", env={})`` in a process of its own, with its own cache."""

    def run(*options: str, model: str = ID, out: str = "out", env: dict[str, str] | None = None) -> Ran:
        arguments = ("--model", model, "--vectors", vectors, *TIMES, "--out", tmp_path / out, *options)
        return run_process("-c", IMPATIENT, *arguments, env=hub.environment(tmp_path) | (env or {}))

    return run


@pytest.fixture
def refused(bake: Bake, tmp_path: Path) -> Callable[..., str]:
    """Run as `bake` does, and expect one line with `words` and no output."""

    def run(*words: str, options: tuple[str, ...] = (), code: int = 2, **more: object) -> str:
        line = bake(*options, **more).one_line(*words, code=code)
        assert not [p for p in tmp_path.iterdir() if "out" in p.name], "something was written"
        return line

    return run


# --- fetched files -------------------------------------------------------------------------------------------


def test_from_an_id(bake, hub, repo, base, tmp_path):
    ran = bake().ok()
    out, commit = tmp_path / "out", repo.refs["main"]
    assert ran.err == ""
    record = json.loads((out / "emobake.json").read_text())
    assert (record["base"]["model"], record["base"]["revision"]) == (ID, commit)
    weights = (base / "model.safetensors").read_bytes()
    digest = hashlib.sha256(weights).hexdigest()
    assert record["base"]["weights"] == [
        {"name": "model.safetensors", "size": len(weights), "sha256": digest, "digest": "advertised"}
    ]
    tensors, before = read_tensors(out), read_tensors(base)
    assert {name: tensors[name] for name in before} == before
    assert len(tensors) == len(before) + 8
    assert not (out / "model-00001-of-00002.safetensors").is_symlink(), "the cache may be emptied"
    card = (out / "README.md").read_text()
    assert f"base_model: {ID}" in card and "license: other" in card
    assert (out / "LICENSE").read_bytes() == (base / "LICENSE").read_bytes()


def test_only_what_is_needed_is_fetched(bake, hub, repo):
    ran = bake("-v").ok()
    needed = {name for name in SIDE_FILES if not name.endswith(".py")} | {"config.json", "model.safetensors"}
    assert sorted(hub.downloaded()) == sorted(needed), "each once, and nothing else"
    asked = " ".join(r.path for r in hub.requests if "/resolve/" in r.path)
    for name in DUPLICATES:
        assert name not in asked
        assert name in ran.out, "left out, and named"
    assert "unsteered duplicate" in ran.out


def test_shards_are_fetched_by_the_index(bake, hub, sharded, tmp_path):
    (sharded / "model-00009-of-00009.safetensors").write_bytes(b"left over from an earlier upload")
    hub.repos[ID] = Repo()
    hub.repos[ID].commit(sharded)
    bake().ok()
    fetched = [name for name in hub.downloaded() if name.endswith(".safetensors")]
    assert sorted(fetched) == [f"model-{i:05d}-of-00003.safetensors" for i in (1, 2, 3)]
    assert hub.downloaded().count("model.safetensors.index.json") == 1


def test_from_a_branch(bake, hub, repo, tmp_path):
    other = write_checkpoint(tmp_path / "other", dtype="F16")
    commit = repo.commit(other, ref="half")
    bake("--revision", "half").ok()
    record = json.loads((tmp_path / "out" / "emobake.json").read_text())
    assert record["base"]["revision"] == commit != repo.refs["main"], "the commit, not the branch that moves"
    assert {b["dtype"] for b in record["biases"]} == {"F16"}
    bake("--revision", commit, out="again").ok()
    assert tree(tmp_path / "again") == tree(tmp_path / "out")
    bake(model=f"{ID}@half", out="third").ok()
    assert tree(tmp_path / "third") == tree(tmp_path / "out")
    bake("--revision", "main", model=f"{ID}@half", out="fourth").one_line(f"{ID}@half", "--revision main")
    bake(model=f"{ID}@", out="fourth").one_line(f"{ID}@", "no revision")


def test_a_branch_that_moves_while_it_is_fetched(bake, hub, repo, tmp_path):
    """Config and weights are of one commit, even when the branch moves in between."""
    first, moved = repo.refs["main"], write_checkpoint(tmp_path / "other", dtype="F16")
    answer = hub.answer

    def move(handler, body):
        answer(handler, body)
        if handler.command == "GET" and handler.path.endswith("config.json"):
            repo.commit(moved)

    hub.answer = move
    bake().ok()
    record = json.loads((tmp_path / "out" / "emobake.json").read_text())
    assert record["base"]["revision"] == first != repo.refs["main"]
    assert {b["dtype"] for b in record["biases"]} == {"BF16"}


def test_the_same_as_from_a_folder(bake, cli, repo, base, vectors, tmp_path):
    bake().ok()
    cli("--model", base, "--vectors", vectors, *TIMES, "--out", tmp_path / "local", "--base-model", ID, "-q").ok()
    there, here = tree(tmp_path / "out"), tree(tmp_path / "local")
    different = {name for name in there if there[name] != here.get(name)}
    assert there.keys() == here.keys() and different == {"emobake.json", "emobake.undo"}, "which name what is left out"


def test_a_refused_architecture_costs_its_config_only(refused, hub, repo, base):
    edit_json(base / "config.json", model_type="gptj", architectures=["GPTJForCausalLM"])
    repo.commit(base)
    refused(ID, "gptj", "--format peft")
    assert hub.downloaded() == ["config.json"]


def test_verify_against_an_id(bake, hub, repo, vectors, tmp_path):
    bake().ok()
    for named in (ID, f"{ID}@main"):
        verify = ("-m", "emobake", "verify", tmp_path / "out", "--base", named, "--vectors", vectors)
        ran = run_process(*verify, env=hub.environment(tmp_path))
        assert "byte-identical to the plan" in ran.ok().out and "FAIL" not in ran.out


def test_a_link_of_each_kind_to_the_cache(bake, repo, tmp_path):
    bake("--link-mode", "symlink").ok()
    target = tmp_path / "out" / "model-00001-of-00002.safetensors"
    assert target.is_symlink() and target.readlink().parent.name == "blobs"


# --- without a network ----------------------------------------------------------------------------------------


def test_offline_from_the_cache(bake, hub, repo, tmp_path):
    bake().ok()
    asked = len(hub.requests)
    bake(out="again", env={"HF_HUB_OFFLINE": "1"}).ok()
    assert len(hub.requests) == asked
    assert tree(tmp_path / "again") == tree(tmp_path / "out")


def test_offline_without_the_cache(refused, hub, repo):
    refused(ID, "cache", "HF_HUB_OFFLINE", env={"HF_HUB_OFFLINE": "1"})
    assert not hub.requests


def test_offline_with_the_config_alone(bake, refused, hub, repo, base):
    """An earlier refusal left a config in the cache, which is not a checkpoint."""
    bake("--site", "layer_output").one_line("not at the layer output")
    refused("model.safetensors", env={"HF_HUB_OFFLINE": "1"})


def test_the_server_is_down(refused, hub, repo):
    with StandInHub() as other:
        gone = other.url
    refused(ID, "cannot be reached", env={"HF_ENDPOINT": gone})
    refused("owner/other", "cannot be reached", model="owner/other", env={"HF_ENDPOINT": gone})


def test_the_server_goes_down_after_the_first_time(bake, repo, tmp_path):
    """A full cache is enough."""
    bake().ok()
    with StandInHub() as other:
        gone = other.url
    bake(out="again", env={"HF_ENDPOINT": gone}).ok()
    assert tree(tmp_path / "again") == tree(tmp_path / "out")


def test_the_server_fails(bake, hub, repo):
    hub.broken = True
    ran = bake()
    assert ran.code in (1, 2)
    ran.one_line(ID, code=ran.code)


# --- refusals -------------------------------------------------------------------------------------------------


def test_a_gated_model(bake, refused, hub, repo):
    repo.gated = True
    refused(ID, "gated", "HF_TOKEN")
    refused(ID, "gated", env={"HF_TOKEN": "hf_stranger"})
    bake(env={"HF_TOKEN": hub.allowed}).ok()


def test_a_private_model(bake, refused, hub, repo):
    repo.private = True
    refused(ID, "no such folder", "private", "HF_TOKEN")
    bake(env={"HF_TOKEN": hub.allowed}).ok()


def test_the_token_goes_to_the_hub_only(bake, hub, repo, tmp_path):
    repo.private = True
    ran = bake("-v", env={"HF_TOKEN": hub.allowed}).ok()
    assert hub.allowed not in ran.out + ran.err
    assert {r.token for r in hub.requests if "/cdn/" not in r.path} == {hub.allowed}
    assert {r.token for r in hub.requests if "/cdn/" in r.path} == {""}, "another host"
    assert all(hub.allowed.encode() not in data for data in tree(tmp_path / "out").values())


@pytest.mark.parametrize("option", [(), ("--debug",)])
def test_a_wrong_token_is_not_printed(bake, hub, repo, option):
    ran = bake(*option, env={"HF_TOKEN": "hf_madeup"})
    assert ran.code != 0 and "hf_madeup" not in ran.out + ran.err
    if not option:
        ran.one_line(ID, code=ran.code)


def test_no_such_model(refused, hub):
    refused("owner/nothing", "no such folder", "Hub", model="owner/nothing")


def test_no_such_revision(refused, repo):
    refused(ID, "no revision 'v9'", options=("--revision", "v9"))


def test_no_config(refused, repo, base):
    (base / "config.json").unlink()
    repo.commit(base)
    refused(ID, "no config.json")


def test_only_pickled_weights(refused, hub, repo, base):
    (base / "model.safetensors").unlink()
    repo.commit(base)
    refused("pickled weights", "convert")
    assert "pytorch_model.bin" not in hub.downloaded()


@pytest.mark.parametrize("name", ["not a model", "owner/name/", "-x-/y", "a..b/c"])
def test_a_name_that_cannot_be(refused, hub, name):
    refused(name.rstrip("/"), model=name)
    assert not hub.requests


def test_a_broken_config(refused, repo, base):
    (base / "config.json").write_text("{")
    repo.commit(base)
    refused(f"{ID}/config.json", "not valid JSON")


def test_an_index_that_names_a_missing_shard(refused, hub, sharded):
    (sharded / "model-00002-of-00003.safetensors").unlink()
    hub.repos[ID] = Repo()
    hub.repos[ID].commit(sharded)
    refused("model-00002-of-00003.safetensors", "missing")
