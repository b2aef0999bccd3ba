"""The interface of a route: one exact way to make the bias act where stock stacks add it.

A route answers four questions. Does it apply, and if not, why not (`Route.blockers`)? Which config comes out
(`Route.config`)? Where does each layer's row go, and as which values (`Route.fitted`, `Route.homes`, `Route.values`)?
Which further tensors are written, and which change (`Route.rewrites`, `Route.finished`)?
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from ....core.biases import Home, PlannedBias
from ....core.elsewhere import Biases, elsewhere, letters_of
from ....core.heads import Cost
from ....core.plan import ConfigChange, RouteName
from ....core.record import Record
from ....core.sites import SITE
from ....core.stacks import Support, worse
from ....core.tensors import TensorHeader, decode, encode
from ....errors import BrokenFileError
from ...safetensors import NewTensor
from ..families import Family
from ..model import Checkpoint
from ..projections import bias_dtype, find_projections, module_in_file, output_width
from ..quantisation import Quantisation
from ..wrappers import TEXT, language_config


@dataclass(frozen=True, eq=False)
class Route(ABC):
    """A route for one checkpoint: its family at the vectors' site, and its config as it is."""

    name: ClassVar[RouteName]
    family: Family
    old_config: Mapping[str, Any]
    tensor_parallel: int = 1
    """Devices that shall be able to share the heads, where a route adds some."""
    columns: Mapping[int, int] = field(default_factory=dict)
    """Layer -> column in which an earlier bake stored its bias."""
    quantisation: Quantisation | None = None
    """That of the base."""

    @classmethod
    @abstractmethod
    def blockers(cls, family: Family, config: Mapping[str, Any]) -> list[str]:
        """Reasons why the route does not apply, as clauses; empty if it applies."""

    @classmethod
    def quantised_blockers(cls, family: Family, config: Mapping[str, Any], quantisation: Quantisation) -> list[str]:
        """Further reasons where the weights are quantised by a known method: most routes leave them as they are."""
        return []

    @classmethod
    @abstractmethod
    def is_known(cls, family: Family) -> bool:
        """True if the route applies to some checkpoints of `family`."""

    @classmethod
    def result_of(cls, family: Family) -> Family:
        """The family that the result belongs to, for a base of `family`."""
        return family

    @property
    def result(self) -> Family:
        """The family that the result belongs to."""
        return self.result_of(self.family)

    def recast(self, checkpoint: Checkpoint) -> Checkpoint:
        """Lay out the base's tensors as the result's class has them; for most routes they stay as they are.

        Raises:
            InputError: (its subclasses) the weights are not those of the base's class.
        """
        return checkpoint

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings of the result, for its user."""
        return ()

    @cached_property
    def old_fields(self) -> Mapping[str, Any]:
        """The fields of the language model in the config as it is."""
        return language_config(self.old_config)

    @cached_property
    def config(self) -> dict[str, Any]:
        """config.json as it will be written. Fields that are not part of the change are kept, in order."""
        config = dict(self.old_config)
        inner = config.get(TEXT)
        if isinstance(inner, Mapping):
            config[TEXT] = self._changed(dict(inner))
        else:
            config = self._changed(config)
        config.pop("auto_map", None)
        if self.quantisation is not None and self.quantisation.in_config:
            config["quantization_config"] = dict(self.quantisation.in_config)
        return config

    def change(self, config: dict[str, Any]) -> dict[str, Any]:
        """Make the route's own changes to a copy of the language model's fields."""
        return config

    def _changed(self, fields: dict[str, Any]) -> dict[str, Any]:
        fields = self.change(fields)
        add_old_rope(fields)
        # The checkpoint's own code is left out, and nothing is known of its class: stacks must use the class that
        # the families table describes.
        fields.pop("auto_map", None)
        return fields

    @cached_property
    def changes(self) -> tuple[ConfigChange, ...]:
        """Difference between the old and the new config, field by field within ``text_config`` too."""
        old, new = self.old_config, self.config
        inner, new_inner = old.get(TEXT), new.get(TEXT)
        if not isinstance(inner, Mapping) or not isinstance(new_inner, Mapping):
            return tuple(_changes(old, new))
        outer = [change for change in _changes(old, new) if change.field != TEXT]
        return (*outer, *(replace(c, field=f"{TEXT}.{c.field}") for c in _changes(inner, new_inner)))

    @property
    def treatment(self) -> Mapping[str, Support]:
        """Treatment of the result by each usual stack, if its weights are not quantised."""
        return self.result.stacks

    @property
    def biases(self) -> Biases:
        """The biases of the result, for the stacks that the families' tables have no column for."""
        return Biases("o" if self.family.site == SITE else "d", zero=letters_of(self.siblings))

    @property
    def stacks(self) -> Mapping[str, Support]:
        """Treatment of the result by each stack: for quantised weights the worse of the family's and the method's."""
        return all_stacks(self.result, self.treatment, self.biases, self.quantisation)

    @property
    def cost(self) -> Cost:
        """Cost of the result beside its base."""
        return Cost()

    @property
    def siblings(self) -> tuple[str, ...]:
        """Templates of the modules that must have a bias as well; they get zeros if they have none."""
        return ()

    def homes(self, checkpoint: Checkpoint) -> tuple[Home, ...]:
        """The tensor that stores each layer's bias.

        Raises:
            BrokenFileError: no layer has the projection; a bias that is stored wrongly.
        """
        projections = find_projections(checkpoint, self.result)
        return tuple(self._home(checkpoint, layer, module) for layer, module in projections.items())

    def fitted(self, rows: np.ndarray, checkpoint: Checkpoint) -> Route:
        """The route for float32 `rows` ``[layers, hidden]``, where their values decide what is written.

        Raises:
            InputError: (its subclasses) there is none.
        """
        return self

    def again(self, record: Record) -> Route:
        """The route of a bake that was made before, where its rows have decided what was written."""
        return self

    def values(self, rows: np.ndarray, homes: Sequence[Home]) -> Mapping[int, np.ndarray]:
        """Layer -> the float32 values that its bias gains for `rows`; for most routes the row."""
        return dict(enumerate(rows))

    def rewrites(self, checkpoint: Checkpoint) -> dict[str, NewTensor]:
        """Further tensors that are written: explicit zeros for every sibling without a bias.

        Without them, vLLM 0.32 runs on uninitialised memory and mlx-lm 0.32 refuses to load.

        Raises:
            BrokenFileError: a sibling has a bias that the base ignores.
        """
        zeros = {}
        for module in self._siblings_in(checkpoint):
            header = checkpoint.tensors.get(f"{module}.bias")
            if header is None:
                dtype, width = bias_dtype(checkpoint, module), output_width(checkpoint, self.result, module)
                zeros[f"{module}.bias"] = NewTensor(dtype, (width,), (encode(np.zeros(width, np.float32), dtype),))
            else:
                self.accept_sibling(checkpoint, header)
        return zeros

    def finished(self, checkpoint: Checkpoint, biases: Sequence[PlannedBias]) -> Checkpoint:
        """The checkpoint of `recast` with the tensors that the `biases` change; for most routes they stay as they are.

        Raises:
            InputError: (its subclasses) as `homes`.
        """
        return checkpoint

    def tokenizer_class(self, declared: object) -> str:
        """The class that tokenizer_config.json must name instead of `declared`; empty for no change."""
        return ""

    def accept_missing(self, checkpoint: Checkpoint, module: str) -> None:  # noqa: B027 - most routes accept it
        """Refuse a projection without a bias where the route needs one."""

    def accept_existing(self, checkpoint: Checkpoint, header: TensorHeader, values: np.ndarray) -> None:  # noqa: B027 - most routes accept it
        """Refuse an existing bias (float32 `values`) that the route cannot add to."""

    def accept_sibling(self, checkpoint: Checkpoint, header: TensorHeader) -> None:  # noqa: B027 - most routes accept it
        """Refuse an existing bias of a sibling that the route cannot keep."""

    def _siblings_in(self, checkpoint: Checkpoint) -> Iterator[str]:
        for layer in find_projections(checkpoint, self.result):
            for template in self.siblings:
                module = module_in_file(checkpoint, self.result, template.format(layer=layer))
                if module is not None:
                    yield module

    def _home(self, checkpoint: Checkpoint, layer: int, module: str) -> Home:
        name = f"{module}.bias"
        width = output_width(checkpoint, self.result, module)
        header = checkpoint.tensors.get(name)
        if header is None:
            self.accept_missing(checkpoint, module)
            return Home(layer, name, bias_dtype(checkpoint, module), width)
        values = read_bias(checkpoint, header, width)
        self.accept_existing(checkpoint, header, values)
        return Home(layer, name, header.dtype, width, values)


