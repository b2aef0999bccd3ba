"""Hub to Hub with faults: every phase cut, refused, limited or truncated."""

from __future__ import annotations

import pytest
from support.checkpoints import write_checkpoint, write_vectors
from support.hub_server import Fault, Repo
from support.pushes import JOY, untouched, writes
from support.running import BASE, TARGET

PHASES = {
    "the base": r"GET /api/models/owner/tiny$",
    "its files": r"GET /api/models/owner/tiny/tree",
    "its config": r"GET /owner/tiny/resolve/.*config.json",
    "a header": r"GET /owner/tiny/resolve/.*model-00002",
    "a header's bytes": r"GET /cdn/owner/tiny/.*model-00003",
    "the target": r"GET /api/models/me/joyful/revision/main",
    "the new repository": r"POST /api/repos/create",
    "a small file": r"GET /owner/tiny/resolve/.*tokenizer.json",
    "the card": r"POST /api/validate-yaml",
    "the announcement": r"POST .*/preupload/",
    "the storage": r"POST .*/objects/batch",
    "the upload": r"PUT /lfs/",
    "what to copy": r"POST .*/paths-info/",
    "the copy": r"POST .*/lfs-files/duplicate",
    "the commit": r"POST .*/commit/",
}


@pytest.mark.parametrize("what", ["cut", 500, 429])
@pytest.mark.parametrize("phase", PHASES)
def test_a_fault_that_passes(over, hub, repo, phase, what):
    fault = Fault(PHASES[phase], what, times=2, headers={"Retry-After": "1"} if what == 429 else {})
    hub.faults.append(fault)
    ran = over().ok()
    assert fault.seen == 2 and ran.err == ""
    assert hub.repos[TARGET].messages == ["", "Bake 1 x joy"], "one commit"
    assert "Already the same" in over().ok().out


@pytest.mark.parametrize("what", ["cut", 503])
@pytest.mark.parametrize("phase", PHASES)
def test_a_fault_that_stays(over, hub, repo, phase, what):
    hub.faults.append(Fault(PHASES[phase], what, times=10**6))
    ran = over()
    assert ran.code in (1, 2)
    line = ran.one_line(code=ran.code)
    assert BASE in line or TARGET in line
    assert hub.allowed not in line
    assert untouched(hub), "never half a commit"
    hub.faults.clear()
    uploads = hub.uploaded()
    over().ok()
    if phase in ("what to copy", "the copy", "the commit"):
        assert hub.uploaded() == uploads, "what had arrived was not sent again"


@pytest.mark.parametrize("phase", ["a header's bytes", "its config", "a small file", "its files", "the commit"])
def test_half_an_answer(over, hub, repo, phase):
    hub.faults.append(Fault(PHASES[phase], "half", times=2))
    over().ok()
    assert hub.repos[TARGET].messages == ["", "Bake 1 x joy"]


def test_ranges_that_stay_truncated(over, hub, repo):
    hub.faults.append(Fault(PHASES["a header's bytes"], "half", times=10**6))
    over().one_line(BASE, code=1)
    assert untouched(hub) and not writes(hub)


@pytest.mark.parametrize("what", ["cut", 500])
@pytest.mark.parametrize("phase", ["the new repository", "the announcement", "the upload", "the commit"])
def test_a_fault_of_a_plain_push(online, hub, base, vectors, phase, what):
    """With every huggingface_hub, those that cannot copy included."""
    push = ("--model", base, "--vectors", vectors, *JOY, "--push-to-hub", TARGET)
    hub.faults.append(Fault(PHASES[phase], what, times=10**6))
    ran = online(*push)
    line = ran.err.splitlines()[-1]
    assert ran.code == 1 and line.startswith(f"emobake: {TARGET}: ") and "nothing was committed" in line
    assert "Traceback" not in ran.err and untouched(hub)
    hub.faults[0] = Fault(PHASES[phase], what, times=1)
    online(*push).ok()


