"""`emobake push` and ``--push-to-hub`` from a folder: huggingface_hub's own code against a stand-in (`hub_server`)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from support.checkpoints import edit_json, tree, write_checkpoint
from support.hub_server import Fault, Repo, metadata_errors
from support.pushes import JOY, addressed, without_attributes, writes
from support.running import BASE, Run, run_process


@pytest.fixture
def out(cli: Run, base: Path, vectors: Path, tmp_path: Path) -> Path:
    """A finished output."""
    cli("--model", base, "--vectors", vectors, *JOY, "--base-model", BASE, "--out", tmp_path / "out", "-q").ok()
    return tmp_path / "out"


# --- what gets there ------------------------------------------------------------------------------------------


def test_pushed_in_one_commit(online, hub, out):
    ran = online("push", out, "me/joyful").ok()
    repo = hub.repos["me/joyful"]
    assert without_attributes(repo) == addressed(tree(out), "me/joyful")
    assert repo.messages == ["", "Bake 1 x joy"], "the Hub's own first commit, and one"
    assert f"Pushed to {hub.url}/me/joyful" in ran.out and ran.err == ""
    assert hub.allowed not in ran.out + ran.err
    assert not repo.private


def test_the_page_looks_right(online, hub, out, tmp_path):
    online("push", out, "me/joyful").ok()
    text = hub.repos["me/joyful"].files()["README.md"].decode()
    assert metadata_errors(text) == []
    # The library's own check, which asks the Hub, is made before every commit.
    assert [r.path for r in hub.requests].count("/api/validate-yaml") == 1
    data = ModelCard(text).data.to_dict()
    assert (data["base_model"], data["base_model_relation"]) == (BASE, "finetune")
    assert (data["license"], data["license_name"]) == ("other", "tiny-licence")
    assert (data["library_name"], data["pipeline_tag"]) == ("transformers", "text-generation")
    assert data["widget"] == [{"messages": [{"role": "user", "content": "How was your day?"}]}]
    assert "vllm serve me/joyful" in text and "THIS_REPO" not in text
    assert "`tiny-licence`, holds for this model as well; see [LICENSE](LICENSE)." in text


def report(folder, vectors="ev", verdict="Good."):
    """A report as an evaluation writes it."""
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps({"vectors": vectors}))
    (folder / "report.md").write_text(f"## Evaluation\n\n{verdict}\n\n![By strength](dose_response.png)\n")
    for name in ("dose_response.png", "dose_response.svg"):
        (folder / name).write_bytes(name.encode())
    (folder / "results").mkdir()
    (folder / "results" / "0.json").write_text("[]")
    return folder


def test_a_report_goes_into_the_card(online, hub, out, tmp_path):
    name = json.loads((out / "emobake.json").read_text())["vectors"]["name"]
    online("push", out, "me/joyful", "--report", report(tmp_path / "report", name)).ok()
    files = without_attributes(hub.repos["me/joyful"])
    added = {f"evaluation/{name}" for name in ("report.json", "dose_response.png", "dose_response.svg")}
    assert set(files) - set(tree(out)) == added
    card = files["README.md"].decode()
    assert "Good.\n\n![By strength](evaluation/dose_response.png)\n\n## Citation\n" in card
    assert card.count("## Evaluation") == 1 and metadata_errors(card) == []
    assert (
        card.replace(card[card.index("## Evaluation") : card.index("## Citation")], "")
        == addressed({"README.md": (out / "README.md").read_bytes()}, "me/joyful")["README.md"].decode()
    )
    online("push", out, "me/joyful", "--report", report(tmp_path / "later", name, "Better.")).ok()
    card = hub.repos["me/joyful"].files()["README.md"].decode()
    assert "Better." in card and "Good." not in card


def test_a_report_of_something_else_is_refused(online, hub, out, tmp_path):
    online("push", out, "me/joyful", "--report", report(tmp_path / "other", "others")).one_line("report of the vectors")
    online("push", out, "me/joyful", "--report", tmp_path).one_line("has no report.json", "emobake eval")
    assert "me/joyful" not in hub.repos


def test_again_is_nothing(online, hub, out):
    online("push", out, "me/joyful").ok()
    commit, uploads, before = hub.repos["me/joyful"].refs["main"], hub.uploaded(), hub.received
    ran = online("push", out, "me/joyful").ok()
    assert "Already the same, nothing to upload" in ran.out
    assert hub.repos["me/joyful"].refs["main"] == commit and hub.uploaded() == uploads
    assert hub.received - before < 5000, "requests only"


def test_other_weights_send_the_bias_shard_the_record_and_the_card(online, hub, out, base, vectors, tmp_path):
    online("push", out, "me/joyful").ok()
    first, before = hub.repos["me/joyful"].files(), hub.uploaded()
    bake = ("--model", base, "--vectors", vectors, "--mix", "joy=2", "--base-model", BASE, "--out", tmp_path / "more")
    online(*bake, "-q").ok()
    shown = json.loads(online("push", tmp_path / "more", "me/joyful", "--json").ok().out)
    new = hub.repos["me/joyful"].files()
    shard = "model-00002-of-00002.safetensors"
    assert {name for name in new if new[name] != first.get(name)} == {shard, "emobake.json", "README.md"}
    assert [f["name"] for f in shown["files"]] == ["README.md", "emobake.json", shard]
    assert len(hub.uploaded()) == len(before) + 1
    assert shown["bytes_travelling"] == sum(len(new[f["name"]]) for f in shown["files"])
    assert shown["commit"] == hub.repos["me/joyful"].refs["main"] and not shown["deleted"]


def test_shards_of_an_earlier_bake_go_and_what_is_no_models_stays(online, hub, out, sharded, vectors, tmp_path):
    online("push", out, "me/joyful").ok()
    hub.repos["me/joyful"].put(
        {"picture.png": b"PNG", "notes/how.txt": b"words", "mine.gguf": b"GGUF", "LICENSE.txt": b"words"}
    )
    more = tmp_path / "more"
    online("--model", sharded, "--vectors", vectors, *JOY, "--out", more, "-q").ok()
    ran = online("push", more, "me/joyful").ok()
    files = hub.repos["me/joyful"].files()
    left = {"picture.png", "notes/how.txt", "mine.gguf", "LICENSE.txt"}
    assert files.keys() == tree(more).keys() | left | {".gitattributes"}
    assert "deleted" in ran.out and "model-00001-of-00002.safetensors" in ran.out
    assert "left alone" in ran.out and "mine.gguf" in ran.out


def test_what_the_base_has_is_copied_there(copies, online, hub, sharded, vectors, tmp_path):
    """The weights go up from nowhere: the server has them already."""
    hub.repos[BASE] = Repo()
    commit = hub.repos[BASE].commit(sharded)
    more = tmp_path / "more"
    online("--model", BASE, "--vectors", vectors, *JOY, "--out", more, "-q").ok()
    shown = json.loads(online("push", more, "me/joyful", "--json").ok().out)
    assert [f["action"] for f in shown["files"] if f["name"].startswith("model-0000")] == ["copy"] * 3 + ["send"]
    assert len(hub.uploaded()) == 1
    assert without_attributes(hub.repos["me/joyful"]) == addressed(tree(more), "me/joyful")
    # A file that differs from the one of the recorded base is sent, whatever its name and size.
    del hub.repos[BASE].commits[commit]
    hub.repos[BASE].keep({}, "main")
    assert "cannot be read" in online("push", more, "me/other").ok().err
    assert len(hub.uploaded()) == 5
    assert without_attributes(hub.repos["me/other"]) == addressed(tree(more), "me/other")


def test_baked_and_pushed_at_once(copies, online, hub, base, vectors, tmp_path):
    for model, name in ((base, "me/local"), (BASE, "me/from-hub")):
        hub.repos.setdefault(BASE, Repo()).commit(base)
        more = tmp_path / Path(name).name
        ran = online("--model", model, "--vectors", vectors, *JOY, "--out", more, "--push-to-hub", name).ok()
        assert without_attributes(hub.repos[name]) == addressed(tree(more), name)
        assert f"Pushed to {hub.url}/{name}" in ran.out and "emobake verify" in ran.out
        assert ("will name no base" in ran.err) == (model == base)
    assert len(hub.uploaded()) == 3, "weights and biases; and of the second the biases only"


def test_a_library_that_cannot_copy_sends_what_is_here(online_without_copies, hub, base, vectors, tmp_path):
    run, out = online_without_copies, tmp_path / "more"
    hub.repos[BASE] = Repo()
    hub.repos[BASE].commit(base)
    ran = run("--model", BASE, "--vectors", vectors, *JOY, "--out", out, "--push-to-hub", "me/joyful").ok()
    assert "1.17 or later" in ran.err and "sent from here" in ran.err
    assert without_attributes(hub.repos["me/joyful"]) == addressed(tree(out), "me/joyful")
    assert len(hub.uploaded()) == 2
    assert "sent from here" in run("push", out, "me/other").ok().err
    assert without_attributes(hub.repos["me/other"]) == addressed(tree(out), "me/other")


def test_a_library_that_cannot_copy_knows_who_may_read_the_base(online_without_copies, hub, base, vectors, tmp_path):
    run, out = online_without_copies, tmp_path / "more"
    hub.repos[BASE] = Repo(private=True)
    hub.repos[BASE].commit(base)
    bake = ("--model", BASE, "--vectors", vectors, *JOY, "--out", out, "--overwrite", "--push-to-hub")
    hub.owners = ("me", "owner")
    onto_itself = run(*bake, BASE)
    assert onto_itself.code == 2 and "the base itself" in onto_itself.err and not out.exists()
    assert "me/joyful will be private too" in run(*bake, "me/joyful").ok().err
    assert "me/other will be private too" in run("push", out, "me/other").ok().err
    assert hub.repos["me/joyful"].private and hub.repos["me/other"].private


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("library", ["online", "online_without_copies"])
def test_a_dry_run_tells_what_a_run_with_a_folder_does(request, hub, vectors, tmp_path, library, kind):
    """GPT-2 has the bias already, so that shards of it are changed."""
    from emobake.storage.hub.snapshot import COPIES

    run, copies = request.getfixturevalue(library), COPIES and library == "online"
    hub.repos[BASE] = Repo()
    hub.repos[BASE].commit(write_checkpoint(tmp_path / kind, kind, dtype="F32", shards=3))
    bake = (
        "--model",
        BASE,
        "--vectors",
        vectors,
        *JOY,
        "--out",
        tmp_path / "more",
        "--push-to-hub",
        "me/joyful",
        "--json",
    )
    dry, ran = run(*bake, "--dry-run").ok(), run(*bake).ok()
    assert not copies or (dry.err, ran.err) == ("", "")
    assert copies or ("sent from here" in dry.err and dry.err == ran.err)
    planned, done = json.loads(dry.out)["hub"], json.loads(ran.out)["hub"]
    assert planned["files"] == done["files"] and planned["bytes_travelling"] == done["bytes_travelling"]
    assert {file["action"] for file in done["files"]} >= ({"copy", "send"} if copies else {"send"})
    assert copies or "copy" not in {file["action"] for file in done["files"]}


def test_without_a_folder_of_its_own(online, hub, base, biased, vectors, tmp_path):
    """A local base to the Hub: nothing is written here, not even if a bias must be overwritten."""
    for model, name in ((base, "me/one"), (biased, "me/two")):
        online("--model", model, "--vectors", vectors, *JOY, "--push-to-hub", name, "-q").ok()
        online("--model", model, "--vectors", vectors, *JOY, "--out", tmp_path / name, "-q").ok()
        assert without_attributes(hub.repos[name]) == addressed(tree(tmp_path / name), name)
    again = online("--model", biased, "--vectors", vectors, *JOY, "--push-to-hub", "me/two").ok()
    assert "Already the same" in again.out


def test_adapters(online, hub, base, vectors, tmp_path):
    peft = ("--model", base, "--vectors", vectors, "--base-model", BASE, "--format", "peft")
    online(*peft, *JOY, "--out", tmp_path / "one", "--push-to-hub", "me/one", "-q").ok()
    assert without_attributes(hub.repos["me/one"]) == addressed(tree(tmp_path / "one"), "me/one")
    online(*peft, "--each", "--out", tmp_path / "five", "-q").ok()
    online("push", tmp_path / "five", "me/five").ok()
    files = hub.repos["me/five"].files()
    assert files.keys() - {".gitattributes"} == tree(tmp_path / "five").keys()
    assert b'from_pretrained(base, "me/five", subfolder="joy")' in files["joy/README.md"]
    assert b'model.load_adapter("me/five", subfolder="fear", adapter_name="fear")' in files["README.md"]
    assert metadata_errors(files["README.md"].decode()) == []
    shown = json.loads(online("push", tmp_path / "one", "me/five", "--dry-run", "--json").ok().out)
    assert "joy/adapter_model.safetensors" in shown["deleted"] and files == hub.repos["me/five"].files()


def test_links_are_followed_and_hidden_files_stay(online, hub, base, vectors, tmp_path):
    more = tmp_path / "more"
    bake = ("--model", base, "--vectors", vectors, *JOY, "--out", more, "--link-mode", "symlink", "-q")
    online(*bake).ok()
    (more / ".DS_Store").write_bytes(b"x")
    (more / ".cache").mkdir()
    (more / ".cache" / "token").write_bytes(b"x")
    online("push", more, "me/joyful").ok()
    files = hub.repos["me/joyful"].files()
    assert files["model-00001-of-00002.safetensors"] == (base / "model.safetensors").read_bytes()
    assert not any("DS_Store" in name or "cache" in name for name in files)


# --- where it gets --------------------------------------------------------------------------------------------


def test_a_branch_a_message_a_private_repository(online, hub, out):
    online("push", out, "me/joyful@steered", "--private", "--commit-message", "With joy").ok()
    repo = hub.repos["me/joyful"]
    assert repo.private and repo.messages[-1] == "With joy"
    assert without_attributes(repo, "steered") and not without_attributes(repo, "main")
    assert "Already the same" in online("push", out, "me/joyful", "--revision", "steered").ok().out


def test_ones_own_account(online, hub, out):
    assert f"{hub.url}/me/joyful" in online("push", out, "joyful").ok().out
    assert b"vllm serve me/joyful" in hub.repos["me/joyful"].files()["README.md"]


def test_a_pull_request(online, hub, out, base, vectors, tmp_path):
    online("push", out, "me/joyful").ok()
    before = hub.repos["me/joyful"].refs["main"]
    bake = ("--model", base, "--vectors", vectors, "--mix", "joy=2", "--push-to-hub", "me/joyful", "--create-pr")
    ran = online(*bake).ok()
    assert f"Opened a pull request: {hub.url}/me/joyful/discussions/1" in ran.out
    assert hub.repos["me/joyful"].refs["main"] == before
    assert json.loads(hub.repos["me/joyful"].files("refs/pr/1")["emobake.json"])["weights"] == {"joy": 2.0}


def test_the_branch_to_push_to_as_revision(online, hub, base, vectors):
    """For a folder, --revision can only mean the branch."""
    bake = ("--model", base, "--vectors", vectors, *JOY, "--push-to-hub")
    online(*bake, "me/joyful", "--revision", "b", "-q").ok()
    assert "b" in hub.repos["me/joyful"].refs
    online(*bake, "me/joyful@c", "--revision", "b").one_line("--revision b", "me/joyful@c")


def test_a_dry_run_changes_nothing(online, hub, out):
    ran = online("push", out, "me/joyful", "--dry-run", env={"HF_TOKEN": ""}).ok()
    assert f"Would push to {hub.url}/me/joyful (a new repository)" in ran.out and "sent from here" in ran.out
    size = (out / "config.json").stat().st_size
    assert "send   config.json" in online("push", out, "me/joyful", "--dry-run", "-v").ok().out
    assert f"({size:,} bytes)" in ran.out and "more (-v names them)" in ran.out
    assert not writes(hub) and not hub.repos
    online("push", out, "me/joyful").ok()
    known = len(writes(hub))
    assert "Already the same" in online("push", out, "me/joyful", "--dry-run").ok().out
    assert len(writes(hub)) == known


def test_a_foreign_model_is_replaced_only_on_request(online, hub, out, base):
    hub.repos["me/model"] = Repo()
    before = hub.repos["me/model"].commit(base)
    hub.repos["me/model"].put({"picture.png": b"PNG"})
    online("push", out, "me/model").one_line("me/model", "is not emobake's", "--overwrite")
    online("push", out, "me/model@new").one_line("is not emobake's")
    assert "new" not in hub.repos["me/model"].refs and before in hub.repos["me/model"].commits
    ran = online("push", out, "me/model", "--overwrite").ok()
    files = hub.repos["me/model"].files()
    assert files.keys() == tree(out).keys() | {"picture.png"}, "no weights of another model beside the steered ones"
    assert "pytorch_model.bin" in ran.out


def test_what_a_repository_ignores_would_be_left_out(online, hub, out):
    hub.repos["me/joyful"] = Repo()
    hub.repos["me/joyful"].put({".gitignore": b"*.safetensors\n"})
    online("push", out, "me/joyful").one_line("me/joyful", ".gitignore", "remove it")
    assert not [name for name in hub.repos["me/joyful"].files() if name != ".gitignore"]


def test_an_empty_repository_with_a_card(online, hub, out):
    hub.repos["me/joyful"] = Repo()
    hub.repos["me/joyful"].put({"README.md": b"---\nlicense: mit\n---\n", ".gitattributes": b""})
    online("push", out, "me/joyful").ok()
    assert b"emobake" in hub.repos["me/joyful"].files()["README.md"]


# --- refusals -------------------------------------------------------------------------------------------------


def test_what_the_hub_refuses(online, hub, out):
    push = ("push", out, "me/joyful")
    online(*push, env={"HF_TOKEN": ""}).one_line("me/joyful", "no token", "hf auth login", "HF_TOKEN")
    online(*push, env={"HF_TOKEN": "hf_stranger"}).one_line("me/joyful", "refuses", "right to write")
    for given in (push, ("--model", "me/model", "--mix", "joy=1", "--push-to-hub", "me/x")):
        line = online(*given, env={"HF_TOKEN": "hf_t\u00f6ken1234"}).one_line("HF_TOKEN", "characters")
        assert "1234" not in line
    online("push", out, "others/joyful").one_line("others/joyful", "refuses", "right to write")
    online(*push, env={"HF_HUB_OFFLINE": "1"}).one_line("me/joyful", "HF_HUB_OFFLINE")
    for name in ("not a name", "a/b/c", "me/-x-", "me/joyful@"):
        online("push", out, name).one_line(name)
    online("push", out, "me/joyful@a", "--revision", "b").one_line("me/joyful@a", "--revision b")
    assert not hub.repos
    hub.repos["me/public"] = Repo()
    hub.repos["me/public"].put({".gitattributes": b""})
    online("push", out, "me/public", "--private").one_line("me/public", "is public", "--private")
    assert not without_attributes(hub.repos["me/public"])


def test_a_dry_run_without_the_hub_says_what_it_cannot_know(online, hub, out, base, vectors):
    bake = ("--model", base, "--vectors", vectors, "--mix", "joy=1", "--push-to-hub", "me/joyful", "--dry-run")
    bake += ("--base-model", "owner/tiny")
    for words in (("push", out, "me/joyful", "--dry-run"), bake):
        line = online(*words, env={"HF_HUB_OFFLINE": "1"}).one_line("me/joyful", "dry run", "HF_HUB_OFFLINE")
        assert "uploaded" not in line
        line = online(*words, env={"HF_ENDPOINT": "http://127.0.0.1:9"}).one_line(
            "what a push would send is not known", code=1
        )
        assert "uploaded" not in line and "committed" not in line


def test_what_is_no_steered_output(online, hub, out, base, tmp_path):
    online("push", tmp_path / "nothing", "me/x").one_line("nothing", "no such folder")
    online("push", base, "me/x").one_line(str(base), "not an output of emobake")
    shard = out / "model-00002-of-00002.safetensors"
    whole = shard.read_bytes()
    for name, said in (("o_proj", "not what emobake.json records"), ("k_proj", "not zero")):
        length = int.from_bytes(whole[:8], "little")
        at = 8 + length + json.loads(whole[8 : 8 + length])[f"model.layers.0.self_attn.{name}.bias"]["data_offsets"][0]
        shard.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        online("push", out, "me/x").one_line(said, "nothing was uploaded")
    shard.write_bytes(whole)
    (out / "pytorch_model.bin").write_bytes(b"pickle")
    online("push", out, "me/x").one_line("pytorch_model.bin", "lies beside the model")
    (out / "pytorch_model.bin").unlink()
    (out / "link").symlink_to("nowhere")
    online("push", out, "me/x").one_line("link", "broken link")
    (out / "link").unlink()
    edit_json(out / "config.json", attention_bias=False)
    online("push", out, "me/x").one_line("UNSTEERED", "nothing was uploaded")
    assert not hub.requests


def test_options_that_belong_to_the_hub(online, hub, base, vectors, tmp_path):
    bake = ("--model", base, "--vectors", vectors, *JOY)
    for option in (["--private"], ["--create-pr"], ["--commit-message", "x"]):
        online(*bake, "--out", tmp_path / "o", *option).one_line("--push-to-hub")
    online(*bake).one_line("--out", "--push-to-hub")
    assert not (tmp_path / "o").exists()


def test_a_refused_destination_costs_no_bake(online, hub, base, vectors, tmp_path):
    hub.repos["me/model"] = Repo()
    hub.repos["me/model"].commit(base)
    bake = ("--model", base, "--vectors", vectors, *JOY, "--base-model", BASE, "--out", tmp_path / "o")
    online(*bake, "--push-to-hub", "me/model").one_line("is not emobake's")
    online(*bake, "--push-to-hub", "me/x", env={"HF_TOKEN": ""}).one_line("no token")
    assert not (tmp_path / "o").exists()
    hub.faults.append(Fault("POST .*/commit/", 500, times=99))
    line = online(*bake, "--push-to-hub", "me/x").one_line("nothing was committed", code=1)
    assert f"{tmp_path / 'o'} is complete: emobake push {tmp_path / 'o'} me/x" in line
    assert (tmp_path / "o" / "emobake.json").exists()
    hub.faults.clear()
    online("push", tmp_path / "o", "me/x").ok()


def test_a_token_is_never_repeated(online, hub, out):
    """Not even when the server does."""
    token = hub.allowed
    hub.faults.append(Fault("POST .*/commit/", 400, times=99, message=f"Bad {token} in https://s3/x?Signature=abc"))
    for option in ((), ("--debug",)):
        ran = online(*option, "push", out, "me/joyful")
        assert ran.code == 1 and "Signature" not in ran.err and token not in ran.err + ran.out
    assert all(token.encode() not in bytes(data) for data in hub.repos["me/joyful"].files().values())


def test_a_card_that_the_hub_does_not_take(online, hub, out):
    (out / "README.md").write_text("---\nlicense: [\n---\n# Mine\n")
    online("push", out, "me/joyful").one_line("Invalid metadata in README.md", "repair the card")
    assert not without_attributes(hub.repos["me/joyful"])


def test_gating_is_carried_over(cli, base, vectors, tmp_path):
    (base / "README.md").write_text(
        "---\nlicense: llama3.1\nextra_gated_prompt: Say please.\nextra_gated_fields:\n  Name: text\n"
        "extra_gated_heading: 7\nwidget:\n- text: Hello there\n---\n"
    )
    (base / "USE_POLICY.md").write_text("Be good.\n")
    cli("--model", base, "--vectors", vectors, *JOY, "--base-model", BASE, "--out", tmp_path / "out", "-q").ok()
    text = (tmp_path / "out" / "README.md").read_text()
    data = ModelCard(text).data.to_dict()
    assert metadata_errors(text) == []
    assert data["extra_gated_prompt"] == "Say please." and data["extra_gated_fields"] == {"Name": "text"}
    assert "extra_gated_heading" not in data, "a number is none"
    assert data["widget"] == [{"text": "Hello there"}]
    assert "[USE_POLICY.md](USE_POLICY.md)" in text and "those who accept its conditions" in text


def test_from_python(out, hub, tmp_path):
    code = (
        "import sys, emobake\n"
        "done = emobake.push(sys.argv[1], emobake.HubTarget('me/joyful', private=True))\n"
        "print(done.repo_id, done.changed, done.changes.size('send') > 0)\n"
        "print(emobake.push(sys.argv[1], 'me/joyful').changed)\n"
    )
    ran = run_process("-c", code, out, env=hub.environment(tmp_path) | {"HF_TOKEN": hub.allowed})
    assert ran.ok().out == "me/joyful True True\nFalse\n" and ran.err == ""
    assert hub.repos["me/joyful"].private


def test_a_checkpoint_baked_twice(online, hub, out, vectors, tmp_path):
    """The output of one bake is the base of the next; the history goes along."""
    more = tmp_path / "more"
    online("--model", out, "--vectors", vectors, "--mix", "fear=1", "--base-model", BASE, "--out", more, "-q").ok()
    online("push", more, "me/both").ok()
    assert len(json.loads(hub.repos["me/both"].files()["emobake.json"])["history"]) == 1
    assert without_attributes(hub.repos["me/both"]) == addressed(tree(more), "me/both")


def test_a_larger_model_without_a_licence(online, hub, vectors, tmp_path):
    base = write_checkpoint(tmp_path / "bare", extra_files=False)
    online("--model", base, "--vectors", vectors, *JOY, "--base-model", BASE, "--push-to-hub", "me/bare", "-q").ok()
    text = hub.repos["me/bare"].files()["README.md"].decode()
    assert metadata_errors(text) == [] and "## Licence" not in text
    assert ModelCard(text).data.to_dict()["widget"] == [{"text": "How was your day?"}]