def all_stacks(
    family: Family, treatment: Mapping[str, Support], biases: Biases, quantisation: Quantisation | None
) -> dict[str, Support]:
    """Treatment of a model of `family` with `biases` by each stack.

    `treatment` is that by the usual stacks; for quantised weights it is the worse of it and of the method's.
    """
    method, usual = None if quantisation is None else quantisation.method, dict(treatment)
    if method is not None:
        usual = {name: worse(support, method.stacks[name]) for name, support in usual.items()}
    model_type = family.wrapper or family.model_type
    return usual | elsewhere("checkpoint", model_type, biases, usual, is_quantised=method is not None)


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[ConfigChange]:
    for key in dict.fromkeys([*old, *new]):
        if (key in old) != (key in new) or old.get(key) != new.get(key):
            yield ConfigChange(key, old.get(key), new.get(key))


def read_bias(checkpoint: Checkpoint, header: TensorHeader, width: int) -> np.ndarray:
    """Read an existing bias as float32 ``[width]``.

    Raises:
        BrokenFileError: another shape, no floats, a NaN or infinity.
    """
    if header.shape != (width,):
        raise BrokenFileError(f"{header.file}: {header.name} has shape {list(header.shape)}, not [{width}]")
    values = decode(header, checkpoint.read(header))
    if not np.isfinite(values).all():
        raise BrokenFileError(f"{header.file}: {header.name} has a NaN or infinity")
    return values


