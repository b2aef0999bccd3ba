"""All or nothing: killed at any moment, interrupted, or beside another run, an output is absent or complete.

The runs that are killed are children of a driver process (this file, run as a script) that has emobake loaded
already: a hundred runs then take seconds, and each is still a process that SIGKILL ends.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.checkpoints import tree, write_checkpoint, write_vectors
from support.running import run_process

from emobake.cli.app import main

OLD, NEW = ("--mix", "anger=1"), ("--mix", "joy=0.5,fear=0.25")
RANDOM_KILLS = 40
"""Runs that are killed before they end, in each of the two tests."""


# --- the driver -----------------------------------------------------------------------------------------------


class Place:
    """A folder with a base, a vector set, and what complete outputs of it look like."""

    def __init__(self, folder: Path) -> None:
        self.base, self.vectors, self.out = folder / "base", folder / "ev", folder / "outs" / "out"
        self.arguments = ["--model", str(self.base), "--vectors", str(self.vectors), "--link-mode", "copy", "-q"]
        self.trees: dict[str, dict[str, bytes]] = {}
        for name, mix in (("old", OLD), ("new", NEW)):
            # In this process, so that every child begins with all modules loaded.
            with contextlib.suppress(SystemExit):
                main([*self.arguments, *mix, "--out", str(folder / name)])
            self.trees[name] = tree(folder / name)
        self.old = folder / "old"
        self.before = tree(self.base)

    def run(self, *more: str, out: Path | None = None, prepare: Callable[[], object] = lambda: None) -> int:
        """Bake in a child; its exit code, or minus the signal that ended it."""
        return self.wait(self.start(*more, out=out, prepare=prepare))

    def start(self, *more: str, out: Path | None = None, prepare: Callable[[], object] = lambda: None) -> int:
        """Begin a bake in a child; its process id."""
        pid = os.fork()
        if pid == 0:
            code = 99
            try:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
                prepare()
                main([*self.arguments, "--out", str(out or self.out), *more])
            except SystemExit as stop:
                code = int(stop.code or 0)
            finally:
                os._exit(code)
        return pid

    @staticmethod
    def wait(pid: int) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def state(self) -> str:
        """``absent``, ``old``, ``new``, or ``BROKEN``."""
        if not os.path.lexists(self.out):
            return "absent"
        found = tree(self.out)
        return next((name for name, files in self.trees.items() if files == found), "BROKEN")

    def remains(self) -> list[str]:
        """Names beside the output."""
        beside = self.out.parent.iterdir() if self.out.parent.exists() else ()
        return sorted(p.name for p in beside if p != self.out)

    def reset(self, existing: bool) -> None:
        """Begin anew, with an older output in place or without."""
        shutil.rmtree(self.out.parent, ignore_errors=True)
        self.out.parent.mkdir()
        if existing:
            shutil.copytree(self.old, self.out)


def kill_at(n: int, report: Callable[[int], object] = lambda count: None) -> Callable[[], None]:
    """For a child: SIGKILL itself right before its n-th change to the file system (counted from 0)."""
    changes = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.truncate", "fcntl.flock")

    def install() -> None:
        count = 0

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal count
            opens = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            if event in changes or opens:
                if count == n:
                    os.kill(os.getpid(), signal.SIGKILL)
                count += 1
                report(count)

        sys.addaudithook(hook)

    return install


def kill_after_copies(n: int, report: Callable[[], object] = lambda: None) -> Callable[[], None]:
    """For a child: copy in small steps, and SIGKILL itself before the n-th of them (counted from 0)."""

    def install() -> None:
        from emobake.storage import copying

        copying._CHUNK = 2**16
        copy, count = os.copy_file_range, itertools.count()

        def step(*arguments: int) -> int:
            if next(count) == n:
                os.kill(os.getpid(), signal.SIGKILL)
            report()
            return copy(*arguments)

        os.copy_file_range = step

    return install


def changes_of(place: Place, *more: str) -> int:
    """Number of changes to the file system by a whole run."""
    reader, writer = os.pipe()
    assert place.run(*more, prepare=kill_at(10**9, lambda count: os.write(writer, b"."))) == 0
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        return len(stream.read())


def after_a_kill(place: Place, existing: bool, seen: Counter[str], where: str) -> None:
    """The rule itself, checked on what a killed run has left."""
    state, remains = place.state(), place.remains()
    seen[f"{state}{', with remains' if remains else ''}"] += 1
    allowed = {"old", "new", "absent"} if existing else {"absent", "new"}
    assert state in allowed, f"{where}: {state}"
    if existing:
        # The next run, whatever it is asked to do, first puts the older output back, or ends the exchange.
        assert place.run(*NEW) == 2, where
        assert place.state() in (("old", "new") if state == "absent" else (state,)), where
    assert place.run(*NEW, "--overwrite") == 0, where
    assert place.state() == "new" and place.remains() == [], f"{where}: {place.state()}, {place.remains()}"


def drive_every_change(place: Place, existing: bool) -> Counter[str]:
    """Kill a run right before each of its changes to the file system."""
    more = [*NEW, "--overwrite"] if existing else NEW
    place.reset(existing)
    total = changes_of(place, *more)
    seen: Counter[str] = Counter(changes=total)
    for n in range(total):
        place.reset(existing)
        code = place.run(*more, prepare=kill_at(n))
        assert code == -signal.SIGKILL, f"change {n} of {total}: exit code {code}"
        after_a_kill(place, existing, seen, f"killed at change {n} of {total}")
    return seen


def drive_copies(place: Place, existing: bool) -> Counter[str]:
    """Kill runs at random moments of the copies."""
    more = [*NEW, "--overwrite"] if existing else NEW
    rng = random.Random(20250204)
    reader, writer = os.pipe()
    place.reset(existing)
    assert place.run(*more, prepare=kill_after_copies(-1, lambda: os.write(writer, b"."))) == 0
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        steps = len(stream.read())
    seen: Counter[str] = Counter(steps=steps)
    for n in rng.sample(range(steps), RANDOM_KILLS):
        place.reset(existing)
        assert place.run(*more, prepare=kill_after_copies(n)) == -signal.SIGKILL
        after_a_kill(place, existing, seen, f"killed at step {n} of {steps} of the copies")
    return seen


def drive_deleted(place: Place, existing: bool) -> Counter[str]:
    """Killed while it clears the older output away; then the user removes the output, and bakes again."""
    place.reset(True)
    total = changes_of(place, *NEW, "--overwrite")
    seen: Counter[str] = Counter(changes=total)
    for n in range(total):
        place.reset(True)
        place.run(*NEW, "--overwrite", prepare=kill_at(n))
        shutil.rmtree(place.out, ignore_errors=True)
        code = place.run(*NEW)
        state = place.state()
        seen[state] += 1
        assert (code, state) in ((0, "new"), (2, "old"), (2, "new")), (
            f"change {n} of {total}: exit code {code}, {state}"
        )
    return seen


class Blocked:
    """A run that stands still in the middle of its first copy until it is told to go on."""

    def __init__(self, place: Place, *more: str) -> None:
        here, self._arrived = os.pipe()
        self._wait, self._go = os.pipe()
        self.place = place
        self.pid = place.start(*more, prepare=self._stop)
        assert os.read(here, 1) == b"."

    def _stop(self) -> None:
        copy = os.copy_file_range

        def stop(*arguments: int) -> int:
            os.copy_file_range = copy
            os.write(self._arrived, b".")
            os.read(self._wait, 1)
            return copy(*arguments)

        os.copy_file_range = stop

    def finish(self) -> int:
        os.write(self._go, b".")
        return self.place.wait(self.pid)


def drive_beside(place: Place, existing: bool) -> Counter[str]:
    """Another run to the same output begins and ends while one is at work; the first finishes as well."""
    place.reset(existing)
    first = Blocked(place, *NEW, "--overwrite")
    mine = place.remains()
    dead = place.out.parent / (mine[0][:-8] + "deadbeef")
    dead.mkdir()
    assert place.run(*OLD, "--overwrite") == 0
    assert place.state() == "old"
    assert place.remains() == mine, "the living run's folder stays, the dead one's goes"
    assert first.finish() == 0
    assert place.state() == "new" and place.remains() == []
    return Counter(mine=len(mine))


def drive_too_late(place: Place, existing: bool) -> Counter[str]:
    """Two runs without --overwrite to the same output: the second to finish must not replace the first."""
    place.reset(False)
    first = Blocked(place, *NEW)
    assert place.run(*OLD) == 0
    code = first.finish()
    assert place.remains() == []
    return Counter({place.state(): 1, f"exit code {code}": 1})


def drive_before_the_lock(place: Place, existing: bool) -> Counter[str]:
    """Another run begins right between the making of a run's folder and its lock."""

    def prepare() -> None:
        begun = False

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal begun
            if event == "fcntl.flock" and not begun:
                begun = True
                place.run(*OLD, out=place.out)
                shutil.rmtree(place.out)

        sys.addaudithook(hook)

    place.reset(False)
    code = place.run(*NEW, prepare=prepare)
    return Counter({place.state(): 1, f"exit code {code}": 1})


