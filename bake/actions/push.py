"""`push`: put a finished output on the Hub."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..core.bounds import Bounds
from ..core.plan import CARD_FILE
from ..core.progress import Notice, no_notice
from ..core.record import Record
from ..core.totals import total_recipe
from ..errors import InputError
from ..formats.checkpoint.card import with_report
from ..formats.output import read_record
from ..formats.safetensors import parse_header
from ..storage.files import Stamps, leads_out, read_at, read_json, read_small, reading, sha256_of
from ..storage.hub.changes import Pushed
from ..storage.hub.commit import push_items
from ..storage.hub.contents import Item, addressed
from ..storage.hub.snapshot import COPIES, Snapshot, find_snapshot
from ..storage.hub.target import HubTarget, parse_target, settle
from ..storage.model_name import is_gguf
from .receipt import check_receipt
from .verify import verify_alone

_REPORT = "evaluation"
"""Folder in the repository for the pictures and figures of a report."""


def push(
    folder: str | os.PathLike[str],
    target: str | HubTarget,
    *,
    report: str | os.PathLike[str] | None = None,
    bounds: Bounds | None = None,
    dry_run: bool = False,
    notice: Notice = no_notice,
) -> Pushed:
    """Put the output of a bake, a checkpoint or adapters, into a Hub repository, by one commit.

    The output is checked first, as `verify` does without a base. Weight files that the base's repository has under the
    recorded commit, byte for byte, are copied by the Hub's server; of the rest, only what is new there is sent. The
    token is the one of ``hf auth login`` or ``HF_TOKEN``.

    Args:
        folder: the output.
        target: the repository, perhaps with ``@branch``, or a `HubTarget`, which says how.
        report: the output of an evaluation; it becomes a section of the card, its pictures go along.
        bounds: bounds on what the steering may cost, by the figures of `report`.
        dry_run: only plan.
        notice: told of what the user must not miss on the way.

    Raises:
        InputError: `folder` is no output of emobake, or fails a check; no right to write, or foreign content.
        HubError: the Hub or the network failed; nothing was committed.
        OutputError: the commit does not hold what was sent.
    """
    folder = Path(folder)
    parsed, bounds = parse_target(target), bounds or Bounds()
    if bounds.given and report is None:
        raise InputError("bounds go with `report`, the output of `emobake eval`; give it")
    if is_gguf(folder.name):
        raise InputError(f"{folder}: a GGUF file goes to the Hub by `hf upload {parsed.repo_id} {folder}`")
    with reading():
        record = read_record(folder)
        files = tuple(_files(folder))
        stamps = Stamps.of(folder / name for name in files)
        for check in verify_alone(folder):
            if check.ok is False:
                raise InputError(f"{folder}: {check.name}: {check.detail}; nothing was uploaded. Bake it again")
        section, pictures = ("", []) if report is None else _report(Path(report), record)
    if bounds.given and report is not None:
        check_receipt(Path(report), record, bounds)
    settled = settle(parsed, need_token=not dry_run)
    source, problem = find_snapshot(record.base.model, record.base.revision)
    if problem:
        notice(f"{problem}; its weights are sent from here")
    names = {picture.name for picture in pictures}
    items = [_item(folder, name, settled.repo_id, source, section) for name in files if name not in names]
    message = "Bake one adapter per emotion" if record.adapters else f"Bake {total_recipe(record)}"
    return push_items(
        [*items, *pictures], settled, message=message, source=source, stamps=stamps, dry_run=dry_run, notice=notice
    )


def _files(folder: Path) -> Iterator[str]:
    for root, folders, names in os.walk(folder, followlinks=False):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f != "__pycache__")
        for name in [*folders, *sorted(names)]:
            path = Path(root, name)
            if name.startswith("."):
                continue
            _refuse_link(path, folder)
            if name in folders:
                continue
            if not path.is_file():
                raise InputError(f"{path}: is not a file that can be uploaded (a broken link?)")
            yield path.relative_to(folder).as_posix()


def _refuse_link(path: Path, folder: Path) -> None:
    """Refuse a link out of the folder, unless it is to weights: a bake can link them (`link_mode`).

    Raises:
        InputError: any other link. BrokenFileError: a link to something that is no weights.
    """
    if path.is_symlink() and (path.is_dir() or leads_out(path, folder)):
        if not (path.is_file() and path.suffix == ".safetensors"):
            raise InputError(
                f"{path}: is a link, to {path.resolve()}, and is not followed; nothing was uploaded. Put a copy in its "
                "place, or remove it"
            )
        parse_header(str(path), path.stat().st_size, read_at(path))


def _report(folder: Path, record: Record) -> tuple[str, Sequence[Item]]:
    """The section for the card, and the files that go along.

    Raises:
        InputError: no report there, or one of other vectors.
    """
    file, text = folder / "report.json", folder / "report.md"
    pictures = [path for path in sorted(folder.iterdir()) if path.suffix in (".png", ".svg")] if folder.is_dir() else []
    for path in (file, text, *pictures):
        _refuse_link(path, folder)
        if not path.is_file():
            raise InputError(f"{folder}: has no {path.name}; give `report` the output of `emobake eval`")
    measured = read_json(file).get("vectors")
    if measured is not None and record.vectors.name and measured != record.vectors.name:
        raise InputError(
            f"{folder}: is the report of the vectors {str(measured)[:60]!r}, and {record.vectors.name!r} were baked"
        )
    section = read_small(text).decode("utf-8", "replace")
    names = [path.name for path in (file, *pictures)]
    return section, [Item(f"{_REPORT}/{name}", (folder / name).stat().st_size, local=folder / name) for name in names]


def _item(folder: Path, name: str, repo_id: str, source: Snapshot | None, section: str) -> Item:
    path = folder / name
    if path.name == CARD_FILE:
        card = addressed(read_small(path), repo_id, name)
        if section and name == CARD_FILE:
            card = with_report(card.decode("utf-8", "replace"), section, _REPORT).encode()
        return Item(name, len(card), data=card)
    size = path.stat().st_size
    if COPIES and source is not None and name.endswith(".safetensors"):
        # Equal sizes are no proof, and equal names are none either: a bake renames files.
        candidates = [file for file in source.files.values() if file.sha256 and file.size == size]
        digest = sha256_of(path) if candidates else ""
        for file in candidates:
            if digest == file.sha256:
                return Item(name, size, remote=file)
    return Item(name, size, local=path)
