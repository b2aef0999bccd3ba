"""The position of the desk's sliders, as a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from ..core.arguments import require_choice
from ..core.steering import Steering, steering
from ..models.hooks import Scope

Beside = Literal["off", "unsteered", "b"]
"""The second answer: none, of the model as it is, or of mood B."""
History = Literal["same", "own"]
"""Earlier answers that the second one continues: those of mood A, or its own."""
Side = Literal["a", "unsteered", "b"]


@dataclass(frozen=True)
class Setting:
    """Weights by name, their scale, the layers and the positions: a mood that can be heard, and baked."""

    weights: Mapping[str, float] = field(default_factory=dict)
    scale: float = 1.0
    layers: str = ""
    """Layers to steer, such as ``8-27``; empty means all."""
    scope: Scope = "every"

    def __post_init__(self) -> None:
        require_choice("scope", self.scope, get_args(Scope))

    @property
    def mix(self) -> dict[str, float]:
        """The weights that are not zero."""
        return {name: float(weight) for name, weight in self.weights.items() if weight}

    @property
    def steering(self) -> Steering:
        """The weights as the library takes them.

        Raises:
            InputError: a weight or scale that is not finite, a name that no emotion can have, or no list of layers.
        """
        chosen = self.mix
        # A name that nobody knows is refused where the set is known; no weights at all are no error here.
        found = steering(mix=chosen or {"joy": 0.0}, scale=self.scale, layers=self.layers or None)
        return found if chosen else Steering((), found.scale, found.layers)


@dataclass(frozen=True)
class Settings:
    """Everything that can be set between two answers."""

    a: Setting = field(default_factory=Setting)
    b: Setting = field(default_factory=Setting)
    beside: Beside = "unsteered"
    history: History = "same"

    def __post_init__(self) -> None:
        require_choice("beside", self.beside, get_args(Beside))
        require_choice("history", self.history, get_args(History))
