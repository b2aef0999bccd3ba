"""Files that claim much: refused by their headers, quickly, before memory is taken for the claim."""

from __future__ import annotations

import json
import pickle
import resource
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.checkpoints import raw_safetensors, write_checkpoint, write_vectors
from support.headers import CONFIG, JOY, checkpoint

import emobake
from emobake import InputError, VectorSet, make_plan
from emobake.core.limits import MAX_JSON_GROUPS, MAX_TENSORS
from emobake.core.steering import steering
from emobake.core.strict_json import parse_json
from emobake.errors import BrokenFileError, VectorError
from emobake.formats.safetensors import parse_header
from emobake.vectors.arithmetic import describe
from emobake.vectors.formats.npz import max_content
from emobake.vectors.open import open_vectors

SAID = {"site": "attention_output", "first_row": 0}


@pytest.fixture(autouse=True)
def cheap() -> Iterator[None]:
    """No test may take long or let the process grow by more than 600 MB; the files themselves take some of that."""
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    yield
    assert time.monotonic() - begun < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600_000


def header_of(content: bytes) -> None:
    parse_header("x.safetensors", len(content), lambda offset, n: content[offset : offset + n])


# --- JSON and headers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        b"[" + b'"",' * 8_000_000 + b'""]',  # First: memory is measured as the most that the process ever took.
        b"[" + b"[]," * 10_000_000 + b"[]]",
        b"{" + b",".join(b'"%d":0' % i for i in range(4_300_000)) + b"}",
        b"[" + b"0," * 4_300_000 + b"0]",
        b'["' + b'\\"' * 1_000_000 + b'",' + b"{}," * 1_100_000 + b"{}]",
        b'"' + b'\\"' * 2_000_000 + b"[" * 2_000_000,
    ],
    ids=["texts", "lists", "keys", "numbers", "behind a text", "in an unending text"],
)
def test_json_of_many_values(text):
    with pytest.raises(BrokenFileError, match=r"holds more than|not valid JSON"):
        parse_json(text, "x.json")


def test_texts_are_no_values():
    text = "[,{" * (MAX_JSON_GROUPS + 1) + 'a "quoted" \\ word'
    assert parse_json(json.dumps([text]), "x.json") == [text]


def test_headers_of_many_values_and_tensors():
    with pytest.raises(BrokenFileError, match="holds more than"):
        header_of(raw_safetensors(b'{"a":[' + b"[]," * 5_000_000 + b"[]]}"))
    names = b",".join(b'"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}' % i for i in range(MAX_TENSORS + 1))
    with pytest.raises(BrokenFileError, match="claims 300001 tensors"):
        header_of(raw_safetensors(b"{" + names + b"}"))
    with pytest.raises(BrokenFileError, match="has a header of 40000000 bytes, more than any model"):
        header_of(raw_safetensors(b" " * 40_000_000))


# --- checkpoints ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["num_hidden_layers", "hidden_size"])
@pytest.mark.parametrize("value", [0, -1, 10**6, 10**12, 10**4000, "4", [0] * 1000, True])
def test_dimensions_that_no_model_has(field, value):
    with pytest.raises(InputError, match=f"{field} is .* not a positive number of at most") as caught:
        make_plan(checkpoint({**CONFIG, field: value}), JOY, steering(None, {"joy": 1}))
    assert len(str(caught.value)) < 300


def test_a_width_that_takes_no_bytes():
    shapes = {"q_proj": (2**40, 0), "k_proj": (2, 4), "v_proj": (2, 4), "o_proj": (4, 4)}
    with pytest.raises(BrokenFileError, match="q_proj claims a width of 1099511627776"):
        make_plan(checkpoint(modules=shapes), JOY, steering(None, {"joy": 1}))


def test_a_bias_of_another_shape_is_not_read():
    base = checkpoint({**CONFIG, "attention_bias": True}, biases={"model.layers.0.self_attn.o_proj.bias": [0.0] * 5})
    with pytest.raises(BrokenFileError, match=r"has shape \[5\], not \[4\]"):
        make_plan(emobake.Checkpoint(**{**vars(base), "read": pytest.fail}), JOY, steering(None, {"joy": 1}))


def test_tensors_of_all_shards_are_counted(tmp_path, monkeypatch):
    model = write_checkpoint(tmp_path / "m", "llama", shards=3)
    monkeypatch.setattr("emobake.formats.checkpoint.open.MAX_TENSORS", 5)
    with pytest.raises(BrokenFileError, match="claims more than 5 tensors"):
        emobake.bake(model, write_vectors(tmp_path / "ev"), mix={"joy": 1}, dry_run=True)


def test_a_record_that_names_a_large_tensor(tmp_path, monkeypatch, cli):
    model, vectors = write_checkpoint(tmp_path / "m", "llama"), write_vectors(tmp_path / "ev")
    emobake.bake(model, vectors, mix={"joy": 1}, out=tmp_path / "out")
    record = json.loads((tmp_path / "out/emobake.json").read_text())
    record["biases"][0]["tensor"] = "model.embed_tokens.weight"
    (tmp_path / "out/emobake.json").write_text(json.dumps(record))
    monkeypatch.setattr("emobake.formats.check.biases.MAX_WIDTH", 16)
    assert any("so it is not a bias" in check.detail for check in emobake.verify(tmp_path / "out"))


# --- sets of vectors ------------------------------------------------------------------------------------------


