"""The vector sets and query sets that have a name. The data is ``vectors/registry.json``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

from ..core.strengths import Strength, parse_strengths


@dataclass(frozen=True)
class PublishedFile:
    """A file in a public repository on GitHub, at a commit."""

    repository: str
    commit: str
    path: str
    blob: str
    """Git's id of its content: sha1 of ``blob <size>\\0<content>``."""


@dataclass(frozen=True)
class RegisteredSet:
    """A vector set that is published, or shipped with emobake."""

    name: str
    base_model: str
    """Hub id of the model it was made from."""
    same_weights: tuple[str, ...]
    """Other Hub ids with the same weights."""
    model_type: str
    """``model_type`` in the model's config.json, and ``general.architecture`` of its GGUF files."""
    layers: int
    hidden_size: int
    license: str
    source: str
    shipped: str = ""
    """File in this package's data, for a shipped set."""
    files: Mapping[str, PublishedFile] = field(default_factory=dict)
    """Emotion -> file in the published form, for a set that is fetched."""
    strengths: Mapping[str, Strength] = field(default_factory=dict)
    """Emotion -> the strength that we measured."""
    by_name: bool = False
    """True if the model has another set, which is used unless this one is named."""


@dataclass(frozen=True)
class RegisteredQueries:
    """A published set of queries."""

    name: str
    file: PublishedFile
    groups: Mapping[str, int] = field(default_factory=dict)
    """Parts of a plain list in its order -> number of queries; empty if the file itself has names."""


@dataclass(frozen=True)
class Registry:
    """Everything that has a name."""

    sets: tuple[RegisteredSet, ...]
    queries: tuple[RegisteredQueries, ...]


@cache
def registry() -> Registry:
    """The registry of this version."""
    text = (resources.files("emobake.vectors_data") / "registry.json").read_text(encoding="utf-8")
    data = json.loads(text)
    return Registry(
        tuple(_set(entry) for entry in data["sets"]),
        tuple(
            RegisteredQueries(entry["name"], _file(entry, entry["file"]), entry.get("groups", {}))
            for entry in data["queries"]
        ),
    )


def set_names() -> tuple[str, ...]:
    """Names of all sets."""
    return tuple(entry.name for entry in registry().sets)


def models_with_sets() -> tuple[str, ...]:
    """Hub ids of the models that have a set."""
    return tuple(_by_model())


def find_by_name(name: str) -> RegisteredSet | None:
    """Find the set called `name`, in any case."""
    return next((entry for entry in registry().sets if entry.name == name.lower()), None)


def find_by_model(ids: Iterable[str]) -> RegisteredSet | None:
    """Find the set for the first of these Hub ids that has one; the Hub ignores the case of ids."""
    by_id = {model.lower(): entry for model, entry in _by_model().items()}
    return next((by_id[model.lower()] for model in ids if model.lower() in by_id), None)


def _by_model() -> dict[str, RegisteredSet]:
    """Hub id -> its set."""
    sets = [entry for entry in registry().sets if not entry.by_name]
    return {model: entry for entry in sets for model in (entry.base_model, *entry.same_weights)}


def _set(entry: dict[str, Any]) -> RegisteredSet:
    return RegisteredSet(
        entry["name"],
        entry["base_model"],
        tuple(entry["same_weights"]),
        entry["model_type"],
        entry["layers"],
        entry["hidden_size"],
        entry["license"],
        entry["source"],
        entry.get("shipped", ""),
        {emotion: _file(entry, file) for emotion, file in entry.get("files", {}).items()},
        parse_strengths(entry.get("strengths", {})) or {},
        entry.get("by_name", False),
    )


def _file(entry: dict[str, Any], file: dict[str, str]) -> PublishedFile:
    return PublishedFile(entry["repository"], entry["commit"], file["path"], file["blob"])
