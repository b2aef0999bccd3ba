"""A push in words: what travels where, on the terminal and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table

from .terminal import SHOWN, list_names, styled

if TYPE_CHECKING:
    from rich.console import Console

    from ..storage.hub.changes import Pushed
    from ..storage.hub.contents import Action

_ACTIONS: dict[Action, str] = {"copy": "copied by the Hub", "send": "sent from here", "relay": "fetched and sent"}


def push_as_dict(pushed: Pushed) -> dict[str, Any]:
    """A push as JSON data."""
    changes = pushed.changes
    return {
        "repo_id": pushed.repo_id,
        "branch": pushed.branch,
        "url": pushed.url,
        "commit": pushed.commit or None,
        "pr_url": pushed.pr_url or None,
        "existed": pushed.existed,
        "changed": pushed.changed,
        "files": [{"name": item.name, "action": item.action, "bytes": item.size} for item in changes.items],
        "unchanged": list(changes.unchanged),
        "deleted": list(changes.deleted),
        "left_alone": list(changes.left_alone),
        "bytes_travelling": changes.bytes_travelling,
        "bytes_copied": changes.size("copy"),
    }


def show_push(console: Console, pushed: Pushed, *, verbose: bool = False) -> None:
    """Print where a push went, or would go in a dry run, and how many bytes go which way."""
    changes = pushed.changes
    console.print(styled((_headline(pushed), "bold")))
    table = Table.grid(padding=(0, 2))
    table.add_row("branch", styled(pushed.branch + (f", commit {pushed.commit[:12]}" if pushed.commit else "")))
    groups = {title: [i for i in changes.items if i.action == action] for action, title in _ACTIONS.items()}
    for title, items in groups.items():
        if items:
            table.add_row(title, f"{_count(items)}, {sum(i.size for i in items) / 1e6:,.2f} MB")
    for title, paths in (("deleted", changes.deleted), ("left alone", changes.left_alone)):
        if paths:
            table.add_row(title, styled(list_names(paths, verbose=verbose)))
    if changes.unchanged:
        table.add_row("there already", _count(changes.unchanged))
    if pushed.changed:
        table.add_row("over this network", f"about {changes.bytes_travelling / 1e6:,.2f} MB")
    console.print(table)
    if verbose or not pushed.commit:
        for items in groups.values():
            shown = items if verbose else items[:SHOWN]
            for item in shown:
                console.print(styled(f"  {item.action:6} {item.name} ({item.size:,} bytes)"))
            if len(shown) < len(items):
                console.print(styled(f"  ... and {len(items) - len(shown)} more (-v names them)"))


def _headline(pushed: Pushed) -> str:
    if pushed.changed:
        done = "Opened a pull request:" if pushed.pr_url else "Pushed to" if pushed.commit else "Would push to"
    else:
        done = "Already the same, nothing to upload:"
    new = "" if pushed.existed or pushed.commit else " (a new repository)"
    return f"{done} {pushed.pr_url or pushed.url}{new}"


def _count(files: Sequence[object]) -> str:
    return f"{len(files)} file{'s' * (len(files) != 1)}"
