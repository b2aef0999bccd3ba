"""Bakes into GGUF files: from another one, or from a checkpoint by llama.cpp's converter."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from ..core.arguments import require_choice
from ..core.outputs import OUTTYPES, SHARES, Folder, GgufFile
from ..core.plan import BakePlan, LeftOut, PlannedFile, new_file
from ..core.progress import no_progress
from ..core.record import RecordedBase
from ..core.side_files import is_carried
from ..core.sites import SITE
from ..core.stacks import Support
from ..core.strict_json import json_bytes
from ..core.vector_set import fitted
from ..errors import EmobakeError, InputError, OutputError, UnsupportedModelError
from ..formats.checkpoint.language_model import language_model_config
from ..formats.checkpoint.model import Checkpoint
from ..formats.checkpoint.open import Base, open_base, open_folder
from ..formats.checkpoint.routes import choose_route, find_family, may_have_heads
from ..formats.checkpoint.wrappers import wrapper_of
from ..formats.gguf.header import GgufHeader
from ..formats.gguf.model import PROJECTOR, RECORD_KEY, GgufModel, open_gguf, read_header, split_path
from ..formats.gguf.modelfile import MODELFILE_START, modelfile_path, write_modelfile
from ..formats.gguf.plan import make_converted_plan, make_gguf_plan
from ..formats.gguf.share import is_shared, is_shared_file, shared_names
from ..models.stacks.run_llama_cpp import NotInstalledError, convert, find_converter
from ..storage.comparing import FolderFiles
from ..storage.files import Sources, reading, sha256_of
from ..storage.local import check_files, holds_new, time_of_sources, write_files
from ..storage.publish import parents, staging, sync_folder
from .bake_checkpoint import bake_checkpoint
from .request import BakeRequest, BakeResult, Shared

_NO_VISION = (
    "the file holds the language model alone: for images, llama.cpp needs the model's mmproj file as well, which a "
    "bake does not change"
)
_INSTALL = (
    "it is in llama.cpp's repository: git clone --depth 1 https://github.com/ggml-org/llama.cpp, install its "
    "requirements/requirements-convert_hf_to_gguf.txt into an environment, and give `converter` "
    "'ENV/bin/python llama.cpp/convert_hf_to_gguf.py'"
)


def bake_into_gguf(request: BakeRequest) -> BakeResult:
    """Bake a GGUF model, or a checkpoint that is converted into one.

    Raises:
        InputError: the request cannot be carried out; nothing was written.
        OutputError: writing or converting failed; what was begun has been removed.
    """
    out = _check(request)
    if request.model.kind == "gguf":
        with reading():
            return _from_gguf(request, out)
    assert out is not None
    return _from_checkpoint(request, out)


def _check(request: BakeRequest) -> GgufFile | None:
    """Refuse arguments that do not go with a GGUF file; returns the output."""
    out, is_source = request.out, request.model.kind == "gguf"
    if request.push is not None:
        raise InputError("`push` does not go with a GGUF file; `hf upload` puts the file on the Hub")
    if request.format != "checkpoint":
        raise InputError(f"`format` {request.format} does not go with a GGUF file")
    if isinstance(out, Folder):
        if out.link_mode not in ("auto", "copy"):
            raise InputError(f"`link_mode` {out.link_mode}: a GGUF file is copied, because its header changes")
        raise InputError(f"`out` {out.target}: a baked GGUF is a file; give a name that ends in .gguf")
    if out is not None:
        _check_options(out, is_source)
    return out


def _check_options(out: GgufFile, is_source: bool) -> None:
    if is_source and (out.outtype or out.converter):
        raise InputError("`outtype` and `converter` go with a checkpoint as `model` and a .gguf as `out`")
    if out.outtype and out.outtype not in OUTTYPES:
        raise InputError(f"`outtype` {out.outtype}: is none of {', '.join(OUTTYPES)}")
    if out.keep_split and not is_source:
        raise InputError("`keep_split` goes with a split GGUF set as `model`")
    if out.share is not None:
        require_choice("share", out.share, SHARES)
        if not is_source:
            raise InputError("`share` goes with a GGUF file as `model`; convert the checkpoint first")
        if out.keep_split:
            raise InputError("`share` and `keep_split`: give one, for both say which set is written")


def _from_gguf(request: BakeRequest, out: GgufFile | None) -> BakeResult:
    model = open_gguf(request.model.path)
    out_or_model = out or GgufFile(request.model.path)
    targets = _targets(model, out_or_model)
    names = [path.name for path in targets]
    if out is not None and not request.dry_run:
        check_files(out, _recognisers(targets, out), model.paths)
    plan = make_gguf_plan(
        model,
        request.sets.open(request.emotions, model),
        request.recipe,
        names=shared_names(model, *names) if out_or_model.share else names,
        base_model=request.model.base_model,
        digests={path.name: sha256_of(path) for path in model.paths} if request.hash_files else None,
        force=request.force,
        tensor_parallel=request.tensor_parallel,
    )
    plan = _for_targets(request, replace(plan, left_out=tuple(_projectors(model))))
    plan = _with_modelfile(plan, model.header, out)
    result = _result(request, plan, out, request.model.base_model)
    if out is not None and out.share:
        result = _share(result, model, out)
    if out is not None and not request.dry_run:
        _write(request, result.plan, model, out)
        if out.share == "move":
            _remove_base(plan, model, out)
    return result


def _share(result: BakeResult, model: GgufModel, out: GgufFile) -> BakeResult:
    """Leave the shared file out of the plan if it is there already.

    Raises:
        InputError: another file is there; or the base shall be moved, and would be lost in part, or is a link or mood.
    """
    plan = result.plan
    if out.share == "move":
        if is_shared(model) or any(path.is_symlink() for path in model.paths):
            raise InputError(f"`share` move: {model.name} is a mood or a link, not a file of its own; use `share` keep")
        if plan.overwritten:
            raise InputError(f"`share` move: {model.name} has biases, which would be lost; use `share` keep")
    file = next(file for file in plan.files if file.shared)
    found = _is_there(file, model, out.target.with_name(file.name))
    shared = Shared(file.name, file.size, found, moved=out.share == "move")
    kept = tuple(one for one in plan.files if one is not file or not found)
    return replace(result, plan=replace(plan, files=kept), shared=shared)


def _is_there(file: PlannedFile, model: GgufModel, path: Path) -> bool:
    """True if the planned shared file is at `path`.

    A file with its new bytes, its size and its time of change is taken for it, as rsync does; one of another time is
    read whole.

    Raises:
        InputError: another file is there.
    """
    if not os.path.lexists(path):
        return False
    if is_shared(model) and path.is_file() and path.samefile(model.paths[1]):
        return True
    sources = Sources(model.folder)
    same = path.is_file() and not path.is_symlink() and path.stat().st_size == file.size and holds_new(file, path)
    if same and path.stat().st_mtime_ns != time_of_sources(file, sources):
        same = bool(FolderFiles(path.parent, sources).compare(file).same)
    if not same:
        raise InputError(f"{path}: is not the file that moods of {model.name} share; choose another folder")
    return True


def _remove_base(plan: BakePlan, model: GgufModel, out: GgufFile) -> None:
    """Remove the base, once the shared file is seen to have all of its bytes.

    Raises:
        OutputError: it has not, or the base cannot be removed.
    """
    file = next(file for file in plan.files if file.shared)
    path = out.target.with_name(file.name)
    if not FolderFiles(path.parent, Sources(model.folder)).compare(file).same:
        raise OutputError(f"{path}: does not hold the bytes of {model.name}, which was kept; remove it and run again")
    try:
        for base in model.paths:
            base.unlink()
        sync_folder(model.folder)
    except OSError as error:
        raise OutputError(f"{error.filename}: is baked, but cannot be removed ({error.strerror})") from None


def _for_targets(request: BakeRequest, plan: BakePlan) -> BakePlan:
    """The plan with the targets of the request.

    Raises:
        UnsupportedModelError: one of them does not load the file steered.
    """
    for stack in request.targets:
        support = plan.stacks.get(stack, Support("refuses", note="it loads folders"))
        if support.status != "steered":
            raise UnsupportedModelError(f"{request.model.name}: {stack}, of `targets`, {support.clause}")
    return replace(plan, targets=request.targets)


def _projectors(model: GgufModel) -> Iterator[LeftOut]:
    """The files beside a model that make its tokens of images and sound, which the baked model needs as they are."""
    for path in sorted(model.folder.glob("*mmproj*.gguf")):
        with contextlib.suppress(EmobakeError, OSError):
            if path.is_file() and read_header(path).text("general.architecture") == PROJECTOR:
                yield LeftOut(path.name, "for images and sound; the baked model still needs it, as it is")


def _from_checkpoint(request: BakeRequest, out: GgufFile) -> BakeResult:
    """Bake a checkpoint and convert the result; where llama.cpp drops that, convert the base and bake its file."""
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
        return _result(request, _with_vision_warning(planned.plan), out, planned.base_model)
    target = out.target
    check_files(out, _recognisers([target], out), ())
    with parents(target), staging(target) as stage:
        folder = stage.new / "checkpoint"
        # By links, because the converter only reads.
        baked = bake_checkpoint(replace(part, out=Folder(folder, link_mode="symlink")))
        checkpoint = open_folder(folder)
        model = _converted(command, checkpoint, folder, out)
        plan = make_converted_plan(
            model, _with_vision_warning(baked.plan), request.sets.open(request.emotions), name=target.name
        )
        plan = _with_modelfile(_for_targets(request, plan), model.header, out)
        _write(request, plan, model, out)
    return _result(request, plan, out, baked.base_model)


def _converted_first(request: BakeRequest, out: GgufFile, command: list[str], base: Base) -> BakeResult:
    """Convert the base as it is, and bake the file that comes of it."""
    if request.dry_run:
        raise InputError(
            f"{base.name}: llama.cpp steers none of its forms, so its base is converted first and the file is baked; "
            "`dry_run` cannot plan that, because the file is not there yet"
        )
    target = out.target
    check_files(out, _recognisers([target], out), ())
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
        plan = make_gguf_plan(
            model,
            vectors,
            request.recipe,
            names=[target.name],
            base_model=base_model,
            force=request.force,
            tensor_parallel=request.tensor_parallel,
            base=RecordedBase(base_model, checkpoint.revision, checkpoint.weights),
        )
        if wrapper_of(checkpoint.config) is not None:
            plan = replace(plan, warnings=(*plan.warnings, _NO_VISION))
        plan = _with_modelfile(_for_targets(request, plan), model.header, out)
        _write(request, plan, model, out)
    return _result(request, plan, out, base_model)


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


def _result(request: BakeRequest, plan: BakePlan, out: GgufFile | None, base_model: str) -> BakeResult:
    written = None if out is None or request.dry_run else out.target
    return BakeResult(plan, written, str(request.model), base_model)


def _write(request: BakeRequest, plan: BakePlan, model: GgufModel, out: GgufFile) -> None:
    advance = request.progress("carrying over", 0, plan.bytes_carried)
    write_files(plan.files, model.folder, out, advance, model.stamps)


def _targets(model: GgufModel, out: GgufFile) -> list[Path]:
    """The files to write: one, or as many as the base has."""
    count = len(model.files)
    if out.keep_split and count == 1:
        raise InputError(f"`keep_split`: {model.name} is one file")
    target = out.target
    count = 2 if out.share else count
    is_set = out.share or out.keep_split
    return [split_path(target, number, count) for number in range(1, count + 1)] if is_set else [target]


def _recognisers(targets: list[Path], out: GgufFile) -> dict[Path, Callable[[Path], bool]]:
    """Output file -> a function that recognises an earlier output of emobake under its name."""
    recognisers: dict[Path, Callable[[Path], bool]] = dict.fromkeys(targets, is_our_gguf)
    if out.share:
        recognisers[targets[1]] = _is_our_link
    if out.modelfile:
        recognisers[modelfile_path(out.target)] = _is_our_modelfile
    return recognisers


def is_our_gguf(path: Path) -> bool:
    """True for a GGUF file that emobake has written."""
    with contextlib.suppress(EmobakeError, OSError):
        if path.is_file() and not path.is_symlink():
            header = read_header(path)
            # The further files of a split set have no metadata but their number.
            return bool(header.text(RECORD_KEY)) or (header.number("split.no") or 0) > 0
    return False


def _is_our_link(path: Path) -> bool:
    """True for the second file of a set: a link into the same folder, or a second name of a shared file."""
    with contextlib.suppress(EmobakeError, OSError):
        return (path.is_symlink() and len(path.readlink().parts) == 1) or is_shared_file(path) or is_our_gguf(path)
    return False


def _is_our_modelfile(path: Path) -> bool:
    return path.is_file() and path.read_bytes()[:2000].startswith(MODELFILE_START.encode())


def _with_vision_warning(plan: BakePlan) -> BakePlan:
    return replace(plan, warnings=(*plan.warnings, _NO_VISION)) if plan.multimodal else plan


def _with_modelfile(plan: BakePlan, header: GgufHeader, out: GgufFile | None) -> BakePlan:
    if out is None or not out.modelfile:
        return plan
    text, notes = write_modelfile(header, plan.files[0].name, plan.effect.recipe if plan.effect.steers else "")
    plan = replace(plan, warnings=(*plan.warnings, *notes))
    return plan.with_files(new_file(modelfile_path(out.target).name, text.encode()))
