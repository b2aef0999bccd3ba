"""Bakes from the desk: planned first, one at a time, and whole or not at all."""

import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.checkpoints import tree, write_checkpoint, write_vectors
from support.disks import LIMITS, Disk, alone
from support.paths import TESTS
from support.running import clean_environment

from emobake import InputError
from emobake.desk.baking import Baker
from emobake.desk.order import Bench, Order
from emobake.desk.setting import Setting
from emobake.storage.model_name import ModelName
from emobake.vectors.find import VectorSource

JOY = Setting({"joy": 1.0})


def baker_of(folder):
    (folder / "outs").mkdir(exist_ok=True)
    return Baker(Bench(ModelName.parse(folder / "base"), VectorSource(str(folder / "ev")), str(folder / "outs")))


@pytest.fixture
def baker(base, vectors, tmp_path):
    return baker_of(tmp_path)


def finished(baker):
    baker._thread.join(60)
    return baker.job


def test_a_dry_run_and_its_bake(baker, tmp_path):
    planned = baker.plan(Order(JOY, "folder", "joyful"))
    assert list((tmp_path / "outs").iterdir()) == [], "a dry run writes nothing"
    assert planned.recipe == "1 x joy" and "2 of 2 layers steered" in planned.lines[0]
    assert any("UNSTEERED" in line for line in planned.warnings)
    assert not any("UNSTEERED" in line for line in planned.lines), "said once"
    job = baker.start(planned.key)
    assert job.state == "running"
    job = finished(baker)
    assert job.state == "done" and job.done == job.total > 0, job
    assert job.lines[0] == f"Baked 1 x joy into {tmp_path}/outs/joyful"
    assert json.loads((tmp_path / "outs" / "joyful" / "emobake.json").read_text())["weights"] == {"joy": 1.0}


def test_only_the_last_dry_run_is_baked(baker):
    first = baker.plan(Order(JOY, "folder", "one"))
    second = baker.plan(Order(JOY, "folder", "two"))
    for key in (first.key, "", "\N{SNOWMAN}"):
        with pytest.raises(InputError, match="dry run"):
            baker.start(key)
    baker.start(second.key)
    assert finished(baker).state == "done"
    with pytest.raises(InputError, match="dry run"):
        baker.start(second.key)
    with pytest.raises(InputError, match="exists already"):
        baker.plan(Order(JOY, "folder", "two"))


def test_what_must_not_be_missed_is_among_the_warnings(baker):
    planned = baker.plan(Order(Setting({"joy": 4.0}, scope="last"), "folder", "loud"))
    assert "every position" in planned.warnings[0]
    assert any("collapse" in line for line in planned.warnings)
    adapter = baker.plan(Order(JOY, "adapter", "adapter"))
    assert adapter.command.endswith("--format peft --out " + adapter.out)


def hold(monkeypatch):
    """Have bakes wait in the middle, until the second event is set."""
    from emobake.storage import local

    reached, go, carry = threading.Event(), threading.Event(), local.carry

    def slowly(*arguments):
        reached.set()
        assert go.wait(30)
        return carry(*arguments)

    monkeypatch.setattr(local, "carry", slowly)
    monkeypatch.setattr(local, "write_pieces", _slowly_too(local.write_pieces, reached, go))
    return reached, go


def _slowly_too(write, reached, go):
    def slowly(*arguments):
        reached.set()
        assert go.wait(30)
        return write(*arguments)

    return slowly


def test_one_at_a_time_and_a_cancelled_one_leaves_nothing(baker, tmp_path, monkeypatch):
    reached, go = hold(monkeypatch)
    baker.start(baker.plan(Order(JOY, "folder", "joyful")).key)
    assert reached.wait(30)
    for second in (lambda: baker.plan(Order(JOY, "folder", "other")), lambda: baker.start("key")):
        with pytest.raises(InputError, match="a bake is running"):
            second()
    baker.cancel()
    go.set()
    job = finished(baker)
    assert (job.state, job.error) == ("cancelled", "cancelled; nothing was kept")
    assert list((tmp_path / "outs").iterdir()) == []


