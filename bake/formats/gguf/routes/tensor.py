"""The routes *existing* and *tensor*: the bias of the projection is there, or the file gains it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import ClassVar

from ....core.biases import Home, PlannedBias
from ....core.limits import MAX_WIDTH
from ....core.plan import RouteName
from ....core.record import RecordedBias
from ....core.sites import Site
from ....core.stacks import Support
from ....core.tensors import TensorHeader
from ....errors import BrokenFileError, UnsupportedModelError
from ..architectures import MODULES, bias_blocker, gguf_architectures
from ..header import row_count
from ..layout import Placed
from ..model import GgufModel
from .base import OUT_OF_SCOPE, GgufRoute, read_bias


class TensorRoute(GgufRoute):
    """The architecture reads the bias where it is in the file."""

    name: ClassVar[RouteName] = "tensor"

    @classmethod
    def blockers(cls, model: GgufModel, site: Site) -> list[str]:
        """Llama.cpp must create the tensor, and add it."""
        blocker = bias_blocker(model.architecture, site)
        return [blocker] if blocker else []

    @property
    def support(self) -> Support:
        """Run, where a file with such a bias was."""
        return Support("steered", run=self.site in self.row.ran)

    @cached_property
    def homes(self) -> tuple[Home, ...]:
        """A float32 tensor for each layer, or the one that is there."""
        homes = []
        for layer in range(self.model.num_hidden_layers):
            module = MODULES[self.site].format(layer=layer)
            weight, bias = (self.model.tensors.get(f"{module}.{kind}") for kind in ("weight", "bias"))
            if weight is not None:
                homes.append(self._home(layer, module, weight, bias))
        return tuple(homes)

    def edits(self, biases: Sequence[PlannedBias]) -> Mapping[str, tuple[Placed, ...]]:
        """The biases that were there."""
        tensors = self.model.tensors
        return {
            bias.tensor: (Placed(bias.tensor, bias.dtype, tensors[bias.tensor].shape, (bias.data,)),)
            for bias in biases
            if not bias.is_new
        }

    def new(self, biases: Sequence[PlannedBias]) -> tuple[Placed, ...]:
        """The biases that were not."""
        return tuple(
            Placed(bias.tensor, bias.dtype, (len(bias.data) // 4,), (bias.data,)) for bias in biases if bias.is_new
        )

    @classmethod
    def honours(cls, model: GgufModel, site: Site, biases: Sequence[RecordedBias]) -> str:
        """By the architecture alone."""
        blocker = bias_blocker(model.architecture, site)
        if blocker:
            raise UnsupportedModelError(f"{model.name}: {blocker}")
        return f"{model.architecture}: llama.cpp {gguf_architectures()[model.architecture].sites[site]} it"

    def _home(self, layer: int, module: str, weight: TensorHeader, bias: TensorHeader | None) -> Home:
        width = row_count(weight)
        if width > MAX_WIDTH:
            raise BrokenFileError(f"{self.model.name}: {weight.name} has {width} outputs, more than any model")
        if bias is None and self.row.sites[self.site] == "required":
            raise BrokenFileError(
                f"{self.model.name}: lacks {module}.bias, which llama.cpp wants of {self.row.name} files"
            )
        if bias is None:
            return Home(layer, f"{module}.bias", "F32", width)
        return Home(layer, bias.name, bias.dtype, width, read_bias(self.model, bias, width))


class ExistingRoute(TensorRoute):
    """The file has the bias of every layer, whose bytes are replaced."""

    name: ClassVar[RouteName] = "existing"

    @classmethod
    def blockers(cls, model: GgufModel, site: Site) -> list[str]:
        """Every layer that has the projection must have the bias."""
        modules = [MODULES[site].format(layer=layer) for layer in range(model.num_hidden_layers)]
        lacking = [m for m in modules if f"{m}.weight" in model.tensors and f"{m}.bias" not in model.tensors]
        return [*TensorRoute.blockers(model, site), *(OUT_OF_SCOPE for _ in lacking[:1])]
