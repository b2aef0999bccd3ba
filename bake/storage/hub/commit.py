"""The one writer of the Hub: models, adapters and vector sets, by one commit in which only new bytes travel.

The Hub's server copies large files of a base, under the names of the plan. Nothing is committed before every byte is
in place, and the commit names its parent: others see the repository as it was, or whole. A failed push is run again;
what arrived is not sent again.
"""

from __future__ import annotations

import secrets
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationCopy, CommitOperationDelete

from ...core.names import require_inside
from ...core.plan import CARD_FILE
from ...core.progress import Notice, no_notice
from ...errors import HubError, MissingPackageError, OutputError, without_secrets
from ..files import UNSTAMPED, Stamps
from ..http import is_passing, reason, requested, retrying, status
from .changes import MODEL, Changes, Policy, Pushed, compare
from .contents import Contents, Item
from .errors import sending
from .repository import Repository
from .snapshot import COPIES, Snapshot, api, take_snapshot
from .target import HubTarget


def push_items(
    items: Sequence[Item],
    target: HubTarget,
    *,
    message: str,
    policy: Policy = MODEL,
    source: Snapshot | None = None,
    stamps: Stamps = UNSTAMPED,
    dry_run: bool = False,
    notice: Notice = no_notice,
) -> Pushed:
    """Make the branch of a settled `target` hold `items`, by one commit, or by none if it holds them already.

    Where the Hub's server refuses to copy between the repositories, files go by way of a private duplicate of the
    base, and where it refuses that too, over this machine; `notice` hears of it.

    Args:
        items: all files that the branch shall hold.
        target: with its owner, as `emobake.storage.hub.target.settle` returns it.
        message: of the commit, if the target has none.
        policy: treatment of the files that are there already.
        source: the base's commit, to which `Item.remote` belongs.
        stamps: of the local files, from before they were read.
        dry_run: only compare.
        notice: hears what the user must not miss.

    Raises:
        InputError: no right to write, foreign content, or a name that leads out of the repository.
        HubError: the Hub or the network failed; nothing was committed.
        OutputError: the commit does not hold what was sent, or a local file changed meanwhile.
        MissingPackageError: huggingface_hub is too old to have files copied from `source`.
    """
    require_inside(item.name for item in items)
    if not COPIES and any(item.action == "copy" for item in items):
        raise MissingPackageError(
            "pushing from Hub to Hub needs huggingface_hub 1.17 or later: pip install -U huggingface_hub"
        )
    repository = Repository(target, source)
    push = _Push(repository, Contents(items, source), target.commit_message or message, policy, notice)
    repo_id, commit = (source.repo_id, source.commit) if source is not None else ("", "")
    with sending(target.repo_id, source=repo_id, commit=commit, dry_run=dry_run):
        there = retrying()(repository.look)
        changes = push.compare(there)
        repository.warn_of_access(there, notice)
        result = Pushed(target.repo_id, target.branch, repository.url, "", "", there is not None, changes)
        if dry_run:
            return result
        repository.make(there)
        oid, pr_url, done = retrying()(push.attempt)
    stamps.check(f"{target.repo_id}: commit {oid[:12]} may hold parts of both states")
    # If the answer to a commit was lost, the next attempt finds nothing left to do.
    return replace(result, commit=oid, pr_url=pr_url, changes=changes or done)


