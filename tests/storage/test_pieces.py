"""Planned files of pieces: one content, whichever sink writes it, a folder here or a repository on the Hub."""

from __future__ import annotations

import numpy as np
import pytest
from support.hub_server import StandInHub
from support.pushes import without_attributes
from support.running import run_process

from emobake import Folder, OutputError
from emobake.core.plan import Fill, PlannedFile, Rows, Span, Strip, UnitRows, WiderRows, Woven, new_file, piece_size
from emobake.core.tensors import encode
from emobake.storage import copying
from emobake.storage.local import write_folder

ROW, COUNT = 4096, 3000
"""12 MB of rows: more than one chunk of a reader."""
FUSED = np.random.default_rng(0).integers(0, 256, (COUNT, ROW), np.uint8)
HEAD = b"a head of 17 byte"
ORDER = (2, 0, 1)
OWN = np.random.default_rng(1).integers(0, 256, 2 * COUNT, np.uint8).tobytes()

AT = len(HEAD)
WOVEN = Woven(
    "fused.bin",
    COUNT // 2,
    # Parts of two neighbouring rows, in another order, and one of a place far away.
    (Strip(AT + ROW, 2 * ROW, 100), OWN, Strip(AT + 5, 2 * ROW, 3000), Strip(AT, 64, 64), Strip(AT + 7000, 2 * ROW, 9)),
)


def files() -> tuple[PlannedFile, ...]:
    """The fused file split into two, each with new bytes; the second one with its rows in another order."""
    half = COUNT // 2
    wider = WiderRows("fused.bin", len(HEAD), ROW, COUNT, 4000, b"\1\0\0\2\3", 1, OWN)
    return (
        PlannedFile("q.bin", (b"new", Span("fused.bin", len(HEAD), half * ROW), b"end")),
        PlannedFile("k.bin", (Rows("fused.bin", len(HEAD) + half * ROW, ROW, half, ORDER), b"", b"!")),
        PlannedFile("wide.bin", (b"a", wider, Fill(5_000_000), Fill(9_000_000, b"\x07\x08\x09"), b"z")),
        PlannedFile("woven.bin", (b"w", WOVEN, Woven("fused.bin", 1, (Strip(3, 9, 9), b"one", Strip(0, 9, 2))), b"v")),
        PlannedFile("twice.bin", (Rows("fused.bin", len(HEAD), ROW, 4, (0, 1, 0, 1), 2),)),
        PlannedFile.carried("side.txt", "side.txt", 4),
        new_file("note.txt", b"all new"),
    )


EXPECTED = {
    "q.bin": b"new" + FUSED[: COUNT // 2].tobytes() + b"end",
    "k.bin": FUSED[COUNT // 2 :].reshape(-1, len(ORDER), ROW)[:, list(ORDER)].tobytes() + b"!",
    "wide.bin": b"a"
    + b"".join(row.tobytes()[:4000] + b"\1" + OWN[2 * i : 2 * i + 2] + b"\2\3" for i, row in enumerate(FUSED))
    + bytes(5_000_000)
    + b"\x07\x08\x09" * 3_000_000
    + b"z",
    "woven.bin": b"w"
    + b"".join(
        FUSED[2 * i + 1].tobytes()[:100]
        + OWN[4 * i : 4 * i + 4]
        + FUSED[2 * i].tobytes()[5:3005]
        + FUSED[:40].tobytes()[64 * i : 64 * i + 64]
        + FUSED[2 * i + 1].tobytes()[7000 - ROW : 7009 - ROW]
        for i in range(COUNT // 2)
    )
    + (HEAD + FUSED[0].tobytes())[3:12]
    + b"one"
    + HEAD[:2]
    + b"v",
    "twice.bin": FUSED[[0, 1, 0, 1, 2, 3, 2, 3]].tobytes(),
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
    q, *_, note = files()
    assert [file.action for file in files()] == ["assemble"] * 5 + ["carry", "write"]
    assert [file.size for file in files()] == [len(data) for data in EXPECTED.values()]
    assert [file.new_bytes for file in files()] == [6, 1, 14_000_002 + 5 * COUNT, 2 * COUNT + 5, 0, 0, 7]
    assert note.data == b"all new"
    with pytest.raises(ValueError, match=r"q\.bin holds bytes of the base"):
        _ = q.data
    assert piece_size(Rows("f", 0, 10, 6, (1, 0))) == 60


def test_into_a_folder(source, tmp_path):
    advanced: list[int] = []
    write_folder(files(), source, Folder(tmp_path / "out"), advanced.append)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == EXPECTED
    carried = COUNT * ROW + COUNT * 4000 + 8 * ROW + 4 + COUNT // 2 * (100 + 3000 + 64 + 9) + 11
    assert sum(advanced) == pytest.approx(carried, abs=100), "every byte of the base is reported as it is written"


@pytest.mark.parametrize(("name", "file"), [("tails_of", "wide"), ("_new_parts", "woven")])
def test_new_bytes_within_rows_are_read_back(source, tmp_path, monkeypatch, name, file):
    honest = getattr(copying, name)
    calls = iter(range(10**6))

    def changing(*arguments: object) -> np.ndarray:
        return honest(*arguments) ^ (next(calls) >= 4)

    monkeypatch.setattr(copying, name, changing)
    with pytest.raises(OutputError, match=rf"{file}\.bin: was written but does not read back"):
        write_folder(files(), source, Folder(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


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


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_rows_of_length_one_are_those_of_torch(tmp_path, dtype):
    torch = pytest.importorskip("torch")
    values = np.random.default_rng(2).normal(0, 0.05, (COUNT, 640)).astype(np.float32)
    values[7] = 0
    stored = encode(values, dtype)
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "head.bin").write_bytes(HEAD + stored)
    piece = UnitRows("head.bin", len(HEAD), len(stored) // COUNT, COUNT, dtype)
    file = PlannedFile("out.bin", (b"a", piece, b"z"))
    assert (file.size, file.action, file.new_bytes) == (len(stored) + 2, "assemble", 2)
    write_folder([file], tmp_path / "base", Folder(tmp_path / "out"))
    written = (tmp_path / "out" / "out.bin").read_bytes()[1:-1]
    kind = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[dtype]
    held = torch.frombuffer(bytearray(stored), dtype=kind).reshape(COUNT, -1)
    wanted = torch.nn.functional.normalize(held).float().numpy()
    found = torch.frombuffer(bytearray(written), dtype=kind).reshape(COUNT, -1).float().numpy()
    assert not found[7].any(), "where torch's float16 divides zero by zero"
    found, wanted = (np.delete(rows, 7, axis=0) for rows in (found, wanted))
    # A norm at the edge of two 16-bit numbers may be rounded the other way: a row then differs by its last bit.
    step = {"F32": 5e-7, "F16": 2**-10, "BF16": 2**-7}[dtype]
    np.testing.assert_allclose(found, wanted, rtol=step, atol=0)
    assert dtype == "F32" or (found == wanted).mean() > 0.99
