"""Finished outputs that are adapters, or that were made of one, as verification sees them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from ...core.biases import norm_of
from ...core.check import Check
from ...core.effect import Effect
from ...core.plan import BakePlan
from ...core.record import RECORD_FILE, Record, RecordedBias
from ...core.tensors import TensorHeader
from ...errors import VerifyError
from ..check.biases import misplaced_bias, stored_biases, wrong_norm
from ..check.output import StoredModel
from ..checkpoint.check import CheckpointOutput, FolderOutput
from ..checkpoint.model import Checkpoint
from ..checkpoint.projections import branch_scale
from ..checkpoint.recording import Ingredients
from .lora import PREFIX, Lora, read_lora
from .open import Adapter
from .plan import adapter_homes, complete_adapter, find_adapted_family, lay_out_adapter
from .served import with_adapter
from .steered_lora import lay_out_lora, lora_homes


@dataclass(frozen=True, eq=False)
class Adapted:
    """A base and an adapter of it, from which a bake is planned again; satisfies `StoredModel` as the base."""

    base: Checkpoint
    adapter: Adapter

    @property
    def name(self) -> str:
        """Name in messages."""
        return self.base.name

    @property
    def folder(self) -> Path | None:
        """Folder of the base's files; None for a commit on the Hub."""
        return self.base.folder

    @property
    def tensors(self) -> Mapping[str, TensorHeader]:
        """Tensors of the base."""
        return self.base.tensors

    def read(self, tensor: TensorHeader) -> bytes:
        """Read the bytes of one tensor of the base."""
        return self.base.read(tensor)

    def read_column(self, tensor: TensorHeader, column: int) -> bytes:
        """Read a column of a matrix of the base."""
        return self.base.read_column(tensor, column)


def _adapted(base: StoredModel) -> Adapted:
    """`base`, with its adapter.

    Raises:
        VerifyError: it has none.
    """
    if not isinstance(base, Adapted):
        raise VerifyError("the bake was made of an adapter as well; give `adapter`")
    return base


@dataclass(frozen=True, eq=False)
class AdapterOutput(FolderOutput):
    """A finished adapter; satisfies `emobake.formats.check.output.Output`."""

    model: Adapter
    record: Record
    record_name: str = RECORD_FILE

    @property
    def shape(self) -> tuple[int | None, int]:
        """The hidden size; an adapter does not tell the number of layers."""
        biases = [self.model.tensors[b.tensor] for b in self.record.biases if b.tensor in self.model.tensors]
        return None, biases[0].shape[0] if biases else 0

    def structure(self) -> Iterator[Check]:
        """Check the config's switch, and that the matrices are zero."""
        config, tensors = self.model.config, self.model.tensors
        on = config.get("lora_bias") is True and config.get("peft_type") == "LORA"
        yield Check("config honours the bias", on, "lora_bias is on" if on else "lora_bias is off: it would do nothing")
        matrices = [tensor for name, tensor in tensors.items() if not name.endswith(".bias")]
        loud = [tensor.name for tensor in matrices if any(self.model.read(tensor))]
        yield Check("zero matrices", not loud, f"{loud[0]} is not zero" if loud else f"{len(matrices)} are zero")

    def plan_again(self, base: StoredModel) -> BakePlan:
        """Plan the same adapter; the one that it is used beside, if it is given, must be the one of the record."""
        if not isinstance(base, Adapted):
            return super().plan_again(base)
        plan = self.plan_of(base.base)
        return replace(plan, record=replace(plan.record, adapter=base.adapter.recorded("beside")))

    def plan_of(self, base: Checkpoint) -> BakePlan:
        """Plan the same adapter."""
        record = self.record
        family = find_adapted_family(base, record.vectors.site)
        biases = stored_biases(self, adapter_homes(base, family))
        plan = lay_out_adapter(base, family, biases, Ingredients.of(record, branch_scale(base, family)))
        if record.adapter is not None:
            plan = replace(plan, record=replace(plan.record, adapter=record.adapter))
        return complete_adapter(plan, Effect.of(plan.record, biases), base)


