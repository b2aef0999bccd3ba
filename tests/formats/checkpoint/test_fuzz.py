"""Hostile files: whatever is in them, a clean `InputError` or a reading that the safetensors library shares."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save
from support.checkpoints import NUMPY, raw_safetensors, read_tensors, write_checkpoint, write_safetensors, write_vectors
from support.wrapper_files import write_wrapper

import emobake
from emobake import InputError
from emobake.formats.safetensors import NewTensor, parse_header, serialize_bytes
from emobake.vectors.open import open_vectors

quick = settings(
    max_examples=150,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

# --- headers --------------------------------------------------------------------------------------------------

Read = list[tuple[str, str, tuple[int, ...], bytes]]


def ours(content: bytes) -> Read | None:
    """Read a file with our reader; None if it refuses cleanly."""
    try:
        headers = parse_header("x.safetensors", len(content), lambda offset, n: content[offset : offset + n])
    except InputError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000, "one clear line"
        return None
    return sorted((h.name, h.dtype, h.shape, content[h.start : h.end]) for h in headers)


def library(content: bytes) -> Read | None:
    """The same by the library that everybody uses."""
    try:
        tensors = safetensors.deserialize(content)
    except safetensors.SafetensorError:
        return None
    return sorted((name, t["dtype"], tuple(t["shape"]), bytes(t["data"])) for name, t in tensors)


HUGE = 10**4299
numbers = st.one_of(
    st.integers(-3, 40),
    st.sampled_from([2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 8, 2**64, HUGE, -HUGE, 0.0, 8.0, 1e300]),
)
words = st.one_of(st.sampled_from(["", "a", "A", "\0", "\ud800", "é", "__metadata__", "a.b", "F32", "U8"]), st.text())
leaves = st.one_of(st.none(), st.booleans(), numbers, words, st.floats())
anything = st.recursive(leaves, lambda x: st.one_of(st.lists(x, max_size=3), st.dictionaries(words, x, max_size=3)))
DTYPES = ["F32", "BF16", "F16", "U8", "I64", "BOOL", "F64", "F8_E4M3", "F4", "C64", "Q4", "f32", "", "F6_E2M3"]


@st.composite
def entries(draw: st.DrawFn) -> dict[str, Any]:
    """One tensor's description: mostly right, so that the checks behind the first ones are reached."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    begin = draw(st.integers(0, 16))
    size = int(np.prod(shape, dtype=np.int64)) * {"F32": 4, "BF16": 2, "F16": 2, "I64": 8, "F64": 8, "C64": 8}.get(
        dtype, 1
    )
    entry: dict[str, Any] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, begin + size]}
    for field in draw(st.lists(st.sampled_from(["dtype", "shape", "data_offsets", "more"]), max_size=1)):
        entry[field] = draw(st.one_of(anything, st.lists(numbers, max_size=4)))
    return entry


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """Files that are wrong in few ways at a time."""
    header = draw(st.dictionaries(words, st.one_of(entries(), entries(), anything), max_size=3))
    if draw(st.booleans()):
        # Laid end to end, as they should be.
        position = 0
        for entry in header.values():
            if (
                isinstance(entry, dict)
                and isinstance(entry.get("data_offsets"), list)
                and len(entry["data_offsets"]) == 2
            ):
                begin, end = entry["data_offsets"]
                if all(isinstance(x, int) and abs(x) < 100 for x in (begin, end)):
                    entry["data_offsets"] = [position, position := position + max(0, end - begin)]
    text = json.dumps(header, ensure_ascii=draw(st.booleans())).encode(errors="surrogatepass")
    if draw(st.booleans()):
        text += b" " * (-len(text) % 8)
    data = bytes(draw(st.integers(0, 40)))
    if draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, max(0, len(text) - 1)))
        text = text[:at] + draw(st.binary(max_size=3)) + text[at + draw(st.integers(0, 3)) :]
    length = draw(st.one_of(st.none(), st.none(), st.none(), st.integers(0, 2**64 - 1), st.integers(0, len(text) + 9)))
    return raw_safetensors(text, data, length=length)


def one(**fields: Any) -> dict[str, Any]:
    """The header of one good tensor, but for `fields`."""
    return {"a": {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]} | fields}


DATA = b"\0" * 8


