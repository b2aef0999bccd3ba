"""Sharing a baked model on the Hub: a finished output here, or a plan whose weights never come here."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..core.plan import BakePlan
from ..core.record import Record
from ..core.strict_json import parse_json_object
from ..errors import InputError
from ..formats.checkpoint.card import with_report
from ..formats.read_record import read_record
from ..storage.files import read_small, reading, sha256_of
from ..storage.hub.changes import Item, Pushed, Target, addressed, items_of, parse_target
from ..storage.hub.commit import Notice, push_items, settle
from ..storage.hub.errors import reason, retrying
from ..storage.hub.snapshot import Snapshot, take_snapshot
from ..storage.model_name import is_gguf
from .verify import verify

_REPORT = "evaluation"
"""Folder in the repository for the pictures and figures of a report."""


def push(
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    revision: str | None = None,
    private: bool | None = None,
    create_pr: bool = False,
    commit_message: str = "",
    overwrite: bool = False,
    report: str | os.PathLike[str] | None = None,
    dry_run: bool = False,
    notice: Notice = lambda line: None,
) -> Pushed:
    """Put the output of a bake, a checkpoint or adapters, into the Hub repository `repo_id`, by one commit.

    The output is checked first, as `verify` does without a base. Weight files that the base's repository has under the
    recorded commit, byte for byte, are copied by the Hub's server; of the rest, only what is new there is sent. The
    token is the one that ``hf auth login`` or ``HF_TOKEN`` gives.

    Args:
        folder: what ``--out`` named when it was baked.
        repo_id: ``owner/name``, or ``name`` for one's own account, and perhaps ``@branch``; made if need be.
        revision: the branch, another way to name it.
        private: for a repository that does not exist yet; None: when the base is private.
        create_pr: open a pull request instead of committing.
        commit_message: default: what was baked.
        overwrite: replace a model there that is not emobake's.
        report: what ``--out`` named in an evaluation; it becomes a section of the card, its pictures go along.
        dry_run: only find out what would be done.
        notice: is told what should not be missed on the way, in a line.

    Raises:
        InputError: `folder` is no output of emobake, or fails a check; see `emobake.to_hub.push_items` for the rest.
    """
    folder = Path(folder)
    if is_gguf(folder.name):
        raise InputError(f"{folder}: a GGUF file goes to the Hub by `hf upload {repo_id} {folder}`")
    target = parse_target(repo_id, revision, private, create_pr, commit_message, overwrite)
    with reading():
        record = read_record(folder)
        for check in verify(folder):
            if check.ok is False:
                raise InputError(f"{folder}: {check.name}: {check.detail}; nothing was uploaded. Bake it again")
        files = tuple(_files(folder))
        section, pictures = ("", []) if report is None else _report(Path(report), record)
    target = settle(target, need_token=not dry_run)
    source = base_snapshot(record.base_model, record.base_revision, notice)
    items = [_item(folder, name, target.repo_id, source, section) for name in files if not _is_report(name, pictures)]
    items += pictures
    return push_items(items, target, message=_message(record), source=source, dry_run=dry_run, notice=notice)


def push_plan(
    plan: BakePlan,
    target: Target,
    *,
    folder: Path | None,
    source: Snapshot | None,
    dry_run: bool = False,
    notice: Notice = lambda line: None,
) -> Pushed:
    """Carry `plan` out in the Hub repository of a settled `target`.

    What the plan carries over comes from `source`, the base's commit on the Hub, else from the base's `folder`.

    Raises:
        InputError, EmobakeError, OutputError: as `emobake.to_hub.push_items`.
    """
    items = items_of(plan, target.repo_id, folder=folder, source=source)
    message = f"Bake {plan.steering.recipe}"
    return push_items(items, target, message=message, source=source, dry_run=dry_run, notice=notice)


def base_snapshot(repo_id: str, revision: str, notice: Notice) -> Snapshot | None:
    """The base's commit on the Hub; None when it is not known or cannot be read: then all is sent from here."""
    if not repo_id or not revision:
        return None
    try:
        return retrying()(take_snapshot, repo_id, revision)
    except Exception as error:  # of the HTTP library; what is wrong with the network, the push itself will say
        notice(
            f"{repo_id}: its commit {revision[:12]} cannot be read ({reason(error)}); its weights are sent from here"
        )
        return None


def _message(record: Record) -> str:
    return "Bake one adapter per emotion" if record.adapters else f"Bake {record.steering.recipe}"


def _files(folder: Path) -> Iterator[str]:
    for root, folders, names in os.walk(folder, followlinks=False):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f != "__pycache__")
        for name in sorted(names):
            path = Path(root, name)
            if name.startswith("."):
                continue
            if not path.is_file():
                raise InputError(f"{path}: is not a file that can be uploaded (a broken link?)")
            yield path.relative_to(folder).as_posix()


def _report(folder: Path, record: Record) -> tuple[str, list[Item]]:
    """The section for the card, and the files that go along.

    Raises:
        InputError: no report there, or one of other vectors.
    """
    file, text = folder / "report.json", folder / "report.md"
    for path in (file, text):
        if not path.is_file():
            raise InputError(f"{folder}: has no {path.name}; give --report what --out named in `emobake eval`")
    measured = parse_json_object(read_small(file, str(file)), str(file)).get("vectors")
    if measured is not None and record.vector_name and measured != record.vector_name:
        raise InputError(
            f"{folder}: is the report of the vectors {str(measured)[:60]!r}, and {record.vector_name!r} were baked"
        )
    section = read_small(text, str(text)).decode("utf-8", "replace")
    names = [file.name, *(path.name for path in sorted(folder.iterdir()) if path.suffix in (".png", ".svg"))]
    return section, [Item(f"{_REPORT}/{name}", (folder / name).stat().st_size, local=folder / name) for name in names]


def _is_report(name: str, pictures: Sequence[Item]) -> bool:
    """Whether a report's own file of that name goes there."""
    return any(item.name == name for item in pictures)


def _item(folder: Path, name: str, repo_id: str, source: Snapshot | None, section: str) -> Item:
    path = folder / name
    if path.name == "README.md":
        card = addressed(read_small(path, str(path)), repo_id, name)
        if section and name == "README.md":
            card = with_report(card.decode("utf-8", "replace"), section, _REPORT).encode()
        return Item(name, len(card), data=card)
    size = path.stat().st_size
    if source is not None and name.endswith(".safetensors"):
        # The same size is no proof, and the same name is none either: files are renamed by a bake.
        digest = None
        for file in source.files.values():
            if file.sha256 and file.size == size:
                digest = digest or sha256_of(path)
                if digest == file.sha256:
                    return Item(name, size, remote=file)
    return Item(name, size, local=path)
