"""Planned files of pieces: one content, whichever sink writes it, a folder here or a repository on the Hub."""

from __future__ import annotations

import numpy as np
import pytest
from support.hub_server import StandInHub
from support.pushes import without_attributes
from support.running import run_process

from emobake import Folder, OutputError
from emobake.core.plan import PlannedFile, Rows, Span, new_file, piece_size
from emobake.storage.local import write_folder

ROW, COUNT = 4096, 3000
"""12 MB of rows: more than one chunk of a reader."""
FUSED = np.random.default_rng(0).integers(0, 256, (COUNT, ROW), np.uint8)
HEAD = b"a head of 17 byte"
ORDER = (2, 0, 1)


def files() -> tuple[PlannedFile, ...]:
    """The fused file split into two, each with new bytes; the second one with its rows in another order."""
    half = COUNT // 2
    return (
        PlannedFile("q.bin", (b"new", Span("fused.bin", len(HEAD), half * ROW), b"end")),
        PlannedFile("k.bin", (Rows("fused.bin", len(HEAD) + half * ROW, ROW, half, ORDER), b"", b"!")),
        PlannedFile.carried("side.txt", "side.txt", 4),
        new_file("note.txt", b"all new"),
    )


EXPECTED = {
    "q.bin": b"new" + FUSED[: COUNT // 2].tobytes() + b"end",
    "k.bin": FUSED[COUNT // 2 :].reshape(-1, len(ORDER), ROW)[:, list(ORDER)].tobytes() + b"!",
    "side.txt": b"side",
    "note.txt": b"all new",
}


@pytest.fixture
def source(tmp_path):
    """The base: a fused weight, and a side file."""
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "fused.bin").write_bytes(HEAD + FUSED.tobytes())
    (folder / "side.txt").write_bytes(b"side")
    return folder


def test_what_a_file_says_about_itself():
    q, k, side, note = files()
    assert [file.action for file in (q, k, side, note)] == ["assemble", "assemble", "carry", "write"]
    assert [file.size for file in files()] == [len(data) for data in EXPECTED.values()]
    assert [file.new_bytes for file in files()] == [6, 1, 0, 7]
    assert note.data == b"all new"
    with pytest.raises(ValueError, match=r"q\.bin holds bytes of the base"):
        _ = q.data
    assert piece_size(Rows("f", 0, 10, 6, (1, 0))) == 60


def test_into_a_folder(source, tmp_path):
    advanced: list[int] = []
    write_folder(files(), source, Folder(tmp_path / "out"), advanced.append)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == EXPECTED
    assert sum(advanced) == COUNT * ROW + 4, "every byte of the base is reported once"


def test_a_source_that_ends_too_early_leaves_nothing(source, tmp_path):
    (source / "fused.bin").write_bytes(b"short")
    with pytest.raises(OutputError, match="became shorter"):
        write_folder(files(), source, Folder(tmp_path / "out"))
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


PUSH = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from test_pieces import files
from emobake import HubTarget
from emobake.storage.hub.commit import push_items
from emobake.storage.hub.contents import items_of
items = items_of(files(), "me/split", folder=Path(sys.argv[2]), source=None)
pushed = push_items(items, HubTarget("me/split"), message="Split")
print(pushed.changes.size("send"))
"""


def test_into_a_repository(source, hub: StandInHub, tmp_path):
    from support.paths import TESTS

    env = hub.environment(tmp_path) | {"HF_TOKEN": hub.allowed}
    ran = run_process("-c", PUSH, TESTS / "storage", source, env=env).ok()
    assert without_attributes(hub.repos["me/split"]) == EXPECTED
    assert int(ran.out) == sum(map(len, EXPECTED.values()))
