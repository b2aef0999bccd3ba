"""The route *gear*: the checkpoint is exactly mlx-lm's model ``gear``, which no other stack knows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .other_class import OtherClassRoute

_FULL, _SLIDING, _PATTERN = 1_000_000.0, 10_000.0, 6
"""Defaults of ``Gemma3TextConfig``: base frequencies, and every so many layers one without a window."""


class GearRoute(OtherClassRoute):
    """Gemma 3's layers with ``attention_bias``."""

    name = "gear"
    target = "gear"
    label = "gear model"

    def complete(self, config: dict[str, Any]) -> dict[str, Any]:
        """Spell layer types and base frequencies as mlx-lm reads them."""
        rope = config.get("rope_parameters")
        if isinstance(rope, Mapping):
            full, sliding = rope.get("full_attention", {}), rope.get("sliding_attention", {})
            config["rope_theta"] = full.get("rope_theta", _FULL)
            config["rope_local_base_freq"] = sliding.get("rope_theta", _SLIDING)
            scaling = {key: value for key, value in full.items() if key != "rope_theta"}
            config["rope_scaling"] = scaling if scaling.get("rope_type", "default") != "default" else None
        if config.get("layer_types") is None:
            pattern = config.get("sliding_window_pattern") or config.get("_sliding_window_pattern") or _PATTERN
            config["layer_types"] = [
                "sliding_attention" if layer % pattern else "full_attention"
                for layer in range(1, config["num_hidden_layers"] + 1)
            ]
        return config