def test_published_json_of_many_layers(tmp_path):
    (tmp_path / "x_joy.json").write_text("{" + ",".join(f'"{i}":[[0.5]]' for i in range(1_000_000)) + "}")
    with pytest.raises(VectorError, match="has 1000000 layers; expected 1 to 1024"):
        open_vectors(tmp_path)
    (tmp_path / "x_joy.json").write_text(json.dumps({"0": [[0.5] * 70_000]}))
    with pytest.raises(VectorError, match="hidden size of at most 65536"):
        open_vectors(tmp_path)


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ([[2, 4]] * 1025, "holds 1025 tensors; expected at most 1024 emotions"),
        ([[2, 4], [8]], r"'1' has shape \[8\], not \[layers, hidden\]"),
        ([[2, 70_000]], "gives 2 layers x 70000"),
    ],
)
def test_tensors_of_others_are_refused_by_the_header(tmp_path, monkeypatch, shapes, words):
    header, end = {}, 0
    for number, shape in enumerate(shapes):
        start, end = end, end + 4 * int(np.prod(shape))
        header[str(number)] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    (tmp_path / "v.safetensors").write_bytes(raw_safetensors(header, bytes(end)))
    monkeypatch.setattr("emobake.vectors.formats.single_file.decode", pytest.fail)
    with pytest.raises(VectorError, match=words):
        open_vectors(tmp_path / "v.safetensors", **SAID)


def test_archives_that_unpack_to_much(tmp_path):
    file = tmp_path / "v.npz"
    np.savez_compressed(file, joy=np.zeros((256, 65_536), np.float64))
    assert file.stat().st_size < 200_000
    with pytest.raises(BrokenFileError, match="unpacks to 134217856 bytes in 1 members"):
        open_vectors(file, **SAID)
    np.savez_compressed(file, joy=np.zeros((126, 16_384), np.float32))
    assert open_vectors(file, **SAID).layers == 126, "a set of zeros alone is small enough"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("joy.npy", b"\0" * 1000)
    with pytest.raises(BrokenFileError, match="compressed in another way"):
        open_vectors(file, **SAID)
    assert max_content(2**40) == 2**30


def test_control_vectors_of_one_far_layer(tmp_path):
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(tmp_path / "v.gguf", "controlvector")
    writer.add_tensor("direction.1000", np.ones(65_536, np.float32))
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    with pytest.raises(VectorError, match="gives 1001 layers x 65536"):
        open_vectors(tmp_path / "v.gguf")


def test_a_set_of_many_emotions_is_described_in_little_memory():
    rows = np.random.default_rng(0).standard_normal((200, 1024, 4), np.float32)
    assert describe(VectorSet(tuple(map(str, range(200))), rows)).cosines.shape == (200, 200)


# --- PyTorch --------------------------------------------------------------------------------------------------


def archive(path: Path, pickled: bytes, data: bytes = b"") -> Path:
    """A .pt with this pickle."""
    with zipfile.ZipFile(path, "w") as file:
        for name, content in (("data.pkl", pickled), ("version", b"3\n"), ("data/0", data), ("byteorder", b"little")):
            file.writestr(f"v/{name}", content)
    return path


# Tuples of the one before, twice: the key of a dict, which takes 2^60 steps to hash.
BOMB = (
    b"\x80\x02}q\x00K\x01\x85q\x01"
    + b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(1, 61))
    + b"h\x00h\x3dK\x01s."
)


@pytest.mark.torch
@pytest.mark.parametrize(
    ("pickled", "words"),
    [
        (BOMB, "a tuple occurs twice"),
        (b"\x80\x02ctorch\nFloatTensor\nJ\x00\x00\x00\x40\x85R.", "'torch FloatTensor' is not a plain tensor's"),
        (b"\x80\x02ctorch._utils\n_rebuild_sparse_tensor\n.", "_rebuild_sparse_tensor' is not"),
        (b"\x80\x02c" + b"x" * 100_000 + b"\ny\n.", "is not a plain tensor's"),
        (b"\x80\x02" + b"K\x01" * 600_000 + b".", "is longer than"),
        (pickle.dumps({"joy": 1.5}, 2), "not a plain tensor"),
        (b"", "damaged"),
        (b"\xff\xff", "damaged"),
    ],
)
def test_pickles_that_do_more_than_describe_tensors(tmp_path, pickled, words):
    pytest.importorskip("torch")
    with pytest.raises(VectorError, match=words) as caught:
        open_vectors(archive(tmp_path / "v.pt", pickled), **SAID)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.torch
@settings(max_examples=60, derandomize=True, database=None, deadline=None, suppress_health_check=[*HealthCheck])
@given(
    st.lists(st.integers(1, 50), min_size=2, max_size=2),
    st.lists(st.integers(1, 3000), min_size=2, max_size=2),
    st.integers(1, 20),
    st.sampled_from(["float32", "float16", "bfloat16", "float64"]),
)
def test_views_are_read_or_refused_by_their_bytes(tmp_path, small, wide, names, dtype):
    torch = pytest.importorskip("torch")
    tensor = torch.ones(small[0], 1, dtype=getattr(torch, dtype)).expand(small[0], wide[0])
    torch.save({f"e{i}": tensor for i in range(names)}, tmp_path / "v.pt")
    try:
        found = open_vectors(tmp_path / "v.pt", **SAID)
    except VectorError as error:
        assert "claim" in str(error)
    else:
        assert found.rows.size <= (tmp_path / "v.pt").stat().st_size