def refuse_dormant(header: TensorHeader, values: np.ndarray) -> None:
    """Refuse a bias that the base ignores and that the new config would switch on; zeros are harmless.

    Raises:
        BrokenFileError: a value is not zero.
    """
    if values.any():
        raise BrokenFileError(
            f"{header.file}: holds {header.name}, which the base's class ignores (a bake that never worked?); "
            "start from the original model"
        )


def add_new_rope(config: dict[str, Any]) -> None:
    """Write ``rope_parameters`` (transformers 5) beside ``rope_theta`` and ``rope_scaling``."""
    if isinstance(config.get("rope_parameters"), Mapping):
        return
    scaling = config.get("rope_scaling")
    parameters = dict(scaling) if isinstance(scaling, Mapping) else {}
    parameters.setdefault("rope_type", parameters.get("type", "default"))
    parameters["rope_theta"] = config.get("rope_theta", 10000.0)
    config["rope_parameters"] = parameters


def add_old_rope(config: dict[str, Any]) -> None:
    """Write ``rope_theta`` and ``rope_scaling`` beside ``rope_parameters``.

    transformers 5 saves the latter only; mlx-lm and transformers 4 then miss the base frequency or silently use a
    default. One set of parameters per layer type (Gemma 3) has no single old spelling and stays as it is.
    """
    parameters = config.get("rope_parameters")
    if not isinstance(parameters, Mapping) or any(isinstance(v, Mapping) for v in parameters.values()):
        return
    if "rope_theta" not in config and "rope_theta" in parameters:
        config["rope_theta"] = parameters["rope_theta"]
    if "rope_scaling" not in config and parameters.get("rope_type", "default") != "default":
        config["rope_scaling"] = {k: v for k, v in parameters.items() if k != "rope_theta"}
