"""The checks of a baked GGUF model that only GGUF models need."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ...core.check import Check
from ...core.plan import BakePlan, PlannedFile
from ...core.record import Record, RecordedBias
from ...core.tensors import TensorHeader
from ...core.totals import steers_in_total, total_recipe
from ...errors import InputError, VerifyError
from ...storage.comparing import OutputFiles
from ...storage.files import read_small
from ..check.biases import stored_biases
from ..check.output import StoredModel
from ..checkpoint.check import tensor_at
from .header import Described, parse_gguf
from .layout import METADATA, metadata_digest
from .model import RECORD_KEY, GgufModel
from .modelfile import MODELFILE_START, modelfile_path, write_modelfile
from .plan import OWN_KEYS, lay_out_files, lay_out_record
from .routes import ROUTES, GgufRoute, route_by_name
from .routes.tensor import TensorRoute
from .share import SharedNames, is_shared, joined
from .undo import undo_data


@dataclass(frozen=True, eq=False)
class GgufOutput:
    """A baked GGUF model; satisfies `emobake.formats.check.output.Output`."""

    model: GgufModel
    record: Record
    record_name: str = RECORD_KEY

    @property
    def shape(self) -> tuple[int | None, int]:
        """Decoder layers and hidden size, by the metadata."""
        return self.model.num_hidden_layers, self.model.hidden_size

    @property
    def names(self) -> tuple[str, ...] | None:
        """The model's files: other things may lie beside them."""
        return tuple(path.name for path in self.model.paths)

    def structure(self) -> Iterator[Check]:
        """Check the header, and that llama.cpp adds the bias in this architecture."""
        count = len(self.model.files)
        yield Check("header", True, f"{len(self.model.tensors)} tensors in {count} file{'s' * (count != 1)}")
        name, record = "architecture honours the bias", self.record
        try:
            yield Check(name, True, self._route.honours(self.model, record.vectors.site, record.biases))
        except InputError as error:
            yield Check(name, False, str(error))
        yield from self._modelfile()

    def _modelfile(self) -> Iterator[Check]:
        """Compare a Modelfile of ours beside the file with the one that a bake writes; people edit them."""
        path = self.model.paths[0]
        beside = modelfile_path(path)
        if len(self.model.files) > 1 or not beside.is_file():
            return
        found = read_small(beside).decode("utf-8", "replace")
        if found.startswith(MODELFILE_START):
            recipe = total_recipe(self.record) if steers_in_total(self.record) else ""
            same = found == write_modelfile(self.model.header, path.name, recipe, self.record.persona)[0]
            said = "is as a bake writes it" if same else "is not as a bake writes it (it was edited, or moved)"
            yield Check("Modelfile", True if same else None, f"{beside.name} {said}")

    def digests(self, files: OutputFiles) -> Mapping[str, str]:
        """Digest of the metadata and of the tensors' descriptions."""
        if is_shared(self.model):
            fields, tensors, _ = joined(self.model)
            return {METADATA: metadata_digest([(fields, _described(tensors))])}
        headers = self.model.files
        return {METADATA: metadata_digest((header.fields, _described(header.tensors)) for header in headers)}

    def undo_digest(self, files: OutputFiles) -> str:
        """Digest of what the metadata hold."""
        data = undo_data(self.model)
        return hashlib.sha256(data).hexdigest() if data else ""

    def plan_again(self, base: StoredModel) -> BakePlan:
        """Plan the same files, around the record that the output has.

        Raises:
            VerifyError, InputError: as `emobake.formats.check.output.Output.plan_again`.
        """
        if not isinstance(base, GgufModel):
            raise VerifyError(f"{base.name} is not a GGUF file")
        names = self.names or ()
        shared = is_shared(self.model)
        if not shared and len(names) not in (1, len(base.files)):
            raise VerifyError(f"the output has {len(names)} files, the base {len(base.files)}")
        record = self.record
        route = route_by_name(record.route, base, record.vectors.site, tensor_parallel=record.tensor_parallel)
        route = route.again(record)
        biases = stored_biases(self, route.homes)
        planned = replace(record.base, weights=base.weights)
        record = lay_out_record(route, biases, record.vectors, record.steering, planned, record.persona)
        own = [field for field in self.model.header.fields if field.key in OWN_KEYS]
        return lay_out_files(route, biases, record, SharedNames(*names) if shared else names, own=own)

    def misplaced(self, entry: RecordedBias, base: StoredModel | None, row: np.ndarray) -> str:
        """Ask the route."""
        return self._route.misplaced(self, entry, base, row)

    @property
    def _route(self) -> type[GgufRoute]:
        """The route's class. A file made from a checkpoint has the route of that, and its biases are tensors."""
        return next((kind for kind in ROUTES if kind.name == self.record.route), TensorRoute)

    def explain(self, planned: PlannedFile, offset: int) -> str:
        """The tensor at an offset of a file, or the entry of its metadata."""
        header = next(header for header in self.model.files if Path(header.file).name == planned.name)
        start = min((tensor.start for tensor in header.tensors), default=header.size)
        beginning = planned.pieces[0]
        if offset >= start or not isinstance(beginning, bytes):
            return tensor_at(self.model, planned.name, offset)

        def read(at: int, length: int) -> bytes:
            return beginning[at : at + length]

        wanted = parse_gguf(planned.name, planned.size, read)
        for key in [*wanted.by_key, *header.by_key]:
            ours, theirs = header.by_key.get(key), wanted.by_key.get(key)
            if ours is None or theirs is None or (ours.kind, ours.data) != (theirs.kind, theirs.data):
                return f"the metadata {key} differs"
        return "the header differs"


def _described(tensors: Iterable[TensorHeader]) -> list[Described]:
    return [Described(tensor.name, tensor.dtype, tensor.shape, tensor.size) for tensor in tensors]
