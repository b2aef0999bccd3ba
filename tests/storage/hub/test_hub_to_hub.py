"""Hub to Hub: weights are copied by the server. huggingface_hub's own code, a stand-in server."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ml_dtypes import bfloat16
from support.checkpoints import edit_json, read_tensors, tree, write_checkpoint
from support.hub_server import Fault, Repo, Sparse, StandInHub
from support.pushes import JOY, addressed, untouched, without_attributes, writes
from support.reachable import reachable_rows
from support.running import BASE, TARGET

from emobake import VectorSet
from emobake.vectors.write import write_set

# --- what gets there ------------------------------------------------------------------------------------------


def test_the_same_as_by_way_of_this_machine(over, online, hub, repo, vectors, tmp_path):
    ran = over().ok()
    assert ran.err == ""
    online("--model", BASE, "--vectors", vectors, *JOY, "--out", tmp_path / "out", "-q").ok()
    assert without_attributes(hub.repos[TARGET]) == addressed(tree(tmp_path / "out"), TARGET)
    assert len(hub.uploaded()) == 1, "the bias shard, and not a weight"
    assert hub.repos[TARGET].messages == ["", "Bake 1 x joy"]
    record = json.loads(hub.repos[TARGET].files()["emobake.json"])
    assert (record["base"]["model"], record["base"]["revision"]) == (BASE, repo.refs["main"])
    assert all(len(weight["sha256"]) == 64 for weight in record["base"]["weights"])
    assert "copied by the Hub  3 files" in ran.out
    assert f"emobake verify {TARGET} --base {BASE}" in ran.out and f"vllm serve {TARGET}" in ran.out


def test_no_weights_are_downloaded(over, hub, repo, tmp_path):
    over().ok()
    over(mix="joy=2").ok()
    over("--dry-run", mix="joy=3").ok()
    assert not list((tmp_path / "hf").rglob("*.safetensors"))


def test_again_is_nothing_and_other_weights_are_little(over, hub, repo):
    over().ok()
    first, posts = hub.repos[TARGET].files(), len(writes(hub))
    assert "Already the same" in over().ok().out
    assert len(writes(hub)) == posts
    shown = json.loads(over("--json", mix="joy=2").ok().out)["hub"]
    new = hub.repos[TARGET].files()
    changed = {name for name in new if new[name] != first.get(name)}
    assert changed == {"model-00004-of-00004.safetensors", "emobake.json", "README.md"}
    assert {f["name"] for f in shown["files"]} == changed and shown["bytes_copied"] == 0
    assert len(hub.uploaded()) == 2


@pytest.mark.parametrize("keys", [1, 2])
def test_a_solved_bias_reads_the_output_projections_from_afar(over, online, hub, tmp_path, keys):
    """StableLM: where the rows take a copy of each key/value head, the shards with attention are sent as well."""
    own = {"model_type": "stablelm", "architectures": ["StableLmForCausalLM"], "attention_bias": None}
    own |= {"num_attention_heads": 4, "num_key_value_heads": 2}
    base = write_checkpoint(tmp_path / "stable", shards=3, hidden=16, **own)
    held = {name: np.frombuffer(data, bfloat16).reshape(shape) for name, (_, shape, data) in read_tensors(base).items()}
    outputs = {layer: held[f"model.layers.{layer}.self_attn.o_proj.weight"] for layer in (0, 1)}
    rows = reachable_rows(outputs, 4, 2 * keys)
    write_set(VectorSet(("joy",), rows[None]), tmp_path / "rows.safetensors")
    hub.repos["owner/stable"] = Repo()
    hub.repos["owner/stable"].commit(base)
    some = ("--model", "owner/stable", "--vectors", tmp_path / "rows.safetensors", *JOY)
    shown = json.loads(online(*some, "--push-to-hub", TARGET, "--json").ok().out)
    assert shown["route"] == "value" and shown["cost"]["cache"] == keys
    online(*some, "--out", tmp_path / "out", "-q").ok()
    assert without_attributes(hub.repos[TARGET]) == addressed(tree(tmp_path / "out"), TARGET)
    online("verify", TARGET, "--base", "owner/stable", "--vectors", tmp_path / "rows.safetensors").ok()


def test_a_dry_run_shows_what_would_travel(over, hub, repo):
    shown = json.loads(over("--dry-run", "--json").ok().out)
    files = {f["name"]: f["action"] for f in shown["hub"]["files"]}
    assert files["model-00001-of-00004.safetensors"] == "copy" and files["config.json"] == "send"
    assert files["tokenizer.json"] == "relay" and shown["hub"]["commit"] is None
    copied = sum(len(data) for name, data in repo.files().items() if name.startswith("model-0"))
    assert shown["hub"]["bytes_copied"] == copied
    assert not writes(hub) and TARGET not in hub.repos
    # Nor does one for a folder need the weights.
    assert "carried over" in over("--dry-run", "--out", "nowhere").ok().out
    assert not Path("nowhere").exists()


def test_only_the_shards_with_an_existing_bias_move(over, hub, tmp_path):
    """GPT-2 has the biases; the shard that holds the word vectors alone stays where it is."""
    base = write_checkpoint(tmp_path / "gpt2", "gpt2", dtype="F32", shards=4)
    hub.repos["owner/gpt2"] = Repo()
    hub.repos["owner/gpt2"].commit(base)
    files = hub.repos["owner/gpt2"].files()
    biased = {n for n, d in files.items() if n.startswith("model-0") and b"attn.c_proj.bias" in d}
    shown = json.loads(over("--json", model="owner/gpt2").ok().out)
    actions = {f["name"]: f["action"] for f in shown["hub"]["files"] if f["name"].startswith("model-0")}
    assert 0 < len(biased) < 4 and actions == {n: "relay" if n in biased else "copy" for n in actions}
    assert len(hub.uploaded()) == len(biased) and shown["overwritten_tensors"] == 2
    new = hub.repos[TARGET].files()
    assert {n for n in actions if new[n] != files[n]} == biased
    assert "Already the same" in over(model="owner/gpt2").ok().out
    edited = hub.repos[TARGET].keep(new | {"README.md": b"---\ntags:\n- mine\n---\n"}, "main")
    over(model="owner/gpt2").ok()
    assert hub.repos[TARGET].refs["main"] != edited and hub.repos[TARGET].files() == new


def test_onto_an_earlier_bake_of_another_layout(over, online, hub, base, vectors, tmp_path):
    online("--model", base, "--vectors", vectors, *JOY, "--push-to-hub", TARGET, "-q").ok()
    assert "model-00002-of-00002.safetensors" in hub.repos[TARGET].files()
    over().ok()
    weights = {n for n in hub.repos[TARGET].files() if n.endswith(".safetensors")}
    assert weights == {f"model-0000{i}-of-00004.safetensors" for i in (1, 2, 3, 4)}


def test_an_adapter(over, hub, repo):
    over("--format", "peft").ok()
    assert "adapter_model.safetensors" in hub.repos[TARGET].files()


def test_a_library_that_cannot_copy(online_without_copies, hub, repo, vectors, tmp_path):
    bake = ("--model", BASE, "--vectors", vectors, *JOY, "--push-to-hub", TARGET)
    for option in ((), ("--dry-run",)):
        line = online_without_copies(*bake, *option).one_line("from Hub to Hub", "huggingface_hub 1.17", code=1)
        assert line.endswith("pip install -U huggingface_hub")
    assert untouched(hub) and not writes(hub)
    online_without_copies(*bake, "--format", "peft").ok()
    assert "adapter_model.safetensors" in hub.repos[TARGET].files()


def test_large_files_beside_the_weights_are_copied_too(over, hub, sharded, repo):
    (sharded / "tokenizer.model").write_bytes(b"sentencepiece")
    repo.commit(sharded)
    shown = json.loads(over("--json").ok().out)["hub"]
    assert {"name": "tokenizer.model", "action": "copy", "bytes": 13} in shown["files"]


def test_a_branch_of_the_same_repository(over, online, hub, repo, vectors):
    hub.owners = ("me", "owner")
    over(target=BASE).one_line(BASE, "the base itself")
    over(target=f"{BASE}@steered").one_line("is not emobake's", "--overwrite")
    over("--overwrite", target=f"{BASE}@steered").ok()
    assert "emobake.json" in repo.files("steered") and "emobake.json" not in repo.files()
    assert not any(name.endswith((".bin", ".pth", ".gguf", ".onnx", ".py")) for name in repo.files("steered"))


# --- contradictions ----------------------------------------------------------------------------------------------


def test_verified_where_it_is(over, online, hub, repo, vectors, tmp_path):
    over().ok()
    check = ("--base", BASE, "--vectors", vectors)
    ran = online("verify", TARGET, *check).ok()
    assert "byte-identical to the plan, by the digests that the Hub keeps" in ran.out
    assert "FAIL" not in ran.out and "model card" not in ran.out, "the card has the repository's id"
    assert "arithmetic: 2 biases equal" in ran.out and "config honours the bias" in ran.out
    assert not list((tmp_path / "hf").rglob("model-0000[123]*")), "the weights stay where they are"
    commit = hub.repos[TARGET].refs["main"]
    assert "FAIL" not in online("verify", f"{TARGET}@{commit}", "--base", tmp_path / "sharded").ok().out
    # What does not hold is found from here.
    files = hub.repos[TARGET].files()
    for name, content, said in (
        ("model-00002-of-00004.safetensors", files["model-00001-of-00004.safetensors"], "is in both"),
        (
            "config.json",
            files["config.json"].replace(b'"attention_bias": true', b'"attention_bias": false'),
            "UNSTEERED",
        ),
        ("config.json", files["config.json"].replace(b"10000.0", b"20000.0"), "rope_theta is 20000.0, not 10000.0"),
        ("tokenizer.json", b"{}", "tokenizer.json: has 2 bytes"),
        ("adapter_config.json", b"{}", "lies beside"),
        ("model.safetensors.gguf", b"GGUF", "lies beside"),
        ("model-00001-of-00004.safetensors", _other_embeddings(files), "is not the base's"),
    ):
        hub.repos[TARGET].keep(files | {name: content}, "main")
        ran = online("verify", TARGET, *check)
        assert ran.code in (1, 2) and said in ran.out + ran.err, (name, ran)


def _other_embeddings(files):
    shard = files["model-00001-of-00004.safetensors"]
    return shard[:-1] + bytes([shard[-1] ^ 1])


def test_verified_where_biases_were_overwritten(over, online, hub, vectors, tmp_path):
    base = write_checkpoint(tmp_path / "gpt2", "gpt2", dtype="F32", shards=4)
    hub.repos["owner/gpt2"] = Repo()
    hub.repos["owner/gpt2"].commit(base)
    over(model="owner/gpt2").ok()
    ran = online("verify", TARGET, "--base", "owner/gpt2", "--vectors", vectors).ok()
    assert "only the size was compared, and the biases in it" in ran.out and "arithmetic: 2 biases equal" in ran.out


def test_an_adapter_and_other_things_are_verified_there(over, online, hub, repo, sharded, tmp_path):
    over("--format", "peft").ok()
    assert "FAIL" not in online("verify", TARGET).ok().out
    ran = online("verify", TARGET, "--base", BASE).ok()
    assert "FAIL" not in ran.out and "files as planned: 2 files" in ran.out
    assert not list((tmp_path / "hf").rglob("model-0000*")), "an adapter needs the headers of its base only"
    online("verify", BASE).one_line(BASE, "not an output of emobake")
    online("verify", "me/nothing").one_line("me/nothing", "no such")
    repo.keep(repo.files() | {"emobake.json": b"{}"}, "main")
    online("verify", BASE).one_line(f"{BASE}/emobake.json", "not a record")


# --- which base -----------------------------------------------------------------------------------------------


def test_a_revision_is_pinned(over, hub, repo, tmp_path):
    other = write_checkpoint(tmp_path / "other", dtype="F16", shards=3)
    commit = repo.commit(other, ref="half")
    for number, given in enumerate((["--revision", "half"], [])):
        model, target = BASE if given else f"{BASE}@half", f"me/half{number}"
        over(*given, model=model, target=target).ok()
        assert json.loads(hub.repos[target].files()["emobake.json"])["base"]["revision"] == commit
    over("--revision", "other", model=f"{BASE}@half", target="me/third").ok()
    assert "other" in hub.repos["me/third"].refs, "with the model's own, --revision is the branch to push to"
    over("--revision", "nothing").one_line(BASE, "no revision 'nothing'")


def test_a_branch_that_moves_meanwhile(over, hub, repo, tmp_path):
    first, answer = repo.refs["main"], hub.answer
    other = write_checkpoint(tmp_path / "other", dtype="F16", shards=3)

    def move(handler, body):
        answer(handler, body)
        if "/tree/" in handler.path and repo.refs["main"] == first:
            repo.commit(other)

    hub.answer = move
    over().ok()
    assert json.loads(hub.repos[TARGET].files()["emobake.json"])["base"]["revision"] == first
    shards = [n for n in repo.commits[first] if n.startswith("model-0") and n.endswith("of-00003.safetensors")]
    new = hub.repos[TARGET].files()
    assert [new[n.replace("of-00003", "of-00004")] for n in shards] == [repo.commits[first][n] for n in shards]


def test_a_revision_that_is_deleted_meanwhile(over, hub, repo):
    commit, answer = repo.refs["main"], hub.answer

    def delete(handler, body):
        if "/preupload/" in handler.path:
            repo.commits.pop(commit, None)
        answer(handler, body)

    hub.answer = delete
    over().one_line(BASE, commit[:12], "no longer there", "nothing was committed", code=1)
    assert untouched(hub)


def test_private_and_gated_bases(over, hub, repo):
    repo.gated = True
    over(env={"HF_TOKEN": ""}).one_line("no token")
    over(env={"HF_TOKEN": "hf_stranger"}).one_line(BASE, "gated", "ask for access")
    assert f"{BASE} is gated and me/g is not" in over(target="me/g").ok().err
    assert not hub.repos["me/g"].private
    repo.gated, repo.private = False, True
    over(env={"HF_TOKEN": "hf_stranger"}).one_line(BASE, "no such")
    assert "me/p will be private too" in over("--dry-run", target="me/p").ok().err
    assert "me/p will be private too" in over(target="me/p").ok().err
    assert hub.repos["me/p"].private
    assert over("--public", target="me/q").ok().err == "" and not hub.repos["me/q"].private
    assert "anybody can read" in over(target="me/g").ok().err


@pytest.mark.parametrize(
    "broken, words",
    [
        ("config", ("no config.json",)),
        ("pickled", ("pickled weights", "convert")),
        ("header", ("model-00002-of-00003.safetensors", "claims a header")),
        ("index", ("model-00002-of-00003.safetensors", "missing")),
        ("type", (BASE, "mixtral")),
        ("json", (f"{BASE}/config.json", "not valid JSON")),
    ],
)
def test_what_is_no_base(over, hub, repo, sharded, broken, words):
    if broken == "config":
        (sharded / "config.json").unlink()
    elif broken == "pickled":
        for path in sharded.glob("model*"):
            path.unlink()
    elif broken == "header":
        (sharded / "model-00002-of-00003.safetensors").write_bytes(b"\xff" * 100)
    elif broken == "index":
        (sharded / "model-00002-of-00003.safetensors").unlink()
    elif broken == "type":
        edit_json(sharded / "config.json", model_type="mixtral", architectures=["MixtralForCausalLM"])
    else:
        (sharded / "config.json").write_text("{")
    hub.repos[BASE] = Repo()
    hub.repos[BASE].commit(sharded)
    over().one_line(*words)
    assert untouched(hub) and not writes(hub)


def test_a_hostile_base(over, hub, repo, tmp_path):
    repo.keep(repo.files() | {"../../evil.model": b"x"}, "main")
    over().one_line(BASE, "../../evil.model", "cannot be one of its own")
    claims = Sparse(tmp_path / "claims", "0" * 64)
    with claims.path.open("wb") as file:
        file.write((30_000_000).to_bytes(8, "little") + b"{")
        file.truncate(200_000_000)
    files = {"model.safetensors": claims, "config.json": repo.files()["config.json"]}
    repo.keep(files, "main")
    before = hub.sent
    over().one_line("model.safetensors", "claims a header of 30000000 bytes")
    assert hub.sent - before < 100_000 and untouched(hub)


def test_a_dry_run_without_the_hub(over, online, hub, repo, vectors, tmp_path):
    """A full cache is enough, unless the result is pushed."""
    bake = ("--model", BASE, "--vectors", vectors, *JOY)
    online(*bake, "--out", tmp_path / "out", "-q").ok()
    with StandInHub() as other:
        gone = {"HF_ENDPOINT": other.url}
    assert "Planned" in online(*bake, "--dry-run", env=gone).ok().out
    over("--dry-run", env=gone).one_line(BASE, code=1)


def test_no_such_base(over, hub):
    over(model="owner/nothing").one_line("owner/nothing", "no such")
    over(env={"HF_HUB_OFFLINE": "1"}).one_line("HF_HUB_OFFLINE")
    with StandInHub() as other:
        gone = other.url
    ran = over(env={"HF_ENDPOINT": gone})
    ran.one_line(BASE, code=ran.code)


# --- where the server does not copy -----------------------------------------------------------------------------


def test_by_way_of_a_duplicate(over, online, hub, repo, vectors, tmp_path):
    hub.other_region, hub.pending = "Storage regions differ", 3
    ran = over().ok()
    assert "Storage regions differ" in ran.err and "private duplicate" in ran.err and "sent from here" not in ran.err
    assert set(hub.repos) == {BASE, TARGET}, "the duplicate is gone"
    assert len(hub.uploaded()) == 1, "no weights went through this machine"
    online("--model", BASE, "--vectors", vectors, *JOY, "--out", tmp_path / "out", "-q").ok()
    assert without_attributes(hub.repos[TARGET]) == addressed(tree(tmp_path / "out"), TARGET)
    assert hub.repos[TARGET].messages == ["", "Bake 1 x joy"]


@pytest.mark.parametrize("reason", ["region", "old storage"])
def test_by_way_of_this_machine(over, online, hub, repo, vectors, tmp_path, reason):
    hub.no_duplicates = True
    if reason == "region":
        hub.other_region = "Storage regions differ"
    else:
        hub.without_xet.add(BASE)
    ran = over().ok()
    assert "are fetched and sent from here" in ran.err
    assert len(hub.uploaded()) == 4
    assert set(hub.repos) == {BASE, TARGET}
    online("--model", BASE, "--vectors", vectors, *JOY, "--out", tmp_path / "out", "-q").ok()
    assert without_attributes(hub.repos[TARGET]) == addressed(tree(tmp_path / "out"), TARGET)


def test_a_duplicate_that_cannot_be_removed_is_named(over, hub, repo):
    hub.other_region = "Storage regions differ"
    hub.faults.append(Fault("DELETE", 403, times=99))
    ran = over().ok()
    (scratch,) = set(hub.repos) - {BASE, TARGET}
    assert f"{scratch} could not be removed" in ran.err and hub.repos[scratch].private
