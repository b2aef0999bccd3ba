"""Bakes of a model that is an adapter: into the adapter, beside it, under it, or into what it is merged into."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ..core.outputs import Folder, GgufFile
from ..errors import InputError, UnsupportedModelError
from ..formats.adapter.open import Adapter, base_of, fetch_adapter
from ..formats.checkpoint.open import open_base
from ..storage.files import reading
from ..storage.local import check_folder
from ..storage.model_name import ModelName
from ..storage.publish import parents, staging
from ..vectors.find import SetOpener
from .bake_checkpoint import bake_checkpoint
from .request import BakeRequest, BakeResult


def bake_adapter(request: BakeRequest) -> BakeResult:
    """Bake an adapter.

    Raises:
        InputError, OutputError, HubError: as `bake`. MissingPackageError: `merge` without torch or PEFT.
    """
    with reading():
        adapter = fetch_adapter(request.model)
        base = base_of(adapter, request.base)
    base = replace(base, base_model=request.model.base_model)
    request = replace(request, model=base, adapter=adapter, sets=SetOpener(request.sets.source, base))
    if request.merge:
        return _merged(request, adapter)
    if isinstance(request.out, GgufFile):
        raise InputError(
            f"`out` {request.out.target}: an adapter is no GGUF file; give `merge`, or bake its base into one and "
            "serve the adapter on it (convert_lora_to_gguf.py)"
        )
    return bake_checkpoint(request)


@contextlib.contextmanager
def merged(adapter: Adapter, base: ModelName, folder: Path) -> Iterator[ModelName]:
    """Within the context, the checkpoint in `folder` is `base` with `adapter` merged into it by PEFT.

    Raises:
        MissingPackageError: torch, transformers or PEFT is not installed. ModelError: PEFT cannot merge it.
        UnsupportedModelError: the base is quantised, so that merging would not be exact.
    """
    from ..models.merging import merge

    opened = open_base(base)
    if opened.quantisation is not None:
        raise UnsupportedModelError(
            f"{base}: is quantised, so a merge would round every weight anew; leave `merge` out"
        )
    merge(opened.fetch(), adapter.folder, folder, adapter.name)
    name = ModelName.parse(folder, base_model=base.base_model or ("" if base.is_local else base.name))
    yield name


def _merged(request: BakeRequest, adapter: Adapter) -> BakeResult:
    """Merge the adapter, and bake the result."""
    from .bake_converted import bake_converted

    if adapter.record is not None:
        raise InputError(f"{adapter.name}: was steered before, and PEFT cannot merge that; start from the original")
    base, bake = request.model, bake_converted if isinstance(request.out, GgufFile) else bake_checkpoint
    if request.dry_run:
        return replace(bake(replace(request, adapter=None)), adapter=adapter.name)
    if isinstance(request.out, Folder):
        with reading():
            check_folder(request.out, (adapter.folder, *([base.path] if base.is_local else [])))
    with _beside(request) as place, merged(adapter, base, place / "merged") as model:
        result = bake(replace(request, model=model))
        adapter.stamps.check()
    return replace(result, model=str(base), adapter=adapter.name)


@contextlib.contextmanager
def _beside(request: BakeRequest) -> Iterator[Path]:
    """A folder for the merged checkpoint beside the output; without one, where temporary files are."""
    if request.out is None:
        with tempfile.TemporaryDirectory(prefix="emobake-") as folder:
            yield Path(folder)
        return
    with parents(request.out.target), staging(request.out.target) as stage:
        yield stage.new
