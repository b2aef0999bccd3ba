"""Vector files: what is written is read back to the last bit, what others publish is read for what it is, and a
hostile file costs one line."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from support.paths import SHARED

from emobake import InputError, OutputError, VectorError, VectorSet, open_vectors
from emobake.core.vector_set import EMOTIONS, Statistics
from emobake.formats.safetensors import NewTensor, serialize_bytes
from emobake.vectors.write import write_set

LAYERS, HIDDEN = 4, 6
ROWS = np.random.default_rng(1).normal(size=(5, LAYERS, HIDDEN)).astype(np.float32)
STATISTICS = {e: Statistics(40, (0.5,) * LAYERS, 0.9) for e in EMOTIONS}
WHOLE = VectorSet(
    EMOTIONS, ROWS, "set", {}, "attention_output", "owner/model", "here", "mit", STATISTICS, {"queries": "q.json"}
)


def same(a, b):
    np.testing.assert_array_equal(a.rows.view(np.uint32), b.rows.view(np.uint32))
    assert (a.emotions, a.site) == (b.emotions, b.site)


def everything(a, b):
    same(a, b)
    assert replace(a, rows=ROWS, name="", sha256={}).__dict__ | {"rows": 0} == replace(
        b, rows=ROWS, name="", sha256={}
    ).__dict__ | {"rows": 0}


def refused(path, *words, kind=InputError, **options):
    with pytest.raises(kind) as caught:
        open_vectors(path, **options)
    line = str(caught.value)
    assert "\n" not in line and len(line) < 1000
    for word in (path.name, *words):
        assert word in line, f"{word!r} is not in: {line}"


# --- output -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
@pytest.mark.parametrize("site", ["attention_output", "layer_output"])
def test_forms_with_metadata_give_back_everything(tmp_path, suffix, site):
    out = tmp_path / f"v{suffix}"
    given = replace(WHOLE, site=site)
    assert write_set(given, out) == (out,)
    everything(open_vectors(out), given)
    written = out.read_bytes()
    write_set(given, out, overwrite=True)
    assert out.read_bytes() == written, "the same set, the same bytes"
    part = open_vectors(out, ["joy", "anger"])
    assert part.emotions == ("joy", "anger")
    np.testing.assert_array_equal(part.rows, ROWS[[3, 0]])
    assert [p.name for p in tmp_path.iterdir()] == [out.name], "nothing beside it is left"


def test_npz_is_plain_numpy(tmp_path):
    write_set(WHOLE, tmp_path / "v.npz")
    with np.load(tmp_path / "v.npz", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["joy"], ROWS[3])
        assert json.loads(str(arrays["__metadata__"]))["site"] == "attention_output"


def test_a_folder_as_published(tmp_path):
    files = write_set(WHOLE, tmp_path / "ev")
    assert [f.name for f in files] == [f"ev_{e}.json" for e in EMOTIONS]
    same(open_vectors(tmp_path / "ev"), WHOLE)
    write_set(replace(WHOLE, emotions=EMOTIONS[:1], rows=-ROWS[:1]), tmp_path / "ev", overwrite=True)
    assert [p.name for p in (tmp_path / "ev").iterdir()] == ["ev_anger.json"], "the old files are gone"
    (tmp_path / "ev" / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match=r"thesis\.tex"):
        write_set(WHOLE, tmp_path / "ev", overwrite=True)
    with pytest.raises(VectorError, match="layer output"):
        write_set(replace(WHOLE, site="layer_output"), tmp_path / "other")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ev"]


@pytest.mark.published
def test_the_published_set_goes_through_every_form_to_the_last_bit(tmp_path):
    published = open_vectors(SHARED / "seed" / "EMVector" / "qwen2.5")
    assert (published.emotions, published.layers, published.hidden) == (EMOTIONS, 28, 3584)
    ours, arrays, back = tmp_path / "v.safetensors", tmp_path / "v.npz", tmp_path / "back"
    write_set(published, ours)
    write_set(open_vectors(ours), arrays)
    write_set(open_vectors(arrays), back)
    same(open_vectors(back), published)
    for emotion in EMOTIONS:
        texts = (SHARED / "seed/EMVector/qwen2.5" / f"qwen2.5_{emotion}.json", back / f"back_{emotion}.json")
        before, after = (json.loads(text.read_text()) for text in texts)
        assert list(before) == list(after)
        for layer in before:
            a, b = (np.array(table[layer], np.float64).astype(np.float32) for table in (before, after))
            np.testing.assert_array_equal(a.view(np.uint32), b.view(np.uint32))


def test_control_vectors_for_llama_cpp(tmp_path):
    gguf = pytest.importorskip("gguf")
    rows = ROWS.copy()
    rows[:, 0] = 0
    given = replace(WHOLE, rows=rows, site="layer_output")
    write_set(given, tmp_path / "joy.gguf", emotion="joy")
    reader = gguf.GGUFReader(tmp_path / "joy.gguf")
    assert [t.name for t in reader.tensors] == [f"direction.{i}" for i in range(1, LAYERS)]
    assert bytes(reader.fields["general.architecture"].parts[-1]) == b"controlvector"
    read = open_vectors(tmp_path / "joy.gguf")
    same(read, replace(given, emotions=("joy",), rows=rows[3:4]))
    assert read.source == "control vector for owner/model"
    for bad, words in (
        (replace(WHOLE, rows=rows), "attention output"),
        (replace(given, rows=ROWS), "direction.0"),
    ):
        with pytest.raises(VectorError, match=words):
            write_set(bad, tmp_path / "x.gguf", emotion="joy")
    with pytest.raises(VectorError, match="choose one of anger"):
        write_set(given, tmp_path / "x.gguf")
    with pytest.raises(VectorError, match="envy"):
        write_set(given, tmp_path / "x.gguf", emotion="envy")
    assert [p.name for p in tmp_path.iterdir()] == ["joy.gguf"]


def test_what_is_there_is_not_replaced_unasked(tmp_path):
    out = tmp_path / "v.npz"
    out.write_text("mine")
    with pytest.raises(InputError, match="`overwrite`"):
        write_set(WHOLE, out)
    assert out.read_text() == "mine"
    (tmp_path / "d.npz").mkdir()
    with pytest.raises(InputError, match="a folder"):
        write_set(WHOLE, tmp_path / "d.npz", overwrite=True)
    (tmp_path / "f").write_text("mine")
    with pytest.raises(InputError, match="a file"):
        write_set(WHOLE, tmp_path / "f", overwrite=True)
    for out, words in (("v.txt", ".safetensors"), ("nowhere/v.npz", "folder does not exist")):
        with pytest.raises(InputError, match=words):
            write_set(WHOLE, tmp_path / out)
    with pytest.raises(InputError, match="`emotion`"):
        write_set(WHOLE, tmp_path / "w.npz", emotion="joy")


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    out = tmp_path / "v.npz"
    out.write_text("mine")

    def full(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="the disk is full"):
        write_set(WHOLE, out, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["v.npz"] and out.read_text() == "mine"


# --- what others publish --------------------------------------------------------------------------------------

SAID = {"site": "attention_output", "first_row": 0}


def npz(path, **arrays):
    np.savez(path, **arrays)
    return path


def test_arrays_of_others_say_nothing_of_themselves(tmp_path):
    file = npz(tmp_path / "v.npz", Joy=ROWS[3].astype(np.float64), anger=ROWS[0].astype(np.float16))
    refused(file, "`first_row`", "first block", kind=VectorError)
    refused(file, "`first_row`", site="attention_output")
    refused(file, "`site`", "layer_output", first_row=0)
    read = open_vectors(file, **SAID)
    assert (read.emotions, read.site, list(read.sha256)) == (("anger", "joy"), "attention_output", ["v.npz"])
    np.testing.assert_array_equal(read.rows[1], ROWS[3])
    np.testing.assert_array_equal(read.rows[0], ROWS[0].astype(np.float16).astype(np.float32))


def test_the_first_row_shifts_the_layers(tmp_path):
    file = npz(tmp_path / "v.npz", joy=ROWS[3])
    embeddings = open_vectors(file, site="layer_output", first_row=-1)
    np.testing.assert_array_equal(embeddings.rows[0], ROWS[3][1:])
    later = open_vectors(file, site="layer_output", first_row=2)
    np.testing.assert_array_equal(later.rows[0], np.concatenate([np.zeros((2, HIDDEN), np.float32), ROWS[3]]))
    refused(npz(tmp_path / "one.npz", joy=ROWS[3][:1]), "0 layers", site="layer_output", first_row=-1)
    refused(file, "layers", site="layer_output", first_row=1023)


def test_what_a_file_says_is_not_overruled(tmp_path):
    write_set(WHOLE, tmp_path / "v.npz")
    refused(tmp_path / "v.npz", "contradicts", "`site` layer_output", site="layer_output")
    refused(tmp_path / "v.npz", "contradicts", "`first_row` -1", first_row=-1)
    everything(open_vectors(tmp_path / "v.npz", **SAID), WHOLE)


def test_safetensors_of_others(tmp_path):
    file = tmp_path / "theirs.safetensors"
    half = ROWS[3].astype("<f2")
    file.write_bytes(serialize_bytes({"joy": NewTensor("F16", half.shape, (half.tobytes(),))}, {}))
    refused(file, "not a set of emotion vectors of ours", "`site`")
    np.testing.assert_array_equal(open_vectors(file, **SAID).rows[0], half.astype(np.float32))


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"joy": ROWS[3], "JOY": ROWS[3]}, "occurs twice"),
        ({"../joy": ROWS[3]}, "cannot be the name"),
        ({"joy": ROWS[3], "fear": ROWS[2][:2]}, "'fear' is [2, 6]|'joy' is [4, 6]"),
        ({"joy": ROWS}, "not [layers, hidden]"),
        ({"joy": ROWS[3][0]}, "not [layers, hidden]"),
        ({"joy": ROWS[3][:0]}, "not [layers, hidden]"),
        ({"joy": np.zeros((2000, 2), np.float32)}, "gives 2000 layers"),
        ({"joy": np.zeros((1000, 65_536), bool)}, "at most 16777216 numbers"),
        ({"joy": np.zeros((2, 65_537), np.float32)}, "hidden size of at most 65536"),
        ({f"e{i}": ROWS[3] for i in range(1025)}, "at most 1024 emotions"),
        ({"joy": np.ones((2, 2), np.int64)}, "not floats"),
        ({"joy": np.full((2, 2), np.nan, np.float32)}, "NaN"),
        ({"joy": np.full((2, 2), 1e300)}, "float32 cannot hold"),
        ({}, "has no vectors"),
        ({"joy": np.array(["x"])}, "not [layers, hidden]"),
        ({"__metadata__": np.array("[]"), "joy": ROWS[3]}, "not an object"),
        ({"__metadata__": np.array('{"format": "emobake-vectors-9"}'), "joy": ROWS[3]}, "emobake-vectors-1"),
        ({"__metadata__": ROWS[0], "joy": ROWS[3]}, "not a text"),
        ({"__metadata__": np.array('{"format": "emobake-vectors-1", "site": "mlp"}'), "joy": ROWS[3]}, "'mlp'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_arrays(tmp_path, arrays, words):
    options = {} if "__metadata__" in arrays else SAID
    with pytest.raises(InputError) as caught:
        open_vectors(npz(tmp_path / "v.npz", **arrays), **options)
    assert any(word in str(caught.value) for word in words.split("|")), caught.value


def test_missing_emotions_are_named(tmp_path):
    with pytest.raises(VectorError, match=r"no vectors for envy \(it has joy\)"):
        open_vectors(npz(tmp_path / "v.npz", joy=ROWS[3]), ["envy"], **SAID)


def test_hostile_archives(tmp_path, monkeypatch):
    file = tmp_path / "v.npz"
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**9, 10**9)})
    members = {
        "pickled": (tmp_path / "objects.npy").read_bytes(),
        "a shape without its bytes": header.getvalue(),
        "no array": b"hello",
        "a version from the future": b"\x93NUMPY\x09\x00" + b"\0" * 100,
    }
    for what, content in members.items():
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("joy.npy", content)
        refused(file, "not a numpy array", **SAID), what
    file.write_bytes(b"PK\x03\x04 and then nothing")
    refused(file, "not a whole archive", **SAID)
    with zipfile.ZipFile(file, "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        for _ in range(2):
            archive.writestr("joy.npy", _npy(ROWS[3]))
    refused(file, "occurs twice", **SAID)
    monkeypatch.setattr("emobake.vectors.formats.npz.MAX_ANY_EXPANSION", 100_000)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("joy.npy", _npy(np.zeros((1000, 100), np.float32)))
    assert file.stat().st_size < 10_000
    refused(file, "unpacks to 400128 bytes", **SAID)
    monkeypatch.setattr("emobake.vectors.open.MAX_VECTORS", 100_000)
    file.write_bytes(b"x" * 100_001)
    refused(file, "too many", **SAID)


def _npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def test_unknown_suffixes_say_what_is_known(tmp_path):
    (tmp_path / "v.svec").write_text("{}")
    refused(tmp_path / "v.svec", ".npz", ".gguf", "folder of JSON files")


# --- PyTorch --------------------------------------------------------------------------------------------------


@pytest.mark.torch
def test_tensors_of_pytorch(tmp_path):
    torch = pytest.importorskip("torch")

    def save(value, name="v.pt"):
        torch.save(value, tmp_path / name)
        return tmp_path / name

    tensors = [torch.from_numpy(row) for row in ROWS]
    one = open_vectors(save(tensors[3], "Joy.pt"), **SAID)
    assert one.emotions == ("joy",)
    several = open_vectors(save(dict(zip(EMOTIONS, tensors, strict=True))), **SAID)
    same(several, WHOLE)
    same(open_vectors(save({"emotions": list(EMOTIONS), "vectors": torch.from_numpy(ROWS)}, "g.pth"), **SAID), WHOLE)
    half = open_vectors(save({"joy": tensors[3].bfloat16()}), **SAID)
    np.testing.assert_array_equal(half.rows[0], tensors[3].bfloat16().float().numpy())
    refused(save(tensors[3]), "`first_row`")

    for value, words in (
        ([1, 2], "a list"),
        ({}, "a dict"),
        ({"joy": [1.0]}, "not a plain tensor"),
        ({"joy": tensors[3].to_sparse()}, "not a plain tensor"),
        ({"joy": torch.ones(2, 2, device="meta")}, "not a plain tensor"),
        ({"joy": torch.ones(2, 2, dtype=torch.int64)}, "not floats"),
        ({"joy": torch.ones(1, 1).expand(1000, 10**8)}, "claim 400000000000 bytes"),
        ({"joy": torch.ones(1, 1).expand(1000, 10**4)}, "claim 40000000 bytes"),
        ({f"joy {i}": torch.ones(100).expand(100, 100) for i in range(100)}, "claim 4000000 bytes"),
        ({"emotions": ["joy"], "vectors": torch.ones(2, 3, 4)}, "1 emotions, but vectors of shape [2, 3, 4]"),
        ({"emotions": "joy", "vectors": torch.ones(1, 3, 4)}, "not a list of names"),
        ({0: tensors[0], 1: tensors[1]}, "a dict from emotion"),
    ):
        refused(save(value), words, **SAID)


@pytest.mark.torch
def test_persona_vectors_act_on_the_layer_output_and_begin_with_the_embeddings(tmp_path):
    torch = pytest.importorskip("torch")
    file = tmp_path / "evil_response_avg_diff.pt"
    torch.save(torch.from_numpy(ROWS[0]), file)
    read = open_vectors(file)
    assert (read.emotions, read.site, read.layers) == (("evil",), "layer_output", LAYERS - 1)
    np.testing.assert_array_equal(read.rows[0], ROWS[0][1:])
    refused(file, "contradicts", site="attention_output")
    refused(file, "contradicts", first_row=0)


class Evil:
    """An object whose unpickling would be noticed."""

    def __reduce__(self):
        return os.mkdir, (str(Evil.where),)


@pytest.mark.torch
def test_nothing_is_unpickled(tmp_path):
    torch = pytest.importorskip("torch")
    Evil.where = tmp_path / "pwned"
    torch.save({"joy": Evil()}, tmp_path / "zip.pt")
    torch.save(Evil(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Evil()))
    refused(tmp_path / "zip.pt", "something else than tensors", **SAID)
    for name in ("old.pt", "plain.pt"):
        refused(tmp_path / name, "not a whole archive", **SAID)
    assert not Evil.where.exists()


# --- GGUF -----------------------------------------------------------------------------------------------------


def control_vector(path, directions, arch="controlvector", extra=None):
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(path, arch)
    if extra is not None:
        writer.add_array("extra", extra)
    for name, row in directions.items():
        writer.add_tensor(name, np.asarray(row))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_control_vectors_count_blocks_from_zero(tmp_path):
    file = control_vector(tmp_path / "Happy.gguf", {"direction.3": ROWS[0][3], "direction.1": ROWS[0][1]})
    read = open_vectors(file)
    expected = np.zeros_like(ROWS[0])
    expected[[1, 3]] = ROWS[0][[1, 3]]
    np.testing.assert_array_equal(read.rows[0], expected)
    assert (read.emotions, read.site) == (("happy",), "layer_output")
    refused(file, "contradicts", site="attention_output")


def test_wrong_control_vectors(tmp_path):
    row = ROWS[0][0]
    for directions, words in (
        ({"direction.0": row}, "llama.cpp refuses"),
        ({"direction.9999": row}, "not a direction.N"),
        ({"direction.-1": row}, "not a direction.N"),
        ({"blk.1.attn_q.weight": row}, "not a direction.N"),
        ({"direction.1": row, "direction.01": row}, "occurs twice"),
        ({"direction.1": row, "direction.2": row[:3]}, "has 3 floats|has 6 floats"),
        ({"direction.1": row.astype(np.float16)}, "F16"),
        ({"direction.1": ROWS[0]}, "not F32 [hidden]"),
        ({"direction.1": np.full(4, np.inf, np.float32)}, "NaN"),
        ({}, "holds no direction"),
    ):
        file = control_vector(tmp_path / "v.gguf", directions)
        with pytest.raises(InputError) as caught:
            open_vectors(file)
        assert any(word in str(caught.value) for word in words.split("|")), caught.value
    refused(control_vector(tmp_path / "m.gguf", {"direction.1": row}, arch="llama"), "GGUF of llama")
    listed = open_vectors(control_vector(tmp_path / "a.gguf", {"direction.1": row}, extra=[1, 2]))
    np.testing.assert_array_equal(listed.rows[0, 1], row, "a list in the metadata is skipped")


# --- anything -------------------------------------------------------------------------------------------------

quick = settings(
    max_examples=120,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.mark.parametrize("suffix", [".npz", ".gguf", ".pt", ".safetensors"])
@quick
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused_in_one_line(suffix, data, tmp_path):
    if suffix == ".pt":
        torch = pytest.importorskip("torch")
    good = tmp_path / f"good{suffix}"
    if not good.exists():
        if suffix == ".pt":
            torch.save({"joy": torch.from_numpy(ROWS[3].copy())}, good)
        elif suffix == ".gguf":
            control_vector(good, {"direction.1": ROWS[0][1], "direction.2": ROWS[0][2]})
        else:
            write_set(WHOLE, good)
    content = bytearray(good.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content
    bad = tmp_path / f"bad{suffix}"
    bad.write_bytes(content)
    try:
        read = open_vectors(bad, **({} if suffix in (".gguf",) else SAID))
    except InputError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000
    else:
        assert np.isfinite(read.rows).all() and read.rows.dtype == np.float32
