"""The executor that carries a plan out on the Hub: one commit, in which only what is new travels.

Large files of a base on the Hub are copied there by its server, under the names of the plan. Nothing is committed
before every byte is in place, and the commit names the one it follows: others see the repository as it was before, or
whole. A run that fails is simply run again; what arrived is not sent anew.
"""

from __future__ import annotations

import hashlib
import secrets
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, get_token
from huggingface_hub.constants import HF_HUB_OFFLINE
from huggingface_hub.errors import FileDuplicationError, RepositoryNotFoundError, RevisionNotFoundError

from ...errors import EmobakeError, InputError, OutputError
from ..copying import apply, carry
from ..files import git_blob_id, sha256_of
from .changes import CARD, Changes, Item, Pushed, Target, compare
from .errors import is_passing, no_token, reason, requested, retrying, sending, status
from .snapshot import RemoteFile, Snapshot, api, fetch, take_snapshot

Notice = Callable[[str], object]
"""Is told, in a line, what the user must not miss while it goes on."""


def settle(target: Target, *, need_token: bool) -> Target:
    """The target with its owner, who is the user where none is named.

    Raises:
        InputError: offline, or there is no token.
    """
    if HF_HUB_OFFLINE:
        raise InputError(f"{target.repo_id}: nothing can be uploaded while HF_HUB_OFFLINE is set")
    if get_token() is None and (need_token or "/" not in target.repo_id):
        raise no_token(target.repo_id)
    if "/" in target.repo_id:
        return target
    with sending(target.repo_id):
        owner = retrying()(api().whoami)["name"]
    return replace(target, repo_id=f"{owner}/{target.repo_id}")


def push_items(
    items: Iterable[Item],
    target: Target,
    *,
    message: str,
    source: Snapshot | None = None,
    dry_run: bool = False,
    notice: Notice = lambda line: None,
) -> Pushed:
    """Make the branch of a settled `target` hold `items`, by one commit, or by none when it holds them already.

    Files of an earlier bake that are not among them go; what is no model's file stays. Items with a `remote` come from
    `source`. Where the Hub's server refuses to copy between the repositories, they go by way of a private duplicate of
    the base, and where it refuses that too, over this machine; `notice` hears of it.

    Raises:
        InputError: no right to write, or content there that is not emobake's.
        EmobakeError: the Hub or the network failed; nothing was committed.
        OutputError: what is there afterwards is not what was sent.
    """
    repo_id, commit = (source.repo_id, source.commit) if source is not None else ("", "")
    with sending(target.repo_id, source=repo_id, commit=commit):
        return _Push(tuple(items), target, message, source, notice).run(dry_run)


