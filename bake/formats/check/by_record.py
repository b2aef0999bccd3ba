"""The files of an output beside the digests and sizes that its record keeps, for want of a base."""

from __future__ import annotations

from collections.abc import Iterator

from ...core.check import Check
from ...core.side_files import REPLACED, is_carried
from ...storage.comparing import OutputFiles
from .biases import changed_tensors
from .others import check_others
from .output import Output


def check_by_record(output: Output, files: OutputFiles, no_base: str) -> Iterator[Check]:
    """Compare with what the record itself keeps, for want of a base."""
    record = output.record
    if record.digests:
        found = output.digests(files)
        wrong = [name for name, digest in record.digests.items() if found.get(name) != digest]
        for name in wrong:
            what = "is missing" if name not in found else "is not the one that the bake wrote or carried"
            yield Check("files as recorded", False, f"{name} {what}")
        if not wrong:
            yield Check("files as recorded", True, f"{len(record.digests)} digests match {output.record_name}")
    else:
        yield Check(
            "files as recorded",
            None,
            f"{output.record_name} is of an earlier version and has no digests: config, "
            f"tokenizer and the like were not checked; {no_base}",
        )
    yield from _weights_by_record(output, files, no_base)
    if output.names is None:
        known = [*record.digests, *record.files, *record.assembled]
        if not record.digests:
            known += [name for name in files.sizes if is_carried(name) or name.lower() in REPLACED]
            known += [tensor.file for tensor in output.model.tensors.values()]
        yield from check_others(files, known)


def _weights_by_record(output: Output, files: OutputFiles, no_base: str) -> Iterator[Check]:
    """Compare the sizes of carried weight files, and digests where both are known without reading them."""
    record = output.record
    if not set(output.model.tensors) - set(record.added):
        return
    weights = {weight.name: weight for weight in record.base.weights}
    changed = changed_tensors(record)
    overwritten = {tensor.file for name, tensor in output.model.tensors.items() if name in changed}
    proved = 0
    for name, source in record.files.items():
        weight = weights.get(source)
        if weight is None or files.sizes.get(name) != weight.size:
            yield Check("carried weights", False, f"{name} is not of the size of the base's {source}, or not there")
            return
        digest = files.weight_digest(name)
        if digest and weight.sha256 and name not in overwritten:
            proved += 1
            if digest != weight.sha256:
                yield Check("carried weights", False, f"{name} is not the base's {source}")
                return
    if record.files and proved == len(record.files):
        yield Check("carried weights", True, f"{proved} files have the digests of the base's")
    else:
        sized = "only their sizes compared" if record.files else "not compared"
        yield Check("carried weights", None, f"{sized}; {no_base}")
