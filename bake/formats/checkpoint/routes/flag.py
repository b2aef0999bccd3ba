"""The route *flag*: a config field gives the projection a bias."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from ....core.plan import RouteName
from ....core.tensors import TensorHeader, decode
from ..families import Family, families
from ..model import Checkpoint
from .base import Route, refuse_dormant


class FlagRoute(Route):
    """The base's class has the bias once `Family.flag` is on (Llama, Qwen3, Gemma, Granite)."""

    name: ClassVar[RouteName] = "flag"

    @classmethod
    def is_known(cls, family: Family) -> bool:
        """The family must have a flag."""
        return family.has_bias and family.flag is not None

    @classmethod
    def blockers(cls, family: Family, config: Mapping[str, Any]) -> list[str]:
        """The family must have a flag, and the config must leave it off."""
        if not family.has_bias or family.flag is None:
            return [f"no config field gives its class a bias on {family.projection.rpartition('.')[2]}"]
        return [f"{family.flag} is on already"] if config.get(family.flag, family.flag_default) else []

    def change(self, config: dict[str, Any]) -> dict[str, Any]:
        """Switch the flag on."""
        new = config | {str(self.family.flag): True}
        if self.family.wrapper and self.family.model_type == "llama":
            # llama.cpp's converter takes a wrapper's language model by this field.
            new["architectures"] = new.get("architectures") or list(families()["llama"].classes[:1])
        return new

    @property
    def siblings(self) -> tuple[str, ...]:
        """The modules that the flag reaches besides the projection."""
        return self.family.siblings

    def accept_existing(self, checkpoint: Checkpoint, header: TensorHeader, values: np.ndarray) -> None:
        """The base ignores the bias, so it must be zero.

        Raises:
            BrokenFileError: it is not.
        """
        refuse_dormant(header, values)

    def accept_sibling(self, checkpoint: Checkpoint, header: TensorHeader) -> None:
        """The base ignores a sibling's bias as well.

        Raises:
            BrokenFileError: it is not zero.
        """
        refuse_dormant(header, decode(header, checkpoint.read(header)))
