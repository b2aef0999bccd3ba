"""Tiny random multimodal models in transformers: their configs, weights, a hook and one image.

Nothing here imports emobake: what the tests compare with must not come from the code under test.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .tiny import randomise

HIDDEN, LAYERS, VOCAB, IMAGE = 32, 4, 128, 120
"""Sizes of every language model, and the id that stands for a part of an image."""

_SIZES: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": VOCAB,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
_SIGHT = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
_SIGLIP = {"model_type": "siglip_vision_model", **_SIGHT}
_CLIP = {"model_type": "clip_vision_model", "projection_dim": 16, **_SIGHT}
_INTERNVL = {"model_type": "internvl_vision", **_SIGHT, "image_size": [28, 28], "patch_size": [14, 14]}
_PIXTRAL = {"model_type": "pixtral", **_SIGHT, "head_dim": 8}
_QWEN_SIGHT = {"depth": 2, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "out_hidden_size": HIDDEN,
               "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2}  # fmt: skip
_QWEN3_SIGHT = {**_QWEN_SIGHT, "num_position_embeddings": 16}
_QWEN_IDS = {"image_token_id": IMAGE, "video_token_id": 121, "vision_start_token_id": 122, "vision_end_token_id": 123}
_LLAVA = {"image_token_index": IMAGE, "vision_feature_layer": -1, "vision_config": _CLIP}
_PINPOINTS = {"image_grid_pinpoints": [[28, 56]]}
_NO_WINDOW = {"sliding_window": None}
_WINDOWS = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"] * 2}
_HYBRID = {"layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"],
           "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8,
           "linear_value_head_dim": 8, "linear_conv_kernel_dim": 4}  # fmt: skip
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_GEMMA4_SIGHT = {"model_type": "gemma4_vision", **_SIGHT, "num_key_value_heads": 2, "head_dim": 8}
_GEMMA4 = {**_WINDOWS, "global_head_dim": 16, "tie_word_embeddings": True}
_TIED = {"tie_word_embeddings": True}


def _rope(**fields: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 20000.0, **fields}}


_MROPE = _rope(mrope_section=[2, 3, 3])
# Its classes divide the hidden size by the heads.
_MROPE2 = {"head_dim": 8, **_rope(mrope_section=[1, 1, 2])}


@dataclass(frozen=True)
class Wrapper:
    """Recipe of one multimodal model."""

    model_type: str
    text: str
    """``model_type`` of the language model."""
    inner: dict[str, Any] = field(default_factory=dict)
    """Fields of ``text_config`` besides the sizes."""
    outer: dict[str, Any] = field(default_factory=dict)
    """Fields of the whole config."""
    attention: tuple[int, ...] = tuple(range(LAYERS))
    """Layers that have attention."""
    live: str = "model.language_model."
    """What stands before ``layers`` in the names of its modules."""
    as_llama: bool = False
    """True if it is baked inside the wrapper as a Llama."""
    alone: str = ""
    """Class of the language model on its own; empty if none is known."""


WRAPPERS: dict[str, Wrapper] = {
    "gemma3": Wrapper("gemma3", "gemma3_text", {**_WINDOWS, "query_pre_attn_scalar": 16, **_TIED},
                      {"vision_config": _SIGLIP, "mm_tokens_per_image": 4, "image_token_index": IMAGE, **_TIED},
                      alone="Gemma3ForCausalLM"),
    "gemma4": Wrapper("gemma4", "gemma4_text", {**_GEMMA4, "hidden_size_per_layer_input": 8, "num_kv_shared_layers": 2,
                                                "vocab_size_per_layer_input": VOCAB},
                      {"vision_config": _GEMMA4_SIGHT, "audio_config": None, "image_token_id": IMAGE, **_TIED},
                      alone="Gemma4ForCausalLM"),
    "gemma4_experts": Wrapper("gemma4", "gemma4_text",
                              {**_GEMMA4, "hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0,
                               "attention_k_eq_v": True, "num_global_key_value_heads": 1, "enable_moe_block": True,
                               "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 16},
                              {"vision_config": _GEMMA4_SIGHT, "audio_config": None, "image_token_id": IMAGE, **_TIED},
                              alone="Gemma4ForCausalLM"),
    "gemma4_unified": Wrapper("gemma4_unified", "gemma4_unified_text", _GEMMA4, {"image_token_id": IMAGE, **_TIED},
                              alone="Gemma4UnifiedForCausalLM"),
    "mistral3": Wrapper("mistral3", "mistral", {**_rope(), **_NO_WINDOW},
                        {"vision_config": _PIXTRAL, "image_token_index": IMAGE, "vision_feature_layer": -1,
                         "tie_word_embeddings": False}, as_llama=True, alone="LlamaForCausalLM"),
    "llava_llama": Wrapper("llava", "llama", _rope(), _LLAVA, alone="LlamaForCausalLM"),
    "llava_mistral": Wrapper("llava", "mistral", {**_rope(), **_NO_WINDOW}, _LLAVA, as_llama=True,
                             alone="LlamaForCausalLM"),
    "llava_qwen2": Wrapper("llava", "qwen2", _rope(), _LLAVA, as_llama=True, alone="LlamaForCausalLM"),
    "llava_next": Wrapper("llava_next", "mistral", {**_rope(), **_NO_WINDOW}, {**_LLAVA, **_PINPOINTS},
                          as_llama=True, alone="LlamaForCausalLM"),
    "llava_next_llama": Wrapper("llava_next", "llama", _rope(), {**_LLAVA, **_PINPOINTS}, alone="LlamaForCausalLM"),
    "llava_next_qwen2": Wrapper("llava_next", "qwen2", _rope(), {**_LLAVA, **_PINPOINTS}, as_llama=True,
                                alone="LlamaForCausalLM"),
    "llava_onevision": Wrapper("llava_onevision", "qwen2", _rope(),
                               {**_LLAVA, **_PINPOINTS, "vision_config": _SIGLIP, "video_token_index": 121},
                               as_llama=True, alone="LlamaForCausalLM"),
    "internvl_qwen2": Wrapper("internvl", "qwen2", _rope(), {"vision_config": _INTERNVL, "image_token_id": IMAGE},
                              as_llama=True, alone="LlamaForCausalLM"),
    "internvl_qwen3": Wrapper("internvl", "qwen3", _rope(), {"vision_config": _INTERNVL, "image_token_id": IMAGE},
                              alone="Qwen3ForCausalLM"),
    "aya_vision": Wrapper("aya_vision", "cohere2", {"sliding_window": 8, "logit_scale": 0.25},
                          {"vision_config": _SIGLIP, "image_token_index": IMAGE}, alone="Cohere2ForCausalLM"),
    "cohere2_vision": Wrapper("cohere2_vision", "cohere2", {"sliding_window": 8, "logit_scale": 0.25},
                              {"vision_config": _SIGLIP, "image_token_id": IMAGE}, alone="Cohere2ForCausalLM"),
    "smolvlm": Wrapper("smolvlm", "llama", _rope(),
                       {"vision_config": {**_SIGHT, "model_type": "smolvlm_vision"}, "image_token_id": IMAGE},
                       live="model.text_model.", alone="LlamaForCausalLM"),
    "idefics3": Wrapper("idefics3", "llama", _rope(),
                        {"vision_config": {**_SIGHT, "model_type": "idefics3_vision"}, "image_token_id": IMAGE},
                        live="model.text_model.", alone="LlamaForCausalLM"),
    "qwen2_vl": Wrapper("qwen2_vl", "qwen2_vl_text", _MROPE2,
                        {"vision_config": {"depth": 2, "embed_dim": 16, "hidden_size": HIDDEN, "num_heads": 2,
                                           "patch_size": 14, "mlp_ratio": 2}, **_QWEN_IDS}, alone="LlamaForCausalLM"),
    "qwen2_5_vl": Wrapper("qwen2_5_vl", "qwen2_5_vl_text", _MROPE2,
                          {"vision_config": {**_QWEN_SIGHT, "fullatt_block_indexes": [1]}, **_QWEN_IDS},
                          alone="LlamaForCausalLM"),
    "qwen3_vl": Wrapper("qwen3_vl", "qwen3_vl_text", _MROPE,
                        {"vision_config": {**_QWEN3_SIGHT, "deepstack_visual_indexes": [0, 1]}, **_QWEN_IDS},
                        alone="Qwen3ForCausalLM"),
    "qwen3_vl_moe": Wrapper("qwen3_vl_moe", "qwen3_vl_moe_text", {**_MROPE, **_EXPERTS},
                            {"vision_config": {**_QWEN3_SIGHT, "deepstack_visual_indexes": [0, 1]}, **_QWEN_IDS},
                            alone="Qwen3MoeForCausalLM"),
    "qwen3_5": Wrapper("qwen3_5", "qwen3_5_text",
                       {**_rope(mrope_section=[1, 1, 2], partial_rotary_factor=0.5), **_HYBRID},
                       {"vision_config": _QWEN3_SIGHT, **_QWEN_IDS}, attention=(3,), alone="Qwen3_5ForCausalLM"),
    "qwen3_5_moe": Wrapper("qwen3_5_moe", "qwen3_5_moe_text",
                           {**_rope(mrope_section=[1, 1, 2], partial_rotary_factor=0.5), **_HYBRID, **_EXPERTS,
                            "shared_expert_intermediate_size": 16},
                           {"vision_config": _QWEN3_SIGHT, **_QWEN_IDS}, attention=(3,),
                           alone="Qwen3_5MoeForCausalLM"),
    "llama4": Wrapper("llama4", "llama4_text",
                      {**_rope(), "intermediate_size_mlp": 48, "num_local_experts": 4, "num_experts_per_tok": 1,
                       "interleave_moe_layer_step": 2, "attention_chunk_size": 16},
                      {"vision_config": {**_SIGHT, "intermediate_size": 64, "vision_output_dim": 16,
                                         "projector_input_dim": 16, "projector_output_dim": 16},
                       "image_token_index": IMAGE}, live="language_model.model.", alone="Llama4ForCausalLM"),
    "paligemma": Wrapper("paligemma", "gemma", _TIED,
                         {"vision_config": {**_SIGLIP, "projection_dim": HIDDEN}, "projection_dim": HIDDEN,
                          "image_token_index": IMAGE}, alone="GemmaForCausalLM"),
    "paligemma2": Wrapper("paligemma", "gemma2", {"sliding_window": 8, "query_pre_attn_scalar": 16, **_TIED},
                          {"vision_config": {**_SIGLIP, "projection_dim": HIDDEN}, "projection_dim": HIDDEN,
                           "image_token_index": IMAGE}, alone="Gemma2ForCausalLM"),
    "kimi_k25": Wrapper("kimi_k25", "deepseek_v3",
                        {"num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8,
                         "qk_rope_head_dim": 4, "v_head_dim": 8, "head_dim": 4, "n_routed_experts": 4, "n_group": 1,
                         "topk_group": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
                         "first_k_dense_replace": 1},
                        {"vision_config": {**_SIGHT, "pos_emb_height": 4, "pos_emb_width": 4}, "image_token_id": IMAGE,
                         "tie_word_embeddings": False}, alone="DeepseekV3ForCausalLM"),
}  # fmt: skip
"""Every wrapper of the table that this transformers builds from such a config, with each kind of language model."""
OWN_TEXT = ("qwen2_vl", "qwen2_5_vl")
"""Those whose class has a language model of its own, without a bias: they are baked alone only."""


def config_of(name: str, **inner: Any) -> Any:
    """The config of `name` as transformers builds it; `inner` overlays ``text_config``."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    tiny = WRAPPERS[name]
    text = {"model_type": tiny.text, **_SIZES, **tiny.inner, **inner}
    outer = dict(tiny.outer)
    if "out_hidden_size" in (outer.get("vision_config") or {}):
        outer["vision_config"] = {**outer["vision_config"], "out_hidden_size": text["hidden_size"]}
    return CONFIG_MAPPING[tiny.model_type](text_config=text, **outer)


def build(name: str, **inner: Any) -> Any:
    """The model of `name`, without weights of any kind; takes no time on the meta device."""
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_config(config_of(name, **inner), attn_implementation="eager")


def write(name: str, folder: Path, *, seed: int = 0, **inner: Any) -> Path:
    """Save a random model of `name` into `folder`, as transformers does, and return that; `inner` as in `config_of`."""
    model = build(name, **inner).eval()
    randomise(model, seed)
    model.save_pretrained(folder)
    if name == "kimi_k25":
        _rename(folder / "model.safetensors", ".model.blocks.", ".model.layers.")
    return folder


def _rename(file: Path, old: str, new: str) -> None:
    """Rename tensors: transformers 5.23 saves Kimi's language model by names that it does not load."""
    from safetensors.torch import load_file, save_file

    save_file({key.replace(old, new): tensor for key, tensor in load_file(file).items()}, file, {"format": "pt"})


def load(folder: Path) -> tuple[Any, dict[str, Any]]:
    """The model in float32 by the class that it declares, and what transformers tells about its tensors."""
    import json

    import torch
    import transformers

    declared = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"][0]
    # vLLM's name of its backend is no class of transformers.
    model, info = getattr(transformers, declared, transformers.AutoModelForCausalLM).from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    return model.eval(), info


def rows_of(name: str, sums: np.ndarray) -> dict[int, np.ndarray]:
    """Layer -> row of `sums`, float32 ``[layers, hidden]``, for the layers of `name` that have attention."""
    return {layer: sums[layer] for layer in WRAPPERS[name].attention}


def attention_of(name: str) -> str:
    """Module whose output is the site, with ``{layer}``, and the projection that it ends in."""
    return f"{WRAPPERS[name].live}layers.{{layer}}.self_attn.o_proj"


def image_of(name: str, ids: Any) -> dict[str, Any]:
    """Inputs with one random image: the first four tokens of `ids` stand for its parts."""
    import torch

    generator = torch.Generator().manual_seed(5)
    ids = ids.clone()
    inputs: dict[str, Any] = {"input_ids": ids}
    if WRAPPERS[name].model_type.startswith("qwen"):
        # 4 x 4 patches of 14 x 14 pixels in two frames; four patches are one token.
        ids[:, 0], ids[:, 1:5], ids[:, 5] = _QWEN_IDS["vision_start_token_id"], IMAGE, _QWEN_IDS["vision_end_token_id"]
        inputs["pixel_values"] = torch.randn(len(ids) * 16, 3 * 2 * 14 * 14, generator=generator)
        inputs["image_grid_thw"] = torch.tensor([[1, 4, 4]] * len(ids))
        inputs["mm_token_type_ids"] = (ids == IMAGE).long()
    else:
        ids[:, 1:5] = IMAGE
        inputs["pixel_values"] = torch.randn(len(ids), 3, 28, 28, generator=generator)
    return inputs
