"""The one local writer: planned files into a folder, or beside one another, all or nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ..core.names import require_inside
from ..core.outputs import Folder, GgufFile, LinkMode
from ..core.plan import PlannedFile, piece_size, sources_of
from ..core.progress import Advance, no_advance
from ..errors import InputError, OutputError
from .copying import carry, link_beside, overwrite, reads_back, write_pieces
from .files import UNSTAMPED, Sources, Stamps
from .publish import explain, parents, recover, staging

Accept = Callable[[Path], None]


def _accept(folder: Path) -> None:
    """Find nothing wrong with the files in `folder`."""


def check_folder(out: Folder, inputs: Sequence[Path]) -> None:
    """Refuse an output folder that would hit the inputs or somebody's files, before anything is read.

    Raises:
        InputError: it exists and may not be replaced; it is, contains or lies within one of `inputs`; no permission.
        OutputError: what a killed run has left cannot be put in order.
    """
    path = out.target
    target = path.resolve()
    for source in (path.resolve() for path in inputs):
        if target == source or source in target.parents or target in source.parents:
            raise InputError(f"`out` {path}: is, contains or lies within the input {source}; choose another folder")
    recover(path)
    if not os.path.lexists(path):
        _check_writable(path)
        return
    if not out.overwrite:
        raise InputError(f"`out` {path}: exists already; choose another folder or give `overwrite`")
    ours = path.is_dir() and not path.is_symlink() and ((path / "emobake.json").is_file() or not any(path.iterdir()))
    if not ours:
        raise InputError(f"`out` {path}: is not an earlier output of emobake, so `overwrite` leaves it alone")


def check_files(out: GgufFile, targets: Mapping[Path, Callable[[Path], bool]], inputs: Sequence[Path]) -> None:
    """Refuse output files that would hit the inputs or somebody's files, before anything large is read.

    `targets` maps each file to a function that recognises an earlier output of emobake under that name.

    Raises:
        InputError: a file exists and may not be replaced, or is one of `inputs`; no permission.
        OutputError: what a killed run has left cannot be put in order.
    """
    recover(out.target)
    sources = {path.resolve() for path in inputs} | set(map(_place, inputs))
    for path, is_ours in targets.items():
        # A link of ours to an input is replaced itself.
        if _place(path) in sources or (path.resolve() in sources and not is_ours(path)):
            raise InputError(f"`out` {path}: is the input; choose another name")
        if not os.path.lexists(path):
            _check_writable(path)
        elif not out.overwrite:
            raise InputError(f"`out` {path}: exists already; choose another name or give `overwrite`")
        elif not is_ours(path):
            raise InputError(f"`out` {path}: is not an earlier output of emobake, so `overwrite` leaves it alone")


def write_folder(
    files: Sequence[PlannedFile],
    source: Path | Sources,
    out: Folder,
    advance: Advance = no_advance,
    base: Stamps = UNSTAMPED,
    accept: Accept = _accept,
) -> None:
    """Write planned files into the folder `out`, which `check_folder` has accepted.

    Links stand for whole weight files only. Memory stays below the size of the new bytes plus a few megabytes,
    whatever the size of the weights. An earlier output is replaced once the new one is complete.

    Args:
        files: names are paths in the folder.
        source: the base's folder, to which the sources of pieces are relative; or that and others.
        out: the folder.
        advance: called with bytes of the base as they are carried over.
        base: stamps of the base's files from before their headers were read.
        accept: looks at the folder of the written files before anything is published, and raises if they are wrong.

    Raises:
        InputError: a name leads out of the folder.
        OutputError: the disk is full, no permission, what was written does not read back, or the base changed.
    """
    target = out.target
    require_inside(_names(files))
    try:
        recover(target)
        with parents(target), staging(target) as stage:
            _write(files, source, stage.new / target.name, out.link_mode, advance)
            base.check()
            accept(stage.new / target.name)
            stage.publish(overwrite=out.overwrite)
    except OSError as error:
        raise OutputError(explain(error, target, out.link_mode)) from error


def write_files(
    files: Sequence[PlannedFile],
    source: Path,
    out: GgufFile,
    advance: Advance = no_advance,
    base: Stamps = UNSTAMPED,
    accept: Accept = _accept,
) -> None:
    """Write planned files beside one another, into the folder of `out`; arguments as for `write_folder`.

    Raises:
        InputError, OutputError: as `write_folder`.
    """
    target = out.target
    require_inside(_names(files))
    try:
        recover(target)
        with parents(target), staging(target) as stage:
            _write(files, source, stage.new, "copy", advance, home=target.parent)
            base.check()
            accept(stage.new)
            stage.publish(overwrite=out.overwrite, first=files[0].name)
    except OSError as error:
        raise OutputError(explain(error, target)) from error


def time_of_sources(file: PlannedFile, sources: Sources) -> int:
    """Time of change, in nanoseconds, of the newest file that a planned one is made of."""
    return max((sources.locate(source).stat().st_mtime_ns for source in sources_of(file.pieces)), default=0)


def _place(path: Path) -> Path:
    """The path itself, with no links but its own."""
    return path.parent.resolve() / path.name


def _check_writable(out: Path) -> None:
    parent = next(p for p in out.resolve().parents if os.path.exists(p))  # noqa: PTH110 - False where a mode forbids it
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"`out` {out}: no permission to write in {parent}")


def _names(files: Sequence[PlannedFile]) -> Iterator[str]:
    """Names of the files, and of the base's files that they are made of."""
    for file in files:
        yield file.name
        yield from (file.link,) if file.link else sources_of(file.pieces)


def _write(
    files: Sequence[PlannedFile],
    source: Path | Sources,
    folder: Path,
    link_mode: LinkMode,
    advance: Advance,
    home: Path | None = None,
) -> None:
    """Write planned files into `folder`; `home` is the one in which they will be, if other files are there already."""
    sources = source if isinstance(source, Sources) else Sources(source)
    locate = sources.locate
    for file in files:
        target = folder / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.action == "link":
            link_beside(target, file.link, home)
            continue
        if file.action == "carry":
            carry(locate(file.source), target, link_mode if file.weights else "auto", advance)
        elif file.action == "overwrite":
            # Never by a link: the base's bytes must stay.
            carry(locate(file.source), target, link_mode if link_mode in ("copy", "reflink") else "auto", advance)
            overwrite(file.pieces, target)
        else:
            write_pieces(file.pieces, target, locate, advance)
        if target.stat().st_size != file.size:
            raise OutputError(f"{file.source or file.name}: changed while it was copied; run again")
        _read_back(file, target)
        if file.shared:
            moment = time_of_sources(file, sources)
            os.utime(target, ns=(moment, moment))


def holds_new(file: PlannedFile, path: Path) -> bool:
    """True if the file at `path` has the new bytes of a planned one; those of the base are not read."""
    position = 0
    with path.open("rb") as written:
        for piece in file.pieces:
            written.seek(position)
            if not reads_back(written, piece):
                return False
            position += piece_size(piece)
    return True


def _read_back(file: PlannedFile, target: Path) -> None:
    """Compare every new byte, and read a new safetensors header through the library, an independent reader."""
    if not file.new_bytes:
        return
    if not holds_new(file, target):
        raise OutputError(f"{file.name}: was written but does not read back; run again")
    if file.name.endswith(".safetensors"):
        try:
            with safe_open(target, framework="numpy") as tensors:
                tensors.keys()
        except SafetensorError as error:
            raise OutputError(f"{file.name}: was written but does not read back ({error}); run again") from None