def test_closing_the_desk_cancels(baker, tmp_path, monkeypatch):
    reached, go = hold(monkeypatch)
    baker.start(baker.plan(Order(JOY, "folder", "joyful")).key)
    assert reached.wait(30)
    threading.Timer(0.2, go.set).start()
    baker.close()
    assert baker.job.state == "cancelled" and list((tmp_path / "outs").iterdir()) == []


def test_a_base_that_vanishes(baker, base, tmp_path, monkeypatch):
    planned = baker.plan(Order(JOY, "folder", "joyful"))
    moved = base.rename(tmp_path / "moved")
    baker.start(planned.key)
    job = finished(baker)
    assert job.state == "failed" and "base" in job.error and "\n" not in job.error
    with pytest.raises(InputError, match="no such folder"):
        baker.plan(Order(JOY, "folder", "joyful"))
    moved.rename(base)
    planned = baker.plan(Order(JOY, "folder", "joyful"))
    reached, go = hold(monkeypatch)
    baker.start(planned.key)
    assert reached.wait(30)
    shutil.rmtree(base)
    go.set()
    job = finished(baker)
    assert job.state == "failed" and "\n" not in job.error and "Traceback" not in job.error
    assert list((tmp_path / "outs").iterdir()) == []


def test_an_unexpected_failure_ends_the_job(baker, monkeypatch):
    planned = baker.plan(Order(JOY, "folder", "joyful"))
    monkeypatch.setattr(Baker, "_bake", lambda *_, **__: 1 / 0)
    baker.start(planned.key)
    assert "unexpected ZeroDivisionError" in finished(baker).error


@pytest.mark.parametrize("limit", LIMITS)
def test_a_full_disk_keeps_nothing_and_says_so(tmp_path, limit):
    write_checkpoint(tmp_path / "base")
    write_vectors(tmp_path / "ev")
    command = [*alone(), sys.executable, __file__, str(tmp_path), limit]
    env = clean_environment() | {"PYTHONPATH": f"{TESTS}:{clean_environment().get('PYTHONPATH', '')}"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, f"this test needs `unshare` and tmpfs: {done.stderr}"
    found = json.loads(done.stdout)
    assert found["errors"] and found["left"] == [[]] * len(found["left"])
    assert all("the disk is full; nothing was kept" in error for error in found["errors"])
    assert found["last"] == "done"


def sweep(folder, limit):
    """Bakes into a disk that has a little more to spare each time, until one fits."""
    disk = Disk.mount(folder / "outs", pages=400, files=60)
    baker, errors, left = baker_of(folder), [], []
    for n in range(0, 100, 4 if limit == "size" else 2):
        disk.leave(limit, n)
        baker.start(baker.plan(Order(JOY, "folder", "joyful")).key)
        job = finished(baker)
        if job.state == "done":
            return {"errors": errors, "left": left, "last": job.state}
        errors.append(job.error)
        left.append([entry.name for entry in disk.folder.iterdir() if entry.name != "ballast"])
    return {"errors": errors, "left": left, "last": "never"}


if __name__ == "__main__":
    (Path(sys.argv[1]) / "outs").mkdir()
    sys.stdout.write(json.dumps(sweep(Path(sys.argv[1]), sys.argv[2])))


def test_the_tree_of_a_bake_is_that_of_the_command(baker, cli, base, vectors, tmp_path):
    baker.start(baker.plan(Order(JOY, "folder", "joyful")).key)
    assert finished(baker).state == "done"
    cli("--model", base, "--vectors", vectors, "--mix", "joy=1", "--out", tmp_path / "other").ok()
    assert tree(tmp_path / "outs" / "joyful") == tree(tmp_path / "other")
