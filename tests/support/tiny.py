"""Tiny random checkpoints and vector sets, in the form in which real ones are published.

Nothing here imports emobake: what the tests compare with must not come from the code under test.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

EMOTIONS = ("anger", "disgust", "fear", "joy", "sadness")
HIDDEN, LAYERS, VOCAB = 32, 3, 96


@dataclass(frozen=True)
class Tiny:
    """Recipe of one family: `fields` overlay the shared dimensions."""

    model_type: str
    fields: dict[str, Any] = field(default_factory=dict)
    published: dict[str, Any] = field(default_factory=dict)
    """Fields that published checkpoints of this family carry in config.json besides."""


LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
_LATENT = {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
}
_QWEN2_WINDOW = {"use_sliding_window": False, "sliding_window": 32768, "max_window_layers": 2}


def rope(theta: float, **fields: Any) -> dict[str, Any]:
    """Rope parameters with this base frequency."""
    return {"rope_parameters": {"rope_type": "default", "rope_theta": theta, **fields}}


FAMILIES: dict[str, Tiny] = {
    "llama2": Tiny("llama", {"num_key_value_heads": 4, **rope(1e4)}),
    "llama3.1": Tiny("llama", {"rope_parameters": LLAMA3_ROPE}),
    "llama3.2-tied": Tiny("llama", {"rope_parameters": LLAMA3_ROPE, "tie_word_embeddings": True, "head_dim": 16}),
    "vicuna": Tiny("llama", {"num_key_value_heads": 4, "rms_norm_eps": 1e-6}),
    "yi": Tiny("llama", {"num_key_value_heads": 1, **rope(5e6)}),
    "mistral": Tiny("mistral", {"sliding_window": None, "head_dim": 16, **rope(1e6)}),
    "qwen1.5": Tiny("qwen2", {"num_key_value_heads": 4, **rope(1e6)}, _QWEN2_WINDOW),
    "qwen2": Tiny("qwen2", rope(1e6), _QWEN2_WINDOW),
    "qwen2.5": Tiny("qwen2", {"tie_word_embeddings": True, **rope(1e6)}, _QWEN2_WINDOW),
    "qwen3": Tiny("qwen3", {"head_dim": 16, **rope(1e6)}),
    "seed_oss": Tiny("seed_oss", {"attention_dropout": 0.0, "residual_dropout": 0.0, **rope(1e7)}),
    "seed_oss-biased": Tiny("seed_oss", {"attention_dropout": 0.0, "residual_dropout": 0.0, "attention_bias": True,
                                         "attention_out_bias": True, **rope(1e7)}),
    "gemma": Tiny("gemma", {"head_dim": 16}),
    "gemma2": Tiny("gemma2", {"head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 16}),
    "gemma3": Tiny("gemma3_text", {"head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 16,
                                   "layer_types": ["sliding_attention", "sliding_attention", "full_attention"]}),
    "granite": Tiny("granite", {"embedding_multiplier": 3.0, "residual_multiplier": 0.5, "logits_scaling": 2.0,
                                "attention_multiplier": 0.2}),
    "granitemoehybrid": Tiny("granitemoehybrid", {
        "layer_types": ["linear_attention", "full_attention", "linear_attention"], "mamba_n_heads": 4,
        "mamba_d_head": 16, "mamba_d_state": 8, "mamba_chunk_size": 8, "num_local_experts": 0,
        "num_experts_per_tok": 0, "shared_intermediate_size": 48, "residual_multiplier": 0.5}),
    "olmo2": Tiny("olmo2", rope(5e5)),
    "olmoe": Tiny("olmoe", {"num_experts": 4, "num_experts_per_tok": 2, **rope(1e4)}),
    "qwen3_moe": Tiny("qwen3_moe", {"head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2,
                                    "moe_intermediate_size": 16, **rope(1e6)}),
    "granitemoe": Tiny("granitemoe", {"num_local_experts": 4, "num_experts_per_tok": 2, "embedding_multiplier": 3.0,
                                      "residual_multiplier": 0.5, "logits_scaling": 2.0, "attention_multiplier": 0.2}),
    "cohere2": Tiny("cohere2", {"sliding_window": 8, "logit_scale": 0.25,
                                "layer_types": ["sliding_attention", "full_attention", "full_attention"]}),
    "ernie4_5": Tiny("ernie4_5", {"head_dim": 16, "use_bias": False, **rope(5e5)}),
    "cohere": Tiny("cohere", {"logit_scale": 0.25}),
    "minicpm3": Tiny("minicpm3", {**_LATENT, "scale_emb": 2, "dim_model_base": 16}),
    "falcon": Tiny("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2, "bias": False}),
    "mixtral": Tiny("mixtral", {"num_local_experts": 4, "sliding_window": None, **rope(1e6)}),
    "stablelm": Tiny("stablelm", rope(1e4, partial_rotary_factor=0.5)),
    "stablelm-biased": Tiny("stablelm", {"use_qkv_bias": True, "num_key_value_heads": 4,
                                         **rope(1e4, partial_rotary_factor=0.5)}),
    "qwen2_moe": Tiny("qwen2_moe", {
        "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 32,
        "decoder_sparse_step": 1, "norm_topk_prob": False, "use_sliding_window": False, **rope(1e6)}),
    "helium": Tiny("helium", {"head_dim": 8, **rope(1e5)}),
    "gpt2": Tiny("gpt2"),
    "opt": Tiny("opt", {"ffn_dim": 48, "word_embed_proj_dim": HIDDEN}),
    "gpt_neox": Tiny("gpt_neox"),
    "gpt_bigcode": Tiny("gpt_bigcode"),
    "bloom": Tiny("bloom"),
    "starcoder2": Tiny("starcoder2", rope(1e5)),
    "nemotron": Tiny("nemotron", rope(1e4, partial_rotary_factor=0.5)),
    "smollm3": Tiny("smollm3", {"no_rope_layers": [1, 1, 0], **rope(1e6)}),
    "smollm3-biased": Tiny("smollm3", {"no_rope_layers": [1, 1, 1], "attention_bias": True, **rope(1e6)}),
    "phi": Tiny("phi", rope(1e4, partial_rotary_factor=0.5)),
    "phi4": Tiny("phi3", {"sliding_window": None, **rope(250000.0)}, {"original_max_position_embeddings": 128}),
    "glm": Tiny("glm", {"head_dim": 16, **rope(1e4, partial_rotary_factor=0.5)}),
    "glm4": Tiny("glm4", {"head_dim": 16, **rope(1e4, partial_rotary_factor=0.5)}),
    "glm4_moe": Tiny("glm4_moe", {
        "head_dim": 16, "use_qk_norm": True, "attention_bias": True, "n_routed_experts": 4, "n_shared_experts": 1,
        "num_experts_per_tok": 2, "moe_intermediate_size": 16, "first_k_dense_replace": 1, "n_group": 1,
        "topk_group": 1, **rope(1e4, partial_rotary_factor=0.5)}),
    "hunyuan_dense": Tiny("hunyuan_v1_dense", {"head_dim": 16, **rope(1e4)}),
    "hunyuan_moe": Tiny("hunyuan_v1_moe", {"head_dim": 16, "num_experts": 4, "moe_topk": [2] * LAYERS, **rope(1e4)}),
    "falcon_h1": Tiny("falcon_h1", {"head_dim": 16, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8,
                                    "mamba_d_state": 8, "mamba_chunk_size": 8, "attention_out_multiplier": 0.5,
                                    **rope(1e4)}),
    "gpt_oss": Tiny("gpt_oss", {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16, "sliding_window": 8}),
}  # fmt: skip

_SHARED = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}


def write_tiny(
    name: str,
    folder: Path,
    *,
    dtype: str = "float32",
    shards: int = 1,
    seed: int = 0,
    published: bool = True,
    fields: Mapping[str, Any] | None = None,
) -> Path:
    """Build the family `name` with random weights, save it into `folder` and return that.

    `fields` replace dimensions where the class has them.

    With `published`, config.json is spelled as on the Hub (``torch_dtype``, ``rope_theta``), not as
    transformers 5 writes it.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    tiny = FAMILIES[name]
    config_class = CONFIG_MAPPING[tiny.model_type]
    known = set(config_class().to_dict()) | set(config_class.attribute_map)
    known |= set(tiny.fields)
    config = config_class(**{k: v for k, v in (_SHARED | tiny.fields | dict(fields or {})).items() if k in known})
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    randomise(model, seed)
    model = model.to(getattr(torch, dtype))
    save_in_shards(model, folder, shards)
    if published:
        path = folder / "config.json"
        spelled = as_published(json.loads(path.read_text(encoding="utf-8"))) | tiny.published
        path.write_text(json.dumps(spelled, indent=2) + "\n", encoding="utf-8")
    return folder


