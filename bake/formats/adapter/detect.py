"""Tells adapters of PEFT from whole models, without opening either."""

from __future__ import annotations

import os

from ...core.side_files import INDEX, SINGLE
from ...storage.model_name import ModelName

CONFIG_FILE = "adapter_config.json"


def is_adapter(model: ModelName) -> bool:
    """True if the model is an adapter: it has the config of one, and no weights of a whole model."""
    if model.kind == "hub":
        from ...storage.hub.download import holds_adapter

        return holds_adapter(model.name, model.revision)
    files = (model.path / name for name in (SINGLE, INDEX))
    return model.kind == "folder" and (model.path / CONFIG_FILE).is_file() and not any(map(os.path.lexists, files))
