"""File systems: full disks, links of every kind, and file systems that cannot make links.

A full disk is a real one (`support.disks`), mounted by a process of its own: this file, run as a script. Here it is
filled up for every page and file of a folder; `test_torture.py` fills it up for every kind of output.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.checkpoints import tree, write_checkpoint, write_vectors
from support.disks import LIMITS, PAGE, Disk, alone
from support.paths import TESTS
from support.running import TIMES, Ran, clean_environment

from emobake.cli.app import main

MODES = ("auto", "reflink", "copy", "hardlink", "symlink")


# --- the driver: runs with a tmpfs of its own -----------------------------------------------------------------


class Small:
    """A tmpfs, and bakes of ``base`` into it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.disk = folder, Disk.mount(folder / "disk", pages=256, files=100)
        self.outs = self.disk.folder / "outs"
        self.outs.mkdir()

    def bake(self, *more: str, out: str = "out", base: str = "base") -> Ran:
        errors = io.StringIO()
        paths = {"--model": base, "--vectors": "ev", "--out": self.outs / out}
        arguments = [str(a) for name, value in paths.items() for a in (name, self.folder / value)]
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            try:
                main([*arguments, *TIMES, *more])
            except SystemExit as stop:
                return Ran(int(stop.code or 0), "", errors.getvalue())
        raise AssertionError("it never exits")


def drive_sweep(small: Small, limit: str, overwrite: bool) -> dict[str, Any]:
    """Bakes into a disk that has one page (or one file) more to spare each time, until one fits."""
    old: dict[str, bytes] = {}
    if overwrite:
        assert small.bake("--scale", "2").code == 0
        old = tree(small.outs)
    for n in range(100):
        small.disk.leave(limit, n)
        ran = small.bake(*(["--overwrite"] if overwrite else []))
        if ran.code == 0:
            assert tree(small.outs / "out") == tree(small.folder / "reference")
            assert [p.name for p in small.outs.iterdir()] == ["out"]
            return {"failed": n}
        ran.one_line("--out", str(small.outs / "out"), "the disk is full", "nothing was kept", "Free some", code=1)
        assert tree(small.outs) == old, f"{n} to spare: the old output was touched, or something left behind"
        assert [p.name for p in small.outs.iterdir()] == (["out"] if overwrite else []), f"{n} to spare"
    raise AssertionError("never enough")


def drive_link(small: Small, mode: str, base: str) -> dict[str, Any]:
    """A bake from a base on the same file system ("here") or from one on another."""
    if base == "here":
        shutil.copytree(small.folder / "base", small.disk.folder / "base")
    before = {p.name for p in small.outs.iterdir()}
    ran = small.bake("--link-mode", mode, base="disk/base" if base == "here" else "base")
    assert {p.name for p in small.outs.iterdir()} == before | ({"out"} if ran.code == 0 else set())
    return {"code": ran.code, "err": ran.err}


def drive_parents(small: Small, mode: str, base: str) -> dict[str, Any]:
    """A run that fails after it has made the folders above the output."""
    ran = small.bake("--link-mode", mode, out="deeper/still/out")
    return {"code": ran.code, "left": [str(p.relative_to(small.outs)) for p in small.outs.rglob("*")]}


@pytest.fixture
def drive(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Run one of the functions above in a mount namespace of its own."""

    def run(name: str, *arguments: object) -> dict[str, Any]:
        write_checkpoint(tmp_path / "base", shards=3, vocab=512)
        write_vectors(tmp_path / "ev")
        bake_here(tmp_path, tmp_path / "reference")
        command = [*alone(), sys.executable, __file__, name, str(tmp_path), json.dumps(arguments)]
        done = subprocess.run(
            command, capture_output=True, text=True, env=clean_environment() | {"PYTHONPATH": str(TESTS)}, check=False
        )
        assert done.returncode == 0, f"these tests need `unshare` and tmpfs: {done.stderr}"
        return json.loads(done.stdout)

    return run


def bake_here(folder: Path, out: Path) -> None:
    with contextlib.suppress(SystemExit):
        main(["--model", str(folder / "base"), "--vectors", str(folder / "ev"), *TIMES, "--out", str(out), "-q"])
    assert out.is_dir()


# --- full disks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("overwrite", [False, True], ids=["new", "overwrite"])
@pytest.mark.parametrize("limit", LIMITS)
def test_a_full_disk_keeps_nothing_and_says_so(drive, limit, overwrite):
    failed = drive("sweep", limit, overwrite)["failed"]
    assert failed > 12, "it must fail in every file once"


def test_folders_above_the_output_do_not_stay(drive):
    assert drive("parents", "reflink", "elsewhere") == {"code": 1, "left": []}


# --- links ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "base"), [("reflink", "here"), ("reflink", "elsewhere"), ("hardlink", "elsewhere")])
def test_a_link_that_cannot_be_made(drive, mode, base):
    ran = drive("link", mode, base)
    Ran(ran["code"], "", ran["err"]).one_line(f"--link-mode {mode} does not work here", "--link-mode copy", code=1)


@pytest.mark.parametrize("mode", ["auto", "copy", "symlink", "hardlink"])
def test_links_that_can_be_made_there(drive, mode):
    assert drive("link", mode, "here" if mode == "hardlink" else "elsewhere") == {"code": 0, "err": ""}


def can_reflink(folder: Path) -> bool:
    """True if the file system of `folder` can make reflinks, found out without emobake."""
    (folder / "a").write_bytes(b"x" * PAGE)
    done = subprocess.run(["cp", "--reflink=always", folder / "a", folder / "b"], capture_output=True, check=False)
    (folder / "a").unlink()
    (folder / "b").unlink(missing_ok=True)
    return done.returncode == 0


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return request.param


def same_file(a: Path, b: Path) -> bool:
    return (a.stat().st_dev, a.stat().st_ino) == (b.stat().st_dev, b.stat().st_ino)


def baked(cli, model: Path, vectors: Path, out: Path, mode: str) -> bool:
    """Bake; False where the file system cannot reflink and that was refused as it should be."""
    ran = cli("--model", model, "--vectors", vectors, *TIMES, "--out", out, "-q", "--link-mode", mode)
    if mode == "reflink" and not can_reflink(out.parent):
        ran.one_line("reflink does not work here", "--link-mode copy", code=1)
        assert not out.exists()
        return False
    ran.ok()
    return True


def test_every_link_mode(cli, sharded, vectors, tmp_path, mode):
    before, out = tree(sharded), tmp_path / "out"
    if not baked(cli, sharded, vectors, out, mode):
        return
    for i in (1, 2, 3):
        source = sharded / f"model-{i:05d}-of-00003.safetensors"
        target = out / f"model-{i:05d}-of-00004.safetensors"
        assert target.read_bytes() == source.read_bytes()
        assert target.is_symlink() == (mode == "symlink")
        assert same_file(source, target) == (mode in ("symlink", "hardlink"))
        assert (target.stat().st_nlink > 1) == (mode == "hardlink")
    others = [p for p in out.iterdir() if "-of-00004" not in p.name or "00004-of" in p.name]
    assert len(others) == 12
    assert all(not p.is_symlink() and p.stat().st_nlink == 1 for p in others), "links stand for weights only"
    assert tree(sharded) == before


def test_nothing_is_linked_unless_asked_for(cli, sharded, vectors, tmp_path):
    cli("--model", sharded, "--vectors", vectors, *TIMES, "--out", tmp_path / "out", "-q").ok()
    assert all(not p.is_symlink() and p.stat().st_nlink == 1 for p in (tmp_path / "out").iterdir())


def test_a_patched_file_is_never_the_bases(cli, biased, vectors, tmp_path, mode):
    before, out = tree(biased), tmp_path / "out"
    if not baked(cli, biased, vectors, out, mode):
        return
    target = out / "model.safetensors"
    assert not target.is_symlink() and target.stat().st_nlink == 1
    assert not same_file(target, biased / "model.safetensors")
    assert tree(biased) == before
    assert target.read_bytes() != before["model.safetensors"]


def test_a_patched_shard_beside_linked_ones(cli, tmp_path, vectors, mode):
    model = write_checkpoint(tmp_path / "model", "gpt2", dtype="F32", shards=3)
    before, out = tree(model), tmp_path / "out"
    if not baked(cli, model, vectors, out, mode):
        return
    kinds = {name: same_file(model / name, out / name) for name in before if name.endswith("-of-00003.safetensors")}
    changed = {name: (out / name).read_bytes() != before[name] for name in kinds}
    assert any(changed.values()) and not all(changed.values())
    assert kinds == {name: mode in ("hardlink", "symlink") and not changed[name] for name in kinds}
    assert tree(model) == before


def test_the_hub_caches_links_are_followed(cli, tmp_path, vectors, mode):
    """A snapshot holds links into blobs that are named by their content."""
    model = write_checkpoint(tmp_path / "models--o--n" / "snapshots" / ("c" * 40), extra_files=False)
    blobs = tmp_path / "models--o--n" / "blobs"
    blobs.mkdir()
    for file in list(model.iterdir()):
        blob = blobs / hashlib.sha256(file.read_bytes()).hexdigest()
        file.rename(blob)
        file.symlink_to(Path("../../blobs") / blob.name)
    before, out = tree(tmp_path / "models--o--n"), tmp_path / "out"
    if not baked(cli, model, vectors, out, mode):
        return
    blob = (model / "model.safetensors").resolve()
    target = out / "model-00001-of-00002.safetensors"
    assert target.read_bytes() == blob.read_bytes()
    if mode == "symlink":
        assert target.readlink() == blob, "the blob itself: the snapshot's link may go"
    else:
        assert not target.is_symlink() and same_file(target, blob) == (mode == "hardlink")
    record = json.loads((out / "emobake.json").read_text())
    assert record["base"]["model"] == "o/n" and record["base"]["revision"] == "c" * 40
    assert record["base"]["weights"][0]["sha256"] == blob.name
    assert tree(tmp_path / "models--o--n") == before


def test_the_modes_agree(cli, sharded, vectors, tmp_path):
    trees = []
    for mode in ("auto", "copy", "hardlink", "symlink"):
        assert baked(cli, sharded, vectors, tmp_path / mode, mode)
        trees.append({p.name: p.read_bytes() for p in (tmp_path / mode).iterdir()})
    assert trees[0] == trees[1] == trees[2] == trees[3]


if __name__ == "__main__":
    result = globals()[f"drive_{sys.argv[1]}"](Small(Path(sys.argv[2])), *json.loads(sys.argv[3]))
    sys.stdout.write(json.dumps(result))
