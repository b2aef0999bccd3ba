"""Bakes of checkpoints into GGUF files, by llama.cpp's converter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..core.outputs import Folder, GgufFile
from ..core.plan import BakePlan
from ..core.progress import no_progress
from ..core.record import RecordedBase
from ..core.side_files import is_carried
from ..core.sites import SITE
from ..core.strict_json import json_bytes
from ..core.vector_set import fitted
from ..errors import InputError, OutputError, UnplannedError, UnsupportedModelError
from ..formats.checkpoint.language_model import language_model_config
from ..formats.checkpoint.model import Checkpoint
from ..formats.checkpoint.open import Base, open_base, open_folder
from ..formats.checkpoint.routes import choose_route, find_family, may_have_heads
from ..formats.checkpoint.wrappers import wrapper_of
from ..formats.gguf.model import GgufModel, open_gguf
from ..formats.gguf.plan import make_converted_plan, make_gguf_plan
from ..models.stacks.run_llama_cpp import NotInstalledError, convert, find_converter
from ..storage.files import reading
from ..storage.local import check_files
from ..storage.publish import parents, staging
from .bake_checkpoint import bake_checkpoint
from .bake_gguf import check_gguf, for_header, for_targets, recognisers, result_of, with_modelfile, write_gguf
from .request import BakeRequest, BakeResult

_NO_VISION = (
    "the file holds the language model alone: for images, llama.cpp needs the model's mmproj file as well, which a "
    "bake does not change"
)
_INSTALL = (
    "it is in llama.cpp's repository: git clone --depth 1 https://github.com/ggml-org/llama.cpp, install its "
    "requirements/requirements-convert_hf_to_gguf.txt into an environment, and give `converter` "
    "'ENV/bin/python llama.cpp/convert_hf_to_gguf.py'"
)


def bake_converted(request: BakeRequest) -> BakeResult:
    """Bake a checkpoint and convert the result; where llama.cpp drops that, convert the base and bake its file.

    Raises:
        InputError: the request cannot be carried out; nothing was written.
        OutputError: writing or converting failed; what was begun has been removed.
    """
    out = check_gguf(request)
    assert out is not None
    try:
        command = find_converter(out.converter or None)
    except NotInstalledError as error:
        raise InputError(f"{error}; {_INSTALL}") from None
    with reading():
        base = open_base(request.model, hash_files=request.hash_files)
        _refuse_quantisation(base)
        is_last = _is_baked_last(request, base)
    return _converted_first(request, out, command, base) if is_last else _baked_first(request, out, command)


def _refuse_quantisation(base: Base) -> None:
    """Refuse weights that the converter does not take.

    Raises:
        UnsupportedModelError: it does not.
    """
    found = base.quantisation
    if found is not None and found.method is not None and found.method.stacks["llama.cpp"].status == "refuses":
        raise UnsupportedModelError(
            f"{base.name}: llama.cpp's converter takes no weights of {found.label}; convert the model from before it "
            "was quantised, and give its .gguf as `model`"
        )


def _is_baked_last(request: BakeRequest, base: Base) -> bool:
    """True if it is better to bake the file that the converter makes of the base than to convert a baked checkpoint.

    Raises:
        InputError: (its subclasses) it is not known what the checkpoint is.
    """
    config = language_model_config(base.config, base.name) if request.text_only else base.config
    site = SITE if request.sets.by_model else request.sets.open(request.emotions).site
    if not find_family(config, base.name, site).in_gguf or may_have_heads(config, base.name, site):
        return False
    try:
        route = choose_route(
            config,
            base.name,
            ["llama.cpp"],
            site,
            tensor_parallel=request.tensor_parallel,
            quantisation=base.quantisation,
        )
    except UnsupportedModelError:
        return True
    # Solved for the weights of the file, which may be other ones.
    return route.name == "value"


def _baked_first(request: BakeRequest, out: GgufFile, command: list[str]) -> BakeResult:
    """Bake into a temporary checkpoint, convert it, and write the file with exact biases and a record."""
    part = replace(request, targets=("llama.cpp",), progress=no_progress)
    if request.dry_run:
        planned = bake_checkpoint(replace(part, out=None))
        return result_of(request, _with_vision_warning(planned.plan), out, planned.base_model)
    target = out.target
    check_files(out, recognisers([target], out), ())
    with parents(target), staging(target) as stage:
        folder = stage.new / "checkpoint"
        # By links, because the converter only reads.
        baked = bake_checkpoint(replace(part, out=Folder(folder, link_mode="symlink")))
        checkpoint = open_folder(folder)
        model = _converted(command, checkpoint, folder, out)
        persona, silent = for_header(request, model.header)
        vectors = request.sets.open(request.emotions)
        plan = make_converted_plan(model, _with_vision_warning(baked.plan), vectors, name=target.name, persona=persona)
        # The checkpoint's templates were looked at before.
        plan = replace(plan, warnings=tuple(dict.fromkeys((*silent, *plan.warnings))))
        plan = with_modelfile(for_targets(request, plan), model.header, out)
        write_gguf(request, plan, model, out)
    return result_of(request, plan, out, baked.base_model)


def _converted_first(request: BakeRequest, out: GgufFile, command: list[str], base: Base) -> BakeResult:
    """Convert the base as it is, and bake the file that comes of it."""
    if request.dry_run:
        raise UnplannedError(
            f"{base.name}: llama.cpp steers none of its forms, so its base is converted first and the file is baked; "
            "`dry_run` cannot plan that, because the file is not there yet"
        )
    target = out.target
    check_files(out, recognisers([target], out), ())
    with reading():
        checkpoint = base.open()
        vectors = fitted(request.sets.open(request.emotions), checkpoint.shape)
    if checkpoint.record is not None:
        raise InputError(f"{base.name}: was baked before, in a form that llama.cpp drops; start from its base")
    base_model = request.model.base_model or checkpoint.repo_id
    with parents(target), staging(target) as stage:
        folder = stage.new / "checkpoint"
        _link(checkpoint, folder)
        model = _converted(command, checkpoint, folder, out)
        persona, silent = for_header(request, model.header)
        plan = make_gguf_plan(
            model,
            vectors,
            request.recipe(vectors),
            names=[target.name],
            base_model=base_model,
            force=request.force,
            tensor_parallel=request.tensor_parallel,
            base=RecordedBase(base_model, checkpoint.revision, checkpoint.weights),
            persona=persona,
        )
        plan = replace(plan, warnings=(*silent, *plan.warnings))
        request.check_bounds(plan)
        if wrapper_of(checkpoint.config) is not None:
            plan = replace(plan, warnings=(*plan.warnings, _NO_VISION))
        plan = with_modelfile(for_targets(request, plan), model.header, out)
        write_gguf(request, plan, model, out)
    return result_of(request, plan, out, base_model)


def _link(checkpoint: Checkpoint, folder: Path) -> None:
    """Lay links to the files of a checkpoint into `folder`, without its code, which the converter would run."""
    assert checkpoint.folder is not None  # It was fetched.
    folder.mkdir()
    for name in (*(weight.name for weight in checkpoint.weights), *filter(is_carried, checkpoint.side_files)):
        link = folder / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to((checkpoint.folder / name).resolve())
    config = {key: value for key, value in checkpoint.config.items() if key != "auto_map"}
    (folder / "config.json").unlink(missing_ok=True)
    (folder / "config.json").write_bytes(json_bytes(config))


def _converted(command: list[str], checkpoint: Checkpoint, folder: Path, out: GgufFile) -> GgufModel:
    """Run llama.cpp's converter over a `folder` with the files of a checkpoint; opens the file that it makes beside.

    Raises:
        OutputError: it fails, or the checkpoint changes meanwhile.
    """
    made = folder.with_name("converted.gguf")
    try:
        convert(command, str(folder), made, out.outtype or "auto")
    except (RuntimeError, OSError) as error:
        raise OutputError(f"{error}; nothing was kept. The checkpoint alone: give `out` without .gguf") from None
    checkpoint.stamps.check()
    return open_gguf(made)


def _with_vision_warning(plan: BakePlan) -> BakePlan:
    return replace(plan, warnings=(*plan.warnings, _NO_VISION)) if plan.multimodal else plan
