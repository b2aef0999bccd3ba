"""Tamperings: what somebody may do to a finished output, by accident or to mislead; `verify` must find it.

With the base and the vectors, all of them are found. Alone, `verify` has the record, the digests in it, and what every
output has in common; `Tampering.hides` says why that is too little.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .checkpoints import NUMPY, edit_json, read_tensors, write_checkpoint, write_json, write_safetensors, write_vectors
from .forked import Child, run_forked
from .running import run_silently

RECORD, CONFIG, INDEX = "emobake.json", "config.json", "model.safetensors.index.json"
BIASES = "model-00003-of-00003.safetensors"
CARRIED, OTHER = "model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors"
OUTPUTS: Mapping[str, tuple[str, ...]] = {
    "checkpoint": ("--model", "llama", "--vectors", "ev", "--out", "checkpoint"),
    "qwen2": ("--model", "qwen2.base", "--vectors", "ev", "--out", "qwen2"),
    "gpt2": ("--model", "gpt2.base", "--vectors", "ev", "--out", "gpt2"),
    "adapter": ("--model", "llama", "--vectors", "ev", "--out", "adapter", "--format", "peft"),
    "adapters": ("--model", "llama", "--vectors", "ev", "--out", "adapters", "--format", "peft", "--each"),
    "gguf": ("--model", "model.gguf", "--vectors", "wide", "--out", "gguf/out.gguf"),
    "split": ("--model", "split-00001-of-00003.gguf", "--vectors", "wide", "--out", "split/out.gguf", "--keep-split"),
}
"""Name -> command line that makes it; the words that name files are relative to the folder of inputs."""
_ENTRY = {"gguf": "out.gguf", "split": "out-00001-of-00003.gguf"}
"""The file of an output that `verify` is given; else its folder."""


def write_outputs(folder: Path) -> Path:
    """Write inputs into `folder`, and bake each output there."""
    from . import gguf_files

    write_checkpoint(folder / "llama", shards=2)
    write_checkpoint(folder / "qwen2.base", "qwen2")
    write_checkpoint(folder / "gpt2.base", "gpt2", dtype="F32")
    write_vectors(folder / "ev")
    write_vectors(folder / "ev2", seed="2")
    write_vectors(folder / "wide", layers=gguf_files.LAYERS, hidden=gguf_files.HIDDEN)
    gguf_files.write_model(folder / "model.gguf")
    gguf_files.write_model(folder / "split.gguf", split=10)
    for words in OUTPUTS.values():
        (folder / words[5]).parent.mkdir(exist_ok=True)
        run_silently([*_placed(words, folder), "--mix", "joy=0.5,fear=0.25", "-q"])
    for name in OUTPUTS:
        # Found right once in this process, so that children begin with all modules loaded.
        for alone in (False, True):
            run_silently(_check(name, folder, folder / Path(OUTPUTS[name][5]).parts[0], alone=alone))
    return folder


def _placed(words: tuple[str, ...], folder: Path) -> list[str]:
    return [str(folder / word) if i % 2 and i < 6 else word for i, word in enumerate(words)]


def _check(output: str, folder: Path, changed: Path, *, alone: bool) -> list[object]:
    """Command line that verifies an output of `folder` that lies in `changed`."""
    words = OUTPUTS[output]
    beside = () if alone else ("--base", folder / words[1], "--vectors", folder / words[3])
    return ["verify", changed / _ENTRY.get(output, ""), "-q", *beside]


def check(output: str, folder: Path, changed: Path, *, alone: bool) -> Child:
    """Verify an output of `folder` that lies in `changed`, with its base and vectors or `alone`."""
    return run_forked(_check(output, folder, changed, alone=alone), seconds=30).clean()


@dataclass(frozen=True)
class Tampering:
    """One change of an output."""

    output: str
    change: Callable[[Path], object]
    """The change, given the output's folder."""
    hides: str = ""
    """Reason why it cannot be seen without the base; empty: it is."""


# --- changes --------------------------------------------------------------------------------------------------

Change = Callable[[Path], object]


def fields(**values: Any) -> Change:
    return lambda out: edit_json(out / CONFIG, **values)


