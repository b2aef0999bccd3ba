"""What a push changes, as plain data: where to, which files, and where their bytes come from. No network here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from ...core.plan import Assemble, BakePlan, Carry, Edit, Patch, Write
from ...core.side_files import is_of_a_model, is_ours
from ...errors import EmobakeError, InputError
from .errors import sending
from .snapshot import RemoteFile, Snapshot

PLACEHOLDER = "THIS_REPO"
"""Stands in a model card for the repository that it is not in yet."""
CARD = "README.md"
_MANIFEST = "emobake.json"

Action = Literal["copy", "send", "relay"]


@dataclass(frozen=True)
class Target:
    """Where a user wants a model to be."""

    repo_id: str
    revision: str = ""
    """The branch; empty is ``main``."""
    private: bool | None = None
    """For a repository that does not exist yet; None: private when the base is."""
    create_pr: bool = False
    commit_message: str = ""
    overwrite: bool = False
    """Replace what is not an output of emobake."""


def parse_target(
    repo_id: str, revision: str | None, private: bool | None, create_pr: bool, commit_message: str, overwrite: bool
) -> Target:
    """A `Target` from what a user gives; ``owner/name@branch`` is another way to name the branch.

    Raises:
        InputError: not a valid id, or two branches.
    """
    name, at, branch = repo_id.partition("@")
    if at and (not branch or (revision and revision != branch)):
        raise InputError(f"{repo_id}: names no branch after the @, or another than --revision {revision}")
    with sending(name):
        validate_repo_id(name)
    return Target(name, branch or revision or "", private, create_pr, commit_message, overwrite)


@dataclass(frozen=True)
class Item:
    """One file of the result, and where its bytes come from: `data`, a file here, or one of the base on the Hub."""

    name: str
    size: int
    data: bytes | None = None
    local: Path | None = None
    remote: RemoteFile | None = None
    edits: tuple[Edit, ...] = ()
    """Bytes that are replaced on the way; then the content passes through this machine."""

    @property
    def action(self) -> Action:
        """``copy`` on the server, ``send`` from here, or ``relay``: fetch, perhaps edit, and send."""
        if self.remote is None:
            return "send"
        return "copy" if self.remote.sha256 and not self.edits else "relay"


@dataclass(frozen=True)
class Changes:
    """What the commit does."""

    items: tuple[Item, ...]
    unchanged: tuple[str, ...] = ()
    """Files that are there already, byte for byte."""
    deleted: tuple[str, ...] = ()
    left_alone: tuple[str, ...] = ()
    """Files in the repository that are none of the model's."""

    def size(self, *actions: Action) -> int:
        """Bytes of the files with one of these actions."""
        return sum(item.size for item in self.items if item.action in actions)

    @property
    def bytes_travelling(self) -> int:
        """Bytes that go over this machine's network: up, and for relayed files down as well."""
        return self.size("send") + 2 * self.size("relay")


@dataclass(frozen=True)
class Pushed:
    """A finished push, or with a dry run the one that would be made."""

    repo_id: str
    branch: str
    url: str
    commit: str
    """Empty after a dry run, and the one that was there when there was nothing to change."""
    pr_url: str
    existed: bool
    """Whether the repository was there before."""
    changes: Changes

    @property
    def changed(self) -> bool:
        """Whether there was anything to commit."""
        return bool(self.changes.items or self.changes.deleted)


def items_of(plan: BakePlan, repo_id: str, *, folder: Path | None, source: Snapshot | None) -> tuple[Item, ...]:
    """The plan's files. What is carried comes from the base's commit `source` on the Hub, else from its `folder`."""
    return tuple(_item(file, repo_id, folder, source) for file in plan.files)


def _item(file: Carry | Patch | Write | Assemble, repo_id: str, folder: Path | None, source: Snapshot | None) -> Item:
    assert not isinstance(file, Assemble), "a GGUF file is not pushed"
    if isinstance(file, Write):
        data = addressed(file.data, repo_id, file.name) if Path(file.name).name == CARD else file.data
        return Item(file.name, len(data), data=data)
    edits = file.edits if isinstance(file, Patch) else ()
    remote = source.files.get(file.source) if source is not None else None
    if remote is not None and remote.size == file.size:
        return Item(file.name, file.size, remote=remote, edits=edits)
    if folder is None:
        raise EmobakeError(f"{repo_id}: {file.source} is not in the base's commit; run again")
    return Item(file.name, file.size, local=folder / file.source, edits=edits)


def addressed(card: bytes, repo_id: str, name: str) -> bytes:
    """The model card at `name`, with its own repository in the commands that it shows."""
    folder = name.rpartition("/")[0]
    if folder:
        card = card.replace(f'"{PLACEHOLDER}"'.encode(), f'"{repo_id}", subfolder="{folder}"'.encode())
    return card.replace(PLACEHOLDER.encode(), repo_id.encode())


def compare(
    items: Iterable[Item],
    files: Mapping[str, RemoteFile],
    target: Target,
    is_same: Callable[[Item, RemoteFile], bool],
) -> Changes:
    """What differs between `files`, which the branch has, and the `items` that it shall hold.

    Raises:
        InputError: it holds something else than an output of emobake, and may not be overwritten; or it ignores files.
    """
    besides = [path for path in files if not path.startswith(".git") and path != CARD]
    foreign = [] if _MANIFEST in files else besides
    if foreign and not target.overwrite:
        raise InputError(
            f"{target.repo_id}: holds {min(foreign)}, which is not emobake's; give --overwrite to replace the model "
            "there, or push to another repository"
        )
    if ".gitignore" in files:
        # The library leaves out of a commit, without a word, what the repository ignores.
        raise InputError(f"{target.repo_id}: has a .gitignore, which may keep the model out; remove it there")
    wanted = {item.name: item for item in items}
    stale = is_of_a_model if foreign else is_ours
    rest = [path for path in besides if path not in wanted]
    # What an edited file will be is only known when it is made; but the same record means the same bake.
    record = _MANIFEST in files and _MANIFEST in wanted and is_same(wanted[_MANIFEST], files[_MANIFEST])
    same = {
        name
        for name, item in wanted.items()
        if name in files and (is_same(item, files[name]) if not item.edits else record)
    }
    return Changes(
        items=tuple(item for item in wanted.values() if item.name not in same),
        unchanged=tuple(sorted(same)),
        deleted=tuple(sorted(path for path in rest if stale(path))),
        left_alone=tuple(sorted(path for path in rest if not stale(path))),
    )
