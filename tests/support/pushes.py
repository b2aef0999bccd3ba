"""Looking at what a push left on the stand-in for the Hub."""

from __future__ import annotations

from .hub_server import Repo, Request, StandInHub
from .running import TARGET

JOY = ("--mix", "joy=1")


def addressed(files: dict[str, bytes], repo_id: str) -> dict[str, bytes]:
    """The files as they are pushed: the card names its repository, and needs no placeholder."""
    card = files["README.md"].replace(b"`THIS_REPO` stands for the path of this folder.\n\n", b"")
    return files | {"README.md": card.replace(b"THIS_REPO", repo_id.encode())}


def without_attributes(repo: Repo, ref: str = "main") -> dict[str, bytes]:
    """Files of a repository but .gitattributes."""
    return {path: data for path, data in repo.files(ref).items() if path != ".gitattributes"}


def untouched(hub: StandInHub) -> bool:
    """True if the target holds no file."""
    return TARGET not in hub.repos or not without_attributes(hub.repos[TARGET])


def writes(hub: StandInHub) -> list[Request]:
    """Requests that change a repository."""
    return [r for r in hub.requests if r.method != "GET" and r.method != "HEAD" and "paths-info" not in r.path]