def randomise(model: Any, seed: int) -> None:
    """Weights so large that every part of the model matters; norms and biases off their 1 and 0."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 1:
                parameter.add_(0.1 * noise)
            else:
                parameter.copy_(0.15 * noise)


def save_in_shards(model: Any, folder: Path, shards: int) -> None:
    """`save_pretrained` into exactly so many weight files."""
    total = sum(p.numel() * p.element_size() for p in [*model.parameters(), *model.buffers()])
    for slack in range(100):
        for old in folder.glob("model*.safetensors*"):
            old.unlink()
        size = total + 1 if shards == 1 else int(total / shards * (1 + slack / 50))
        model.save_pretrained(folder, max_shard_size=size)
        if len(list(folder.glob("model*.safetensors"))) == shards:
            return
    raise AssertionError(f"{shards} shards cannot be had from these tensors")


def as_published(config: dict[str, Any]) -> dict[str, Any]:
    """config.json as most checkpoints on the Hub have it, written by transformers 4."""
    old = {key: value for key, value in config.items() if key not in ("dtype", "rope_parameters", "layer_types")}
    if "layer_types" in config and len(set(config["layer_types"])) > 1:
        old["layer_types"] = config["layer_types"]
    old["torch_dtype"] = config["dtype"]
    old["transformers_version"] = "4.51.0"
    rope = config.get("rope_parameters")
    if rope is None:
        return old
    if any(isinstance(value, dict) for value in rope.values()):
        return old | {"rope_parameters": rope}
    rope = dict(rope)
    old["rope_theta"] = rope.pop("rope_theta")
    if "partial_rotary_factor" in rope:
        old["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
    old["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    return old


def write_vectors(
    folder: Path,
    layers: int,
    hidden: int,
    emotions: tuple[str, ...] = EMOTIONS,
    *,
    seed: int = 0,
    scale: float = 1.0,
) -> np.ndarray:
    """Write ``Tiny_<emotion>.json`` files as published; returns float32 ``[emotions, layers, hidden]``."""
    rows = np.random.default_rng(seed).normal(0, scale, (len(emotions), layers, hidden)).astype(np.float32)
    write_published(folder, rows, emotions)
    return rows


def write_published(folder: Path, rows: np.ndarray, emotions: tuple[str, ...] = EMOTIONS) -> None:
    """Write float32 `rows` ``[emotions, layers, hidden]`` as ``Tiny_<emotion>.json`` files."""
    folder.mkdir(parents=True, exist_ok=True)
    for emotion, of_emotion in zip(emotions, rows, strict=True):
        # float() of a float32 prints with enough digits to come back as the same float32.
        published = {str(layer): [[float(x) for x in row]] for layer, row in enumerate(of_emotion)}
        (folder / f"Tiny_{emotion}.json").write_text(json.dumps(published), encoding="utf-8")
