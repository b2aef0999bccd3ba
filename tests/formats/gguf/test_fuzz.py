"""Hostile GGUF files: a clean `InputError`, or a reading that the gguf package shares."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from support.gguf_files import HIDDEN, LAYERS, write_model

from emobake import GgufFile, InputError, VectorSet, bake
from emobake.core.tensors import TensorHeader
from emobake.formats.gguf.header import GgufHeader, parse_gguf, serialize_gguf, text_field, uint32_field
from emobake.vectors.write import write_set

quick = settings(
    max_examples=300,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def parse(content: bytes) -> GgufHeader:
    return parse_gguf("x.gguf", len(content), lambda offset, n: content[offset : offset + n])


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def tensor(name: str, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    return string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def file(
    tensors: Sequence[bytes],
    fields: Sequence[bytes] = (),
    data: int = 64,
    *,
    version: int = 3,
    counts: tuple[int, int] | None = None,
) -> bytes:
    """A hand-made file with `data` bytes behind its padded header."""
    count = counts or (len(tensors), len(fields))
    head = b"GGUF" + struct.pack("<IQQ", version, *count) + b"".join([*fields, *tensors])
    return head + bytes(-len(head) % 32) + bytes(data)


NAME = string("general.name") + struct.pack("<I", 8) + string("x")
GOOD = [tensor("a", (8,)), tensor("b", (8,), offset=32)]


def test_what_is_right_is_read():
    header = parse(file(GOOD, [NAME]))
    assert header.text("general.name") == "x" and header.alignment == 32
    assert [(t.name, t.shape, t.end - t.start) for t in header.tensors] == [("a", (8,), 32), ("b", (8,), 32)]
    assert parse(file(GOOD, version=2)).version == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "too few"),
        (b"GGML" + bytes(60), "does not begin with GGUF"),
        (file(GOOD, version=1), "version 1"),
        (file(GOOD, version=4), "version 4"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0) + bytes(64), "big-endian"),
        (file(GOOD, counts=(2**62, 0)), "claims"),
        (file(GOOD, counts=(2, 2**62)), "claims"),
        (file(GOOD, counts=(3, 0)), "without a name"),
        (file(GOOD)[:40], "claims"),
        (file(GOOD)[:-40], "beyond the end"),
        (file(GOOD) + bytes(64), "describes"),
        (file([GOOD[1], GOOD[0]]), "out of order"),
        (file([tensor("a", (8,)), tensor("b", (8,))]), "overlaps"),
        (file([tensor("a", (8,)), tensor("b", (8,), offset=64)], data=96), "leaves a hole"),
        (file([tensor("a", (8,)), tensor("b", (8,), offset=33)]), "overlaps"),
        (file([tensor("a", (8,)), tensor("b", (8,), offset=2**63)]), "overlaps"),
        (file([tensor("a", (8,)), tensor("a", (8,), offset=32)]), "twice"),
        (file(GOOD, [NAME, NAME]), "twice"),
        (file([tensor("a", (8,), kind=999)]), "type 999"),
        (file([tensor("a", (7,), kind=2)]), "cannot be Q4_0"),
        (file([tensor("a", (0,))]), "cannot be F32"),
        (file([tensor("a", (2**40, 2**40))]), "cannot be F32"),
        (file([tensor("a", (2**50,))]), "beyond the end"),
        (file([tensor("a", (1,) * 5)]), "5 dimensions"),
        (file([tensor("a" * 64, (8,))]), "too long a name"),
        (file([tensor("", (8,))]), "without a name"),
        (file([struct.pack("<Q", 2**60) + bytes(40)]), "bytes"),
        (file(GOOD, [string("k") + struct.pack("<I", 77) + bytes(8)]), "unknown type 77"),
        (file(GOOD, [string("k") + struct.pack("<IIQ", 9, 9, 1)]), "list of the unknown type"),
        (file(GOOD, [string("k") + struct.pack("<IIQ", 9, 8, 2**60)]), "texts"),
        (file(GOOD, [string("k") + struct.pack("<IIQ", 9, 4, 2**60)]), "ends within its header"),
        (file(GOOD, [string("k") + struct.pack("<IQ", 8, 2**60)]), "ends within its header"),
        (file(GOOD, [string("general.alignment") + struct.pack("<II", 4, 0)]), "power of two"),
        (file(GOOD, [string("general.alignment") + struct.pack("<II", 4, 24)]), "power of two"),
        (file(GOOD, [string("general.alignment") + struct.pack("<II", 4, 2**31)]), "power of two"),
        (file(GOOD, [string("general.alignment") + struct.pack("<IQ", 10, 32)]), "power of two"),
        (file(GOOD, [struct.pack("<Q", 1) + b"\xff" + struct.pack("<II", 4, 0)]), "no text"),
    ],
)  # fmt: skip
def test_hostile_headers(content, words):
    with pytest.raises(InputError, match=words) as caught:
        parse(content)
    message = str(caught.value)
    assert message.startswith("x.gguf: ") and "\n" not in message and len(message) < 300


def test_a_field_of_another_type_than_expected_is_as_if_absent():
    header = parse(file(GOOD, [NAME, string("n") + struct.pack("<If", 6, 2.5)]))
    assert header.number("general.name") is None and header.text("n") == "" and header.number("n") == 2.5
    assert header.text_of("n", 0) == "" and header.text_of("none", 0) == ""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("fuzz") / "base.gguf"
    write_model(path)
    return path


@quick
@given(st.data())
def test_flipped_and_cut_bytes_never_crash(model, data):
    content = bytearray(model.read_bytes())
    header = parse(bytes(content))
    end = header.tensors[0].start
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, end - 1))
        content[at] = data.draw(st.sampled_from([0, 1, 0x7F, 0xFF, content[at] ^ 1]))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    try:
        found = parse(bytes(content))
    except InputError as error:
        assert "\n" not in str(error)
        return
    position = 0
    for tensor_ in found.tensors:
        assert position <= tensor_.start < tensor_.end <= len(content)
        position = tensor_.end


@quick
@given(st.integers(0, 1500), st.sampled_from([0, 1, 0x7F, 0xFF]), st.integers(1, 2**16))
def test_a_damaged_model_is_refused_in_a_line_or_baked(model, tmp_path, at, byte, cut):
    content = bytearray(model.read_bytes())
    content[at] = byte
    if cut % 3 == 0:
        del content[-cut:]
    damaged, out = tmp_path / "damaged.gguf", tmp_path / "out.gguf"
    damaged.write_bytes(content)
    vectors = VectorSet(("joy",), np.ones((1, LAYERS, HIDDEN), np.float32))
    try:
        bake(damaged, vectors, mix={"joy": 1}, out=GgufFile(out, overwrite=True))
    except InputError as error:
        assert "\n" not in str(error)
        assert not out.exists()
    else:
        parse(out.read_bytes())
        out.unlink()


names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)


@quick
@given(
    st.dictionaries(names, st.one_of(st.text(max_size=20), st.integers(0, 2**32 - 1)), max_size=5),
    st.lists(st.tuples(st.integers(1, 5), st.integers(1, 3)), max_size=4),
)
def test_what_is_written_is_what_is_read_here_and_by_the_gguf_package(tmp_path, fields, shapes):
    fields.pop("general.alignment", None)
    made = [text_field(k, v) if isinstance(v, str) else uint32_field(k, v) for k, v in fields.items()]
    described = [TensorHeader(f"t{i}", "F32", shape, "x", 0, 4 * shape[0] * shape[1]) for i, shape in enumerate(shapes)]
    content = serialize_gguf(3, 32, made, described)
    for tensor in described:
        content += bytes(tensor.size + -tensor.size % 32)
    header = parse(content)
    assert list(header.fields) == made
    assert [(t.name, t.dtype, t.shape, t.size) for t in header.tensors] == [
        (t.name, t.dtype, t.shape, t.size) for t in described
    ]
    if described and not any(key.startswith("GGUF.") or key == "split.count" for key in fields):
        (tmp_path / "x.gguf").write_bytes(content)
        reader = gguf.GGUFReader(tmp_path / "x.gguf")
        assert {t.name: tuple(t.shape)[::-1] for t in reader.tensors} == {f"t{i}": s for i, s in enumerate(shapes)}
        assert {k: reader.fields[k].contents() for k in fields} == fields


def test_a_wrong_set_writes_nothing(model, tmp_path, cli):
    for rows in (np.ones((1, LAYERS + 1, HIDDEN)), np.ones((1, LAYERS, HIDDEN // 2))):
        write_set(VectorSet(("joy",), rows.astype(np.float32)), tmp_path / "v.safetensors", overwrite=True)
        some = ("--model", model, "--vectors", tmp_path / "v.safetensors", "--mix", "joy=1")
        cli(*some, "--out", tmp_path / "out.gguf").one_line("made for", f"{LAYERS} layers x {HIDDEN}")
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize(("key", "value"), [("block_count", 0), ("block_count", 2**31), ("embedding_length", 0)])
def test_dimensions_that_cannot_be(tmp_path, cli, key, value):
    write_model(tmp_path / "base.gguf", fields={"general.note": "x"})
    content = (tmp_path / "base.gguf").read_bytes()
    at = content.index(f"llama.{key}".encode()) + len(f"llama.{key}") + 4
    (tmp_path / "base.gguf").write_bytes(content[:at] + struct.pack("<I", value) + content[at + 4 :])
    write_set(VectorSet(("joy",), np.ones((1, LAYERS, HIDDEN), np.float32)), tmp_path / "v.safetensors")
    some = ("--model", tmp_path / "base.gguf", "--vectors", tmp_path / "v.safetensors", "--mix", "joy=1")
    cli(*some, "--out", tmp_path / "out.gguf").one_line(f"llama.{key}", "not a positive number")
