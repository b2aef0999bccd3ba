"""Bakes of GGUF files into GGUF files."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from ..core.arguments import require_choice
from ..core.outputs import OUTTYPES, SHARES, Folder, GgufFile
from ..core.plan import BakePlan, LeftOut, PlannedFile, new_file
from ..core.recorded_persona import RecordedPersona
from ..core.stacks import Support
from ..errors import EmobakeError, InputError, OutputError, UnsupportedModelError
from ..formats.gguf.header import GgufHeader
from ..formats.gguf.model import PROJECTOR, RECORD_KEY, GgufModel, open_gguf, read_header, split_path
from ..formats.gguf.modelfile import MODELFILE_START, modelfile_path, write_modelfile
from ..formats.gguf.plan import make_gguf_plan
from ..formats.gguf.share import is_shared, is_shared_file, shared_names
from ..formats.gguf.voice import find_templates
from ..storage.comparing import FolderFiles
from ..storage.files import Sources, reading, sha256_of
from ..storage.local import check_files, holds_new, time_of_sources, write_files
from ..storage.publish import sync_folder
from .request import BakeRequest, BakeResult, Shared


def bake_gguf(request: BakeRequest) -> BakeResult:
    """Bake a GGUF file into another one.

    Raises:
        InputError: the request cannot be carried out; nothing was written.
        OutputError: writing failed; what was begun has been removed.
    """
    with reading():
        return _from_gguf(request, check_gguf(request))


def check_gguf(request: BakeRequest) -> GgufFile | None:
    """Refuse arguments that do not go with a GGUF file; returns the output.

    Raises:
        InputError: one does not.
    """
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
    targets = targets_of(model, out_or_model)
    names = [path.name for path in targets]
    if out is not None and not request.dry_run:
        check_files(out, recognisers(targets, out), model.paths)
    vectors = request.sets.open(request.emotions, model)
    persona, silent = for_header(request, model.header)
    plan = make_gguf_plan(
        model,
        vectors,
        request.recipe(vectors),
        names=shared_names(model, *names) if out_or_model.share else names,
        base_model=request.model.base_model,
        digests={path.name: sha256_of(path) for path in model.paths} if request.hash_files else None,
        force=request.force,
        tensor_parallel=request.tensor_parallel,
        persona=persona,
    )
    request.check_bounds(plan)
    plan = replace(plan, left_out=tuple(_projectors(model)), warnings=(*silent, *plan.warnings))
    plan = for_targets(request, plan)
    plan = with_modelfile(plan, model.header, out)
    result = result_of(request, plan, out, request.model.base_model)
    if out is not None and out.share:
        result = _share(result, model, out)
    if out is not None and not request.dry_run:
        write_gguf(request, result.plan, model, out)
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


def for_header(request: BakeRequest, header: GgufHeader) -> tuple[RecordedPersona | None, tuple[str, ...]]:
    """The persona of the request with the chat templates that a file has, and sentences on those without a place."""
    return (None, ()) if request.persona is None else find_templates(header, request.persona)


def for_targets(request: BakeRequest, plan: BakePlan) -> BakePlan:
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


def result_of(request: BakeRequest, plan: BakePlan, out: GgufFile | None, base_model: str) -> BakeResult:
    """Return the result of a bake into `out`, or of a dry run."""
    written = None if out is None or request.dry_run else out.target
    return BakeResult(plan, written, str(request.model), base_model)


def write_gguf(request: BakeRequest, plan: BakePlan, model: GgufModel, out: GgufFile) -> None:
    """Write the files of a plan whose weights come from `model`.

    Raises:
        OutputError: writing failed, or the model changed meanwhile; what was begun has been removed.
    """
    advance = request.progress("carrying over", 0, plan.bytes_carried)
    write_files(plan.files, model.folder, out, advance, model.stamps)


def targets_of(model: GgufModel, out: GgufFile) -> list[Path]:
    """The files to write: one, or as many as the base has.

    Raises:
        InputError: a set is wanted of a single file.
    """
    count = len(model.files)
    if out.keep_split and count == 1:
        raise InputError(f"`keep_split`: {model.name} is one file")
    target = out.target
    count = 2 if out.share else count
    is_set = out.share or out.keep_split
    return [split_path(target, number, count) for number in range(1, count + 1)] if is_set else [target]


def recognisers(targets: list[Path], out: GgufFile) -> dict[Path, Callable[[Path], bool]]:
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


def with_modelfile(plan: BakePlan, header: GgufHeader, out: GgufFile | None) -> BakePlan:
    """Add the Modelfile that `out` asks for to the files of a plan."""
    if out is None or not out.modelfile:
        return plan
    recipe = plan.effect.recipe if plan.effect.steers else ""
    text, notes = write_modelfile(header, plan.files[0].name, recipe, plan.record.persona)
    plan = replace(plan, warnings=(*plan.warnings, *notes))
    return plan.with_files(new_file(modelfile_path(out.target).name, text.encode()))
