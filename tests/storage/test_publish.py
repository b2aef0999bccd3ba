"""Publishing: one entry or several, older ones aside, what a killed run has left, and failures on the way."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from support.checkpoints import tree

from emobake.errors import OutputError
from emobake.storage import publish
from emobake.storage.publish import recover, staged, staging, write_all, write_file

OLD = {"a": b"old a", "b/c": b"old c"}
NEW = {"a": b"new a", "b/d": b"new d"}


@pytest.fixture
def place(tmp_path):
    write_all(tmp_path / "a", OLD)
    return tmp_path


def test_files_and_folders_change_together(place):
    write_all(place / "a", NEW)
    assert tree(place) == NEW


def test_outdated_entries_go(place):
    write_all(place / "a", {"a": b"alone"}, outdated=("b", "never there"))
    assert tree(place) == {"a": b"alone"}


def test_an_outdated_entry_goes_where_the_new_one_was_missing(tmp_path):
    write_all(tmp_path / "b", {"b": b"old b"})
    write_all(tmp_path / "a", {"a": b"alone"}, outdated=("b",))
    assert tree(tmp_path) == {"a": b"alone"}


def test_nothing_is_replaced_unasked(place):
    with pytest.raises(FileExistsError):
        write_all(place / "a", NEW, overwrite=False)
    with pytest.raises(FileExistsError):
        write_file(place / "a", b"x", overwrite=False)
    assert tree(place) == OLD and not staged(place / "a")


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("call", ["rename", "replace", "hardlink_to", "fsync"])
@pytest.mark.parametrize("entries", [1, 2])
def test_a_failure_leaves_what_was_there(tmp_path, monkeypatch, call, entries, overwrite):
    """Each call of each kind fails once."""
    new = {"a": b"new a"} if entries == 1 else NEW
    owner = os if call == "fsync" else publish.Path
    real = getattr(owner, call)
    for n in range(40):
        shutil.rmtree(tmp_path)
        tmp_path.mkdir()
        before = OLD if overwrite else {}
        if overwrite:
            write_all(tmp_path / "a", OLD)
        calls = iter(range(1000))

        def fail(*arguments, n=n, calls=calls):
            if next(calls) == n:
                raise OSError(5, "Input/output error")
            return real(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(owner, call, fail)
            try:
                write_all(tmp_path / "a", new, overwrite=overwrite)
            except OSError:
                assert tree(tmp_path) == before, n
                continue
            except OutputError as error:
                assert "the disk did not confirm it" in str(error)
                continue
        if next(calls) <= n:
            break
    recover(tmp_path / "a")
    assert tree(tmp_path) == (before | new if entries == 1 else new)


def test_without_hard_links(place, monkeypatch):
    def refuse(self, target):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(publish.Path, "hardlink_to", refuse)
    write_all(place / "a", NEW)
    assert tree(place) == NEW
    with pytest.raises(FileExistsError):
        write_all(place / "a", OLD, overwrite=False)


@pytest.mark.parametrize("state", ["old", "due"])
def test_what_a_killed_run_has_left(place, state):
    with staging(place / "a") as stage:
        for name, content in NEW.items():
            (stage.new / name).parent.mkdir(exist_ok=True)
            (stage.new / name).write_bytes(content)
        stage.old.mkdir()
        stage.enter("old")
        (place / "b").rename(stage.old / "b")
        if state == "due":
            (place / "a").rename(stage.old / "a")
            stage.enter("due")
    assert staged(place / "a"), "a stage that is needed stays"
    recover(place / "a")
    assert tree(place) == (OLD if state == "old" else NEW) and not staged(place / "a")


def test_a_file_that_took_the_place_meanwhile_is_not_replaced(place):
    with staging(place / "a") as stage:
        (stage.new / "a").write_bytes(b"new")
        stage.old.mkdir()
        stage.enter("old")
        (place / "a").rename(stage.old / "a")
    (place / "a").write_bytes(b"somebody's")
    with pytest.raises(OutputError, match=r"was put there after a run had been killed; move it away"):
        recover(place / "a")
    assert (place / "a").read_bytes() == b"somebody's"
    (place / "a").unlink()
    recover(place / "a")
    assert (place / "a").read_bytes() == OLD["a"]


def test_everything_is_synced_before_it_appears(tmp_path, monkeypatch):
    """Files, then the stage's folders, then the rename, then the folder of the output."""
    steps = []
    fsync, link = os.fsync, publish.Path.hardlink_to

    def sync(descriptor):
        steps.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    def appear(self, target):
        steps.append("appears")
        link(self, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(publish.Path, "hardlink_to", appear)
    write_file(tmp_path / "a", b"x", overwrite=False)
    assert steps[0] == "a" and "new" in steps[: steps.index("appears")]
    assert steps[-2:] == ["appears", tmp_path.name]
