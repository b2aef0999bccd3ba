"""A live model together with the vectors that fit it, for what steers while it runs: chat, evaluation, tuning."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..core.vector_set import VectorSet, fitted, require_site
from ..errors import InputError
from ..formats.checkpoint.model import Checkpoint
from ..storage.files import reading
from ..storage.model_name import is_gguf, is_local, split_revision
from ..vectors.find import find_vectors, known_ids
from .loading import LiveModel, load


def open_steered(
    model: str | os.PathLike[str],
    vectors: str | os.PathLike[str] | None,
    *,
    accept: Callable[[VectorSet], object],
    revision: str | None = None,
    base_model: str = "",
    vectors_for: str = "",
    site: str = "",
    dtype: str = "auto",
    device: str = "auto",
    device_map: str | None = None,
) -> tuple[LiveModel, VectorSet]:
    """The model, its `arch` at the vectors' site, and the vectors with a row for each of its layers.

    All that can be is found wrong before the model is loaded; `accept` sees the vectors and may refuse by raising.

    Raises:
        InputError: no such model or vectors, or they do not fit one another. EmobakeError: the model does not load.
    """
    name, revision = split_revision(model, revision)
    if vectors is not None and vectors_for:
        raise InputError("--vectors and --vectors-for are two ways to name a set; give one")
    with reading():
        if is_gguf(name):
            raise InputError(f"{name}: only checkpoints run here; bake it into a .gguf and run that in llama.cpp")
        if is_local(name, revision) and not Path(name).is_dir():
            raise InputError(f"{name}: no such folder")
        ids = known_ids(name, revision, base_model, vectors_for) if vectors is None else ()
        found = find_vectors(vectors, None, model=name, ids=ids, site=site)
    require_site(found, site)
    accept(found)

    def check(config: Mapping[str, Any]) -> None:
        nonlocal found
        read = Checkpoint(name, config, (), {}, lambda header: b"")
        found = fitted(found, read.num_hidden_layers, read.hidden_size, name)

    live = load(
        name,
        revision=revision,
        base_model=base_model,
        dtype=dtype,
        device=device,
        device_map=device_map,
        check=check,
    )
    return replace(live, arch=replace(live.arch, site=found.site)), found
