"""Hostile models and vector sets: what a stranger may put into files that somebody bakes.

Each case changes whole inputs. It must be refused in one line, or, where the harm is none of a bake's business (code
that is never run, a card that is not carried over), be baked rightly: `verify` then finds nothing. `Hostile.bakes` says
which.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .checkpoints import (
    edit_json,
    numbers,
    raw_safetensors,
    read_tensors,
    tree,
    write_checkpoint,
    write_json,
    write_safetensors,
    write_vectors,
)
from .forked import run_forked
from .running import run_silently

SECRET = b"a private key"
SECONDS, MEGABYTES = 30, 600
"""Bounds of a run, in time of computing; a template has 5 seconds of it, and half a gigabyte of memory."""
SHARD, INDEX = "model-00002-of-00003.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True)
class Inputs:
    """A folder with whole inputs, of which a case spoils some."""

    folder: Path

    @property
    def base(self) -> Path:
        """A Llama in one file, with side files and duplicates."""
        return self.folder / "base"

    @property
    def sharded(self) -> Path:
        """The same in three shards."""
        return self.folder / "sharded"

    @property
    def gguf(self) -> Path:
        """A GGUF model."""
        return self.folder / "model.gguf"

    @property
    def vectors(self) -> Path:
        """A set for the checkpoints."""
        return self.folder / "ev"

    @property
    def secret(self) -> Path:
        """A file that nobody wants to publish."""
        return self.folder / "home" / "id_rsa"


def write_inputs(folder: Path) -> Inputs:
    """Write whole inputs into `folder`."""
    from . import gguf_files

    inputs = Inputs(folder)
    write_checkpoint(inputs.base)
    write_checkpoint(inputs.sharded, shards=3)
    write_vectors(inputs.vectors)
    write_vectors(folder / "wide", layers=gguf_files.LAYERS, hidden=gguf_files.HIDDEN)
    gguf_files.write_model(inputs.gguf)
    gguf_files.write_model(folder / "split.gguf", split=10)
    inputs.secret.parent.mkdir()
    inputs.secret.write_bytes(SECRET)
    _load(folder)
    return inputs


def _load(folder: Path) -> None:
    """Bake and verify in this process, so that children begin with all modules loaded."""
    for model, vectors, *more in (("base", "ev"), ("base", "ev", "--format", "peft"), ("model.gguf", "wide")):
        beside, out = ("--vectors", str(folder / vectors)), str(folder / f"loaded{Path(model).suffix}")
        for words in (
            ("--model", str(folder / model), *beside, "--mix", "joy=1", "--out", out, "-q", "--overwrite", *more),
            ("verify", out, "--base", str(folder / model), *beside, "-q"),
        ):
            run_silently(words)
    shutil.rmtree(folder / "loaded")
    (folder / "loaded.gguf").unlink()


@dataclass(frozen=True)
class Hostile:
    """A case: the change, and what the one line must say."""

    change: Callable[[Inputs], object]
    says: str = ""
    bakes: str = ""
    """Forms, with spaces between them, in which it is baked all the same: ``checkpoint``, ``peft``, ``gguf``."""
    slow: bool = False
    """Takes seconds: left to `scripts/torture`."""


# --- changes --------------------------------------------------------------------------------------------------

Change = Callable[[Inputs], object]


def config(**fields: Any) -> Change:
    return lambda x: edit_json(x.base / "config.json", **fields)


def text(name: str, content: str | bytes) -> Change:
    """Another content of a file of the base, or of the input that begins with ``/``."""

    def change(x: Inputs) -> None:
        file = x.folder / name[1:] if name.startswith("/") else x.base / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())

    return change


def header(entries: object, data: bytes = b"", **claims: int) -> Change:
    return text("model.safetensors", raw_safetensors(entries, data, **claims))


def sparse(name: str, size: int) -> Change:
    """A file of so many bytes, which takes none on the disk."""
    return lambda x: os.truncate(x.folder / name, size)


def tensors(edit: Callable[[dict[str, tuple[str, tuple[int, ...], bytes]]], object]) -> Change:
    """The base's tensors, edited: name -> (dtype, shape, bytes)."""

    def change(x: Inputs) -> None:
        found = read_tensors(x.base)
        edit(found)
        entries, data = {}, b""
        for name, (dtype, shape, raw) in found.items():
            entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
            data += raw
        (x.base / "model.safetensors").write_bytes(raw_safetensors(entries, data))

    return change