def drive_interrupt(place: Place, existing: bool) -> Counter[str]:
    """Ctrl-C cleans up at once."""
    place.reset(existing)
    run = Blocked(place, *NEW, "--overwrite")
    os.kill(run.pid, signal.SIGINT)
    code = place.wait(run.pid)
    assert place.remains() == []
    return Counter({place.state(): 1, f"exit code {code}": 1})


# --- the tests ------------------------------------------------------------------------------------------------


@pytest.fixture
def drive(tmp_path: Path) -> Callable[..., Counter[str]]:
    """Run one of the functions above in a driver process; what it has counted."""

    def run(name: str, *, existing: bool = False, vocab: int = 16) -> Counter[str]:
        write_checkpoint(tmp_path / "base", shards=4, vocab=vocab)
        write_vectors(tmp_path / "ev")
        ran = run_process(__file__, name, tmp_path, int(existing), env={"OPENBLAS_NUM_THREADS": "1"}, timeout=120)
        assert ran.code == 0, ran.err
        return Counter(json.loads(ran.out))

    return run


@pytest.mark.parametrize("existing", [False, True], ids=["new", "overwrite"])
def test_killed_before_each_change_to_the_file_system(drive, existing):
    seen = drive("every_change", existing=existing)
    assert seen["changes"] > 20
    assert seen["absent, with remains"] + seen["old, with remains"] > 10
    if existing:
        assert seen["new, with remains"] > 5, "killed while it cleared the older output away"
        assert 1 < seen["absent, with remains"] < 6, "the moments between the two renames"


