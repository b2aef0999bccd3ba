"""Reading back the record of a bake, and what a check of it finds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, VerifyError
from ..formats.checkpoint.families import Site
from ..formats.safetensors import parse_json_object
from ..storage.files import read_small
from .vector_set import MAX_LAYERS, SITE, SITES, Steering, VectorSet, fitted, weighted_sum


@dataclass(frozen=True)
class Check:
    """One finding. `ok` is None for what is reported but not judged."""

    name: str
    ok: bool | None
    detail: str

    def as_dict(self) -> dict[str, Any]:
        """The finding as plain data, for ``--json``."""
        return asdict(self)


@dataclass(frozen=True)
class RecordedBias:
    """One bias of a projection, as ``emobake.json`` records it."""

    layer: int
    tensor: str
    sha256: str
    norm: float
    """Euclidean norm of what the bake added."""


@dataclass(frozen=True)
class Record:
    """What checking needs of an ``emobake.json``."""

    adapters: tuple[str, ...]
    """Folders of the adapters, when the output is several; then the rest is empty."""
    is_adapter: bool
    steering: Steering
    biases: tuple[RecordedBias, ...]
    added: frozenset[str]
    """Tensors that the base does not have."""
    vector_sha256: Mapping[str, str]
    base_model: str = ""
    """Hub id of the base; empty when it is not known."""
    base_revision: str = ""
    """Its commit; empty when the base was a folder."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Weight file of the output -> the base's file that it was carried over from."""
    site: Site = SITE
    """Where the vectors act."""
    vector_name: str = ""
    vector_source: str = ""
    vector_queries: Mapping[str, str] = field(default_factory=dict)
    """`emobake.vectors.VectorSet.queries`."""
    base_weights: tuple[str, ...] = ()
    """Names of the base's weight files."""
    history: tuple[Record, ...] = ()
    """What was baked before, the first bake first."""
    branch_scale: float = 1.0
    """What the biases are multiplied by on the way there."""


def read_record(out: Path) -> Record:
    """The ``emobake.json`` of the folder `out`.

    Raises:
        InputError: no such folder or file, or not a record of this version's kind.
    """
    return parse_record(read_manifest(out), f"{out}/emobake.json")


def read_manifest(out: Path) -> dict[str, Any]:
    """What a bake has written about itself: in the folder `out`, or into the metadata of the GGUF file `out`.

    Raises:
        InputError: no such folder or file, or not an output of emobake.
    """
    if out.suffix.lower() == ".gguf" and not out.is_dir():
        from ..formats.gguf.model import RECORD, open_gguf

        manifest = open_gguf(out).record
        if manifest is None:
            raise InputError(f"{out}: has no {RECORD} in its metadata, so it is not an output of emobake")
        return manifest
    if not out.is_dir():
        raise InputError(f"{out}: no such folder")
    file = out / "emobake.json"
    if not file.is_file():
        raise InputError(f"{out}: has no emobake.json, so it is not an output of emobake; bake it first")
    return parse_json_object(read_small(file, str(file)), str(file))


def parse_record(manifest: Mapping[str, Any], file: str) -> Record:
    """The record in a manifest that was read from `file`.

    Raises:
        InputError: not a record of this version's kind.
    """
    try:
        return _parse(manifest)
    except (AttributeError, KeyError, TypeError, ValueError, StopIteration, RecursionError):
        raise InputError(f"{file}: is not a record that this version of emobake writes; bake again") from None


def recorded_sum(record: Record, vectors: VectorSet, layers: int, hidden: int, name: str) -> np.ndarray:
    """What the bake of the model `name` added to its biases, by `vectors`: float32 ``[layers, hidden]``.

    Raises:
        VerifyError: these are not the vectors that the record names.
        VectorError: they do not fit the model.
    """
    if any(record.vector_sha256.get(file, digest) != digest for file, digest in vectors.sha256.items()):
        raise VerifyError("these vector files are not the ones that the record names")
    if vectors.site != record.site:
        raise VerifyError(f"{vectors.name} acts at the {vectors.site}, the record says {record.site}")
    added = weighted_sum(fitted(vectors, layers, hidden, name), record.steering)
    return np.asarray(added / np.float32(record.branch_scale))


def _parse(manifest: Mapping[str, Any]) -> Record:
    if manifest["format"] == "peft-each":
        folders = tuple(_plain_name(name) for name in _list(manifest["adapters"]))
        return Record(folders, True, Steering(()), (), frozenset(), {})
    if manifest["format"] not in ("checkpoint", "peft", "gguf"):
        raise ValueError
    layers = manifest["steered_layers"]
    base = manifest["base"]
    return Record(
        adapters=(),
        is_adapter=manifest["format"] == "peft",
        steering=Steering(
            tuple((name, _number(weight)) for name, weight in manifest["weights"].items()),
            _number(manifest["scale"]),
            None if layers is None else tuple(_layer(layer) for layer in _list(layers)),
        ),
        biases=tuple(
            RecordedBias(_layer(entry["layer"]), _text(entry["tensor"]), _text(entry["sha256"]), _number(entry["norm"]))
            for entry in _list(manifest["biases"])
        ),
        added=frozenset(_text(name) for name in _list(manifest["added_tensors"])),
        vector_sha256={file: _text(digest) for file, digest in dict(manifest["vectors"]["sha256"]).items()},
        base_model=_text(base["model"] or ""),
        base_revision=_text(base["revision"] or ""),
        files={name: _text(source) for name, source in dict(manifest["files"]).items()},
        vector_name=_text(manifest["vectors"]["name"]),
        vector_source=_text(manifest["vectors"].get("source") or ""),
        vector_queries={key: _text(value) for key, value in dict(manifest["vectors"].get("extraction") or {}).items()},
        base_weights=tuple(_text(weight["name"]) for weight in _list(base["weights"])),
        history=tuple(_parse(earlier) for earlier in _list(manifest.get("history", []))),
        branch_scale=_number(manifest.get("branch_scale", 1.0)),
        site=next(site for site in SITES if site == manifest["vectors"]["site"]),
    )


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float):
        raise TypeError
    return float(value)


def _layer(value: Any) -> int:
    if type(value) is not int or not 0 <= value < MAX_LAYERS:
        raise ValueError
    return value


def _plain_name(value: Any) -> str:
    if Path(_text(value)).name != value:
        raise ValueError
    return str(value)
