"""Routes that add to another one the class by which vLLM runs transformers' own model.

``architectures`` names it as the first and only entry. transformers and mlx-lm go by ``model_type`` and ignore that
field; llama.cpp's converter does not know the name, so such a route is for outputs that it refuses anyway, or that are
for vLLM.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ....core.elsewhere import Biases
from ....core.stacks import Support
from ....errors import BrokenFileError
from ..families import Family
from .base import Route
from .existing import ExistingRoute
from .flag import FlagRoute


class BackendRoute(Route):
    """The route that it is put in front of, for families whose bias only transformers' class adds in vLLM."""

    @classmethod
    def is_known(cls, family: Family) -> bool:
        """The other route must be known, and the result's family must have a backend."""
        return super().is_known(family) and cls.result_of(family).backend is not None

    @classmethod
    def blockers(cls, family: Family, config: Mapping[str, Any]) -> list[str]:
        """The route must apply, and the result's family must have a backend."""
        blockers = super().blockers(family, config)
        if not blockers and cls.result_of(family).backend is None:
            return ["it is not known that vLLM's transformers backend gives the answers of transformers"]
        return blockers

    def change(self, config: dict[str, Any]) -> dict[str, Any]:
        """Name the backend's class, and the factor of the logits that it would otherwise leave out.

        Raises:
            BrokenFileError: a field that the factor is made of is no number.
        """
        backend = self.result.backend
        assert backend is not None  # `blockers` has looked.
        new = super().change(config) | {"architectures": [backend.name]}
        if backend.times or backend.over:
            new["logit_scale"] = _product(new, backend.times) / _product(new, backend.over)
        return new

    @property
    def treatment(self) -> Mapping[str, Support]:
        """The other route's, but for vLLM and llama.cpp."""
        found = self.result.by_backend
        return dict(super().treatment) | {name: found[name] for name in ("vllm", "llama.cpp")}

    @property
    def biases(self) -> Biases:
        """The other route's; nothing is known of what other stacks make of the backend's name."""
        return replace(super().biases, is_reshaped=True)


class ExistingBackendRoute(BackendRoute, ExistingRoute):
    """The bias is there, and vLLM is told by whose class it is added."""

    name = "existing+backend"


class FlagBackendRoute(BackendRoute, FlagRoute):
    """A config field gives the projection a bias, and vLLM is told by whose class it is added."""

    name = "flag+backend"


def _product(config: Mapping[str, Any], fields: Mapping[str, float]) -> float:
    """The product of `fields`, each of which has its class default here."""
    values = {field: config.get(field, default) for field, default in fields.items()}
    for field, value in values.items():
        if type(value) not in (int, float) or not 0 < value < 1e9:
            raise BrokenFileError(f"config.json: {field} is {value!r:.60}, not a positive number")
    return math.prod(values.values(), start=1.0)