@pytest.mark.parametrize("existing", [False, True], ids=["new", "overwrite"])
def test_killed_at_random_moments_of_the_copies(drive, existing):
    seen = drive("copies", existing=existing, vocab=150_000)
    assert seen["old, with remains" if existing else "absent, with remains"] == RANDOM_KILLS, seen


def test_killed_while_clearing_and_then_deleted_by_hand(drive):
    assert drive("deleted")["new"] > 5


@pytest.mark.parametrize("existing", [False, True], ids=["new", "overwrite"])
def test_a_living_runs_folder_is_left_alone(drive, existing):
    assert drive("beside", existing=existing)["mine"] == 1


def test_a_run_that_finishes_too_late_does_not_replace(drive):
    seen = drive("too_late")
    assert seen["old"] == 1 and seen["exit code 0"] == 0, seen


def test_a_run_that_has_not_locked_its_folder_yet(drive):
    seen = drive("before_the_lock")
    assert seen["new"] == 1 and seen["exit code 0"] == 1, seen


@pytest.mark.parametrize("existing", [False, True], ids=["new", "overwrite"])
def test_an_interrupt_cleans_up(drive, existing):
    seen = drive("interrupt", existing=existing)
    assert seen["exit code 130"] == 1 and seen["old" if existing else "absent"] == 1, seen


def test_the_command_line_killed_from_outside(tmp_path, base, vectors):
    """No driver: processes as a user starts them, killed at moments spread over a whole run."""
    import subprocess

    out = tmp_path / "outs" / "out"
    command = [sys.executable, "-m", "emobake", "--model", base, "--vectors", vectors, *NEW, "-q", "--out"]
    begin = time.perf_counter()
    subprocess.run([*command, tmp_path / "reference"], check=True)
    duration = time.perf_counter() - begin
    for step in range(6):
        process = subprocess.Popen([*command, out])
        time.sleep(duration * (0.5 + step / 12))
        process.kill()
        process.wait()
        assert not out.exists() or tree(out) == tree(tmp_path / "reference")
        shutil.rmtree(out, ignore_errors=True)
    subprocess.run([*command, out], check=True)
    assert tree(out.parent) == {f"out/{name}": data for name, data in tree(tmp_path / "reference").items()}


if __name__ == "__main__":
    chosen = Place(Path(sys.argv[2]))
    counted = globals()[f"drive_{sys.argv[1]}"](chosen, bool(int(sys.argv[3])))
    assert tree(chosen.base) == chosen.before, "the base was changed"
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(json.dumps(counted))