@quick
@given(files())
@example(raw_safetensors(one(shape=[10**4299], data_offsets=[0, 10**4299]), DATA))
@example(raw_safetensors(one(shape=[10**4300 - 1], data_offsets=[0, 10**4300 - 1]), DATA))
@example(raw_safetensors(one(shape=[2**32, 2**32], data_offsets=[0, 0]), b""))
@example(raw_safetensors(one(shape=[0, 2**64], data_offsets=[0, 0]), b""))
@example(raw_safetensors(one(shape=[8] + [1] * 40), DATA))
@example(raw_safetensors(json.dumps(one()).encode("utf-16"), DATA))
@example(raw_safetensors(b"\xef\xbb\xbf" + json.dumps(one()).encode(), DATA))
@example(raw_safetensors(b"\n " + json.dumps(one()).encode(), DATA))
@example(raw_safetensors(json.dumps(one()).encode() + b" \n", DATA))
@example(raw_safetensors(json.dumps(one()).encode() + b"\0\0\0", DATA))
@example(raw_safetensors(b'{"\\ud800": {"dtype":"U8","shape":[8],"data_offsets":[0,8]}}', DATA))
@example(raw_safetensors(one() | {"__metadata__": {"x": 1}}, DATA))
@example(raw_safetensors(one() | {"__metadata__": []}, DATA))
@example(raw_safetensors(one() | {"__metadata__": [1]}, DATA))
@example(raw_safetensors(one() | {"__metadata__": None}, DATA))
@example(raw_safetensors(one() | {"__metadata__": 0}, DATA))
@example(raw_safetensors(one(shape=[2**40, 2**40, 0], data_offsets=[0, 0])))
@example(raw_safetensors(one() | {"__metadata__": {"x": "y"}}, DATA))
@example(raw_safetensors(one(more=float("nan")), DATA))
@example(raw_safetensors(b"[" * 200_000))
@example(raw_safetensors(b'{"a":' * 200_000))
@example(raw_safetensors(one() | {"b": {"dtype": "U8", "shape": [0], "data_offsets": [8, 8]}}, DATA))
@example(raw_safetensors(one() | {"b": {"dtype": "U8", "shape": [0], "data_offsets": [4, 4]}}, DATA))
@example(raw_safetensors(one(dtype="F4", shape=[16]), DATA))
@example(raw_safetensors(one(dtype="F4", shape=[15]), DATA))
@example(raw_safetensors({}, b""))
@example(raw_safetensors(b"", b""))
def test_what_we_read_the_library_reads_alike(content):
    found = ours(content)
    # Python's JSON has these two words; that they stand in a field which nobody reads harms nobody.
    if found is not None and b"NaN" not in content and b"Infinity" not in content:
        assert found == library(content)


@quick
@given(st.binary(max_size=200))
def test_random_bytes(content):
    assert ours(content) is None or ours(content) == library(content)


@quick
@given(entries(), entries(), st.integers(0, 16))
def test_repeated_names(first, second, size):
    text = f'{{"a": {json.dumps(first)}, "a": {json.dumps(second)}}}'.encode(errors="surrogatepass")
    assert ours(raw_safetensors(text, bytes(size))) is None


NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(lambda n: n != "__metadata__")
ARRAYS = st.tuples(
    st.sampled_from([np.float32, np.float16, ml_dtypes.bfloat16, np.uint8, np.int64, np.bool_]),
    st.lists(st.integers(0, 4), max_size=4).map(tuple),
)


@quick
@given(
    st.dictionaries(NAMES, ARRAYS, max_size=5), st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2)
)
def test_files_that_the_library_writes(tensors, metadata):
    try:
        content = save({name: np.ones(shape, dtype) for name, (dtype, shape) in tensors.items()}, metadata or None)
    except UnicodeEncodeError:
        return  # a surrogate in the metadata, which the library cannot write
    assert ours(content) == library(content) is not None


@quick
@given(st.dictionaries(NAMES, ARRAYS, max_size=5), st.sampled_from([{}, {"format": "pt"}, {"b": "é\n", "a": '"'}]))
def test_the_library_reads_what_we_write(tensors, metadata):
    kinds = {np.float32: "F32", np.float16: "F16", ml_dtypes.bfloat16: "BF16"}
    values = {n: np.full(shape, 1.5, dtype) for n, (dtype, shape) in tensors.items() if dtype in kinds}
    raw = {name: (kinds[v.dtype.type], v.shape, v.tobytes()) for name, v in values.items()}
    new = {name: NewTensor(dtype, shape, (data,)) for name, (dtype, shape, data) in raw.items()}
    content = serialize_bytes(new, metadata)
    assert library(content) == ours(content) == sorted((n, *entry) for n, entry in raw.items())
    assert serialize_bytes(dict(reversed(list(new.items()))), metadata) == content, "the order given does not matter"
    assert int.from_bytes(content[:8], "little") % 8 == 0


