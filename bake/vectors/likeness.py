"""The registered model that an unknown one may be, as a hint for its user; nothing is decided by it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import EmobakeError
from ..storage.files import read_json, read_small
from ..storage.model_name import ModelName
from .registry import RegisteredSet, registry

if TYPE_CHECKING:
    from ..formats.gguf.model import GgufModel


@dataclass(frozen=True)
class Likeness:
    """A registered set whose shape is that of a model."""

    entry: RegisteredSet
    why: str
    """Reason in words, to follow the model's name and a colon."""


def find_like(model: ModelName, gguf: GgufModel | None = None) -> Likeness | None:
    """Find the set for a model of the same type, number of layers and width; None if there is none.

    Looks at config.json and at the card of a local folder or a Hub model, or at the header of `gguf`.
    """
    with contextlib.suppress(EmobakeError, OSError):
        if gguf is not None:
            return _like(gguf.architecture, gguf.num_hidden_layers, gguf.hidden_size, "its header", gguf.name)
        if model.kind != "gguf":
            # Imported here: a bake into a GGUF file needs nothing else of checkpoints, and starts sooner without them.
            from ..formats.checkpoint.model import config_dimension

            config, card = _read(model)
            layers, hidden = (config_dimension(config, model.name, f) for f in ("num_hidden_layers", "hidden_size"))
            named = f"{config.get('_name_or_path', '')} {model.name} {card}"
            return _like(str(config.get("model_type")), layers, hidden, "its config.json", named)
    return None


def _like(model_type: str, layers: int, hidden: int, where: str, named: str) -> Likeness | None:
    same = [e for e in registry().sets if (e.model_type, e.layers, e.hidden_size) == (model_type, layers, hidden)]
    for entry in same:
        # The name without its owner is what folders and files are called by.
        if entry.base_model.rpartition("/")[2].lower() in named.lower():
            return Likeness(entry, f"its name and shape are those of {entry.base_model}")
    shape = f"{model_type}, {layers} layers x {hidden}"
    return Likeness(same[0], f"{where} has the shape of {same[0].base_model} ({shape})") if same else None


def _read(model: ModelName) -> tuple[Mapping[str, Any], str]:
    """config.json and the card."""
    if model.is_local:
        card = model.path / "README.md"
        text = read_small(card).decode("utf-8", "replace") if card.is_file() else ""
        return read_json(model.path / "config.json"), text
    from ..storage.hub.download import download_config

    return read_json(download_config(model.name, model.revision)), ""
