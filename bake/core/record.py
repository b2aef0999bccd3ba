"""Reading back the record of a bake, and what a check of it finds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .._version import __version__
from ..errors import InputError, VerifyError
from .plan import BakePlan, Carry, Patch
from .steering import Steering, weighted_sum
from .vector_set import MAX_LAYERS, SITE, SITES, Site, VectorSet, fitted


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


MANIFEST = "emobake.json"


def record_of(
    plan: BakePlan, vectors: VectorSet, form: str, base: Mapping[str, Any], earlier: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The record of a bake: no timestamps and no local paths, so that the same inputs give the same bytes.

    `form` is what the output is (``checkpoint``, ``peft``, ``gguf``), `base` what it was made of, and `earlier` the
    record of the base, when it was baked before.
    """
    record: dict[str, Any] = {
        "emobake_version": __version__,
        "format": form,
        "base": dict(base),
        "vectors": {
            "name": vectors.name,
            "site": vectors.site,
            "base_model": vectors.base_model or None,
            "source": vectors.source or None,
            "license": vectors.license or None,
            "extraction": vectors.queries or None,
            "sha256": dict(sorted(vectors.sha256.items())),
        },
        "weights": dict(plan.steering.weights),
        "scale": plan.steering.scale,
        "steered_layers": None if plan.steering.layers is None else list(plan.steering.layers),
        **({} if plan.branch_scale == 1 else {"branch_scale": plan.branch_scale}),
        "route": plan.route,
        "model_type": plan.model_type,
        "files": {
            f.name: f.source for f in plan.files if isinstance(f, Carry | Patch) and f.source.endswith(".safetensors")
        },
        "added_tensors": list(plan.added),
        "biases": [
            {
                "layer": b.layer,
                "tensor": b.tensor,
                "dtype": b.dtype,
                "norm": round(b.norm, 6),
                "sha256": b.sha256,
            }
            for b in plan.layers
        ],
    }
    if earlier is not None:
        earlier = dict(earlier)
        history = earlier.pop("history", [])
        record["history"] = [*(history if isinstance(history, list) else []), earlier]
    return record
