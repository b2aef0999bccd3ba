"""The route *granitemoe*: the checkpoint is exactly a ``GraniteMoeForCausalLM`` whose multipliers are 1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ....core.plan import RouteName
from .backend import BackendRoute
from .base import add_new_rope
from .other_class import OtherClassRoute


class GraniteMoeRoute(OtherClassRoute):
    """A mixture of experts with ``attention_bias`` (Mixtral)."""

    name: ClassVar[RouteName] = "granitemoe"
    target = "granitemoe"
    label = "GraniteMoe"

    @classmethod
    def is_saved(cls, config: Mapping[str, Any]) -> bool:
        """Of a GraniteMoe whose multipliers are 1, no stack leaves one out."""
        names = ("embedding_multiplier", "residual_multiplier", "logits_scaling")
        return all(config.get(name) == 1 for name in names)

    def complete(self, config: dict[str, Any]) -> dict[str, Any]:
        """Scores are divided by the square root of the head's size, as elsewhere; nothing else is scaled."""
        head = config["hidden_size"] // config["num_attention_heads"]
        add_new_rope(config)
        return config | {
            "embedding_multiplier": 1.0,
            "residual_multiplier": 1.0,
            "logits_scaling": 1.0,
            "attention_multiplier": float(head**-0.5),
        }


class GraniteMoeBackendRoute(BackendRoute, GraniteMoeRoute):
    """The same, and vLLM is told by whose class the bias is added."""

    name = "granitemoe+backend"
