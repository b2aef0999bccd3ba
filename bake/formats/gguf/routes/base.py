"""The interface of a route: one exact way to make llama.cpp add the rows, in files that it loads.

A route answers four questions. Does it apply, and if not, why not (`GgufRoute.blockers`)? Where is each layer's row
stored (`GgufRoute.homes`, `GgufRoute.plan`)? Which tensors come in the place of the base's, and which besides
(`GgufRoute.edits`, `GgufRoute.new`)? How does the metadata change (`GgufRoute.fields`)?
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from ....core.biases import Home, PlannedBias, plan_biases
from ....core.elsewhere import Biases, elsewhere
from ....core.heads import Cost
from ....core.plan import RouteName
from ....core.record import Record, RecordedBias
from ....core.sites import SITE, Site
from ....core.stacks import Support
from ....core.tensors import FLOATS, TensorHeader, decode
from ....errors import BrokenFileError
from ...check.biases import misplaced_bias
from ...check.output import Output, StoredModel
from ..architectures import GgufArchitecture, gguf_architectures
from ..header import Field
from ..layout import Placed
from ..model import GgufModel

OUT_OF_SCOPE = ""
"""The clause of a route that has nothing to do with an architecture, which no message repeats."""


@dataclass(frozen=True, eq=False)
class GgufRoute(ABC):
    """A route for one GGUF model and vectors that act at `site`."""

    name: ClassVar[RouteName]
    model: GgufModel
    site: Site
    tensor_parallel: int = 1
    """Devices that shall be able to share the heads, where a route adds some."""

    @classmethod
    @abstractmethod
    def blockers(cls, model: GgufModel, site: Site) -> list[str]:
        """Reasons why the route does not apply, as clauses; empty if it applies.

        Raises:
            BrokenFileError: the file contradicts itself.
        """

    @property
    def architecture(self) -> str:
        """``general.architecture`` of the result."""
        return self.model.architecture

    @cached_property
    def row(self) -> GgufArchitecture:
        """What is known of the result's architecture."""
        return gguf_architectures()[self.architecture]

    @property
    @abstractmethod
    def support(self) -> Support:
        """Treatment of the result by llama.cpp."""

    @property
    def biases(self) -> Biases:
        """The biases of the result, for the other stacks that read GGUF files."""
        return Biases("o" if self.site == SITE else "d")

    @property
    def stacks(self) -> Mapping[str, Support]:
        """Treatment of the result by each stack that reads GGUF files."""
        usual = {"llama.cpp": self.support}
        return usual | elsewhere("gguf", self.architecture, self.biases, usual)

    @property
    def cost(self) -> Cost:
        """What the result needs more than its base."""
        return Cost()

    @property
    def scale(self) -> float:
        """Factor between the place of the rows and the site."""
        return self.row.branch_scale(self.model.header, self.model.num_hidden_layers, self.site)

    def fitted(self, rows: np.ndarray) -> GgufRoute:
        """The route for these `rows`, float32 ``[layers, hidden]``, where it depends on them.

        Raises:
            UnsupportedModelError: it cannot make them.
        """
        return self

    def again(self, record: Record) -> GgufRoute:
        """The route for the rows of a bake that was made before, and has this `record`."""
        return self

    @cached_property
    @abstractmethod
    def homes(self) -> tuple[Home, ...]:
        """The place that stores each layer's row; layers without the projection (hybrids) are left out.

        Raises:
            BrokenFileError: a tensor is not what its name says; UnsupportedModelError: a type that cannot store it.
        """

    def plan(self, rows: np.ndarray) -> tuple[PlannedBias, ...]:
        """Plan the biases that add `rows`, float32 ``[layers, hidden]``.

        Raises:
            InputError: as `emobake.core.biases.plan_biases`.
        """
        return plan_biases(self.model.name, self.homes, rows)

    @abstractmethod
    def edits(self, biases: Sequence[PlannedBias]) -> Mapping[str, tuple[Placed, ...]]:
        """Tensor of the base -> the tensors that come in its place; those that are left out are carried."""

    @abstractmethod
    def new(self, biases: Sequence[PlannedBias]) -> tuple[Placed, ...]:
        """The tensors that come besides those of the base."""

    def fields(self) -> Mapping[str, Field | None]:
        """Entries of the metadata that change, by their keys in the base; None for one that is left out."""
        return {}

    @classmethod
    @abstractmethod
    def honours(cls, model: GgufModel, site: Site, biases: Sequence[RecordedBias]) -> str:
        """Say how llama.cpp adds the recorded biases of the finished `model`.

        Raises:
            InputError: it does not.
        """

    @classmethod
    def misplaced(cls, output: Output, entry: RecordedBias, base: StoredModel | None, row: np.ndarray) -> str:
        """The way in which a bias of a finished `output` does not make the float32 `row`; empty if it does."""
        return misplaced_bias(output.model, output.record, entry, base, row)


def read_bias(model: GgufModel, bias: TensorHeader, width: int) -> np.ndarray:
    """Read an existing bias as float32 ``[width]``.

    Raises:
        BrokenFileError: no floats, another shape, a NaN or infinity, or the file ends within it.
    """
    if bias.dtype not in FLOATS or bias.shape != (width,):
        raise BrokenFileError(
            f"{model.name}: {bias.name} is {bias.dtype} of shape {list(bias.shape)}, not floats [{width}]"
        )
    values = decode(bias, model.read(bias))
    if not np.isfinite(values).all():
        raise BrokenFileError(f"{model.name}: {bias.name} has a NaN or infinity")
    return values