def index(edit: Callable[[dict[str, Any]], object]) -> Change:
    def change(x: Inputs) -> Path:
        value = json.loads((x.sharded / INDEX).read_text())
        edit(value)
        write_json(x.sharded / INDEX, value)
        return x.sharded

    return change


def shard_of_head(name: object) -> Change:
    return index(lambda value: value["weight_map"].update({"lm_head.weight": name}))


def of_sharded(change: Callable[[Path], object]) -> Change:
    def run(x: Inputs) -> Path:
        change(x.sharded)
        return x.sharded

    return run


def link(name: str, target: str) -> Change:
    """A link in place of a file of the base; ``{secret}`` stands for a private file."""

    def change(x: Inputs) -> None:
        file = x.base / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        file.symlink_to(target.replace("{secret}", str(x.secret)))

    return change


def pipe(name: str) -> Change:
    def change(x: Inputs) -> None:
        (x.base / name).unlink(missing_ok=True)
        os.mkfifo(x.base / name)

    return change


def many_tensors(count: int) -> Change:
    entry = b'"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    return header(b"{" + b",".join(entry % i for i in range(count)) + b"}")


def many_files(x: Inputs) -> None:
    (x.base / "many").mkdir()
    for i in range(20_001):
        (x.base / "many" / str(i)).touch()


def deep_folders(x: Inputs) -> None:
    folder = x.base
    for _ in range(300):
        folder /= "d"
        folder.mkdir()
    (folder / "LICENSE").touch()


def edit_text(file: Path, old: str, new: str) -> None:
    content = file.read_text()
    assert old in content
    file.write_text(content.replace(old, new))


def gguf(edit: Callable[[bytearray], object]) -> Change:
    """Other bytes of the GGUF model."""

    def change(x: Inputs) -> Path:
        content = bytearray(x.gguf.read_bytes())
        edit(content)
        x.gguf.write_bytes(content)
        return x.gguf

    return change


def patch(after: bytes, skip: int, new: bytes) -> Change:
    """Other bytes behind a key, or a tensor's name, and `skip` bytes."""

    def edit(content: bytearray) -> None:
        at = content.index(after) + len(after) + skip
        content[at : at + len(new)] = new

    return gguf(edit)


def written(**options: Any) -> Change:
    """A GGUF model written with other options of `gguf_files.write_model`."""

    def change(x: Inputs) -> Path:
        from . import gguf_files

        gguf_files.write_model(x.gguf, **options)
        return x.gguf

    return change


def template(source: str) -> Change:
    return written(template=source)


def part(edit: Callable[[Path], object]) -> Change:
    """A change of the second file of the split set."""

    def change(x: Inputs) -> Path:
        edit(x.folder / "split-00002-of-00003.gguf")
        return x.folder / "split-00001-of-00003.gguf"

    return change


def swapped(file: Path) -> None:
    other = file.with_name(file.name.replace("00002", "00003", 1))
    content = file.read_bytes()
    file.write_bytes(other.read_bytes())
    other.write_bytes(content)


def one(**fields: Any) -> dict[str, Any]:
    return {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | fields}


def vector_values(row: str) -> Change:
    return text("/ev/ev_tiny_joy.json", '{"0": [[' + row + ']], "1": [[0,0,0,0,0,0,0,0]]}')


OUT = "model.layers.1.self_attn.o_proj.weight"
Q8 = struct.pack("<Q", 2**60)
LEVELS = "\n".join(f"a{i}: &a{i}\n  <<: [*a{i - 1}, *a{i - 1}]" for i in range(1, 41))
LAUGHS = "\n".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 41))
BOTH = "checkpoint peft"