# --- whole checkpoints ----------------------------------------------------------------------------------------


class Victim:
    """A checkpoint and a set, one JSON file of which is replaced for every example."""

    def __init__(self, folder: Path, model_type: str) -> None:
        if model_type in WRAPPERS:
            self.model = write_wrapper(folder / "m", model_type, shards=2, side_files={})
        else:
            self.model = write_checkpoint(folder / "m", model_type, shards=2, extra_files=False)
        self.is_wrapper = model_type in WRAPPERS
        self.vectors = write_vectors(folder / "ev", emotions=("joy",))
        self.kept = {p: p.read_bytes() for p in folder.rglob("*.json")}

    def bake(self, file: Path, content: bytes) -> bool:
        """Plan both formats with `content` in `file`, then put it back; False when a checkpoint is cleanly refused."""
        file.write_bytes(content)
        try:
            self._plan("peft")
            if self.is_wrapper:
                self._plan("checkpoint", text_only=True)
            return self._plan("checkpoint")
        finally:
            if file in self.kept:
                file.write_bytes(self.kept[file])
            else:
                file.unlink()

    def _plan(self, form: Any, **options: Any) -> bool:
        try:
            plan = emobake.bake(self.model, self.vectors, mix={"joy": 1.0}, format=form, dry_run=True, **options).plan
        except InputError as error:
            str(error).encode(errors="surrogatepass")
            return False
        for written in plan.files:
            if written.name.endswith(".json") and written.action == "write":
                json.loads(written.data)
        return True


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Victim]:
    made: dict[str, Victim] = {}

    def get(kind: str) -> Victim:
        if kind not in made:
            made[kind] = Victim(tmp_path_factory.mktemp(kind), kind)
        return made[kind]

    return get


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> Victim:
    """A checkpoint whose projections are flat columns, as bitsandbytes stores them: the config tells their widths."""
    made = Victim(tmp_path_factory.mktemp("quantised"), "llama")
    tensors = {
        name: (dtype, np.frombuffer(data, NUMPY[dtype]).reshape((-1, 1) if "self_attn" in name else shape))
        for name, (dtype, shape, data) in read_tensors(made.model).items()
    }
    for file in made.model.glob("model*"):
        file.unlink()
    write_safetensors(made.model / "model.safetensors", tensors)
    config = made.model / "config.json"
    said = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    config.write_text(json.dumps(json.loads(config.read_bytes()) | {"quantization_config": said}), encoding="utf-8")
    return made


