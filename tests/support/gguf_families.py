"""Tiny models of transformers with random weights, written as the GGUF files that llama.cpp's converter would make.

Weights are drawn in the file's type, and the model in memory gets what the file holds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from .gguf_files import VOCAB, Kind, add_tokenizer, floats

HIDDEN, FF, EXPERTS = 256, 512, 4
COMMON = {
    "vocab_size": VOCAB, "hidden_size": HIDDEN, "intermediate_size": FF, "max_position_embeddings": 512,
    "num_attention_heads": 8, "num_key_value_heads": 2, "tie_word_embeddings": False, "bos_token_id": None,
    "eos_token_id": VOCAB - 1, "pad_token_id": 0,
}  # fmt: skip
MOE = {"num_experts": EXPERTS, "num_experts_per_tok": 2, "moe_intermediate_size": 256}
SQUARE = {"num_attention_heads": 4, "num_key_value_heads": 4}
ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}


def unpermuted(values: np.ndarray, heads: int) -> np.ndarray:
    """Rows of q or k in the order of transformers, from that of llama files."""
    shape = values.shape
    return values.reshape(heads, shape[0] // heads // 2, 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


@dataclass(frozen=True)
class TinyFamily:
    """A family: the class and its config, and the file's metadata besides the common."""

    model_type: str
    architecture: str
    config: dict[str, Any]
    fields: dict[str, Any] = field(default_factory=dict)
    layers: int = 2
    is_llama: bool = False
    """The rows of q and k are in llama's order in the file."""
    norm_shift: float = 0.0
    """The file's norms less those of the checkpoint."""


def partial(factor: float) -> dict[str, Any]:
    """Rotary embeddings of a part of each head."""
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": factor}}


