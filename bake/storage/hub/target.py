"""Targets of a push: the branch, and the way of pushing."""

from __future__ import annotations

from dataclasses import dataclass, replace

from huggingface_hub import get_token
from huggingface_hub.constants import HF_HUB_OFFLINE

from ...errors import InputError
from ..http import retrying, validate_repo_id
from .errors import no_token, offline, sending
from .snapshot import api


@dataclass(frozen=True)
class HubTarget:
    """A branch of a model repository on the Hub."""

    repo_id: str
    """``owner/name``, or ``name`` for the user's own account; perhaps with ``@branch``. Created if missing."""
    revision: str | None = None
    """The branch; None is ``main``. Created if missing."""
    private: bool | None = None
    """Visibility of a new repository; None: private if the base is."""
    create_pr: bool = False
    """Open a pull request instead of committing."""
    commit_message: str = ""
    """Empty: the recipe of the bake."""
    overwrite: bool = False
    """Replace a model that is not an output of emobake."""

    @property
    def branch(self) -> str:
        """Name of the branch."""
        return self.revision or "main"


def parse_target(target: str | HubTarget) -> HubTarget:
    """Parse a repository name, and the branch after an ``@``.

    Raises:
        InputError: another type, not a valid id, or two different branches.
    """
    if not isinstance(target, str | HubTarget):
        raise InputError(f"a Hub repository is owner/name or a HubTarget, not {target!r}")
    if isinstance(target, str):
        target = HubTarget(target)
    name, at, branch = target.repo_id.partition("@")
    if at and (not branch or target.revision not in (None, branch)):
        raise InputError(f"{target.repo_id}: names no branch after the @, or another than `revision` {target.revision}")
    with sending(name):
        validate_repo_id(name)
    return replace(target, repo_id=name, revision=branch or target.revision)


def settle(target: HubTarget, *, need_token: bool) -> HubTarget:
    """Add the owner to a name without one: the user that the token belongs to. A dry run does not `need_token`.

    Raises:
        InputError: offline, or no token.
    """
    if HF_HUB_OFFLINE:
        raise offline(target.repo_id, dry_run=not need_token)
    if get_token() is None and (need_token or "/" not in target.repo_id):
        raise no_token(target.repo_id)
    if "/" in target.repo_id:
        return target
    with sending(target.repo_id, dry_run=not need_token):
        owner = retrying()(api().whoami)["name"]
    return replace(target, repo_id=f"{owner}/{target.repo_id}")