@dataclass(frozen=True, eq=False)
class LoraOutput(FolderOutput):
    """A LoRA that was steered; satisfies `emobake.formats.check.output.Output`."""

    model: Adapter
    record: Record
    record_name: str = RECORD_FILE

    @property
    def shape(self) -> tuple[int | None, int]:
        """The hidden size; an adapter does not tell the number of layers."""
        biases = [self.model.tensors[b.tensor] for b in self.record.biases if b.tensor in self.model.tensors]
        return None, biases[0].shape[0] if biases else 0

    def structure(self) -> Iterator[Check]:
        """Check the config's switch and targets, the tensors of the LoRA, and that those added besides are zero."""
        lora, tensors = read_lora(self.model), self.model.tensors
        on = self.model.config.get("lora_bias") is True
        modules = [_module_of(entry.tensor) for entry in self.record.biases]
        named = all(lora.names(modules))
        said = "lora_bias is on" if on and named else "a projection is no target" if on else "lora_bias is off"
        yield Check("config honours the bias", on and named, said if on and named else f"{said}: UNSTEERED")
        own = {entry.tensor for entry in self.record.biases}
        added = [name for name in self.record.added if name not in own]
        loud = next((name for name in added if name not in tensors or any(self.model.read(tensors[name]))), "")
        yield Check("zero tensors", not loud, f"{loud} is missing or not zero" if loud else f"{len(added)} are zero")
        given = tensors.keys() - {*self.record.added, *own}
        same = self.record.adapter is not None and self.model.digest_of(given) == self.record.adapter.sha256
        what = f"{len(given)} tensors" if same else "are not what the bake was given: the LoRA was changed"
        yield Check("the LoRA's tensors", same, what)

    def plan_again(self, base: StoredModel) -> BakePlan:
        """Plan the same bake of the adapter."""
        both, record = _adapted(base), self.record
        family = find_adapted_family(both.base, record.vectors.site)
        lora = read_lora(both.adapter)
        biases = stored_biases(self, lora_homes(lora, both.base, family))
        plan = lay_out_lora(lora, both.base, family, biases, Ingredients.of(record, branch_scale(both.base, family)))
        return complete_adapter(plan, Effect.of(plan.record, biases), both.base)

    def plan_of(self, base: Checkpoint) -> BakePlan:
        """A base alone does not give a LoRA; raises VerifyError."""
        return self.plan_again(base)

    def misplaced(self, entry: RecordedBias, base: StoredModel | None, row: np.ndarray) -> str:
        """Compare the tensor to the bit, after the division by the LoRA's factor."""
        if wrong := wrong_norm(entry, row):
            return wrong
        value = row / np.float32(self._scaling(entry))
        entry = replace(entry, norm=norm_of(value))
        return misplaced_bias(self.model, self.record, entry, _adapter_of(base), value)

    def added_rows(self, base: StoredModel) -> dict[int, np.ndarray]:
        """Layer -> what the output adds at the site of its vectors, float32 ``[hidden]``."""
        rows = super().added_rows(_adapted(base).adapter)
        return {entry.layer: rows[entry.layer] * np.float32(self._scaling(entry)) for entry in self.record.biases}

    def _scaling(self, entry: RecordedBias) -> float:
        module = self._lora.modules.get(_module_of(entry.tensor))
        return 1.0 if module is None else module.scaling

    @cached_property
    def _lora(self) -> Lora:
        return read_lora(self.model)


@dataclass(frozen=True, eq=False)
class AdaptedOutput(CheckpointOutput):
    """A baked checkpoint that carries an adapter, or that one was merged into before."""

    def plan_again(self, base: StoredModel) -> BakePlan:
        """Plan the same bake of the base and its adapter."""
        both = _adapted(base)
        merged = self.record.adapter is not None and self.record.adapter.how == "merged"
        return with_adapter(self.plan_of(both.base), both.base, both.adapter, merged=merged)


def _adapter_of(base: StoredModel | None) -> Adapter | None:
    return base.adapter if isinstance(base, Adapted) else None


def _module_of(tensor: str) -> str:
    """The module in the model that transformers builds of which a tensor is the bias."""
    return tensor.removeprefix(PREFIX).removesuffix(".lora_B.bias")
