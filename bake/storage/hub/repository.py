"""The repository that a push writes to: what it holds, who can read it, and how it comes into being."""

from __future__ import annotations

from dataclasses import dataclass

from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

from ...core.progress import Notice
from ...errors import InputError, without_secrets
from ..http import retrying
from .snapshot import Snapshot, api, take_snapshot
from .target import HubTarget


@dataclass(frozen=True)
class Repository:
    """A repository on the Hub, by the target that names it and the base whose files go into it."""

    target: HubTarget
    source: Snapshot | None

    @property
    def url(self) -> str:
        """Address of its page, without a password that HF_ENDPOINT may have."""
        return without_secrets(f"{api().endpoint}/{self.target.repo_id}")

    def look(self) -> Snapshot | None:
        """List the branch, or main if there is no such branch; None if there is no such repository.

        Raises:
            InputError: it is the base itself, or it is public and the target is private.
        """
        repo_id, branch = self.target.repo_id, self.target.branch
        if self.source is not None and repo_id == self.source.repo_id and branch == "main":
            raise InputError(
                f"{repo_id}: is the base itself; push to another repository, or to a branch: {repo_id}@NAME"
            )
        try:
            try:
                there = take_snapshot(repo_id, branch)
            except RevisionNotFoundError:
                there = take_snapshot(repo_id, None)
        except RepositoryNotFoundError:
            return None
        if self.target.private and not there.private:
            raise InputError(f"{repo_id}: exists and is public; `private` is for a new repository")
        return there

    def make(self, there: Snapshot | None) -> None:
        """Create the repository and the branch where they are missing."""
        hub, target = api(), self.target
        if there is None:
            private = target.private
            if private is None and self.source is not None and self.source.private:
                private = True
            retrying()(hub.create_repo, target.repo_id, private=private, exist_ok=True)
        if target.branch != "main":
            retrying()(hub.create_branch, target.repo_id, branch=target.branch, exist_ok=True)

    def warn_of_access(self, there: Snapshot | None, notice: Notice) -> None:
        """Tell who will be able to read the result, where that differs from the base."""
        if self.source is None:
            return
        name, base = self.target.repo_id, self.source.repo_id
        if self.source.private and there is None and self.target.private is None:
            notice(f"{base} is private, so {name} will be private too (`public` makes it public)")
        if self.source.private and there is not None and not there.private:
            notice(f"{base} is private and {name} is public: anybody can read its weights there")
        if self.source.gated and not (there is not None and there.gated):
            notice(
                f"{base} is gated and {name} is not: if the licence asks for it, switch that on at {self.url}/settings"
            )
