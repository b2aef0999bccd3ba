"""A live model together with vectors that fit it, for everything that steers while it runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ..core.vector_set import ModelShape, VectorSet, fitted
from ..errors import InputError
from ..formats.checkpoint.model import config_dimension
from ..storage.files import reading
from ..storage.model_name import ModelName
from ..vectors.find import SetOpener, Vectors, VectorSource
from .loading import LiveModel, Runtime, load


def open_steered(
    model: str | os.PathLike[str] | ModelName,
    vectors: Vectors | VectorSource | None,
    *,
    accept: Callable[[VectorSet], object],
    runtime: Runtime | None = None,
) -> tuple[LiveModel, VectorSet]:
    """Load a model with its vectors: the family is set to the vectors' site, the vectors have a row for each layer.

    Everything that can be checked is checked before the model is loaded. `accept` receives the vectors and may refuse
    them by raising.

    Raises:
        InputError: no such model or vectors, or they do not fit one another. ModelError: the model does not load.
    """
    name = ModelName.parse(model)
    opener = SetOpener(VectorSource.parse(vectors), name)
    with reading():
        if name.kind == "gguf":
            raise InputError(f"{name.name}: only checkpoints run here; bake it into a .gguf and run that in llama.cpp")
        if name.is_local and not name.path.is_dir():
            raise InputError(f"{name.name}: no such folder")
        found = opener.open(None)
    accept(found)

    def check(config: Mapping[str, Any]) -> None:
        nonlocal found
        layers, hidden = (config_dimension(config, name.name, field) for field in ("num_hidden_layers", "hidden_size"))
        found = fitted(found, ModelShape(name.name, layers, hidden))

    live = load(name, runtime, check=check)
    return replace(live, family=replace(live.family, site=found.site)), found
