"""Checking a PEFT adapter by its bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ...core.check import Check
from ...core.record import Record
from ...core.steering import weighted_sum
from ...core.strict_json import parse_json_object
from ...core.tensors import decode, encode
from ...core.vector_set import VectorSet
from ...errors import BrokenFileError
from ...storage.files import read_small
from ..safetensors import parse_header

_FILE = "adapter_model.safetensors"


def _tensors(out: Path) -> dict[str, tuple[bytes, np.ndarray]]:
    content = read_small(out / _FILE, str(out / _FILE))
    headers = parse_header(str(out / _FILE), len(content), lambda start, length: content[start : start + length])
    return {h.name: (content[h.start : h.end], decode(h, content[h.start : h.end])) for h in headers}


def adapter_biases(out: Path, record: Record) -> dict[int, np.ndarray]:
    """Layer -> the bias that the adapter adds, float32 ``[hidden]``."""
    tensors = _tensors(out)
    missing = [entry.tensor for entry in record.biases if entry.tensor not in tensors]
    if missing:
        raise BrokenFileError(f"{out / _FILE}: lacks {missing[0]}")
    return {entry.layer: tensors[entry.tensor][1] for entry in record.biases}


def check_adapter(out: Path, record: Record, vectors: VectorSet | None) -> Iterator[Check]:
    """Yield the findings on an adapter's config, matrices and biases."""
    config = parse_json_object(
        read_small(out / "adapter_config.json", f"{out}/adapter_config.json"), "adapter_config.json"
    )
    on = config.get("lora_bias") is True and config.get("peft_type") == "LORA"
    yield Check("config honours the bias", on, "lora_bias is on" if on else "lora_bias is off: it would do nothing")
    tensors = _tensors(out)
    biases = adapter_biases(out, record)
    loud = [name for name, (_, values) in tensors.items() if not name.endswith(".bias") and values.any()]
    yield Check(
        "zero matrices", not loud, f"{loud[0]} is not zero" if loud else f"{len(tensors) - len(biases)} are zero"
    )
    wrong = [
        entry.tensor for entry in record.biases if hashlib.sha256(tensors[entry.tensor][0]).hexdigest() != entry.sha256
    ]
    detail = f"{wrong[0]} is not what emobake.json records" if wrong else f"{len(biases)} digests match emobake.json"
    yield Check("biases as recorded", not wrong, detail)
    if vectors is None:
        yield Check("arithmetic", None, "biases compared with the manifest's digests only; give --vectors")
        return
    added = weighted_sum(vectors, record.steering) / np.float32(record.branch_scale)
    off = [
        e.tensor
        for e in record.biases
        if e.layer >= len(added) or tensors[e.tensor][0] != encode(added[e.layer], "F32")
    ]
    yield Check("arithmetic", not off, f"{off[0]} differs" if off else f"{len(biases)} biases equal, to the bit")
