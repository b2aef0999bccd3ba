"""The route *existing*: the projection already has a bias, whose bytes are overwritten in the copy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ....core.plan import RouteName
from ....errors import BrokenFileError
from ..families import Family
from ..model import Checkpoint
from .base import Route


class ExistingRoute(Route):
    """The base's class has the bias, by the config or always (gpt-oss, Phi-2, GPT-2)."""

    name: ClassVar[RouteName] = "existing"

    @classmethod
    def is_known(cls, family: Family) -> bool:
        """The family's class must have a bias, by a flag or always."""
        return family.has_bias

    @classmethod
    def blockers(cls, family: Family, config: Mapping[str, Any]) -> list[str]:
        """The config says whether the bias exists."""
        if family.has_bias and (family.flag is None or config.get(family.flag, family.flag_default)):
            return []
        return [f"its class has no bias on {family.projection.rpartition('.')[2]}"]

    def accept_missing(self, checkpoint: Checkpoint, module: str) -> None:
        """The config promises the bias.

        Raises:
            BrokenFileError: always.
        """
        raise BrokenFileError(
            f"{checkpoint.name}: the config says that {module} has a bias, but no file holds {module}.bias"
        )
