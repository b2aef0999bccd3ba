"""The route *llama*: the checkpoint is exactly a ``LlamaForCausalLM`` by another name, and is saved as one."""

from __future__ import annotations

from typing import Any

from ..families import families
from .base import add_new_rope
from .other_class import OtherClassRoute


class LlamaRoute(OtherClassRoute):
    """A Llama with ``attention_bias``, and for vectors of the layer output with ``mlp_bias`` (Qwen2, Mistral)."""

    name = "llama"
    target = "llama"
    label = "Llama"

    def complete(self, config: dict[str, Any]) -> dict[str, Any]:
        """Write both flags, and the rope in both spellings."""
        had_mlp_bias = bool(self.old_fields.get("mlp_bias", False))
        config["attention_bias"] = True
        config["mlp_bias"] = self.family.site == "layer_output" or had_mlp_bias
        add_new_rope(config)
        return config

    @property
    def siblings(self) -> tuple[str, ...]:
        """The modules that ``attention_bias``, and ``mlp_bias`` if it is on, reach besides the projection."""
        llama, attention = self.result, families()["llama"]
        modules = dict.fromkeys((*attention.siblings, attention.projection, *llama.siblings))
        modules.pop(llama.projection, None)
        return tuple(modules)
