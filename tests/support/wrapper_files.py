"""Multimodal checkpoints made of numpy and the safetensors library alone: a vision part, a language model, a processor.

No model runs on them (`wrappers.py` makes those, with torch). Nothing here imports emobake.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .checkpoints import numbers, write_json, write_safetensors, write_shards

CLASSES = {
    "gemma3": "Gemma3ForConditionalGeneration",
    "mistral3": "Mistral3ForConditionalGeneration",
    "llava": "LlavaForConditionalGeneration",
    "smolvlm": "SmolVLMForConditionalGeneration",
    "qwen2_vl": "Qwen2VLForConditionalGeneration",
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "qwen3_vl": "Qwen3VLForConditionalGeneration",
    "qwen3_5": "Qwen3_5ForConditionalGeneration",
    "llama4": "Llama4ForConditionalGeneration",
}
TEXTS = {
    "gemma3": "gemma3_text",
    "mistral3": "mistral",
    "llava": "llama",
    "smolvlm": "llama",
    "qwen2_vl": "qwen2_vl_text",
    "qwen2_5_vl": "qwen2_5_vl_text",
    "qwen3_vl": "qwen3_vl_text",
    "qwen3_5": "qwen3_5_text",
    "llama4": "llama4_text",
}
"""The language model that each usually has."""
PREFIXES = {
    "gemma3": "language_model.model.",
    "mistral3": "language_model.model.",
    "llava": "language_model.model.",
    "smolvlm": "model.text_model.",
    "qwen2_vl": "model.",
    "qwen2_5_vl": "model.",
    "qwen3_vl": "model.language_model.",
    "qwen3_5": "model.language_model.",
    "llama4": "language_model.model.",
}
"""What stands before ``layers`` in published files."""
MROPE = {"type": "mrope", "mrope_section": [1, 1, 2]}
PROCESSOR = {
    "generation_config.json": '{"do_sample": false}\n',
    "tokenizer.json": '{"version": "1.0"}\n',
    "tokenizer_config.json": '{"processor_class": "TinyProcessor"}\n',
    "preprocessor_config.json": '{"image_mean": [0.5, 0.5, 0.5]}\n',
    "video_preprocessor_config.json": '{"fps": 2}\n',
    "processor_config.json": '{"image_seq_length": 4}\n',
    "chat_template.json": '{"chat_template": "{% for m in messages %}{{ m }}\u00e9{% endfor %}"}\n',
    "LICENSE": "Do as you like.\n",
    "README.md": "---\nlicense: other\n---\n# A tiny base\n",
    "modeling_custom.py": "raise SystemExit('never run')\n",
}


def text_config(text: str, layers: int = 2, hidden: int = 8, **fields: Any) -> dict[str, Any]:
    """``text_config`` as published; `fields` overlay it, and the text ``-`` removes one."""
    config: dict[str, Any] = {
        "model_type": text,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_attention_heads": 2,
        "num_hidden_layers": layers,
        "num_key_value_heads": 1,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-05,
        "rope_theta": 20000.0,
        "vocab_size": 16,
    }
    if text == "mistral":
        config["sliding_window"] = None
    if text.startswith("qwen2"):
        config |= {"use_sliding_window": False, "sliding_window": 64, "max_window_layers": layers}
    if "_vl_" in text:
        config["rope_scaling"] = dict(MROPE)
    return {key: value for key, value in (config | fields).items() if value != "-"}


def wrapper_config(
    wrapper: str, inner: Mapping[str, Any], *, classes: Sequence[str] = (), **fields: Any
) -> dict[str, Any]:
    """config.json; `inner` becomes ``text_config``, or part of the top level where the published ones have it there."""
    nested = wrapper not in ("qwen2_vl", "qwen2_5_vl")
    own = {key: value for key, value in inner.items() if key != "model_type"}
    config: dict[str, Any] = {
        "architectures": list(classes or [CLASSES[wrapper]]),
        "model_type": wrapper,
        **({"text_config": dict(inner)} if nested else own),
        "vision_config": {"model_type": "tiny_vision", "hidden_size": 4, "num_hidden_layers": 7},
        "image_token_id": 15,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.51.0",
    }
    return {key: value for key, value in (config | fields).items() if value != "-"}


def tensors_of(
    prefix: str,
    layers: int,
    hidden: int,
    *,
    dtype: str = "BF16",
    head: bool = True,
    attention: Sequence[int] | None = None,
    modules: Sequence[str] = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
    biased: Sequence[str] = (),
) -> dict[str, tuple[str, Any]]:
    """Name -> (dtype, values): parts of the vision tower stand before, between and behind those of the language model.

    Only the layers `attention` have the `modules`; those in `biased` have a bias. Some tensors of the vision tower
    have an odd number of bytes.
    """
    shapes: dict[str, tuple[str, tuple[int, ...]]] = {"vision_tower.patch.weight": (dtype, (3, 5))}
    shapes[f"{prefix}embed_tokens.weight"] = (dtype, (16, hidden))
    for layer in range(layers):
        for module in modules if attention is None or layer in attention else ():
            # Half as many key and value heads, so that widths that are mixed up are found out.
            width = hidden // 2 if module.endswith(("k_proj", "v_proj")) else hidden
            shapes[f"{prefix}layers.{layer}.{module}.weight"] = (dtype, (width, hidden))
            if module in biased:
                shapes[f"{prefix}layers.{layer}.{module}.bias"] = (dtype, (width,))
        shapes[f"vision_tower.layers.{layer}.self_attn.o_proj.weight"] = (dtype, (3, 3))
        shapes[f"{prefix}layers.{layer}.mlp.down_proj.weight"] = (dtype, (hidden, 2 * hidden))
        shapes[f"{prefix}layers.{layer}.input_layernorm.weight"] = ("F32", (hidden,))
    shapes["multi_modal_projector.linear.weight"] = ("F32", (hidden, 3))
    shapes[f"{prefix}norm.weight"] = (dtype, (hidden,))
    if head:
        outer = "language_model." if prefix == "language_model.model." else ""
        shapes[f"{outer}lm_head.weight"] = (dtype, (16, hidden))
    return {name: (kind, numbers(name, shape)) for name, (kind, shape) in shapes.items()}


def write_wrapper(
    folder: Path,
    wrapper: str = "llava",
    text: str = "",
    *,
    prefix: str = "",
    layers: int = 2,
    hidden: int = 8,
    shards: int = 1,
    inner: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    side_files: Mapping[str, str] = PROCESSOR,
    **tensors: Any,
) -> Path:
    """Write a multimodal checkpoint into `folder`.

    `inner` overlays ``text_config`` and `config` the whole config.json; `tensors` are arguments of `tensors_of`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = text or TEXTS[wrapper]
    if text.startswith("qwen2"):
        tensors.setdefault("biased", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"))
    fields = text_config(text, layers, hidden, **dict(inner or {}))
    write_json(folder / "config.json", wrapper_config(wrapper, fields, **dict(config or {})))
    made = tensors_of(prefix or PREFIXES[wrapper], layers, hidden, **tensors)
    if shards == 1:
        write_safetensors(folder / "model.safetensors", made)
    else:
        write_shards(folder, made, shards)
    for name, content in side_files.items():
        (folder / name).write_text(content, encoding="utf-8")
    return folder
