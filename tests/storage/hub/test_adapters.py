"""Adapters on the Hub: fetched, steered, pushed, and their bases read from afar. A stand-in server."""

from __future__ import annotations

import json

import pytest
from support.adapters import write_adapter
from support.hub_server import Repo
from support.pushes import JOY
from support.running import BASE, TARGET

LORA = "owner/lora"


@pytest.fixture
def lora(hub, repo, tmp_path):
    """A LoRA of the base on the Hub; the folder that it was made in."""
    folder = write_adapter(tmp_path / "made", BASE, files={"chat_template.jinja": "x", "optimizer.pt": "pickle"})
    hub.repos[LORA] = Repo()
    hub.repos[LORA].commit(folder)
    return folder


def test_the_weights_of_the_base_stay_on_the_hub(online, hub, lora, vectors, tmp_path):
    ran = online("--model", LORA, "--vectors", vectors, *JOY, "--out", tmp_path / "out").ok()
    assert f"--base {BASE} --adapter {LORA}" in ran.out
    assert [path.name for path in (tmp_path / "hf").rglob("*.safetensors")] == ["adapter_model.safetensors"]
    assert not list((tmp_path / "hf").rglob("optimizer.pt"))
    record = json.loads((tmp_path / "out" / "emobake.json").read_text())
    assert record["adapter"]["model"] == LORA and record["adapter"]["revision"] == hub.repos[LORA].refs["main"]
    assert record["base"]["model"] == BASE
    ran = online("verify", tmp_path / "out", "--adapter", LORA, "--vectors", vectors).ok()
    assert "byte-identical to the plan" in ran.out
    assert [path.name for path in (tmp_path / "hf").rglob("*.safetensors")] == ["adapter_model.safetensors"]


def test_a_steered_lora_is_pushed(online, hub, lora, vectors, tmp_path):
    online("--model", LORA, "--vectors", vectors, *JOY, "--push-to-hub", TARGET).ok()
    wanted = {
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
        "emobake.json",
        "emobake.undo",
        "README.md",
    }
    assert set(hub.repos[TARGET].files()) - {".gitattributes"} == wanted
    online("--model", LORA, "--vectors", vectors, *JOY, "--out", tmp_path / "out").ok()
    assert "Already the same" in online("push", tmp_path / "out", TARGET).ok().out
    ran = online("verify", TARGET, "--adapter", LORA, "--vectors", vectors).ok()
    assert "byte-identical to the plan" in ran.out


def test_a_base_is_baked_from_hub_to_hub_and_carries_the_lora(online, hub, lora, vectors, tmp_path, copies):
    ran = online("--model", LORA, "--vectors", vectors, *JOY, "--format", "checkpoint", "--push-to-hub", TARGET).ok()
    assert "copied by the Hub  3 files" in ran.out
    files = hub.repos[TARGET].files()
    assert files["adapter/adapter_model.safetensors"] == (lora / "adapter_model.safetensors").read_bytes()
    assert files["adapter/chat_template.jinja"] == b"x" and "adapter/optimizer.pt" not in files
    ran = online("verify", TARGET, "--base", BASE, "--adapter", LORA, "--vectors", vectors).ok()
    assert "byte-identical to the plan" in ran.out


def test_a_pickle_on_the_hub(online, hub, repo, lora, vectors, tmp_path):
    files = dict(hub.repos[LORA].files())
    files["adapter_model.bin"] = files.pop("adapter_model.safetensors")
    hub.repos[LORA].keep(files, "main")
    ran = online("--model", LORA, "--vectors", vectors, *JOY, "--out", tmp_path / "out")
    ran.one_line("adapter_model.bin", "is a pickle, which is never loaded")


def test_an_adapter_that_names_a_path_of_another_machine(online, hub, repo, base, vectors, tmp_path):
    folder = write_adapter(tmp_path / "made", base)
    hub.repos[LORA] = Repo()
    hub.repos[LORA].commit(folder)
    ran = online("--model", LORA, "--vectors", vectors, *JOY, "--out", tmp_path / "out")
    ran.one_line("which is no Hub id", "give --base")


def test_the_revision_that_an_adapter_names(online, hub, lora, vectors, tmp_path):
    files = dict(hub.repos[LORA].files())
    config = json.loads(files["adapter_config.json"]) | {"revision": "v2"}
    hub.repos[LORA].keep(files | {"adapter_config.json": json.dumps(config).encode()}, "main")
    ran = online("--model", LORA, "--vectors", vectors, *JOY, "--out", tmp_path / "out")
    ran.one_line(BASE, "v2")
    ran = online("models", LORA, "--json")
    assert ran.code == 2
    hub.repos[LORA].keep(files, "main")
    (found,) = json.loads(online("models", LORA, "--json").ok().out)
    assert [way["route"] for way in found["ways"]][:2] == ["lora", "flag"]
