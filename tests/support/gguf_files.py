"""Tiny GGUF models, written through the gguf package, and the float weights that they hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind

LAYERS, HIDDEN, HEADS, KV_HEADS, FF, VOCAB = 2, 256, 4, 2, 512, 320
HEAD = HIDDEN // HEADS
EPSILON, THETA = 1e-5, 10000.0
TURNS = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def floats(kind: Kind, shape: tuple[int, int], draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Random weights ``[rows, columns]``: as they are stored in `kind`, and as float32."""
    values = draw.normal(0, 0.06, shape).astype(np.float32)
    stored = _blocks(kind, shape, draw) if kind in SCALES else gguf.quants.quantize(values, kind)
    return stored, gguf.quants.dequantize(stored, kind).reshape(shape).astype(np.float32)


SCALES: dict[Kind, dict[int, float]] = {
    Kind.Q2_K: {80: 4e-3, 82: 6e-3},
    Kind.Q3_K: {108: 1.2e-3},
    Kind.Q4_K: {0: 4e-4, 2: 3e-3},
    Kind.Q5_K: {0: 2e-4, 2: 3e-3},
    Kind.Q6_K: {208: 5e-5},
    Kind.IQ4_NL: {0: 1e-3},
    Kind.IQ4_XS: {0: 6e-5},
}
"""Types that the package cannot make -> offset in a block -> its scales, so small that any other bits are weights."""


def _blocks(kind: Kind, shape: tuple[int, int], draw: np.random.Generator) -> np.ndarray:
    """Random bits, but for the scales."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = np.zeros((shape[0] * shape[1] // block, size), np.uint8)
    drawn = np.ones(size, bool)
    for offset, scale in SCALES[kind].items():
        blocks[:, offset : offset + 2] = np.full((len(blocks), 1), scale, np.float16).view(np.uint8)
        drawn[offset : offset + 2] = False
    blocks[:, drawn] = draw.integers(0, 256, (len(blocks), int(drawn.sum())), np.uint8)
    return blocks.reshape(shape[0], -1)


def write_model(
    path: Path,
    architecture: str = "llama",
    kind: Kind = Kind.F32,
    *,
    biases: dict[str, np.ndarray] | None = None,
    qkv_bias: bool | None = None,
    fields: dict[str, Any] | None = None,
    tensors: dict[str, np.ndarray] | None = None,
    stored: dict[str, tuple[np.ndarray, np.ndarray]] | None = None,
    without: tuple[str, ...] = (),
    seed: int = 0,
    split: int = 0,
    endian: gguf.GGUFEndian = gguf.GGUFEndian.LITTLE,
    alignment: int = 0,
    template: str = TURNS,
) -> dict[str, np.ndarray]:
    """Write a model of two layers that llama.cpp loads; its weights as float32, by their names in the file.

    `biases` and `tensors` are further float32 tensors, `stored` those of `floats`. `without` leaves out names, and
    `split` is how many tensors go into each file of a set (``-00001-of-0000N`` is put into the name).
    """
    draw = np.random.default_rng(seed)
    options: dict[str, Any] = {"split_max_tensors": split} if split else {}
    writer = gguf.GGUFWriter(path, architecture, endianess=endian, **options)
    if alignment:
        writer.add_custom_alignment(alignment)
    writer.add_name("Tiny")
    writer.add_block_count(LAYERS)
    writer.add_context_length(512)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length((fields or {}).get(f"{architecture}.feed_forward_length", FF))
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(EPSILON)
    writer.add_rope_freq_base(THETA)
    for key, value in (fields or {}).items():
        if key.endswith("feed_forward_length"):
            continue
        {str: writer.add_string, int: writer.add_uint32, float: writer.add_float32}[type(value)](key, value)
    add_tokenizer(writer, template)
    held: dict[str, np.ndarray] = {}

    def add(name: str, shape: tuple[int, int] | None, values: np.ndarray | None = None) -> None:
        if name in without:
            return
        if shape is not None:
            stored, held[name] = floats(kind, shape, draw)
            writer.add_tensor(name, stored, raw_dtype=kind)
        else:
            assert values is not None
            held[name] = values.astype(np.float32)
            writer.add_tensor(name, held[name])

    add("token_embd.weight", (VOCAB, HIDDEN))
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        add(block + "attn_norm.weight", None, draw.normal(1, 0.1, HIDDEN))
        for name, rows in (("q", HIDDEN), ("k", KV_HEADS * HEAD), ("v", KV_HEADS * HEAD)):
            add(f"{block}attn_{name}.weight", (rows, HIDDEN))
            if architecture == "qwen2" if qkv_bias is None else qkv_bias:
                add(f"{block}attn_{name}.bias", None, draw.normal(0, 0.5, rows))
        add(block + "attn_output.weight", (HIDDEN, HIDDEN))
        add(block + "ffn_norm.weight", None, draw.normal(1, 0.1, HIDDEN))
        for name, shape in (("gate", (FF, HIDDEN)), ("up", (FF, HIDDEN)), ("down", (HIDDEN, FF))):
            add(f"{block}ffn_{name}.weight", shape)
    for name, values in ((biases or {}) | (tensors or {})).items():
        add(name, None, values)
    for name, (raw, _) in (stored or {}).items():
        writer.add_tensor(name, raw, raw_dtype=kind)
    add("output_norm.weight", None, draw.normal(1, 0.1, HIDDEN))
    add("output.weight", (VOCAB, HIDDEN))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return held


def add_tokenizer(writer: gguf.GGUFWriter, template: str = TURNS) -> None:
    """A vocabulary of `VOCAB` tokens, and a chat template."""
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(["a", "b", "ab", *(f"<t{i}>" for i in range(VOCAB - 4)), "<end>"])
    writer.add_token_types([1] * (VOCAB - 1) + [3])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(VOCAB - 1)
    writer.add_add_bos_token(False)
    writer.add_chat_template(template)


def tensors_of(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Name -> type, shape and bytes, by the gguf package's own reader."""
    return {
        t.name: (t.tensor_type.name, tuple(int(n) for n in t.shape), t.data.tobytes())
        for t in gguf.GGUFReader(path).tensors
    }


def fields_of(path: Path) -> dict[str, Any]:
    """The metadata, by the gguf package's own reader."""
    return {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items() if field.types}


def control_vector(path: Path, directions: dict[int, np.ndarray]) -> Path:
    """A control vector as llama.cpp's tools and repeng write it."""
    writer = gguf.GGUFWriter(path, "controlvector")
    writer.add_string("controlvector.model_hint", "llama")
    writer.add_uint32("controlvector.layer_count", len(directions))
    for layer, row in directions.items():
        writer.add_tensor(f"direction.{layer}", row.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
