"""The checks of a baked checkpoint that only checkpoints need."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ...core.check import Check
from ...core.record import RECORD_FILE, Record
from ...core.side_files import is_duplicate
from ..check import StoredModel, changed_tensors, compare_tensors, missing_or_extra
from .families import families
from .model import Checkpoint


@dataclass(frozen=True, eq=False)
class CheckpointOutput:
    """A baked checkpoint, in a folder or on the Hub; satisfies `emobake.formats.check.Output`."""

    model: Checkpoint
    record: Record
    record_name: str = RECORD_FILE

    @property
    def shape(self) -> tuple[int | None, int]:
        """Decoder layers and hidden size, by the config."""
        return self.model.num_hidden_layers, self.model.hidden_size

    def structure(self) -> Iterator[Check]:
        """Check headers, duplicates, the config's switch and the zeros of siblings."""
        yield Check("index and headers", True, f"{len(self.model.tensors)} tensors in {len(self.model.weights)} files")
        yield self._no_duplicates()
        yield self._config_adds_bias()
        yield self._siblings_zero()

    def carried(self, base: StoredModel) -> Iterator[Check]:
        """Compare tensor by tensor; on the Hub by the digests of whole files."""
        if self.model.folder is not None:
            yield compare_tensors(self, base)
        elif isinstance(base, Checkpoint):
            yield missing_or_extra(self, base) or self._same_files(base)

    def _no_duplicates(self) -> Check:
        found = [name for name in self.model.side_files if is_duplicate(name)]
        if found:
            return Check("no duplicate weights", False, f"{found[0]} lies beside the steered weights; remove it")
        return Check("no duplicate weights", True, "none beside the steered ones")

    def _config_adds_bias(self) -> Check:
        name, config = "config honours the bias", self.model.config
        family = families(self.record.vectors.site).get(str(config.get("model_type")))
        if family is None or not family.has_bias:
            return Check(name, False, f"{config.get('model_type')} has no such bias: it would load UNSTEERED")
        if not family.always and not config.get(str(family.flag), family.flag_default):
            return Check(name, False, f"{family.flag} is off in config.json: it would load UNSTEERED")
        return Check(name, True, f"{family.model_type}: " + (f"{family.flag} is on" if family.flag else "always"))

    def _siblings_zero(self) -> Check:
        own = {entry.tensor for entry in self.record.biases}
        siblings = [name for name in sorted(self.record.added) if name not in own]
        for name in siblings:
            header = self.model.tensors.get(name)
            if header is None or any(self.model.read(header)):
                return Check("sibling biases", False, f"{name} is missing or not zero")
        return Check("sibling biases", True, f"{len(siblings)} explicit zeros" if siblings else "none are needed")

    def _same_files(self, base: Checkpoint) -> Check:
        """Compare digests of whole files; files with overwritten biases would have to be read."""
        name = "carried tensors"
        ours, theirs = ({w.name: w for w in model.weights} for model in (self.model, base))
        edited = {self.model.tensors[tensor].file for tensor in changed_tensors(self.record)}
        total = 0
        for file, source in self.record.files.items():
            if file in edited:
                continue
            if file not in ours or source not in theirs or not ours[file].sha256:
                return Check(name, False, f"{file} is not there, or its digest is not known")
            if ours[file].sha256 != theirs[source].sha256:
                return Check(name, False, f"{file} is not the base's {source}")
            total += ours[file].size
        if set(self.record.files.values()) != set(theirs):
            return Check(name, False, "the record does not name every weight file of the base")
        count = len(self.record.files) - len(edited)
        compared = f"{count} file{'s' * (count != 1)}, {total / 1e6:,.0f} MB, with the digests of the base's"
        if any(weight.advertised for weight in (*self.model.weights, *base.weights)):
            compared += ", as the Hub lists them"
        if edited:
            return Check(name, None, f"{compared}; {len(edited)} with overwritten biases were not compared")
        return Check(name, True, compared)