@dataclass(frozen=True)
class _Push:
    """One push. Each attempt looks at the repository again, so that a second one finds what the first has done."""

    repository: Repository
    contents: Contents
    message: str
    policy: Policy
    notice: Notice

    def compare(self, there: Snapshot | None) -> Changes:
        """Compare the branch with the contents."""
        return compare(
            self.contents.items,
            {} if there is None else there.files,
            self.repository.target.repo_id,
            self.policy,
            overwrite=self.repository.target.overwrite,
            is_same=self.contents.is_same,
        )

    def attempt(self) -> tuple[str, str, Changes]:
        """Try once: the commit, the address of the pull request, and the changes."""
        target = self.repository.target
        there = self.repository.look()
        if there is None:
            raise HubError(f"{target.repo_id}: is not there (deleted meanwhile?); run again")
        changes = self.compare(there)
        if not changes:
            return there.commit, "", changes
        try:
            info = self._commit(changes, there)
        except Exception as error:
            if target.create_pr and _is_unanswered_commit(error):
                raise HubError(
                    f"{target.repo_id}: the answer was lost while the pull request was opened; look at "
                    f"{self.repository.url}/discussions before running again"
                ) from None
            raise
        self._read_back(changes, str(info.oid))
        return str(info.oid), without_secrets(str(info.pr_url or "")), changes

    def _commit(self, changes: Changes, there: Snapshot) -> CommitInfo:
        """Commit with files copied by the server; else by way of a duplicate; else sent from here."""
        source = self.contents.source
        added = {item.name: self._addition(item) for item in changes.items if item.action != "copy"}
        try:
            return self._send(changes, there, source, added)
        except Exception as error:
            if source is None or not _is_refused_copy(error):
                raise
            why = reason(error)
        if source.repo_id != there.repo_id:
            try:
                with self._duplicate(source, why) as scratch:
                    # The duplicate fills up in the background.
                    patient = retrying(also=_is_refused_copy, attempts=250, seconds=1800)
                    return patient(self._send, changes, there, scratch, added)
            except Exception as error:
                if not (_is_refused_copy(error) or _is_refused_duplicate(error)):
                    raise
                why = reason(error)
        self.notice(
            f"the Hub does not copy ({why}): {changes.size('copy') / 1e6:,.0f} MB are fetched and sent from here"
        )
        added |= {item.name: self._addition(item) for item in changes.items if item.action == "copy"}
        return self._send(changes, there, None, added)

    def _addition(self, item: Item) -> CommitOperationAdd:
        target = self.repository.target

        def preupload(operation: CommitOperationAdd) -> None:
            api().preupload_lfs_files(target.repo_id, [operation], revision=target.branch, create_pr=target.create_pr)

        return self.contents.addition(item, preupload)

    def _send(
        self, changes: Changes, there: Snapshot, source: Snapshot | None, added: Mapping[str, CommitOperationAdd]
    ) -> CommitInfo:
        """Commit once; the library sends `added`, has the rest copied from `source`, and commits at the end."""
        copied = [
            _copy(item.name, item.remote.path, source, there.repo_id)
            for item in changes.items
            if item.name not in added and item.remote is not None and source is not None
        ]
        gone = [CommitOperationDelete(path, is_folder=False) for path in changes.deleted]
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            info = api().create_commit(
                there.repo_id,
                [*gone, *added.values(), *copied],
                commit_message=self.message,
                revision=self.repository.target.branch,
                create_pr=self.repository.target.create_pr,
                parent_commit=there.commit,
            )
        for warning in heard:
            if CARD_FILE in str(warning.message):  # The Hub's remarks on the card; others are between libraries.
                self.notice(" ".join(str(warning.message).split()))
        for operation in added.values():
            self.contents.remember(operation)
        return info

    @contextmanager
    def _duplicate(self, source: Snapshot, why: str) -> Iterator[Snapshot]:
        """A private copy of the base's repository beside the target, removed at the end."""
        target = self.repository.target.repo_id
        # A name that nobody else has, because it is deleted at the end.
        scratch = f"{target.partition('/')[0]}/emobake-scratch-{secrets.token_hex(8)}"
        self.notice(
            f"the Hub does not copy from {source.repo_id} to {target} ({why}); trying by way of "
            f"{scratch}, a private duplicate of the base that is removed afterwards"
        )
        try:
            retrying()(api().duplicate_repo, source.repo_id, scratch, private=True)
        except Exception as error:
            if status(error) != 409:  # Exists already: the answer to an earlier try was lost.
                raise
        try:
            yield replace(source, repo_id=scratch)
        finally:
            try:
                retrying()(api().delete_repo, scratch)
            except Exception as error:
                self.notice(f"{scratch} could not be removed ({reason(error)}); remove it by hand")

    def _read_back(self, changes: Changes, commit: str) -> None:
        """Check that the commit holds every file as it was sent, and none that was to be deleted."""
        repo_id = self.repository.target.repo_id
        where = f"{repo_id}: commit {commit[:12]}"
        try:
            files = retrying()(take_snapshot, repo_id, commit).files
        except Exception as error:
            raise OutputError(f"{where} was made, but cannot be read back ({reason(error)}); run again") from None
        sent = {item.name: item for item in changes.items}
        changed = (
            name for name, item in sent.items() if not (name in files and self.contents.is_same(item, files[name]))
        )
        missing = (name for name in changes.unchanged if name not in files)
        left = (name for name in changes.deleted if name in files)
        for name in (*changed, *missing, *left):
            raise OutputError(f"{where}: {name} is not as it was sent; run again")


def _copy(name: str, path: str, source: Snapshot, repo_id: str) -> CommitOperationCopy:
    if source.repo_id == repo_id:
        return CommitOperationCopy(path, name, src_revision=source.commit)
    return CommitOperationCopy(
        path, name, src_revision=source.commit, src_repo_id=source.repo_id, src_repo_type="model"
    )


def _is_refused_copy(error: BaseException) -> bool:
    """True if the Hub's server refuses to copy large files between the repositories."""
    if isinstance(error, ValueError) and "no xet hash" in str(error):
        return True  # The library's own refusal, for a file in the old storage.
    refused = requested(error).endswith("/lfs-files/duplicate") and not is_passing(error) and status(error) != 401
    return type(error).__name__ == "FileDuplicationError" or refused  # By name: older libraries have no such error.


def _is_refused_duplicate(error: BaseException) -> bool:
    return requested(error).endswith("/duplicate") and status(error) is not None


def _is_unanswered_commit(error: BaseException) -> bool:
    return "/commit/" in requested(error) and is_passing(error) and status(error) != 429
