"""The inverse of a plan against the plan itself, and undo data that lie."""

from __future__ import annotations

import bz2
import json
import random
from collections.abc import Mapping, Sequence

import pytest

from emobake.core import undo as module
from emobake.core.inverse import IrreversibleError, invert
from emobake.core.plan import Fill, Piece, Rows, Span, Strip, UnitRows, WiderRows, Woven
from emobake.core.undo import Undo
from emobake.errors import BrokenFileError, InputError

BASE = {"a": bytes(range(251)) * 40, "b": bytes(reversed(range(256))) * 30}
"""10,040 and 7,680 bytes."""


def made(pieces: Sequence[Piece], files: Mapping[str, bytes]) -> bytes:
    """The bytes of pieces, by the definitions in `emobake.core.plan`, one row at a time."""
    out = b""
    for piece in pieces:
        if isinstance(piece, bytes):
            out += piece
        elif isinstance(piece, Fill):
            out += piece.chunk(piece.size)
        elif isinstance(piece, Span):
            out += files[piece.source][piece.offset : piece.offset + piece.size]
        elif isinstance(piece, Rows):
            data = files[piece.source][piece.offset :]
            rows = [data[n * piece.row : (n + 1) * piece.row] for n in range(piece.count)]
            for first in range(0, piece.count, piece.grouped):
                out += b"".join(rows[first + number] for number in piece.order)
        elif isinstance(piece, WiderRows):
            own = len(piece.own) // piece.count
            for n in range(piece.count):
                start, end = piece.offset + n * piece.row, bytearray(piece.tail)
                end[piece.place : piece.place + own] = piece.own[n * own : (n + 1) * own]
                out += files[piece.source][start : start + piece.kept] + bytes(end)
        else:
            assert isinstance(piece, Woven)
            for n in range(piece.count):
                for strip in piece.strips:
                    if isinstance(strip, bytes):
                        size = len(strip) // piece.count
                        out += strip[n * size : (n + 1) * size]
                    else:
                        start = strip.offset + n * strip.stride
                        out += files[piece.source][start : start + strip.size]
    return out


def read(file: str, offset: int, size: int) -> bytes:
    return BASE[file][offset : offset + size]


def restored(outputs: Mapping[str, Sequence[Piece]]) -> tuple[dict[str, bytes], int]:
    """The base, made again of outputs after a journey through the stored form; and the bytes that were kept."""
    sizes = {name: len(data) for name, data in BASE.items()}
    found = invert(outputs.items(), sizes, read, 10**6)
    files = {name: made(pieces, BASE) for name, pieces in outputs.items()}
    undo = Undo.of(found, {name: len(data) for name, data in files.items()}, ["left.bin"])
    again = Undo.unpack(undo.pack(), "f")
    assert again == undo and again.pack() == undo.pack()
    kept = sum(
        len(p) if isinstance(p, bytes) else p.new if isinstance(p, Woven) else 0 for f in found.values() for p in f
    )
    return {file.name: made(file.pieces, files) for file in again.files}, kept


