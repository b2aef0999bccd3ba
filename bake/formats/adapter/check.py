"""The checks of a PEFT adapter that only adapters need."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...core.check import Check
from ...core.record import RECORD_FILE, Record
from ...core.tensors import TensorHeader
from ...errors import InputError
from ...storage.files import read_at, read_json
from ..check import StoredModel
from ..safetensors import parse_header
from .plan import CONFIG_FILE, WEIGHTS_FILE


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


def open_adapter(folder: Path) -> Adapter:
    """Open the adapter in `folder`.

    Raises:
        InputError: a file is missing; BrokenFileError: a file is malformed.
    """
    file = folder / WEIGHTS_FILE
    if not file.is_file():
        raise InputError(f"{file}: not found")
    headers = parse_header(str(file), file.stat().st_size, read_at(file))
    tensors = {header.name: replace(header, file=WEIGHTS_FILE) for header in headers}
    return Adapter(str(folder), folder, read_json(folder / CONFIG_FILE), tensors)


@dataclass(frozen=True, eq=False)
class AdapterOutput:
    """A finished adapter; satisfies `emobake.formats.check.Output`."""

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

    def carried(self, base: StoredModel) -> Iterator[Check]:
        """Nothing: an adapter holds no tensor of the base."""
        return iter(())
