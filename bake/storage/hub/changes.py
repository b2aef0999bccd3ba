"""Changes of a repository by a push, as plain data. No network here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from ...core.plan import CARD_FILE
from ...core.record import RECORD_FILE
from ...core.side_files import is_of_a_model, is_ours
from ...errors import InputError
from .contents import Action, Item
from .snapshot import RemoteFile


@dataclass(frozen=True)
class Policy:
    """Treatment of the files that are in the repository already."""

    mark: str
    """File that every push of this kind writes. Where it is, an earlier push may be replaced; empty: never."""
    is_foreign: Callable[[str], bool]
    """Recognises, where there is no `mark`, files that forbid the push."""
    advice: str
    """Advice on a foreign file."""
    is_stale: Callable[[str], bool]
    """Recognises files of an earlier push, which are deleted unless they are wanted again."""
    is_stale_when_overwriting: Callable[[str], bool]
    """The same in a repository with foreign files."""
    kept: frozenset[str] = frozenset()
    """Files that are left alone if the repository has them, even if they differ."""


MODEL = Policy(
    mark=RECORD_FILE,
    is_foreign=lambda path: True,
    advice="which is not emobake's; give `overwrite` to replace the model there, or push to another repository",
    is_stale=is_ours,
    is_stale_when_overwriting=is_of_a_model,
)
"""For a checkpoint or adapters."""

VECTORS = Policy(
    mark="",
    is_foreign=lambda path: path == "config.json",
    advice="so it holds a model; give the vectors a repository of their own",
    is_stale=lambda path: False,
    is_stale_when_overwriting=lambda path: False,
    kept=frozenset({CARD_FILE}),
)
"""For a vector set."""


@dataclass(frozen=True)
class Changes:
    """One commit."""

    items: tuple[Item, ...]
    """Files that are added or replaced."""
    unchanged: tuple[str, ...] = ()
    """Files that are there already, byte for byte."""
    deleted: tuple[str, ...] = ()
    left_alone: tuple[str, ...] = ()
    """Files of the repository that do not belong to the model."""

    def __bool__(self) -> bool:
        """True if there is anything to commit."""
        return bool(self.items or self.deleted)

    def size(self, *actions: Action) -> int:
        """Bytes of the files with one of these actions."""
        return sum(item.size for item in self.items if item.action in actions)

    @property
    def bytes_travelling(self) -> int:
        """Bytes over this machine's network: up, and for relayed files down as well."""
        return self.size("send") + 2 * self.size("relay")


@dataclass(frozen=True)
class Pushed:
    """A finished push, or the one that a dry run would make."""

    repo_id: str
    branch: str
    url: str
    commit: str
    """Empty after a dry run; the existing commit if there was nothing to change."""
    pr_url: str
    existed: bool
    """True if the repository was there before."""
    changes: Changes

    @property
    def changed(self) -> bool:
        """True if there was anything to commit."""
        return bool(self.changes)


def compare(
    items: Iterable[Item],
    files: Mapping[str, RemoteFile],
    repo_id: str,
    policy: Policy,
    *,
    overwrite: bool,
    is_same: Callable[[Item, RemoteFile], bool],
) -> Changes:
    """Compare `files`, which the branch has, with the `items` that it shall hold.

    Raises:
        InputError: the repository holds a foreign file and not `overwrite`, or it ignores files.
    """
    besides = [path for path in files if not path.startswith(".git") and path != CARD_FILE]
    ours = policy.mark in files
    foreign = [] if ours else [path for path in besides if policy.is_foreign(path)]
    if foreign and not overwrite:
        raise InputError(f"{repo_id}: holds {min(foreign)}, {policy.advice}")
    if ".gitignore" in files:
        # The library silently leaves ignored files out of a commit.
        raise InputError(f"{repo_id}: has a .gitignore, which may keep the model out; remove it there")
    wanted = {item.name: item for item in items if not (item.name in policy.kept and item.name in files)}
    is_stale = policy.is_stale_when_overwriting if foreign else policy.is_stale
    rest = [path for path in besides if path not in wanted]
    # The bytes of an assembled file are known only once it is made; but the same record means the same bake.
    same_bake = ours and policy.mark in wanted and is_same(wanted[policy.mark], files[policy.mark])
    same = {
        name
        for name, item in wanted.items()
        if name in files and (same_bake if item.pieces else is_same(item, files[name]))
    }
    return Changes(
        items=tuple(item for item in wanted.values() if item.name not in same),
        unchanged=tuple(sorted(same)),
        deleted=tuple(sorted(path for path in rest if is_stale(path))),
        left_alone=tuple(sorted(path for path in rest if not is_stale(path))),
    )