HOSTILE: Mapping[str, Hostile] = {
    # config.json
    "config: empty": Hostile(text("config.json", ""), "not valid JSON"),
    "config: a list": Hostile(text("config.json", "[]"), "JSON list"),
    "config: cut off": Hostile(text("config.json", '{"model_type": "lla'), "not valid JSON"),
    "config: nested 100,000 deep": Hostile(text("config.json", '{"a":' * 100_000), "not valid JSON"),
    "config: a field nested deep": Hostile(
        lambda x: edit_text(x.base / "config.json", '"hidden_act": "silu"', '"hidden_act": ' + "[" * 900 + "]" * 900),
        bakes=BOTH,
    ),
    "config: not UTF-8": Hostile(text("config.json", b'{"model_type": "\xff\xfe"}'), "not valid JSON"),
    "config: UTF-16": Hostile(text("config.json", "{}".encode("utf-16")), "not valid JSON"),
    "config: a key twice": Hostile(text("config.json", '{"model_type": "llama", "model_type": "gpt2"}'), "twice"),
    "config: 4.3 million values": Hostile(text("config.json", "[" + "0," * 4_300_000 + "0]"), "holds more than"),
    "config: a number of 10,000 digits": Hostile(text("config.json", '{"hidden_size": ' + "9" * 10_000 + "}")),
    "config: 10 GB": Hostile(sparse("base/config.json", 10**10), "config.json"),
    "config: NaN": Hostile(text("config.json", '{"model_type": "llama", "hidden_size": NaN}')),
    "config: a width of infinity": Hostile(config(hidden_size=float("inf")), "hidden_size"),
    "config: a million layers": Hostile(config(num_hidden_layers=10**6), "num_hidden_layers"),
    "config: more layers than there are": Hostile(config(num_hidden_layers=3), "layer"),
    "config: fewer layers than there are": Hostile(config(num_hidden_layers=1), "layer"),
    "config: minus one layer": Hostile(config(num_hidden_layers=-1), "num_hidden_layers"),
    "config: layers as text": Hostile(config(num_hidden_layers="2"), "num_hidden_layers"),
    "config: layers that are true": Hostile(config(num_hidden_layers=True), "num_hidden_layers"),
    "config: a width of 2**31": Hostile(config(hidden_size=2**31), "hidden_size"),
    "config: another width": Hostile(config(hidden_size=16), "hidden size"),
    "config: a model type of two lines": Hostile(config(model_type="llama\n# evil"), "model_type"),
    "config: a model type with a path": Hostile(config(model_type="../../etc/passwd"), "etc/passwd", "peft"),
    "config: a model type that is a list": Hostile(config(model_type=["llama"]), "model_type", "peft"),
    "config: no architectures": Hostile(config(architectures=None), "architectures", "peft"),
    "config: architectures of objects": Hostile(config(architectures=[{}]), "architectures", "peft"),
    "config: another architecture": Hostile(
        config(architectures=["LlamaForSequenceClassification"]), "LlamaForCausal", "peft"
    ),
    "config: code of its own": Hostile(config(auto_map={"AutoModelForCausalLM": "evil.Model"}), bakes=BOTH),
    "config: an encoder-decoder": Hostile(config(model_type="t5", is_encoder_decoder=True), "encoder-decoder", "peft"),
    "config: an unknown quantisation": Hostile(
        config(quantization_config={"quant_method": "\x1b[2J"}), "quant_method", "peft"
    ),
    "config: a quantisation that is a number": Hostile(config(quantization_config=7), "not an object"),
    "config: a bias switch that is text": Hostile(config(attention_bias="false"), "attention_bias", "peft"),
    "config: a bias switch that is a list": Hostile(config(attention_bias=[0]), "attention_bias", "peft"),
    "config: a bias that is not there": Hostile(config(attention_bias=True), "bias", "peft"),
    "config: missing": Hostile(lambda x: (x.base / "config.json").unlink(), "no config.json"),
    "config: a pipe": Hostile(pipe("config.json"), "config.json"),
    "config: a link out": Hostile(link("config.json", "{secret}"), "link out"),
    "config: a link to a device": Hostile(link("config.json", "/dev/zero"), "config.json"),
    "config: a link to itself": Hostile(link("config.json", "config.json"), "config.json"),
    # safetensors headers
    "weights: empty": Hostile(text("model.safetensors", b""), "too few"),
    "weights: a pointer of git-lfs": Hostile(text("model.safetensors", b"version https://git-lfs"), "not safetensors"),
    "weights: a header of 2**62 bytes": Hostile(header({}, length=2**62), "truncated"),
    "weights: a header of terabytes": Hostile(
        lambda x: (header({}, length=5 * 10**12)(x), sparse("base/model.safetensors", 6 * 10**12)(x)), "5000000000000"
    ),
    "weights: a header of 300,001 tensors": Hostile(
        many_tensors(300_001),
        "300001 tensors",
        slow=True,
    ),
    "weights: a header of lists": Hostile(header(b'{"a":[' + b"[]," * 1_100_000 + b"[]]}"), "more than"),
    "weights: a header nested deep": Hostile(header(b'{"a":' * 200_000), "not valid JSON"),
    "weights: a name twice": Hostile(
        header(b'{"a":%b,"a":%b}' % ((json.dumps(one()["a"]).encode(),) * 2), bytes(8)), "twice"
    ),
    "weights: tensors that overlap": Hostile(header(one() | {"b": one()["a"]}, bytes(8)), "overlaps"),
    "weights: a hole": Hostile(header(one(data_offsets=[4, 12]), bytes(12)), "hole"),
    "weights: offsets before the file": Hostile(header(one(data_offsets=[-8, 0]), bytes(8))),
    "weights: offsets that are floats": Hostile(header(one(data_offsets=[0.0, 8.0]), bytes(8))),
    "weights: offsets behind the file": Hostile(header(one(data_offsets=[2**62, 2**62 + 8]), bytes(8))),
    "weights: a shape of 2**40": Hostile(header(one(shape=[2**40, 4]), bytes(8)), "8 bytes of data"),
    "weights: a shape that overflows to 0": Hostile(header(one(shape=[2**32, 2**32], data_offsets=[0, 0]))),
    "weights: a shape below zero": Hostile(header(one(shape=[-2]), bytes(8)), "shape"),
    "weights: 40 dimensions": Hostile(header(one(shape=[2] + [1] * 40), bytes(8))),
    "weights: an unknown dtype": Hostile(header(one(dtype="Q4"), bytes(8)), "unknown dtype"),
    "weights: metadata of numbers": Hostile(header(one() | {"__metadata__": {"x": 1}}, bytes(8))),
    "weights: another model's": Hostile(header(one(), bytes(8)), "not the weights of llama"),
    "weights: names with control characters": Hostile(tensors(lambda t: t.update({"a\n\x1b[2J": t["lm_head.weight"]}))),
    "weights: a name that is a path": Hostile(
        tensors(lambda t: t.update({"../../x": t["lm_head.weight"]})), bakes=BOTH
    ),
    "weights: an output projection is missing": Hostile(tensors(lambda t: t.pop(OUT)), "layer 1 has no o_proj"),
    "weights: an output projection of another width": Hostile(
        tensors(lambda t: t.update({OUT: ("BF16", (6, 8), t[OUT][2][:96])})), "6 outputs"
    ),
    "weights: an output projection of integers": Hostile(
        tensors(lambda t: t.update({OUT: ("I16", (8, 8), t[OUT][2])})), "no matrix of floats"
    ),
    "weights: an output projection of no rank": Hostile(
        tensors(lambda t: t.update({OUT: ("BF16", (), t[OUT][2][:2])})), "no matrix of floats"
    ),
    "weights: a bias of another shape": Hostile(
        tensors(lambda t: t.update({OUT.replace("weight", "bias"): ("BF16", (4,), bytes(8))})), "shape", "peft"
    ),
    "weights: a bias that the config denies": Hostile(
        tensors(lambda t: t.update({OUT.replace("weight", "bias"): ("BF16", (8,), b"\x80\x3f" * 8)})), "ignores", "peft"
    ),
    "weights: cut off": Hostile(
        lambda x: os.truncate(x.base / "model.safetensors", (x.base / "model.safetensors").stat().st_size - 5),
        "describes",
    ),
    "weights: bytes behind the last tensor": Hostile(
        lambda x: os.truncate(x.base / "model.safetensors", (x.base / "model.safetensors").stat().st_size + 5),
        "describes",
    ),
    "weights: only pickles": Hostile(lambda x: (x.base / "model.safetensors").unlink(), "pickled weights"),
    "weights: a pipe": Hostile(pipe("model.safetensors"), "safetensors"),
    "weights: a link to a private file": Hostile(link("model.safetensors", "{secret}"), "not safetensors"),
    # The index
    "index: a shard with a path": Hostile(shard_of_head("../stolen.safetensors"), "not a shard in this folder"),
    "index: a shard from the root": Hostile(shard_of_head("/etc/passwd"), "not a shard in this folder"),
    "index: a hidden shard": Hostile(shard_of_head(".x.safetensors"), "not a shard in this folder"),
    "index: a shard that is a number": Hostile(shard_of_head(7), "not a shard in this folder"),
    "index: a tensor in another shard": Hostile(shard_of_head("model-00001-of-00003.safetensors"), "lm_head.weight"),
    "index: a tensor that is not there": Hostile(index(lambda v: v["weight_map"].update(x=SHARD)), SHARD),
    "index: a tensor that it leaves out": Hostile(index(lambda v: v["weight_map"].pop(OUT)), bakes=BOTH),
    "index: no map": Hostile(index(lambda v: v.pop("weight_map")), INDEX),
    "index: a map that is a list": Hostile(index(lambda v: v.update(weight_map=[])), INDEX),
    "index: nested deep": Hostile(
        of_sharded(lambda folder: (folder / INDEX).write_text('{"weight_map":' + "[" * 100_000)), "not valid JSON"
    ),
    "index: a shard is missing": Hostile(of_sharded(lambda folder: (folder / SHARD).unlink()), "missing"),
    "index: two shards swapped": Hostile(of_sharded(lambda folder: swapped(folder / SHARD)), "model-0000"),
    "index: a tensor in two shards": Hostile(
        of_sharded(lambda folder: write_safetensors(folder / SHARD, {"lm_head.weight": ("F32", numbers("a", (2, 2)))})),
        "model-0000",
    ),
    # Side files
    "side files: a licence that is a link out": Hostile(link("LICENSE", "{secret}"), bakes=BOTH),
    "side files: a folder that is a link out": Hostile(link("licenses", "{secret}/.."), bakes=BOTH),
    "side files: a tokenizer that is a link out": Hostile(link("tokenizer.json", "{secret}"), "link out"),
    "side files: a licence that is a pipe": Hostile(pipe("LICENSE"), "LICENSE", ""),
    "side files: a card of merges": Hostile(text("README.md", f"---\na0: &a0 {{x: 1}}\n{LEVELS}\n---\n"), bakes=BOTH),
    "side files: a card of aliases": Hostile(text("README.md", f"---\na0: &a0 [x]\n{LAUGHS}\n---\n"), bakes=BOTH),
    "side files: a card that runs code": Hostile(
        text("README.md", "---\na: !!python/object/apply:os.system ['touch /tmp/emobake-hostile']\n---\n"), bakes=BOTH
    ),
    "side files: a card nested deep": Hostile(text("README.md", "---\na: " + "[" * 90_000 + "\n---\n"), bakes=BOTH),
    "side files: a card of 10 GB": Hostile(sparse("base/README.md", 10**10), bakes=BOTH),
    "side files: a card that breaks out": Hostile(
        text("README.md", "---\nlicense: 'mit\\n---\\n# evil'\nlanguage: [\"\\x1b[2J\"]\n---\n"), bakes=BOTH
    ),
    "side files: a tokenizer's config nested deep": Hostile(text("tokenizer_config.json", "[" * 100_000)),
    "side files: a generation config of NaN": Hostile(
        text("generation_config.json", '{"temperature": NaN}'), bakes=BOTH
    ),
    "side files: a record that is none": Hostile(text("emobake.json", '{"format": "checkpoint"}'), "not a record"),
    "side files: a record nested deep": Hostile(text("emobake.json", "[" * 100_000), "emobake.json"),
    "side files: a name of two lines": Hostile(text("LICENSE\n\x1b[2J", "x"), "cannot be the name of a file", "peft"),
    "side files: 20,001 files": Hostile(many_files, "files", slow=True),
    "side files: 1,500 folders deep": Hostile(deep_folders, bakes=BOTH),
    # Vectors
    "vectors: NaN": Hostile(vector_values("1,2,3,NaN,5,6,7,8"), "NaN"),
    "vectors: beyond float32": Hostile(vector_values("1,2,3,1e39,5,6,7,8"), "infinity"),
    "vectors: true": Hostile(vector_values("1,2,3,true,5,6,7,8"), "not a list of numbers"),
    "vectors: nested deep": Hostile(text("/ev/ev_tiny_joy.json", '{"0":' + "[" * 100_000), "not valid JSON"),
    "vectors: a layer of 10**9": Hostile(text("/ev/ev_tiny_joy.json", '{"1000000000": [[1]]}'), "layer"),
    "vectors: 10 GB": Hostile(sparse("ev/ev_tiny_joy.json", 10**10), "ev_tiny_joy.json"),
    "vectors: of another width": Hostile(lambda x: write_vectors(x.vectors, hidden=16), "hidden size 16"),
    # GGUF
    "gguf: 2**60 tensors": Hostile(gguf(lambda c: c.__setitem__(slice(8, 16), Q8)), "claims"),
    "gguf: 2**60 fields": Hostile(gguf(lambda c: c.__setitem__(slice(16, 24), Q8)), "claims"),
    "gguf: version 4": Hostile(gguf(lambda c: c.__setitem__(4, 4)), "version 4"),
    "gguf: a pointer of git-lfs": Hostile(gguf(lambda c: c.__setitem__(slice(0, 7), b"version")), "GGUF"),
    "gguf: cut off in its header": Hostile(gguf(lambda c: c.__delitem__(slice(500, None)))),
    "gguf: cut off in its data": Hostile(gguf(lambda c: c.__delitem__(slice(-4096, None))), "beyond the end"),
    "gguf: bytes behind the last tensor": Hostile(gguf(lambda c: c.extend(bytes(4096))), "describes"),
    "gguf: a text of 2**60 bytes": Hostile(patch(b"general.name", 4, Q8), "ends within"),
    "gguf: a list of 2**60 texts": Hostile(patch(b"tokenizer.ggml.tokens", 8, Q8)),
    "gguf: a list of lists": Hostile(patch(b"tokenizer.ggml.tokens", 4, struct.pack("<I", 9)), "list"),
    "gguf: a field of an unknown type": Hostile(patch(b"general.name", 0, struct.pack("<I", 77)), "type 77"),
    "gguf: no layers": Hostile(patch(b"llama.block_count", 4, bytes(4)), "block_count"),
    "gguf: 2**31 layers": Hostile(patch(b"llama.block_count", 4, struct.pack("<I", 2**31)), "block_count"),
    "gguf: one layer more": Hostile(patch(b"llama.block_count", 4, struct.pack("<I", 3)), "layers"),
    "gguf: no width": Hostile(patch(b"llama.embedding_length", 4, bytes(4)), "embedding_length"),
    "gguf: another width": Hostile(patch(b"llama.embedding_length", 4, struct.pack("<I", 128)), "128"),
    "gguf: tensors that overlap": Hostile(patch(b"blk.0.attn_q.weight", 24, bytes(8)), "overlaps"),
    "gguf: an offset of 2**60": Hostile(patch(b"blk.0.attn_q.weight", 24, Q8)),
    "gguf: a shape of 2**60": Hostile(patch(b"blk.0.attn_q.weight", 4, Q8)),
    "gguf: a tensor of an unknown type": Hostile(patch(b"blk.0.attn_q.weight", 20, struct.pack("<I", 999)), "type 999"),
    "gguf: a tensor twice": Hostile(gguf(lambda c: c.__setitem__(c.index(b"attn_q.weight") + 5, ord("k"))), "twice"),
    "gguf: no output projection": Hostile(written(without=("blk.1.attn_output.weight",)), "attn_output"),
    "gguf: a bias of another shape": Hostile(written(biases={"blk.0.attn_output.bias": np.ones(8, np.float32)})),
    "gguf: an architecture with a path": Hostile(written(architecture="../../x")),
    "gguf: an alignment of 0": Hostile(written(fields={"general.alignment": 0}), "alignment"),
    "gguf: an alignment of 2**31": Hostile(written(fields={"general.alignment": 2**31}), "alignment"),
    "gguf: a record that is none": Hostile(written(fields={"emobake.record": "{}"}), "not a record"),
    "gguf: a record nested deep": Hostile(written(fields={"emobake.record": "[" * 100_000}), "record"),
    "gguf: a name that is a directive": Hostile(written(fields={"general.license": "x\nADAPTER ./evil"}), bakes="gguf"),
    "gguf: terabytes": Hostile(lambda x: (sparse("model.gguf", 5 * 10**12)(x), x.gguf)[1], "describes"),
    "gguf: a link to itself": Hostile(
        lambda x: (x.gguf.unlink(), x.gguf.symlink_to(x.gguf.name), x.gguf)[2], "model.gguf"
    ),
    "gguf: a pipe": Hostile(lambda x: (x.gguf.unlink(), os.mkfifo(x.gguf), x.gguf)[2], "model.gguf"),
    "gguf: a part is missing": Hostile(part(lambda file: file.unlink()), "00002"),
    "gguf: a part twice": Hostile(part(lambda file: shutil.copy(str(file).replace("00002", "00003", 1), file))),
    "gguf: two parts swapped": Hostile(part(swapped)),
    "gguf: a part cut off": Hostile(part(lambda file: os.truncate(file, 4000))),
    "template: loops": Hostile(
        template("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"),
        bakes="gguf",
        slow=True,
    ),
    "template: a list of 10**10": Hostile(template("{{ [0] * 10 ** 10 }}"), bakes="gguf", slow=True),
    "template: a text of 10**10": Hostile(template("{{ 'a'|center(10 ** 10) }}"), bakes="gguf", slow=True),
    "template: doubles": Hostile(
        template(
            "{% set n = namespace(x='a') %}{% for a in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}"
        ),
        bakes="gguf",
        slow=True,
    ),
    "template: recursion": Hostile(template("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"), bakes="gguf"),
    "template: Python inside": Hostile(template("{{ ''.__class__.__mro__[1].__subclasses__() }}"), bakes="gguf"),
    "template: brackets": Hostile(template("{{ " + "(" * 5000 + ")" * 5000 + " }}"), bakes="gguf", slow=True),
}