def test_a_header_longer_than_what_is_read_ahead(copies, online, hub, tmp_path):
    hub.repos["owner/deep"] = Repo()
    hub.repos["owner/deep"].commit(base := write_checkpoint(tmp_path / "deep", layers=60))
    data = (base / "model.safetensors").read_bytes()
    assert int.from_bytes(data[:8], "little") > 16 * 2**10
    vectors = write_vectors(tmp_path / "ev", layers=60)
    bake = ("--model", "owner/deep", "--vectors", vectors, *JOY, "--push-to-hub", TARGET)
    hub.no_ranges = True
    online(*bake).one_line("owner/deep", "parts of files", "--out", code=1)
    hub.no_ranges = False
    online(*bake).ok()


def test_a_storage_that_knows_no_ranges(over, hub, repo):
    """It sends the whole file; for short headers that will do."""
    hub.no_ranges = True
    over().ok()


def test_a_commit_whose_answer_is_lost(over, hub, repo):
    """It has landed; the second attempt finds that, and makes no second commit."""
    hub.faults.append(Fault(PHASES["the commit"], "cut after"))
    ran = over().ok()
    assert hub.repos[TARGET].messages == ["", "Bake 1 x joy"]
    assert "Pushed to" in ran.out and "copied by the Hub" in ran.out


def test_a_pull_request_whose_answer_is_lost(over, hub, repo):
    over().ok()
    hub.faults.append(Fault(PHASES["the commit"], "cut after"))
    over("--create-pr", mix="joy=2").one_line("pull request", f"{TARGET}/discussions", code=1)
    assert [name for name in hub.repos[TARGET].refs if name.startswith("refs/pr/")] == ["refs/pr/1"]


def test_a_commit_that_cannot_be_read_back(over, hub, repo):
    hub.faults.append(Fault(r"GET /api/models/me/joyful/revision/[0-9a-f]{40}", 500, times=10**6))
    over().one_line(TARGET, "was made, but cannot be read back", code=1)
    hub.faults.clear()
    assert "Already the same" in over().ok().out


def test_somebody_else_commits_meanwhile(over, hub, repo):
    answer, done = hub.answer, []

    def race(handler, body):
        if "/commit/" in handler.path and not done:
            done.append(hub.repos[TARGET].put({"notes.txt": b"mine"}, "Notes"))
        answer(handler, body)

    hub.answer = race
    over().one_line("notes.txt", "is not emobake's")
    assert hub.repos[TARGET].messages == ["", "Notes"]
    over("--overwrite").ok()
    assert "notes.txt" in hub.repos[TARGET].files(), "no file of a model"
    done.clear()
    over(mix="joy=2").ok()
    assert hub.repos[TARGET].messages[-2:] == ["Notes", "Bake 2 x joy"]


def test_what_others_see_is_old_or_new(over, hub, repo):
    """At no request is the branch anything but the one or the other."""
    over().ok()
    answer, seen = hub.answer, set()

    def watch(handler, body):
        seen.add(hub.repos[TARGET].refs["main"])
        answer(handler, body)

    hub.answer = watch
    before = hub.repos[TARGET].refs["main"]
    over(mix="joy=2").ok()
    assert seen == {before, hub.repos[TARGET].refs["main"]}


def test_what_the_server_keeps_is_checked(over, hub, repo):
    answer = hub.answer

    def spoil(handler, body):
        answer(handler, body)
        if "/commit/" in handler.path:
            target = hub.repos[TARGET]
            target.commits[target.refs["main"]]["config.json"] = b"{}"

    hub.answer = spoil
    over().one_line(TARGET, "config.json", "not as it was sent", code=1)


def test_the_token_goes_to_the_hub_only(over, hub, repo):
    repo.private = True
    ran = over("-v").ok()
    assert hub.allowed not in ran.out + ran.err
    away = [r for r in hub.requests if "/cdn/" in r.path or r.path.startswith("/lfs/")]
    assert away and {r.token for r in away} == {""}, "addresses that are signed"
    assert {r.token for r in hub.requests if r not in away} == {hub.allowed}
    assert all(hub.allowed.encode() not in bytes(data) for data in hub.repos[TARGET].files().values())
