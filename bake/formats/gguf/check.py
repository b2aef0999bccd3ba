"""The checks of a baked GGUF model that only GGUF models need."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ...core.check import Check
from ...core.plan import Rows, Span
from ...core.record import Record
from ...core.tensors import TensorHeader
from ...errors import InputError
from ..check import StoredModel, compare_tensors
from .architectures import find_gguf_architecture
from .as_llama import moved_rows
from .model import RECORD_KEY, GgufModel
from .plan import reordered

_CHANGED_KEYS = ("general.architecture", "general.base_model.", "emobake.", "split.")


@dataclass(frozen=True, eq=False)
class GgufOutput:
    """A baked GGUF model; satisfies `emobake.formats.check.Output`."""

    model: GgufModel
    record: Record
    record_name: str = RECORD_KEY

    @property
    def shape(self) -> tuple[int | None, int]:
        """Decoder layers and hidden size, by the metadata."""
        return self.model.num_hidden_layers, self.model.hidden_size

    def structure(self) -> Iterator[Check]:
        """Check the header, and that llama.cpp adds the bias in this architecture."""
        count = len(self.model.files)
        yield Check("header", True, f"{len(self.model.tensors)} tensors in {count} file{'s' * (count != 1)}")
        name, site = "architecture honours the bias", self.record.vectors.site
        try:
            found = find_gguf_architecture(self.model.architecture, site, self.model.name)
            yield Check(name, True, f"{found.name}: llama.cpp {found.sites[site]} it")
        except InputError as error:
            yield Check(name, False, str(error))

    def carried(self, base: StoredModel) -> Iterator[Check]:
        """Compare tensor by tensor, and the metadata; rows of q and k may have moved."""
        if not isinstance(base, GgufModel):
            return
        moved = moved_rows(base) if base.architecture != self.model.architecture else {}

        def expected(tensor: TensorHeader) -> Span | Rows:
            if tensor.name in moved:
                return reordered(tensor, moved[tensor.name])
            return Span(tensor.file, tensor.start, tensor.size)

        note = f", {len(moved)} of them with rows in llama's order" if moved else ""
        yield compare_tensors(self, base, expected, note)
        yield self._metadata(base)

    def _metadata(self, base: GgufModel) -> Check:
        """Compare the bytes of all metadata of the base, its tokenizer first of all."""
        name, other = "carried metadata", self.model.header.by_key
        kept = [field for field in base.header.fields if not field.key.startswith(_CHANGED_KEYS)]
        for field in kept:
            prefix, _, rest = field.key.partition(".")
            key = f"{self.model.architecture}.{rest}" if prefix == base.architecture else field.key
            found = other.get(key)
            if found is None or (found.kind, found.data) != (field.kind, field.data):
                return Check(name, False, f"{key} is not the base's")
        return Check(name, True, f"{len(kept)} fields, byte-identical to the base")