class _Push:
    """One push. Every attempt looks at the repository anew, so that a second one finds what the first has done."""

    def __init__(
        self, items: tuple[Item, ...], target: Target, message: str, source: Snapshot | None, notice: Notice
    ) -> None:
        self.items, self.target, self.source, self.notice = items, target, source, notice
        self.message = target.commit_message or message
        self.branch = target.revision or "main"
        self.hub = api()
        self.url = f"{self.hub.endpoint}/{target.repo_id}"
        # Nobody else's: it is deleted in the end.
        self.scratch = f"{target.repo_id.partition('/')[0]}/emobake-scratch-{secrets.token_hex(8)}"
        self.digests: dict[str, str] = {}
        """sha256 of large files that are here or were sent, by their name in the repository."""

    def run(self, dry_run: bool) -> Pushed:
        """Carry it out, or only find out what there is to do."""
        there = retrying()(self.look)
        changes = self.compare(there)
        self.warn_of_access(there)
        result = Pushed(self.target.repo_id, self.branch, self.url, "", "", there is not None, changes)
        if dry_run:
            return result
        self.make_place(there)
        commit, pr_url, done = retrying()(self.attempt)
        # A commit whose answer was lost has left nothing to do for the attempt after it.
        landed = changes if changes.items or changes.deleted else done
        return replace(result, commit=commit, pr_url=pr_url, changes=landed)

    # --- what is there ----------------------------------------------------------------------------------------------

    def look(self) -> Snapshot | None:
        """The branch as it is, or what it will begin with; None when there is no such repository."""
        repo_id = self.target.repo_id
        if self.source is not None and repo_id == self.source.repo_id and self.branch == "main":
            raise InputError(
                f"{repo_id}: is the base itself; push to another repository, or to a branch: {repo_id}@NAME"
            )
        try:
            try:
                there = take_snapshot(repo_id, self.branch)
            except RevisionNotFoundError:
                there = take_snapshot(repo_id, None)
        except RepositoryNotFoundError:
            return None
        if self.target.private and not there.private:
            raise InputError(f"{repo_id}: exists and is public; --private is for a new repository")
        return there

    def compare(self, there: Snapshot | None) -> Changes:
        """What differs between the branch and what it shall hold."""
        return compare(self.items, {} if there is None else there.files, self.target, self.is_same)

    def is_same(self, item: Item, file: RemoteFile) -> bool:
        """Whether the file on the Hub has the item's bytes."""
        if item.size != file.size:
            return False
        if file.sha256:
            return file.sha256 == self.sha256(item)
        if item.remote is not None:
            return item.remote.blob == file.blob
        data = item.data if item.data is not None else self.path(item).read_bytes()
        return file.blob == git_blob_id(data)

    def sha256(self, item: Item) -> str:
        """Digest of what the item's bytes are, or were when they were sent."""
        if item.data is not None:
            return hashlib.sha256(item.data).hexdigest()
        if item.remote is not None and item.remote.sha256 and not item.edits:
            return item.remote.sha256
        if item.name not in self.digests and not item.edits:
            self.digests[item.name] = sha256_of(self.path(item))
        return self.digests.get(item.name, "")

    def warn_of_access(self, there: Snapshot | None) -> None:
        """Say who will be able to read it, where that is not as with the base."""
        if self.source is None:
            return
        name, base = self.target.repo_id, self.source.repo_id
        if self.source.private and there is None and self.target.private is None:
            self.notice(f"{base} is private, so {name} will be private too (--public makes it public)")
        if self.source.private and there is not None and not there.private:
            self.notice(f"{base} is private and {name} is public: anybody can read its weights there")
        if self.source.gated and not (there is not None and there.gated):
            self.notice(
                f"{base} is gated and {name} is not: if the licence asks for it, switch that on at {self.url}/settings"
            )

    # --- what is done -----------------------------------------------------------------------------------------------

    def make_place(self, there: Snapshot | None) -> None:
        """Make the repository and the branch where they are missing."""
        if there is None:
            private = self.target.private
            if private is None and self.source is not None and self.source.private:
                private = True
            retrying()(self.hub.create_repo, self.target.repo_id, private=private, exist_ok=True)
        if self.branch != "main":
            retrying()(self.hub.create_branch, self.target.repo_id, branch=self.branch, exist_ok=True)

    def attempt(self) -> tuple[str, str, Changes]:
        """The commit and pull request after one try, and what it changed."""
        there = self.look()
        if there is None:
            raise EmobakeError(f"{self.target.repo_id}: is not there (deleted meanwhile?); run again")
        changes = self.compare(there)
        if not changes.items and not changes.deleted:
            return there.commit, "", changes
        try:
            info = self.commit(changes, there)
        except Exception as error:
            if self.target.create_pr and _is_unanswered_commit(error):
                raise EmobakeError(
                    f"{self.target.repo_id}: the answer was lost while the pull request was opened; look at "
                    f"{self.url}/discussions before running again"
                ) from None
            raise
        self.read_back(changes, str(info.oid))
        return str(info.oid), str(info.pr_url or ""), changes

    def commit(self, changes: Changes, there: Snapshot) -> CommitInfo:
        """One commit, with the files copied by the server, else by way of a duplicate, else sent from here."""
        added = {item.name: self.addition(item) for item in changes.items if item.action != "copy"}
        try:
            return self.send(changes, there, self.source, added)
        except Exception as error:
            if self.source is None or not _is_refused_copy(error):
                raise
            why = reason(error)
        if self.source.repo_id != there.repo_id:
            self.notice(
                f"the Hub does not copy from {self.source.repo_id} to {there.repo_id} ({why}); trying by way of "
                f"{self.scratch}, a private duplicate of the base that is removed afterwards"
            )
            try:
                with self.duplicate(self.source) as scratch:
                    # It fills up in the background.
                    patient = retrying(also=_is_refused_copy, attempts=250, seconds=1800)
                    return patient(self.send, changes, there, scratch, added)
            except Exception as error:
                if not (_is_refused_copy(error) or _is_refused_duplicate(error)):
                    raise
                why = reason(error)
        self.notice(
            f"the Hub does not copy ({why}): {changes.size('copy') / 1e6:,.0f} MB are fetched and sent from here"
        )
        added |= {item.name: self.addition(self.fetched(item)) for item in changes.items if item.action == "copy"}
        return self.send(changes, there, None, added)

    def send(
        self, changes: Changes, there: Snapshot, source: Snapshot | None, added: Mapping[str, CommitOperationAdd]
    ) -> CommitInfo:
        """One commit; the library sends the files, has the others copied, and commits when all are in place."""
        copied = [
            _copy(item.name, item.remote.path, source, there.repo_id)
            for item in changes.items
            if item.name not in added and item.remote is not None and source is not None
        ]
        gone = [CommitOperationDelete(path, is_folder=False) for path in changes.deleted]
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            info = self.hub.create_commit(
                there.repo_id,
                [*gone, *added.values(), *copied],
                commit_message=self.message,
                revision=self.branch,
                create_pr=self.target.create_pr,
                parent_commit=there.commit,
            )
        for warning in heard:
            if CARD in str(warning.message):  # what the Hub finds odd in it; the rest is between libraries
                self.notice(" ".join(str(warning.message).split()))
        self.digests |= {name: operation.upload_info.sha256.hex() for name, operation in added.items()}
        return info

    def addition(self, item: Item) -> CommitOperationAdd:
        """What the commit adds for `item`. An edited file is made, sent ahead and removed: there is only ever one."""
        if item.data is not None:
            return CommitOperationAdd(item.name, item.data)
        path = self.path(item)
        if path.stat().st_size != item.size:
            raise EmobakeError(f"{path}: changed meanwhile; run again")
        if not item.edits:
            return CommitOperationAdd(item.name, path)
        with tempfile.TemporaryDirectory(prefix="emobake-") as folder:
            place = Path(folder, path.name)
            try:
                carry(path, place, "auto", lambda _: None)
                apply(item.edits, place)
            except OSError as error:
                raise OutputError(f"{place}: {error.strerror}; set TMPDIR to a folder with room for {path}") from None
            operation = CommitOperationAdd(item.name, place)
            self.hub.preupload_lfs_files(
                self.target.repo_id, [operation], revision=self.branch, create_pr=self.target.create_pr
            )
        return operation

    def fetched(self, item: Item) -> Item:
        """The same file as one that is here."""
        assert self.source is not None and item.remote is not None
        return replace(item, local=fetch(self.source, item.remote.path), remote=None)

    def path(self, item: Item) -> Path:
        """Where the item's file is here; it is fetched if it must."""
        local = (item if item.remote is None else self.fetched(item)).local
        assert local is not None
        return local

    @contextmanager
    def duplicate(self, source: Snapshot) -> Iterator[Snapshot]:
        """A private copy of the base's repository beside the target, removed at the end."""
        try:
            retrying()(self.hub.duplicate_repo, source.repo_id, self.scratch, private=True)
        except Exception as error:
            if status(error) != 409:  # there already: the answer to an attempt was lost
                raise
        try:
            yield replace(source, repo_id=self.scratch)
        finally:
            try:
                retrying()(self.hub.delete_repo, self.scratch)
            except Exception as error:
                self.notice(f"{self.scratch} could not be removed ({reason(error)}); remove it by hand")

    def read_back(self, changes: Changes, commit: str) -> None:
        """Make sure that the commit holds every file as it was meant to be, and nothing that was to go."""
        where = f"{self.target.repo_id}: commit {commit[:12]}"
        try:
            files = retrying()(take_snapshot, self.target.repo_id, commit).files
        except Exception as error:
            raise OutputError(f"{where} was made, but cannot be read back ({reason(error)}); run again") from None
        changed = (i.name for i in changes.items if not (i.name in files and self.is_same(i, files[i.name])))
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
    """Whether the Hub's server will not copy large files between the repositories, whatever the reason."""
    if isinstance(error, ValueError) and "no xet hash" in str(error):
        return True  # the library's own refusal, for a file in the storage of old
    refused = requested(error).endswith("/lfs-files/duplicate") and not is_passing(error) and status(error) != 401
    return isinstance(error, FileDuplicationError) or refused


def _is_refused_duplicate(error: BaseException) -> bool:
    return requested(error).endswith("/duplicate") and status(error) is not None


def _is_unanswered_commit(error: BaseException) -> bool:
    return "/commit/" in requested(error) and is_passing(error) and status(error) != 429