def record(edit: Callable[[dict[str, Any]], object], folder: str = "") -> Change:
    def change(out: Path) -> None:
        file = out / folder / RECORD
        value = json.loads(file.read_text())
        edit(value)
        write_json(file, value)

    return change


def append(name: str, content: bytes = b"\n") -> Change:
    def change(out: Path) -> None:
        with (out / name).open("ab") as file:
            file.write(content)

    return change


def gone(name: str) -> Change:
    return lambda out: (out / name).unlink()


def new(name: str, content: str = "{}") -> Change:
    def change(out: Path) -> None:
        assert not (out / name).exists()
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(content)

    return change


def flip(name: str, at: int) -> Change:
    """One other bit in the byte at `at`; a negative one counts from the end."""

    def change(out: Path) -> None:
        content = bytearray((out / name).read_bytes())
        content[at] ^= 1
        (out / name).write_bytes(content)

    return change


def index(edit: Callable[[dict[str, str]], object], *, digest: bool = False) -> Change:
    """Another map of tensors; with `digest`, the record keeps the digest of that."""

    def change(out: Path) -> None:
        value = json.loads((out / INDEX).read_text())
        edit(value["weight_map"])
        write_json(out / INDEX, value)
        if digest:
            _digest(out, INDEX)

    return change


def _digest(out: Path, name: str) -> None:
    found = hashlib.sha256((out / name).read_bytes()).hexdigest()
    record(lambda value: value["digests"].update({name: found}))(out)


def swap(one: str, other: str) -> Change:
    def change(out: Path) -> None:
        (out / one).rename(out / "aside")
        (out / other).rename(out / one)
        (out / "aside").rename(out / other)

    return change


def tensors(file: str, edit: Callable[[dict[str, tuple[str, np.ndarray]]], object]) -> Change:
    """Other tensors in a weight file."""

    def change(out: Path) -> None:
        held = {}
        for name, (dtype, shape, raw) in read_tensors(out).items():
            held[name] = (dtype, np.frombuffer(raw, NUMPY[dtype]).reshape(shape).astype(np.float32))
        here = {name: held[name] for name in _names(out / file)}
        edit(here)
        write_safetensors(out / file, here)

    return change


def _names(file: Path) -> list[str]:
    content = file.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return [name for name in header if name != "__metadata__"]


def of_layer(layer: int) -> Callable[[str], bool]:
    return lambda name: f"layers.{layer}.self_attn.o_proj.bias" in name


def zeros(here: dict[str, tuple[str, np.ndarray]], layer: int) -> None:
    for name in filter(of_layer(layer), list(here)):
        here[name] = (here[name][0], np.zeros_like(here[name][1]))


def forget_layer(out: Path) -> None:
    """The biases of layer 1 are zero, and the record names them no longer."""
    tensors(BIASES, lambda here: zeros(here, 1))(out)
    record(lambda value: value.update(biases=[b for b in value["biases"] if b["layer"] != 1]))(out)


def as_recorded(out: Path) -> None:
    """The biases of layer 1 are zero, and the record has their digest."""
    tensors(BIASES, lambda here: zeros(here, 1))(out)
    digest = hashlib.sha256(bytes(16)).hexdigest()
    record(lambda value: value["biases"][1].update(sha256=digest, norm=0.0))(out)
    _digest(out, BIASES)


def without_layer(out: Path) -> None:
    """No bias of layer 1 anywhere: weights, index, and record."""
    names = [name for name in _names(out / BIASES) if ".1." in name]
    tensors(BIASES, lambda here: [here.pop(name) for name in names])(out)
    record(
        lambda value: value.update(
            biases=[b for b in value["biases"] if b["tensor"] not in names],
            added_tensors=[name for name in value["added_tensors"] if name not in names],
        )
    )(out)
    index(lambda held: [held.pop(name) for name in names], digest=True)(out)


def config_and_digest(**values: Any) -> Change:
    def change(out: Path) -> None:
        fields(**values)(out)
        _digest(out, CONFIG)

    return change


def gguf(edit: Callable[[bytearray], object], name: str = "out.gguf") -> Change:
    def change(out: Path) -> None:
        content = bytearray((out / name).read_bytes())
        edit(content)
        (out / name).write_bytes(content)

    return change