CASES: dict[str, tuple[dict[str, Sequence[Piece]], int]] = {
    "nothing is left": ({"o": [b"new"]}, len(BASE["a"]) + len(BASE["b"])),
    "carried whole": ({"o": [Span("a", 0, 10040)], "p": [Span("b", 0, 7680)]}, 0),
    "overwritten in place": (
        {"o": [Span("a", 0, 100), b"x" * 20, Span("a", 120, 9920)], "p": [Span("b", 0, 7680)]},
        20,
    ),
    "in another order": ({"o": [b"h", Rows("a", 40, 100, 100, (2, 0, 3, 1)), Span("a", 0, 40), Span("b", 0, 7680)]}, 0),
    "some rows alone": ({"o": [Rows("a", 40, 100, 100, (1, 3), 5), Span("a", 0, 40), Span("b", 0, 7680)]}, 6000),
    "several times": (
        {"o": [Rows("a", 40, 100, 100, (0, 1, 0, 1), 2), Span("a", 0, 40), Span("a", 0, 40), Span("b", 0, 7680)]},
        0,
    ),
    "copies that overlap": (
        {"o": [Span("b", 0, 100), Span("b", 0, 200), Span("b", 100, 7580), Span("a", 0, 10040)]},
        0,
    ),
    "taken apart by columns": (
        {
            "o": [Rows("b", 0, 16, 480, (0, 1, 2), 8), b"-", Rows("b", 0, 16, 480, (3, 4), 8)],
            "p": [Span("a", 0, 10040)],
        },
        480 * 16 * 3 // 8,
    ),
    "woven together again": (
        {
            "o": [
                Rows("b", 0, 16, 480, (0, 1, 2), 8),
                b"-",
                Rows("b", 0, 16, 480, (4, 5, 6, 7, 3), 8),
                Span("a", 0, 10040),
            ]
        },
        0,
    ),
    "with a new end": (
        {"o": [WiderRows("a", 40, 100, 100, 100, b"\0\0\1", 1, b"wx" * 100), Span("b", 0, 7680)]},
        40,
    ),
    "with another end": (
        {"o": [Span("a", 0, 40), WiderRows("a", 40, 100, 100, 90, b"12345678", 2, b"w" * 100), Span("b", 0, 7680)]},
        1000,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_base_is_made_again(case):
    outputs, kept = CASES[case]
    found, size = restored(outputs)
    assert found == BASE
    assert size == kept


def test_only_its_own_bytes_are_kept_of_an_end_that_is_made_anew():
    """A second bake into a head's column: the other columns are zero before and after."""
    rows = [bytes([n]) * 20 + b"\7\7" + bytes(10) for n in range(50)]
    base = {"a": b"".join(rows)}
    piece = WiderRows("a", 0, 32, 50, 20, bytes(12), 0, b"\1\2" * 50)

    def look(file: str, offset: int, size: int) -> bytes:
        return base[file][offset : offset + size]

    (found,) = invert([("o", [piece])], {"a": 1600}, look, 100)["a"]
    assert found == Woven("o", 50, (Strip(0, 32, 20), b"\7" * 100, Strip(22, 32, 10)))
    # Another value in one of those columns is kept, and with it the whole end.
    base = {"a": base["a"][:-1] + b"\1"}
    (found,) = invert([("o", [piece])], {"a": 1600}, look, 600)["a"]
    assert isinstance(found, Woven) and found.new == 12 * 50
    with pytest.raises(IrreversibleError, match="more of a is not in the output than can be kept"):
        invert([("o", [piece])], {"a": 1600}, look, 599)


def test_random_plans():
    """Whatever a plan does with the bytes of a base, they come back."""
    random.seed(1)
    for _ in range(25):
        outputs: dict[str, list[Piece]] = {"o": [], "p": []}
        for _ in range(random.randint(1, 12)):
            source, row, out = random.choice("ab"), random.randint(1, 40), outputs[random.choice("op")]
            group = random.randint(1, 6)
            count = random.randint(1, 15) * group
            offset = random.randint(0, len(BASE[source]) - row * count)
            order = tuple(random.choices(range(group), k=random.randint(1, 8)))
            kept = random.randint(1, row)
            out.append(
                random.choice(
                    [
                        Span(source, offset, row * count),
                        Rows(source, offset, row, count, order, group),
                        WiderRows(source, offset, row, count, kept, b"end", 1, b"o" * count),
                        WiderRows(source, offset, row, count, kept, b"e" * (row - kept), 0, b""),
                        b"new bytes",
                        Fill(9, b"xyz"),
                    ]
                )
            )
        assert restored(outputs)[0] == BASE


def test_rounded_values_do_not_come_back():
    with pytest.raises(IrreversibleError, match="divided by their norms"):
        invert([("o", [UnitRows("a", 0, 4, 10, "F16")])], {"a": 10040}, read, 10**6)
    with pytest.raises(IrreversibleError, match="more of a"):
        invert([("o", [Span("a", 0, 40)])], {"a": 10040}, read, 9999)
    with pytest.raises(IrreversibleError, match="a ends too early"):
        invert([("o", [Span("a", 0, 40)])], {"a": 20000}, read, 10**6)


GOOD = Undo.of({"f": [b"kept", Span("o", 3, 4), Woven("o", 2, (Strip(0, 5, 2), b"xy"))]}, {"o": 10}, ["left"])


def stored(text: object, kept: bytes = b"keptxy", *, length: int | None = None) -> bytes:
    raw = text if isinstance(text, bytes) else json.dumps(text).encode()
    payload = (len(raw) if length is None else length).to_bytes(8, "little") + raw + kept
    return b"emobake undo 1 bz2\n" + bz2.compress(payload)


def described(**fields: object) -> dict[str, object]:
    """The JSON of `GOOD`, with other fields."""
    pieces = [4, [0, 3, 4], [0, 2, [[0, 5, 2], 2]]]
    return {
        "sources": [["o", 10]],
        "files": [{"name": "f", "size": 14, "pieces": pieces}],
        "left_out": ["left"],
    } | fields


def with_pieces(*pieces: object, size: int = 14, name: str = "f") -> dict[str, object]:
    return described(files=[{"name": name, "size": size, "pieces": list(pieces)}])


def test_the_stored_form():
    assert Undo.unpack(stored(described()), "f") == GOOD
    assert Undo.unpack(GOOD.pack(), "f") == GOOD


HOSTILE = {
    "nothing": b"",
    "another file": b"PK\3\4",
    "a later version": GOOD.pack().replace(b"undo 1", b"undo 2", 1),
    "cut off": GOOD.pack()[:-3],
    "more behind it": GOOD.pack() + b"x",
    "not packed": b"emobake undo 1 bz2\n" + b"no bzip2",
    "a length beyond the end": stored(described(), length=10**9),
    "no JSON": stored(b"{"),
    "a list": stored([]),
    "nested deep": stored(b"[" * 100_000),
    "nothing in it": stored({}),
    "no files": stored(described(files=[]), b""),
    "a file twice": stored(described(files=[{"name": "f", "size": 3, "pieces": [3]}] * 2)),
    "bytes that no piece takes": stored(described(), b"keptxyz"),
    "bytes that are missing": stored(described(), b"keptx"),
    "a name that leads out": stored(with_pieces(4, [0, 3, 4], [0, 2, [[0, 5, 2], 2]], name="../f")),
    "an absolute name": stored(with_pieces(4, [0, 3, 4], [0, 2, [[0, 5, 2], 2]], name="/f")),
    "a name with a control character": stored(with_pieces(6, size=6, name="f\n")),
    "another size": stored(with_pieces(4, [0, 3, 4], [0, 2, [[0, 5, 2], 2]], size=13)),
    "a source that is not there": stored(with_pieces(4, [1, 3, 4], 2, size=10)),
    "a negative source": stored(with_pieces(4, [-1, 3, 4], 2, size=10)),
    "a span beyond its source": stored(with_pieces(6, [0, 3, 8])),
    "a negative span": stored(with_pieces(6, [0, -3, 8])),
    "a fraction": stored(with_pieces(6, [0, 1.5, 8])),
    "a truth value": stored(with_pieces(6, [0, True, 8])),
    "a huge number": stored(with_pieces(6, [0, 0, 10**30])),
    "a strip beyond its source": stored(with_pieces(6, [0, 3, [[0, 5, 2]]], size=12)),
    "strips that overlap": stored(with_pieces(6, [0, 3, [[0, 1, 2]]], size=12)),
    "groups without end": stored(with_pieces(6, [0, 2**60, [[0, 1, 1]]])),
    "no groups": stored(with_pieces(6, [0, 0, [[0, 5, 2]]], size=6)),
    "empty groups": stored(with_pieces(6, [0, 2, []], size=6)),
    "new bytes that no groups share": stored(with_pieces(3, [0, 2, [3]], size=6)),
    "a piece of two": stored(with_pieces(6, [0, 3])),
    "a piece that is a text": stored(with_pieces("6")),
    "more than its sources": stored(with_pieces(6, *[[0, 0, 10]] * 3, size=36)),
    "a source twice": stored(described(sources=[["o", 10], ["o", 10]])),
    "left out: no list": stored(described(left_out="x")),
    "left out: a line break": stored(described(left_out=["a\nb"])),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_data_that_lie_are_refused(case):
    with pytest.raises(BrokenFileError) as found:
        Undo.unpack(HOSTILE[case], "out/emobake.undo")
    assert "out/emobake.undo" in str(found.value) and "\n" not in str(found.value)


def test_a_bomb(monkeypatch):
    bomb = b"emobake undo 1 bz2\n" + bz2.compress(bytes(100_000))
    with pytest.raises(BrokenFileError, match="not valid JSON"):
        Undo.unpack(bomb, "f")
    monkeypatch.setattr(module, "MAX_ANY_EXPANSION", 0)
    with pytest.raises(BrokenFileError, match="is not what a bake keeps"):
        Undo.unpack(bomb, "f")


def test_without_bzip2(monkeypatch):
    packed = GOOD.pack()
    monkeypatch.setattr(module, "bz2", None)
    assert Undo.unpack(GOOD.pack(), "f") == GOOD
    assert GOOD.pack() != packed
    with pytest.raises(InputError, match="which this Python was built without"):
        Undo.unpack(packed, "f")
