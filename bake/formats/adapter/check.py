"""The checks of a PEFT adapter that only adapters need."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...core.check import Check
from ...core.effect import Effect
from ...core.plan import BakePlan
from ...core.record import RECORD_FILE, Record
from ...core.tensors import TensorHeader
from ...errors import BrokenFileError, InputError
from ...storage.files import read_at, read_json
from ..check.biases import stored_biases
from ..checkpoint.check import FolderOutput
from ..checkpoint.model import Checkpoint
from ..checkpoint.projections import branch_scale
from ..checkpoint.recording import Ingredients
from ..safetensors import parse_header
from .plan import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    adapter_homes,
    complete_adapter,
    find_adapted_family,
    lay_out_adapter,
)


@dataclass(frozen=True, eq=False)
class Adapter:
    """An adapter whose header was read."""

    name: str
    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorHeader]

    def read(self, tensor: TensorHeader) -> bytes:
        """Read the bytes of one tensor."""
        return read_at(self.folder / tensor.file)(tensor.start, tensor.size)

    def read_column(self, tensor: TensorHeader, column: int) -> bytes:
        """An adapter has no columns that store a bias.

        Raises:
            BrokenFileError: always.
        """
        raise BrokenFileError(f"{self.name}: {tensor.name} stores no bias in column {column}")


def open_adapter(folder: Path) -> Adapter:
    """Open the adapter in `folder`.

    Raises:
        InputError: a file is missing; BrokenFileError: a file is malformed.
    """
    file = folder / WEIGHTS_FILE
    if not file.is_file():
        raise InputError(f"{file}: {'is not a file' if file.exists() else 'not found'}")
    headers = parse_header(str(file), file.stat().st_size, read_at(file))
    tensors = {header.name: replace(header, file=WEIGHTS_FILE) for header in headers}
    return Adapter(str(folder), folder, read_json(folder / CONFIG_FILE), tensors)


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

    def plan_of(self, base: Checkpoint) -> BakePlan:
        """Plan the same adapter."""
        record = self.record
        family = find_adapted_family(base, record.vectors.site)
        biases = stored_biases(self, adapter_homes(base, family))
        plan = lay_out_adapter(base, family, biases, Ingredients.of(record, branch_scale(base, family)))
        return complete_adapter(plan, Effect.of(plan.record, biases), base)