def byte_behind(key: bytes, skip: int, value: int | None = None) -> Callable[[bytearray], object]:
    def edit(content: bytearray) -> None:
        at = content.index(key) + len(key) + skip
        content[at] = content[at] ^ 1 if value is None else value

    return edit


def rename(old: bytes, name: bytes) -> Callable[[bytearray], object]:
    assert len(old) == len(name)

    def edit(content: bytearray) -> None:
        at = content.index(old)
        content[at : at + len(old)] = name

    return edit


def drop(held: dict[str, str], end: str) -> None:
    for name in [name for name in held if name.endswith(end)]:
        del held[name]


def flip_tensor(name: str, file: str = "") -> Change:
    """One other bit in a tensor, of a safetensors file or of a GGUF model."""

    def change(out: Path) -> None:
        files = [out / file] if file else sorted(out.glob("*.safetensors")) + sorted(out.glob("*.gguf"))
        for path in files:
            at = _place(path, name)
            if at is not None:
                flip(path.name, at)(path.parent)
                return
        raise AssertionError(f"no {name}")

    return change


def _place(path: Path, name: str) -> int | None:
    """Offset of a tensor in a file; None if it has no such tensor."""
    if path.suffix == ".gguf":
        import gguf as package

        return next((int(t.data_offset) for t in package.GGUFReader(path).tensors if t.name == name), None)
    content = path.read_bytes()
    length = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:length])
    return length + header[name]["data_offsets"][0] if name in header else None


SINGLE = "model.safetensors"
LORA = "base_model.model.model.layers.{}.self_attn.o_proj.lora_{}"
_CARRIED = "the record has no digest of carried weights, only their sizes"
_OWN = "the record was changed to match"
_SOURCE = "nothing but the base and the vectors tells what was baked"

