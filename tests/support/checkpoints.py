"""Small checkpoints and vector sets made of numpy and the safetensors library alone.

They look as published ones do (config.json fields, names of tensors and side files, the duplicates that many
repositories hold beside the safetensors files) but no model runs on them: `tiny.py` makes those, with torch.
The same arguments always give the same bytes. Nothing here imports emobake.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
from safetensors.numpy import save

EMOTIONS = ("anger", "disgust", "fear", "joy", "sadness")
NUMPY = {"BF16": ml_dtypes.bfloat16, "F16": np.float16, "F32": np.float32, "F64": np.float64}
_CONFIG = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}
CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "gpt2": "GPT2LMHeadModel",
    "gpt_oss": "GptOssForCausalLM",
}
CARD = (
    "---\nlicense: other\nlicense_name: tiny-licence\nlanguage:\n- en\nlibrary_name: transformers\n---\n# A tiny base\n"
)
SIDE_FILES = {
    "generation_config.json": '{"do_sample": false, "temperature": 0.7}\n',
    "tokenizer.json": '{"version": "1.0"}\n',
    "tokenizer_config.json": '{"chat_template": "{{ messages }}"}\n',
    "special_tokens_map.json": "{}\n",
    "chat_template.jinja": "{{ messages }}\n",
    "LICENSE": "Do as you like.\n",
    "README.md": CARD,
    "modeling_custom.py": "raise SystemExit('never run')\n",
}
DUPLICATES = {
    "pytorch_model.bin": "pickle",
    "original/consolidated.00.pth": "pickle",
    "x.gguf": "GGUF",
    "onnx/model.onnx": "onnx",
    "consolidated.safetensors": "a second copy",
}

Shapes = dict[str, tuple[int, ...]]


def numbers(name: str, shape: tuple[int, ...], *, size: float = 1.0) -> np.ndarray:
    """Normally distributed float32 that depend on `name` and `shape` alone."""
    rng = np.random.default_rng(zlib.crc32(f"{name}{shape}".encode()))
    return (rng.standard_normal(shape) * size).astype(np.float32)


def shapes_of(model_type: str, layers: int, hidden: int, vocab: int, bias: bool) -> Shapes:
    """Tensor name -> shape, in the order in which the model uses them."""
    if model_type == "gpt2":
        shapes: Shapes = {"wte.weight": (vocab, hidden)}
        for i in range(layers):
            shapes[f"h.{i}.attn.c_attn.weight"] = (hidden, 3 * hidden)
            shapes[f"h.{i}.attn.c_attn.bias"] = (3 * hidden,)
            shapes[f"h.{i}.attn.c_proj.weight"] = (hidden, hidden)
            shapes[f"h.{i}.attn.c_proj.bias"] = (hidden,)
        return shapes
    shapes = {"model.embed_tokens.weight": (vocab, hidden)}
    biased = {"qwen2": "qkv", "gpt_oss": "qkvo"}.get(model_type, "qkvo" if bias else "")
    for i in range(layers):
        for part in "qkvo":
            # Half as many key and value heads, so that widths that are mixed up are found out.
            width = hidden // 2 if part in "kv" else hidden
            shapes[f"model.layers.{i}.self_attn.{part}_proj.weight"] = (width, hidden)
            if part in biased:
                shapes[f"model.layers.{i}.self_attn.{part}_proj.bias"] = (width,)
        shapes[f"model.layers.{i}.mlp.down_proj.weight"] = (hidden, 2 * hidden)
    return shapes | {"model.norm.weight": (hidden,), "lm_head.weight": (vocab, hidden)}


def config_of(model_type: str, layers: int, hidden: int, vocab: int, dtype: str, bias: bool) -> dict[str, Any]:
    """config.json as it is published."""
    head = {"architectures": [CLASSES.get(model_type, "LlamaForCausalLM")]}
    tail = {"torch_dtype": _CONFIG[dtype], "transformers_version": "4.46.0", "vocab_size": vocab}
    if model_type == "gpt2":
        sizes = {"n_embd": hidden, "n_layer": layers, "n_head": 2, "n_positions": 64}
        return head | {"model_type": "gpt2", "activation_function": "gelu_new"} | sizes | tail
    config: dict[str, Any] = head | {
        "model_type": model_type,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_attention_heads": 2,
        "num_hidden_layers": layers,
        "num_key_value_heads": 1,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
    }
    if model_type == "llama":
        config["attention_bias"] = bias
    if model_type == "mistral":
        config["sliding_window"] = None
    if model_type == "qwen2":
        config |= {"use_sliding_window": False, "sliding_window": 64, "max_window_layers": layers}
    return config | tail


def write_checkpoint(
    folder: Path,
    model_type: str = "llama",
    *,
    layers: int = 2,
    hidden: int = 8,
    vocab: int = 16,
    dtype: str = "BF16",
    shards: int = 1,
    bias: bool = False,
    extra_files: bool = True,
    **config: Any,
) -> Path:
    """Write a checkpoint into `folder`; `config` overlays config.json, and None removes a field.

    With `bias` a Llama's attention projections have (random) biases. `vocab` makes it as large as wanted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    fields = config_of(model_type, layers, hidden, vocab, dtype, bias) | config
    write_json(folder / "config.json", {k: v for k, v in fields.items() if v is not None or k == "sliding_window"})
    shapes = shapes_of(model_type, layers, hidden, vocab, bias)
    tensors = {name: (dtype, numbers(name, shape)) for name, shape in shapes.items()}
    if shards == 1:
        write_safetensors(folder / "model.safetensors", tensors)
    else:
        write_shards(folder, tensors, shards)
    if extra_files:
        for name, text in (SIDE_FILES | DUPLICATES).items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)
    return folder


