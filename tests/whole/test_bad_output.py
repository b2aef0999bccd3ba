"""Refused places of an output: in the inputs, over somebody's files, or where the modes forbid it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.checkpoints import tree
from support.running import TIMES, Run


@pytest.mark.parametrize("where", ["", "inside", "inside/deeper", "..", "../base/."])
def test_an_output_in_the_model(cli, base, vectors, tmp_path, where):
    before = tree(tmp_path)
    ran = cli("--model", base, "--vectors", vectors, *TIMES, "--overwrite", "--out", base / where)
    ran.one_line("--out", "input", "choose another folder")
    assert tree(tmp_path) == before and not (base / "inside").exists()


def test_an_output_in_the_model_by_another_name(cli, base, vectors, tmp_path):
    (tmp_path / "alias").symlink_to(base)
    for out in (tmp_path / "alias", tmp_path / "alias" / "inside"):
        ran = cli("--model", base, "--vectors", vectors, *TIMES, "--overwrite", "--out", out)
        ran.one_line("--out", str(base), "choose another folder")
    assert not (base / "inside").exists()


def test_an_output_in_the_vector_set(cli, base, vectors):
    ran = cli("--model", base, "--vectors", vectors, *TIMES, "--out", vectors / "out")
    ran.one_line("--out", str(vectors), "choose another folder")
    assert not (vectors / "out").exists()


@pytest.mark.parametrize("kind", ["folder", "file", "link", "dangling"])
@pytest.mark.parametrize("overwrite", [(), ("--overwrite",)])
def test_an_output_that_is_somebody_elses(refused, base, vectors, tmp_path, kind, overwrite):
    out = tmp_path / "out"
    if kind == "folder":
        out.mkdir()
        (out / "thesis.tex").write_text("years of work")
    elif kind == "file":
        out.write_text("years of work")
    else:
        (tmp_path / "elsewhere").mkdir(exist_ok=kind == "link")
        out.symlink_to(tmp_path / ("elsewhere" if kind == "link" else "gone"))
    words = ("--out", "leaves it alone") if overwrite else ("--out", "exists already", "--overwrite")
    refused(base, vectors, *words, more=overwrite)


def test_an_existing_output_needs_overwrite(cli, refused, base, vectors, tmp_path):
    cli("--model", base, "--vectors", vectors, *TIMES, "--out", tmp_path / "out", "-q").ok()
    refused(base, vectors, "--out", str(tmp_path / "out"), "exists already", "--overwrite")


def test_an_output_below_a_file(cli, base, vectors, tmp_path):
    (tmp_path / "note").write_text("x")
    out = tmp_path / "note" / "out"
    cli("--model", base, "--vectors", vectors, *TIMES, "--out", out).one_line("--out", "note")
    assert (tmp_path / "note").read_text() == "x"


# --- paths that no file can have ------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["--model", "--vectors", "--out"])
def test_a_link_to_itself(cli, base, vectors, tmp_path, option):
    (tmp_path / "loop").symlink_to("loop")
    paths = {"--model": base, "--vectors": vectors, "--out": tmp_path / "out"} | {option: tmp_path / "loop"}
    ran = cli(*(x for pair in paths.items() for x in pair), *TIMES)
    assert ran.code in (1, 2)
    ran.one_line("loop", code=ran.code)


@pytest.mark.parametrize("option", ["--model", "--vectors", "--out"])
def test_a_name_that_is_too_long(cli, base, vectors, tmp_path, option):
    paths = {"--model": base, "--vectors": vectors, "--out": tmp_path / "out"} | {option: tmp_path / ("a" * 300)}
    ran = cli(*(x for pair in paths.items() for x in pair), *TIMES)
    assert ran.code in (1, 2)
    ran.one_line("aaaa", code=ran.code)


# --- permissions; as root these bind only once its capabilities are given up ------------------------------------


@pytest.fixture
def forbidden(run_unprivileged: Run, base: Path, vectors: Path, tmp_path: Path) -> Callable[..., str]:
    """Run as `refused` does, in a process that is bound by the modes of files."""

    def run(*words: str, out: Path | None = None, code: int = 2) -> str:
        names = sorted(tmp_path.iterdir())
        ran = run_unprivileged("--model", base, "--vectors", vectors, *TIMES, "--out", out or tmp_path / "out")
        assert sorted(tmp_path.iterdir()) == names
        return ran.one_line(*words, code=code)

    return run


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json", "README.md"])
def test_an_unreadable_file_of_the_model(forbidden, closed, base, file):
    closed(base / file, 0)
    forbidden(f"base/{file}", "cannot be read")


def test_an_unreadable_vector_file(forbidden, closed, vectors):
    closed(vectors / "ev_tiny_joy.json", 0)
    forbidden("ev_tiny_joy.json", "cannot be read")


def test_an_unreadable_model_folder(forbidden, closed, base):
    closed(base, 0)
    forbidden(str(base))


def test_an_unreadable_vector_folder(forbidden, closed, vectors):
    closed(vectors, 0)
    forbidden(str(vectors))


@pytest.mark.parametrize("mode", [0o555, 0o444, 0])
@pytest.mark.parametrize("out", ["out", "deeper/out"])
def test_an_output_where_nothing_may_be_written(forbidden, closed, tmp_path, mode, out):
    (tmp_path / "locked").mkdir()
    closed(tmp_path / "locked", mode)
    forbidden("--out", "no permission", "locked", out=tmp_path / "locked" / out)


@pytest.mark.parametrize("option", ["--model", "--vectors"])
def test_an_input_in_a_folder_that_may_not_be_entered(run_unprivileged, closed, base, vectors, tmp_path, option):
    paths = {"--model": base, "--vectors": vectors, "--out": tmp_path / "out"}
    (tmp_path / "locked").mkdir()
    paths[option] = paths[option].rename(tmp_path / "locked" / "inside")
    closed(tmp_path / "locked", 0)
    run_unprivileged(*(x for pair in paths.items() for x in pair), *TIMES).one_line(str(tmp_path / "locked"))
