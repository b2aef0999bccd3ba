"""The checks of a baked checkpoint, and what an adapter's have in common with them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from ...core.biases import Column
from ...core.check import Check
from ...core.effect import Effect
from ...core.plan import BACKEND, BakePlan, PlannedFile
from ...core.record import RECORD_FILE, Record, RecordedBias
from ...core.tensors import FLOATS
from ...core.undo import UNDO_FILE
from ...errors import VerifyError
from ...storage.comparing import OutputFiles
from ..check.biases import misplaced_bias, misplaced_column, stored_biases, stored_values
from ..check.output import StoredModel
from .language_model import language_model
from .model import Checkpoint
from .plan import complete, lay_out
from .projections import branch_scale
from .recording import Ingredients
from .routes import declared_classes, route_by_name
from .routes.head import check_heads
from .routes.value import made_row, misplaced_values
from .wrappers import family_of, language_config


class FolderOutput(ABC):
    """A finished folder that was made of a checkpoint: another checkpoint, or an adapter."""

    model: StoredModel
    record: Record

    @property
    def names(self) -> tuple[str, ...] | None:
        """None: all files of the folder or repository."""
        return None

    def digests(self, files: OutputFiles) -> Mapping[str, str]:
        """Digests of the files that the record names."""
        return {name: files.digest(name) for name in self.record.digests if name in files.sizes}

    def undo_digest(self, files: OutputFiles) -> str:
        """Digest of the file."""
        return files.digest(UNDO_FILE) if UNDO_FILE in files.sizes else ""

    def plan_again(self, base: StoredModel) -> BakePlan:
        """Plan the same bake.

        Raises:
            VerifyError, InputError: as `emobake.formats.check.output.Output.plan_again`.
        """
        if not isinstance(base, Checkpoint):
            raise VerifyError(f"{base.name} is not a checkpoint")
        return self.plan_of(base)

    @abstractmethod
    def plan_of(self, base: Checkpoint) -> BakePlan:
        """Plan the same bake of `base`, with the biases that the output holds."""

    def misplaced(self, entry: RecordedBias, base: StoredModel | None, row: np.ndarray) -> str:
        """Compare the tensor to the bit."""
        return misplaced_bias(self.model, self.record, entry, base, row)

    def added_rows(self, base: StoredModel) -> dict[int, np.ndarray]:
        """Layer -> what the output adds to `base` at the site of its vectors, float32 ``[hidden]``.

        Raises:
            VerifyError: a bias of the record is missing.
        """
        scale, found = np.float32(self.record.branch_scale), {}
        for entry in self.record.biases:
            old = None if self.record.made(entry) else stored_values(base, entry)
            found[entry.layer] = self._row_of(entry, stored_values(self.model, entry), old) * scale
        return found

    def _row_of(self, entry: RecordedBias, values: np.ndarray, old: np.ndarray | None) -> np.ndarray:
        """The row that a bias of `values` adds, which were `old` in the base; most are the row."""
        return values if old is None else values - old

    def explain(self, planned: PlannedFile, offset: int) -> str:
        """The tensor at an offset of a weight file."""
        return tensor_at(self.model, planned.name, offset)


@dataclass(frozen=True, eq=False)
class CheckpointOutput(FolderOutput):
    """A baked checkpoint, in a folder or on the Hub; satisfies `emobake.formats.check.output.Output`."""

    model: Checkpoint
    record: Record
    record_name: str = RECORD_FILE

    @property
    def shape(self) -> tuple[int | None, int]:
        """Decoder layers and hidden size, by the config."""
        return self.model.num_hidden_layers, self.model.hidden_size

    def structure(self) -> Iterator[Check]:
        """Check headers, the config's switch and the zeros of siblings."""
        yield Check("index and headers", True, f"{len(self.model.tensors)} tensors in {len(self.model.weights)} files")
        yield self._config_adds_bias()
        yield check_heads(self.model, self.record) if self._by_heads else self._siblings_zero()

    def misplaced(self, entry: RecordedBias, base: StoredModel | None, row: np.ndarray) -> str:
        """Compare the tensor, or the column, to the bit; a bias of the values by what it makes."""
        if self._is_solved:
            return misplaced_values(self.model, self.record, entry, base, row)
        if entry.column is None:
            return super().misplaced(entry, base, row)
        tensor = self.model.tensors[entry.tensor]
        if tensor.dtype not in FLOATS or len(tensor.shape) != 2:
            return f"{entry.tensor} is not the output projection of a layer of {self.model.name}"
        return misplaced_column(self, Column(entry.column, tensor.dtype), entry, base, row)

    def plan_of(self, base: Checkpoint) -> BakePlan:
        """Plan the same bake by the route of the record."""
        record = self.record
        if record.text_only and not base.text_only:
            base = language_model(base)
        route = route_by_name(
            record.route,
            base.config,
            base.name,
            record.vectors.site,
            tensor_parallel=record.tensor_parallel,
            columns=base.columns,
            quantisation=base.quantisation,
        ).again(record)
        recast = route.recast(base)
        biases = stored_biases(self, route.homes(recast))
        plan = lay_out(recast, route, biases, Ingredients.of(record, branch_scale(recast, route.result)), base)
        if record.persona is not None:
            # The card tells of them.
            plan = replace(plan, targets=record.persona.targets)
        return complete(plan, Effect.of(plan.record, biases), recast)

    def _config_adds_bias(self) -> Check:
        name, config = "config honours the bias", self.model.config
        family = family_of(config, self.record.vectors.site)
        flag, always = (None, False) if family is None else (family.flag, family.always)
        if self._by_heads and family is not None and family.head is not None:
            flag, always = family.head.flags[0], False
        if self._is_solved and family is not None and family.value is not None:
            flag, always = family.value.flag, False
        if family is None or not (flag or always):
            return Check(name, False, f"{config.get('model_type')} has no such bias: it would load UNSTEERED")
        classes = declared_classes(config)
        wanted = (family.backend.name,) if self._by_backend and family.backend is not None else family.classes
        strange = [declared for declared in classes if declared not in wanted]
        if strange or not classes:
            said = f"name {strange[0]}" if strange else "are missing"
            return Check(name, False, f"architectures {said}, not {wanted[0]}: it could load UNSTEERED")
        if "auto_map" in config:
            return Check(name, False, "auto_map names code of the checkpoint: it could load UNSTEERED")
        value = language_config(config).get(str(flag), family.flag_default)
        if not always and value is not True:
            said = "off" if value is False else f"{value!r}, not true,"
            return Check(name, False, f"{flag} is {said} in config.json: it could load UNSTEERED")
        return Check(name, True, f"{family.label}: " + (f"{flag} is on" if flag else "always"))

    @property
    def _by_heads(self) -> bool:
        """True if the bias is a column behind a head that the bake has added."""
        return self.record.route == "head"

    @property
    def _is_solved(self) -> bool:
        """True if the bias is one of the values, solved so that the output projection makes the row."""
        return self.record.route == "value"

    def _row_of(self, entry: RecordedBias, values: np.ndarray, old: np.ndarray | None) -> np.ndarray:
        """The row that the output projection makes, where the bias is one of the values."""
        if self._is_solved:
            return made_row(self.model, entry, values, old)
        return super()._row_of(entry, values, old)

    @property
    def _by_backend(self) -> bool:
        """True if the bake told vLLM to run transformers' class."""
        return self.record.route.endswith(BACKEND)

    def _siblings_zero(self) -> Check:
        own = {entry.tensor for entry in self.record.biases}
        siblings = [name for name in sorted(self.record.added) if name not in own]
        for name in siblings:
            header = self.model.tensors.get(name)
            if header is None or any(self.model.read(header)):
                return Check("sibling biases", False, f"{name} is missing or not zero")
        return Check("sibling biases", True, f"{len(siblings)} explicit zeros" if siblings else "none are needed")


def tensor_at(model: StoredModel, file: str, offset: int) -> str:
    """The tensor of `file` that the byte at `offset` belongs to, in words; else that it is in the header."""
    tensors = [tensor for tensor in model.tensors.values() if tensor.file == file]
    found = next((tensor.name for tensor in tensors if tensor.start <= offset < tensor.end), "")
    if found:
        return f"{found} differs"
    return "the header differs" if any(offset < tensor.start for tensor in tensors) else ""