@dataclass(frozen=True)
class Outcome:
    """What became of a case in one form."""

    form: str
    baked: bool
    line: str
    seconds: float
    megabytes: float


def face(case: Hostile, whole: Path, folder: Path) -> list[Outcome]:
    """Bake a case in each form that its model has, and check the outcome.

    `whole` holds whole inputs; the case is made in `folder`, which is new.
    """
    shutil.copytree(whole, folder, symlinks=True)
    inputs = Inputs(folder)
    model = case.change(inputs)
    model = model if isinstance(model, Path) and (model == inputs.sharded or ".gguf" in model.name) else inputs.base
    is_gguf = model.name.endswith(".gguf")
    vectors = folder / ("wide" if is_gguf else "ev")
    forms = {"gguf": ("--modelfile",)} if is_gguf else {"checkpoint": (), "peft": ("--format", "peft")}
    return [_face(case, form, options, inputs, model, vectors) for form, options in forms.items()]


def _face(case: Hostile, form: str, options: tuple[str, ...], inputs: Inputs, model: Path, vectors: Path) -> Outcome:
    outs = inputs.folder / "outs"
    outs.mkdir()
    out = outs / ("o.gguf" if form == "gguf" else "o")
    before = _listed(inputs.folder)
    words = ("--model", model, "--vectors", vectors, "--mix", "joy=1", "-q", "--out", out, *options)
    ran = run_forked(words, seconds=SECONDS, megabytes=4 * MEGABYTES).clean()
    baked = form in case.bakes.split()
    where = f"{form}: exit code {ran.code} after {ran.seconds:.0f} s, {ran.megabytes:.0f} MB: {ran.err}"
    assert ran.megabytes < MEGABYTES and ran.seconds < SECONDS, where
    assert ran.code == (0 if baked else 2), where
    made = {path for path in _listed(inputs.folder) if path.parts[0] == "outs"}
    assert _listed(inputs.folder) - made == before - made, f"{where}: something was written elsewhere"
    if baked:
        assert not any(SECRET in content for content in tree(outs).values()), (
            f"{where}: a private file is in the output"
        )
        found = run_forked(("verify", out, "--base", model, "--vectors", vectors, "-q"), seconds=SECONDS).clean()
        assert found.code == 0, f"{where}: {found.out}{found.err}"
    else:
        ran.one_line(case.says)
        assert made == {Path("outs")}, f"{where}: {sorted(map(str, made))}"
    shutil.rmtree(outs)
    return Outcome(form, baked, ran.err.strip(), ran.seconds, ran.megabytes)


def _listed(folder: Path) -> set[Path]:
    return {Path(at, name).relative_to(folder) for at, below, files in os.walk(folder) for name in [*below, *files]}
