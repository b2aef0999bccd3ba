"""Personas of a base on the Hub: read there, made here or pushed there, and written back without a word of the user."""

from __future__ import annotations

import json

from support.checkpoints import tree
from support.hub_server import Repo
from support.pushes import addressed, without_attributes
from support.running import BASE, TARGET
from support.templates import CHATML

from emobake.formats.persona_file import persona_text
from emobake.vectors.open import open_vectors
from emobake.vectors.write import write_set

WORDS = {
    "name": "tiny",
    "base": {"id": BASE},
    "vectors": "owner/set",
    "mix": {"joy": 1},
    "system_prompt": "Be kind.",
    "sampling": {"temperature": 0.5},
    "examples": ["How was your day?"],
}


def test_a_persona_is_pushed_made_here_and_made_again(online, hub, sharded, vectors, tmp_path, copies):
    (sharded / "chat_template.jinja").write_text(CHATML)
    (sharded / "tokenizer_config.json").write_text("{}")
    hub.repos[BASE], hub.repos["owner/set"] = Repo(), Repo()
    hub.repos[BASE].commit(sharded)
    (tmp_path / "set").mkdir()
    write_set(open_vectors(vectors), tmp_path / "set" / "vectors.safetensors")
    hub.repos["owner/set"].commit(tmp_path / "set")
    file = tmp_path / "p.yaml"
    outputs = [{"push": TARGET, "private": True}, {"folder": "out"}]
    file.write_text(persona_text({**WORDS, "outputs": outputs}))
    planned = online("bake", file, "--dry-run", "--json").ok()
    assert TARGET not in hub.repos and not (tmp_path / "out").exists()
    assert [one["kind"] for one in json.loads(planned.out)["outputs"]] == ["push", "folder"]
    online("bake", file).ok()
    ours = tree(tmp_path / "out")
    assert without_attributes(hub.repos[TARGET]) == addressed(ours, TARGET)
    assert b"Be kind." in ours["chat_template.jinja"] and b'"temperature": 0.5' in ours["generation_config.json"]
    assert online("verify", TARGET, "--base", BASE).ok().err == ""
    recipe = online("show", tmp_path / "out", "--recipe").ok()
    assert recipe.err == "", "the record names everything"
    (tmp_path / "r.yaml").write_text(recipe.out)
    assert f"revision: {hub.repos[BASE].refs['main']}" in recipe.out
    online("bake", tmp_path / "r.yaml", "--out", tmp_path / "again", "-q").ok()
    assert tree(tmp_path / "again" / "out") == ours


def test_without_a_token_nothing_is_made_here_either(online, repo, vectors, tmp_path):
    file = tmp_path / "p.yaml"
    outputs = [{"folder": "out"}, {"push": TARGET}]
    words = {name: value for name, value in WORDS.items() if name != "system_prompt"}
    file.write_text(persona_text({**words, "vectors": str(vectors), "outputs": outputs}))
    ran = online("bake", file, env={"HF_TOKEN": ""})
    ran.one_line(f"output push {TARGET}", "token")
    assert not (tmp_path / "out").exists()


def test_a_base_that_vanishes(online, hub, repo, vectors, tmp_path):
    file = tmp_path / "p.yaml"
    file.write_text(persona_text({**WORDS, "vectors": str(vectors), "outputs": [{"folder": "out"}]}))
    del hub.repos[BASE]
    online("bake", file).one_line(BASE)
    assert not (tmp_path / "out").exists()