FAMILIES: dict[str, TinyFamily] = {
    "qwen3": TinyFamily("qwen3", "qwen3", {"head_dim": 64, **ROPE}),
    "qwen3moe": TinyFamily(
        "qwen3_moe",
        "qwen3moe",
        {"head_dim": 64, **ROPE, **MOE, "decoder_sparse_step": 1, "norm_topk_prob": True, "mlp_only_layers": []},
        {"expert_count": EXPERTS, "expert_used_count": 2, "expert_feed_forward_length": 256},
    ),
    "gemma2": TinyFamily(
        "gemma2",
        "gemma2",
        {"head_dim": 64, "query_pre_attn_scalar": 64, "sliding_window": 8, "tie_word_embeddings": True, **ROPE},
        {"attention.sliding_window": 8, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
        norm_shift=1.0,
    ),
    "gemma3": TinyFamily(
        "gemma3_text",
        "gemma3",
        {
            "head_dim": 64,
            "query_pre_attn_scalar": 64,
            "sliding_window": 8,
            "tie_word_embeddings": True,
            "layer_types": ["sliding_attention"] * 5 + ["full_attention", "sliding_attention"],
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 1000000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
        },
        {"attention.sliding_window": 8, "rope.freq_base": 1000000.0},
        layers=7,
        norm_shift=1.0,
    ),
    "gemma": TinyFamily("gemma", "gemma", {"head_dim": 64, "tie_word_embeddings": True, **ROPE}, norm_shift=1.0),
    "glm4": TinyFamily("glm4", "glm4", {"head_dim": 64, **partial(0.5)}, {"rope.dimension_count": 32}),
    "glm4moe": TinyFamily(
        "glm4_moe",
        "glm4moe",
        {
            "head_dim": 64,
            "use_qk_norm": True,
            "n_routed_experts": EXPERTS,
            "n_shared_experts": 1,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 256,
            "first_k_dense_replace": 1,
            "n_group": 1,
            "topk_group": 1,
            "routed_scaling_factor": 1.0,
            "norm_topk_prob": True,
            **partial(0.5),
        },
        {
            "rope.dimension_count": 32,
            "expert_count": EXPERTS,
            "expert_used_count": 2,
            "expert_shared_count": 1,
            "expert_feed_forward_length": 256,
            "leading_dense_block_count": 1,
            "expert_weights_norm": True,
            "expert_gating_func": 2,
            "expert_weights_scale": 1.0,
        },
    ),
    "smollm3": TinyFamily(
        "smollm3",
        "smollm3",
        {"no_rope_layers": [1, 1, 1, 0], "use_sliding_window": False, **ROPE},
        {"rope.dimension_count": 32},
        layers=4,
        is_llama=True,
    ),
    "ernie4_5": TinyFamily("ernie4_5", "ernie4_5", {"head_dim": 64, "use_bias": False, **ROPE}),
    "hunyuan-dense": TinyFamily("hunyuan_v1_dense", "hunyuan-dense", {"head_dim": 64, **ROPE}),
    "qwen2moe": TinyFamily(
        "qwen2_moe",
        "qwen2moe",
        {
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            **MOE,
            "shared_expert_intermediate_size": 256,
            "use_sliding_window": False,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "norm_topk_prob": False,
            **ROPE,
        },
        {
            "expert_count": EXPERTS,
            "expert_used_count": 2,
            "expert_feed_forward_length": 256,
            "expert_shared_feed_forward_length": 256,
        },
    ),
    "stablelm": TinyFamily(
        "stablelm",
        "stablelm",
        {**SQUARE, "use_qkv_bias": False, "partial_rotary_factor": 0.25, **partial(0.25)},
        {"rope.dimension_count": 16, "use_parallel_residual": False},
    ),
    "olmo2": TinyFamily("olmo2", "olmo2", {**SQUARE, **ROPE}),
    "cohere2": TinyFamily(
        "cohere2",
        "cohere2",
        {
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "sliding_window": 8,
            "logit_scale": 0.25,
            "layer_types": ["sliding_attention"] * 3 + ["full_attention"],
            "tie_word_embeddings": True,
            **ROPE,
        },
        {"attention.sliding_window": 8, "logit_scale": 0.25, "rope.dimension_count": 64, "rope.scaling.type": "none"},
        layers=4,
    ),
    "exaone4": TinyFamily(
        "exaone4",
        "exaone4",
        {
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "sliding_window": None,
            "layer_types": ["full_attention"] * 2,
            **ROPE,
        },
        {"rope.dimension_count": 64},
    ),
    "lfm2": TinyFamily(
        "lfm2",
        "lfm2",
        {
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "block_auto_adjust_ff_dim": False,
            "block_ff_dim": FF,
            "layer_types": ["conv", "full_attention", "conv", "full_attention"],
            "tie_word_embeddings": True,
            **ROPE,
        },
        {"attention.head_count_kv": [0, 2, 0, 2], "shortconv.l_cache": 3, "attention.layer_norm_rms_epsilon": 1e-5},
        layers=4,
    ),
    "phi3": TinyFamily(
        "phi3",
        "phi3",
        {
            "num_attention_heads": 4,
            "sliding_window": None,
            "original_max_position_embeddings": 512,
            **ROPE,
        },
        {
            "rope.dimension_count": 64,
            "attention.sliding_window": 0,
            "rope.scaling.original_context_length": 512,
        },
    ),
}


def draw(kind: Kind, shape: tuple[int, ...], random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A matrix, or one for each expert, as it is stored and as float32."""
    stored, values = floats(kind, (int(np.prod(shape[:-1])), shape[-1]), random)
    return stored.reshape(*shape[:-1], -1), values.reshape(shape)


def write_family(path: Path, name: str, kind: Kind = Kind.F32, *, seed: int = 0, **config: Any) -> Any:
    """Write the file of a tiny model; returns the model with the file's weights, in float32."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    family = FAMILIES[name]
    made = AutoConfig.for_model(
        family.model_type, **{**COMMON, "num_hidden_layers": family.layers, **family.config, **config}
    )
    model = AutoModelForCausalLM.from_config(made, dtype=torch.float32, attn_implementation="eager").eval()
    random = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, family.architecture)
    _add_metadata(writer, family, made)
    add_tokenizer(writer)
    arch = next(a for a, known in gguf.MODEL_ARCH_NAMES.items() if known == family.architecture)
    known = gguf.get_tensor_name_map(arch, made.num_hidden_layers)
    state = model.state_dict()
    for key, parameter in state.items():
        if key == "lm_head.weight" and made.tie_word_embeddings:
            continue
        shape = tuple(parameter.shape)
        if key.endswith("experts.gate_up_proj"):
            block = re.search(r"layers\.(\d+)\.", key)[1]
            halves = []
            for part in ("gate", "up"):
                stored, values = draw(kind, (shape[0], shape[1] // 2, shape[2]), random)
                writer.add_tensor(f"blk.{block}.ffn_{part}_exps.weight", stored, raw_dtype=kind)
                halves.append(values)
            parameter.copy_(torch.from_numpy(np.concatenate(halves, axis=1)))
            continue
        asked = (
            f"{key}.weight" if key.endswith("experts.down_proj") else key.replace("correction_bias", "correction.bias")
        )
        target = known.get_name(asked, try_suffixes=(".weight", ".bias"))
        assert target is not None, f"{key} has no name in a GGUF file"
        is_norm, is_matrix = "norm" in key, parameter.ndim > 1
        small = not is_matrix or "conv" in key or "ffn_gate_inp" in target or is_norm
        if small:
            values = random.normal(1.0 if is_norm else 0.0, 0.1, shape).astype(np.float32)
            if "conv" in key:
                values = random.normal(0, 0.3, shape).astype(np.float32)
            writer.add_tensor(target, values.reshape(values.shape[0], -1) if "conv" in key else values)
        else:
            stored, values = draw(kind, shape, random)
            writer.add_tensor(target, stored, raw_dtype=kind)
        if family.is_llama and (match := re.search(r"\.([qk])_proj\.", key)):
            values = unpermuted(values, made.num_attention_heads if match[1] == "q" else made.num_key_value_heads)
        if is_norm:
            values = values - np.float32(family.norm_shift)
        parameter.copy_(torch.from_numpy(values.reshape(shape)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def _add_metadata(writer: gguf.GGUFWriter, family: TinyFamily, made: Any) -> None:
    writer.add_name("Tiny")
    writer.add_block_count(made.num_hidden_layers)
    writer.add_context_length(512)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FF)
    writer.add_head_count(made.num_attention_heads)
    fields = {"attention.head_count_kv": made.num_key_value_heads, "rope.freq_base": 10000.0} | family.fields
    for key in ("rms_norm_eps", "layer_norm_eps"):
        if getattr(made, key, None) is not None:
            field_name = "attention.layer_norm_rms_epsilon" if key == "rms_norm_eps" else "attention.layer_norm_epsilon"
            fields.setdefault(field_name, float(getattr(made, key)))
    size = getattr(made, "head_dim", None)
    if size is not None and size != HIDDEN // made.num_attention_heads:
        fields |= {"attention.key_length": size, "attention.value_length": size}
    adders = {str: writer.add_string, bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32}
    for key, value in fields.items():
        if isinstance(value, list):
            writer.add_array(f"{family.architecture}.{key}", value)
        else:
            adders[type(value)](f"{family.architecture}.{key}", value)


def _projections(model: Any) -> dict[int, Any]:
    """Layer -> the output projection of its attention; layers without attention are left out."""
    found = {}
    for number, layer in enumerate(model.model.layers):
        attention = getattr(layer, "self_attn", None)
        if attention is not None:
            names = ("o_proj", "out_proj", "dense")
            found[number] = next(getattr(attention, name) for name in names if hasattr(attention, name))
    return found


def output_projections(model: Any) -> dict[int, np.ndarray]:
    """Layer -> the weight of its output projection."""
    return {layer: module.weight.detach().numpy() for layer, module in _projections(model).items()}


def hooked_log_probabilities(model: Any, prompts: list[list[int]], rows: np.ndarray | None) -> np.ndarray:
    """Log-probabilities ``[prompts, vocabulary]`` after each prompt, `rows` added to the attention's output."""
    import torch

    handles = []
    for layer, module in _projections(model).items() if rows is not None else ():
        vector = torch.from_numpy(rows[layer])
        handles.append(module.register_forward_hook(lambda _m, _i, output, vector=vector: output + vector))
    with torch.inference_mode():
        found = [model(torch.tensor([prompt])).logits[0, -1].log_softmax(-1).numpy() for prompt in prompts]
    for handle in handles:
        handle.remove()
    return np.array(found)