TAMPERINGS: Mapping[str, Tampering] = {
    # The config
    "rope_theta": Tampering("checkpoint", fields(rope_theta=500_000.0)),
    "rms_norm_eps": Tampering("checkpoint", fields(rms_norm_eps=0.1)),
    "hidden_act": Tampering("checkpoint", fields(hidden_act="gelu")),
    "num_attention_heads": Tampering("checkpoint", fields(num_attention_heads=4)),
    "tie_word_embeddings": Tampering("checkpoint", fields(tie_word_embeddings=True)),
    "max_position_embeddings": Tampering("checkpoint", fields(max_position_embeddings=8)),
    "torch_dtype": Tampering("checkpoint", fields(torch_dtype="float16")),
    "eos_token_id": Tampering("checkpoint", fields(eos_token_id=1)),
    "rope_scaling": Tampering("checkpoint", fields(rope_scaling={"rope_type": "linear", "factor": 2.0})),
    "quantization_config": Tampering("checkpoint", fields(quantization_config={"quant_method": "gptq", "bits": 4})),
    "architectures: another": Tampering("checkpoint", fields(architectures=["Qwen2ForCausalLM"])),
    "architectures: none": Tampering("checkpoint", fields(architectures=None)),
    "architectures: one more": Tampering("checkpoint", fields(architectures=["LlamaForCausalLM", "Qwen2ForCausalLM"])),
    "model_type": Tampering("checkpoint", fields(model_type="mistral")),
    "auto_map": Tampering("checkpoint", fields(auto_map={"AutoModelForCausalLM": "modeling_custom.Model"})),
    "attention_bias: false": Tampering("checkpoint", fields(attention_bias=False)),
    'attention_bias: "false"': Tampering("checkpoint", fields(attention_bias="false")),
    "attention_bias: [0]": Tampering("checkpoint", fields(attention_bias=[0])),
    "attention_bias: 1": Tampering("checkpoint", fields(attention_bias=1)),
    "attention_bias: gone": Tampering("checkpoint", fields(attention_bias=None)),
    "num_hidden_layers: one more": Tampering("checkpoint", fields(num_hidden_layers=3)),
    "num_hidden_layers: one fewer": Tampering("checkpoint", fields(num_hidden_layers=1)),
    "config: gone": Tampering("checkpoint", gone(CONFIG)),
    "config: cut off": Tampering("checkpoint", lambda out: os.truncate(out / CONFIG, 50)),
    "config: a space more": Tampering("checkpoint", append(CONFIG, b" ")),
    "config: rope_theta, and its digest": Tampering("checkpoint", config_and_digest(rope_theta=5e5), _OWN),
    "config: of a Qwen2": Tampering("qwen2", fields(model_type="qwen2", architectures=["Qwen2ForCausalLM"])),
    "config: architectures of a Qwen2": Tampering("qwen2", fields(architectures=["Qwen2ForCausalLM"])),
    # Side files
    "tokenizer.json: changed": Tampering("checkpoint", append("tokenizer.json")),
    "tokenizer.json: gone": Tampering("checkpoint", gone("tokenizer.json")),
    "tokenizer_config.json: changed": Tampering(
        "checkpoint", lambda out: edit_json(out / "tokenizer_config.json", chat_template="{{ 'x' }}")
    ),
    "tokenizer_config.json: gone": Tampering("checkpoint", gone("tokenizer_config.json")),
    "special_tokens_map.json: changed": Tampering(
        "checkpoint", lambda out: write_json(out / "special_tokens_map.json", {"eos_token": "x"})
    ),
    "chat template: changed": Tampering("checkpoint", append("chat_template.jinja", b"x")),
    "chat template: gone": Tampering("checkpoint", gone("chat_template.jinja")),
    "generation config: changed": Tampering(
        "checkpoint", lambda out: edit_json(out / "generation_config.json", temperature=2.0)
    ),
    "generation config: gone": Tampering("checkpoint", gone("generation_config.json")),
    "licence: changed": Tampering("checkpoint", append("LICENSE")),
    "licence: gone": Tampering("checkpoint", gone("LICENSE")),
    # Files that a loader would read besides
    "besides: adapter_config.json": Tampering("checkpoint", new("adapter_config.json")),
    "besides: adapter_model.safetensors": Tampering("checkpoint", new("adapter_model.safetensors")),
    "besides: model.safetensors": Tampering("checkpoint", lambda out: shutil.copy(out / CARRIED, out / SINGLE)),
    "besides: a fourth shard": Tampering("checkpoint", new("model-00004-of-00003.safetensors")),
    "besides: consolidated.safetensors": Tampering("checkpoint", new("consolidated.safetensors")),
    "besides: pytorch_model.bin": Tampering("checkpoint", new("pytorch_model.bin")),
    "besides: a GGUF": Tampering("checkpoint", new("x.gguf")),
    "besides: code": Tampering("checkpoint", new("modeling_llama.py", "raise SystemExit")),
    "besides: added_tokens.json": Tampering("checkpoint", new("added_tokens.json")),
    "besides: a further template": Tampering("checkpoint", new("additional_chat_templates/tool.jinja", "x")),
    "besides: preprocessor_config.json": Tampering("checkpoint", new("preprocessor_config.json")),
    # Weights
    "carried weight: a bit": Tampering("checkpoint", flip(CARRIED, -1), _CARRIED),
    "carried weight: a bit in the header": Tampering("checkpoint", flip(CARRIED, 12)),
    "shards: swapped": Tampering("checkpoint", swap(CARRIED, OTHER)),
    "shards: one cut off": Tampering("checkpoint", lambda out: os.truncate(out / CARRIED, 100)),
    "shards: one gone": Tampering("checkpoint", gone(OTHER)),
    "shards: one longer": Tampering("checkpoint", append(OTHER)),
    "biases: a bit": Tampering("checkpoint", flip(BIASES, -1)),
    "biases: gone": Tampering("checkpoint", gone(BIASES)),
    "biases: not in the index": Tampering("checkpoint", index(lambda held: drop(held, ".bias"))),
    "biases: not in the index, and its digest": Tampering(
        "checkpoint", index(lambda held: drop(held, ".bias"), digest=True)
    ),
    "biases: one not in the index, and its digest": Tampering(
        "checkpoint", index(lambda held: drop(held, "1.self_attn.o_proj.bias"), digest=True), _OWN
    ),
    "biases: zero in a layer": Tampering("checkpoint", tensors(BIASES, lambda here: zeros(here, 1))),
    "biases: zero in a layer that the record forgets": Tampering("checkpoint", forget_layer),
    "biases: zero in a layer, and their digest": Tampering("checkpoint", as_recorded, _OWN),
    "biases: none in a layer, in the record neither": Tampering("checkpoint", without_layer),
    "biases: of another dtype": Tampering(
        "checkpoint", tensors(BIASES, lambda here: here.update({n: ("F32", v) for n, (_, v) in here.items()}))
    ),
    "biases: a sibling is not zero": Tampering(
        "checkpoint",
        tensors(BIASES, lambda here: here.update({n: (d, v + 1) for n, (d, v) in here.items() if "q_proj" in n})),
    ),
    "biases: a sibling is gone": Tampering(
        "checkpoint", tensors(BIASES, lambda here: here.pop("model.layers.0.self_attn.q_proj.bias"))
    ),
    "biases: one more tensor": Tampering(
        "checkpoint", tensors(BIASES, lambda here: here.update(x=("BF16", np.ones(2, np.float32))))
    ),
    "overwritten bias: a bit": Tampering("gpt2", flip_tensor("h.1.attn.c_proj.bias")),
    "overwritten file: a bit of another tensor": Tampering("gpt2", flip_tensor("wte.weight"), _CARRIED),
    # The record
    "record: gone": Tampering("checkpoint", gone(RECORD)),
    "record: cut off": Tampering("checkpoint", lambda out: os.truncate(out / RECORD, 200)),
    "record: other weights": Tampering("checkpoint", record(lambda r: r["weights"].update(joy=0.1)), _SOURCE),
    "record: another emotion": Tampering(
        "checkpoint", record(lambda r: r.update(weights={"anger": 0.5, "fear": 0.25})), _SOURCE
    ),
    "record: another scale": Tampering("checkpoint", record(lambda r: r.update(scale=2.0)), _SOURCE),
    "record: fewer layers": Tampering("checkpoint", record(lambda r: r.update(steered_layers=[0])), _SOURCE),
    "record: a branch scale": Tampering("checkpoint", record(lambda r: r.update(branch_scale=2.0)), _SOURCE),
    "record: a norm": Tampering("checkpoint", record(lambda r: r["biases"][0].update(norm=9.0)), _SOURCE),
    "record: another set": Tampering(
        "checkpoint", record(lambda r: r["vectors"]["rows_sha256"].update(joy="0" * 64)), _SOURCE
    ),
    "record: another site": Tampering("checkpoint", record(lambda r: r["vectors"].update(site="layer_output"))),
    "record: another route": Tampering("checkpoint", record(lambda r: r.update(route="existing")), _SOURCE),
    "record: an earlier bake": Tampering(
        "checkpoint", record(lambda r: r.update(history=[dict(r)])), "the base tells what was baked before"
    ),
    "record: a bias's digest": Tampering("checkpoint", record(lambda r: r["biases"][0].update(sha256="0" * 64))),
    "record: a bias's layer": Tampering("checkpoint", record(lambda r: r["biases"][0].update(layer=1)), _SOURCE),
    "record: no biases": Tampering("checkpoint", record(lambda r: r.update(biases=[]))),
    "record: nothing added": Tampering("checkpoint", record(lambda r: r.update(added_tensors=[])), _SOURCE),
    "record: a digest": Tampering("checkpoint", record(lambda r: r["digests"].update({CONFIG: "0" * 64}))),
    "record: a digest less": Tampering("checkpoint", record(lambda r: r["digests"].pop(CONFIG))),
    "record: the base's size": Tampering("checkpoint", record(lambda r: r["base"]["weights"][0].update(size=1))),
    "record: the base's files": Tampering("checkpoint", record(lambda r: r["files"].popitem())),
    "record: another form": Tampering("checkpoint", record(lambda r: r.update(format="peft"))),
    # Adapters
    "adapter: lora_bias off": Tampering("adapter", lambda out: edit_json(out / "adapter_config.json", lora_bias=False)),
    "adapter: other modules": Tampering(
        "adapter", lambda out: edit_json(out / "adapter_config.json", target_modules=["q_proj"])
    ),
    "adapter: an alpha": Tampering("adapter", lambda out: edit_json(out / "adapter_config.json", lora_alpha=64)),
    "adapter: no config": Tampering("adapter", gone("adapter_config.json")),
    "adapter: no weights": Tampering("adapter", gone("adapter_model.safetensors")),
    "adapter: a bit of a bias": Tampering(
        "adapter", flip_tensor(LORA.format(1, "B.bias"), "adapter_model.safetensors")
    ),
    "adapter: a bit of a matrix": Tampering(
        "adapter", flip_tensor(LORA.format(1, "A.weight"), "adapter_model.safetensors")
    ),
    "adapter: a model beside it": Tampering("adapter", new("model.safetensors")),
    "adapter: a tokenizer beside it": Tampering("adapter", new("tokenizer.json")),
    "adapter: other weights in the record": Tampering(
        "adapter", record(lambda r: r["weights"].update(joy=0.1)), _SOURCE
    ),
    "adapters: a bit in one": Tampering(
        "adapters", flip_tensor(LORA.format(1, "B.bias"), "joy/adapter_model.safetensors")
    ),
    "adapters: one gone": Tampering("adapters", lambda out: shutil.rmtree(out / "joy")),
    "adapters: swapped": Tampering("adapters", swap("joy", "fear")),
    "adapters: a config beside them": Tampering("adapters", new(CONFIG)),
    # GGUF
    "gguf: a bit of a bias": Tampering("gguf", flip_tensor("blk.1.attn_output.bias", "out.gguf")),
    "gguf: a bit of a carried tensor": Tampering("gguf", flip_tensor("output.weight", "out.gguf"), _CARRIED),
    "gguf: rope.freq_base": Tampering("gguf", gguf(byte_behind(b"llama.rope.freq_base", 5))),
    "gguf: the chat template": Tampering("gguf", gguf(byte_behind(b"tokenizer.chat_template", 12))),
    "gguf: a token": Tampering("gguf", gguf(byte_behind(b"tokenizer.ggml.tokens", 24))),
    "gguf: the end token": Tampering("gguf", gguf(byte_behind(b"tokenizer.ggml.eos_token_id", 4))),
    "gguf: another architecture": Tampering("gguf", gguf(rename(b"llama.block_count", b"lxama.block_count"))),
    "gguf: a bias of another name": Tampering(
        "gguf", gguf(rename(b"blk.1.attn_output.bias\x01", b"blk.1.attn_outpux.bias\x01"))
    ),
    "gguf: cut off": Tampering("gguf", lambda out: os.truncate(out / "out.gguf", 5_000_000)),
    "gguf: bytes behind the end": Tampering("gguf", append("out.gguf", bytes(64))),
    "gguf: another scale in the record": Tampering("gguf", gguf(byte_behind(b'"scale":', 0, ord("7"))), _SOURCE),
    "gguf: no record": Tampering("gguf", gguf(rename(b"emobake.record", b"emobake.recorx"))),
    "split: a bit of a bias": Tampering("split", flip_tensor("blk.1.attn_output.bias")),
    "split: a bit of a carried tensor": Tampering("split", flip_tensor("output.weight"), _CARRIED),
    "split: a part gone": Tampering("split", gone("out-00002-of-00003.gguf")),
    "split: parts swapped": Tampering("split", swap("out-00002-of-00003.gguf", "out-00003-of-00003.gguf")),
    "split: a part cut off": Tampering("split", lambda out: os.truncate(out / "out-00002-of-00003.gguf", 5000)),
    "split: the record's file": Tampering(
        "split", gguf(byte_behind(b"llama.rope.freq_base", 5), "out-00001-of-00003.gguf")
    ),
}


def tamper(case: Tampering, whole: Path, folder: Path) -> dict[str, Child]:
    """Make a case in `folder`, which is new, of the outputs in `whole`; check that `verify` finds it.

    Returns:
        ``alone`` and ``beside`` (the base and the vectors) -> the run of `verify`.
    """
    name = Path(OUTPUTS[case.output][5]).parts[0]
    runs = {}
    shutil.copytree(whole / name, folder)
    case.change(folder)
    for how in ("alone", "beside"):
        ran = runs[how] = check(case.output, whole, folder, alone=how == "alone")
        found = how == "beside" or not case.hides
        assert ran.code in ((1, 2) if found else (0,)), f"{how}: exit code {ran.code}: {ran.out}{ran.err}"
        assert found == bool(ran.out + ran.err), f"{how}: {ran.out}{ran.err}"
    return runs