def spots(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a JSON value."""
    found: list[tuple[Any, Any]] = []
    for key, item in list(value.items() if isinstance(value, dict) else enumerate(value)):
        found.append((value, key))
        if isinstance(item, dict | list):
            found += spots(item)
    return found


@st.composite
def mangled(draw: st.DrawFn, good: bytes) -> bytes:
    """A JSON document with a value or two replaced, removed or added, or with its bytes damaged."""
    if draw(st.integers(0, 5)) == 0:
        at = draw(st.integers(0, len(good)))
        return good[:at] + draw(st.binary(max_size=4)) + good[at + draw(st.integers(0, 40)) :]
    value = copy.deepcopy(json.loads(good))
    for _ in range(draw(st.integers(1, 2))):
        container, key = draw(st.sampled_from(spots(value) or [({}, "")]))
        action = draw(st.sampled_from(["replace", "replace", "replace", "remove", "add"]))
        if isinstance(container, list) and key >= len(container):
            continue
        if action == "replace" or isinstance(container, list):
            container[key] = draw(anything)
        elif action == "remove":
            container.pop(key, None)
        else:
            container[draw(words)] = draw(anything)
    return json.dumps(value, ensure_ascii=draw(st.booleans())).encode(errors="surrogatepass")


WRAPPERS = ("llava", "qwen2_5_vl")
KINDS = ("llama", "mistral", "qwen2", "gpt2", *WRAPPERS)
less = settings(quick, max_examples=60)


@pytest.mark.parametrize("kind", KINDS)
@less
@given(data=st.data())
def test_a_mangled_config(victim, kind, data):
    file = victim(kind).model / "config.json"
    victim(kind).bake(file, data.draw(mangled(file.read_bytes())))


FIELDS = (
    "rope_scaling",
    "rope_parameters",
    "head_dim",
    "quantization_config",
    "auto_map",
    "sliding_window",
    "torch_dtype",
    "text_config",
    "vision_config",
)


@pytest.mark.parametrize("kind", KINDS)
@less
@given(field=st.sampled_from(FIELDS), value=anything)
@example("rope_scaling", {"type": {}})
@example("rope_scaling", {"rope_type": [["yarn"]]})
@example("rope_parameters", {"full_attention": {}, "rope_type": "default"})
@example("torch_dtype", "\ud800")
@example("text_config", {})
@example("text_config", [])
@example("text_config", {"model_type": []})
@example("text_config", {"model_type": "\ud800"})
@example("text_config", {"model_type": "mistral", "rope_scaling": {"type": []}, "num_hidden_layers": 2**70})
def test_a_config_with_another_field(victim, kind, field, value):
    file = victim(kind).model / "config.json"
    config = json.loads(file.read_bytes()) | {field: value}
    victim(kind).bake(file, json.dumps(config).encode())


@less
@given(data=st.data())
def test_a_mangled_index(victim, data):
    file = victim("llama").model / "model.safetensors.index.json"
    victim("llama").bake(file, data.draw(mangled(file.read_bytes())))


@less
@given(value=anything)
def test_index_metadata(victim, value):
    file = victim("llama").model / "model.safetensors.index.json"
    index = json.loads(file.read_bytes())
    for metadata in (value, {"total_parameters": value}, {"total_size": value, "more": value}):
        victim("llama").bake(file, json.dumps(index | {"metadata": metadata}).encode())


@less
@given(data=st.data())
def test_mangled_vectors(victim, data):
    file = next(victim("llama").vectors.glob("*_joy.json"))
    victim("llama").bake(file, data.draw(mangled(file.read_bytes())))


@quick
@given(content=st.one_of(files(), st.binary(max_size=60)))
def test_a_single_file_set(tmp_path, content):
    (tmp_path / "set.safetensors").write_bytes(content)
    with pytest.raises(InputError):
        open_vectors(tmp_path / "set.safetensors", ["joy"])


@less
@given(record=st.one_of(anything, st.fixed_dictionaries({"history": anything, "weights": anything})))
def test_an_earlier_record(victim, record):
    """The emobake.json of a base is hostile until checked, like any file."""
    victim("gpt2").bake(victim("gpt2").model / "emobake.json", json.dumps(record).encode())


CARDS = st.one_of(
    st.text(),
    st.dictionaries(st.sampled_from(["license", "language", "license_name"]), anything).map(json.dumps),
    st.sampled_from(["!!timestamp", "!!int", "!!bool", "!!float", "!!binary", "!!set", "!!python/none"]).flatmap(
        lambda tag: st.sampled_from([f"license: {tag} {text}" for text in ("x", '""', "2020-13-45", "[1]", "{}")])
    ),
    st.sampled_from(["license: &a [*a]", "? [a]\n: b", "license: 2020-01-01", "license: !!python/object:os.system x"]),
)


@less
@given(card=CARDS)
def test_a_strange_model_card(victim, card):
    content = f"---\n{card}\n---\n".encode(errors="surrogatepass")
    assert victim("gpt2").bake(victim("gpt2").model / "README.md", content), "a card is never a reason to refuse"


@less
@given(
    field=st.sampled_from(
        ["head_dim", "num_key_value_heads", "num_attention_heads", "quantization_config", "v_head_dim"]
    ),
    value=anything,
)
@example("head_dim", "x")
@example("head_dim", -3)
@example("num_key_value_heads", [1])
@example("v_head_dim", [1])
@example("v_head_dim", 2**40)
@example("num_attention_heads", 2**19)
def test_a_quantised_model_with_strange_widths(quantised, field, value):
    file = quantised.model / "config.json"
    quantised.bake(file, json.dumps(json.loads(file.read_bytes()) | {field: value}).encode())


def test_the_readers_agree_on_where_the_bytes_lie(tmp_path):
    """Offsets in a `TensorHeader` count from the beginning of the file."""
    content = save({"a": np.arange(3, dtype=np.float32)}, {"format": "pt"})
    (header,) = parse_header("f", len(content), lambda offset, n: content[offset : offset + n])
    assert np.frombuffer(content[header.start : header.end], "<f4").tolist() == [0, 1, 2]