def write_shards(folder: Path, tensors: dict[str, tuple[str, np.ndarray]], shards: int) -> None:
    """The weights as `shards` files of about as many tensors each, and their index."""
    names = list(tensors)
    weight_map = {}
    for i in range(shards):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        part = names[len(names) * i // shards : len(names) * (i + 1) // shards]
        write_safetensors(folder / file, {name: tensors[name] for name in part})
        weight_map |= dict.fromkeys(part, file)
    total = sum(np.dtype(NUMPY[dtype]).itemsize * values.size for dtype, values in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    write_json(folder / "model.safetensors.index.json", index)


def write_safetensors(file: Path, tensors: dict[str, tuple[str, np.ndarray]]) -> Path:
    """A safetensors file of name -> (dtype, float32 values), written by the library."""
    raw = {name: values.astype(NUMPY[dtype]) for name, (dtype, values) in tensors.items()}
    file.write_bytes(save(raw, {"format": "pt"}))
    return file


def raw_safetensors(header: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    """Bytes of a safetensors file with any header, well-formed or not; `length` is what it claims to be."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def read_tensors(folder: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Every tensor of every model*.safetensors in `folder`, by the library: name -> (dtype, shape, bytes)."""
    found: dict[str, tuple[str, tuple[int, ...], bytes]] = {}
    for file in sorted(folder.glob("model*.safetensors")):
        for name, tensor in safetensors.deserialize(file.read_bytes()):
            assert name not in found, f"{name} is in two files"
            found[name] = (tensor["dtype"], tuple(tensor["shape"]), bytes(tensor["data"]))
    return found


def vector_rows(emotion: str, layers: int, hidden: int, size: float = 1.0) -> np.ndarray:
    """float32 ``[layers, hidden]``: what `write_vectors` writes for an emotion."""
    return numbers(f"vectors/{emotion}", (layers, hidden), size=size)


def write_vectors(
    folder: Path,
    layers: int = 2,
    hidden: int = 8,
    *,
    emotions: tuple[str, ...] = EMOTIONS,
    size: float = 1.0,
    stem: str = "ev_tiny",
    seed: str = "",
) -> Path:
    """Write a vector set in the form published with the paper: one JSON per emotion, ``{"0": [[...]], ...}``."""
    folder.mkdir(parents=True, exist_ok=True)
    for emotion in emotions:
        rows = vector_rows(emotion + seed, layers, hidden, size)
        table = {str(i): [[float(x) for x in row]] for i, row in enumerate(rows)}
        (folder / f"{stem}_{emotion}.json").write_text(json.dumps(table))
    return folder


def write_json(file: Path, value: object) -> Path:
    """JSON as the Hugging Face libraries write it."""
    file.write_text(json.dumps(value, indent=2) + "\n")
    return file


def edit_json(file: Path, **fields: Any) -> Path:
    """Overlay the fields of a JSON object in `file`; None removes one."""
    value = json.loads(file.read_text()) | fields
    return write_json(file, {k: v for k, v in value.items() if v is not None})


def tree(folder: Path) -> dict[str, bytes]:
    """Relative path -> content of every file below `folder`; a link shows where it points to."""
    return {
        path.relative_to(folder).as_posix(): f"-> {path.readlink()}".encode()
        if path.is_symlink()
        else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }
