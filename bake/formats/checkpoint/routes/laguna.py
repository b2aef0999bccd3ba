"""The route *laguna*: the checkpoint is exactly a Laguna without gates, experts and windows, for vLLM and mlx-lm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .other_class import OtherClassRoute


class LagunaRoute(OtherClassRoute):
    """Norms of each head's queries and keys, and ``attention_bias`` (Qwen3)."""

    name = "laguna"
    target = "laguna"
    label = "Laguna"

    @classmethod
    def is_saved(cls, config: Mapping[str, Any]) -> bool:
        """A Laguna without gates and experts is none that was trained as one."""
        return config.get("gating") is False and config.get("num_experts") == 0

    @property
    def warnings(self) -> tuple[str, ...]:
        """One stack loads the result and answers wrongly."""
        return ("saved for vLLM and mlx-lm only: transformers answers WRONGLY, as it adds random gates",)

    def complete(self, config: dict[str, Any]) -> dict[str, Any]:
        """Spell out, layer by layer, that nothing of a Laguna but its attention is there.

        vLLM gives q, k and v a bias by ``attention_bias``, mlx-lm by ``qkv_bias``.
        """
        layers, heads = config["num_hidden_layers"], config["num_attention_heads"]
        rope = config.get("rope_parameters") or {
            "rope_type": "default",
            "rope_theta": config.get("rope_theta", 10000.0),
        }
        rope = {**rope, "partial_rotary_factor": 1.0}
        return config | {
            "attention_bias": True,
            "qkv_bias": True,
            "gating": False,
            "num_experts": 0,
            "layer_types": ["full_attention"] * layers,
            "mlp_layer_types": ["dense"] * layers,
            "num_attention_heads_per_layer": [heads] * layers,
            "partial_rotary_factor": 1.0,
            "rope_parameters": {"full_attention": rope, "sliding_attention": rope},
        }
