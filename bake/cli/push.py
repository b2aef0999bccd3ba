"""``emobake push``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from .command import Command
from .options import bound_options, bounds_of, hub_options, json_option
from .terminal import console, warn


@click.command(cls=Command)
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("repo_id", metavar="REPO[@BRANCH]")
@click.option("--revision", metavar="BRANCH", help="The branch to push to; created if missing. Default: main.")
@hub_options
@click.option("--overwrite", is_flag=True, help="Replace a model there that is not an output of emobake.")
@click.option(
    "--report",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Put the report that `emobake eval` wrote there into the model card, with its pictures.",
)
@bound_options
@click.option("--dry-run", is_flag=True, help="Show what would be sent, and change nothing.")
@json_option
@click.option("-q", "--quiet", is_flag=True, help="Print warnings and errors only.")
@click.option("-v", "--verbose", is_flag=True, help="Name every file.")
def push(
    folder: Path,
    repo_id: str,
    report: Path | None,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **options: Any,
) -> None:
    """Put a finished output on the Hub, by one commit.

    FOLDER is checked first. Files that the repository has already are not sent again, and weight files that the base's
    own repository has are copied by the Hub's server.
    """
    from ..actions.push import push as upload
    from ..storage.http import quiet_library
    from ..storage.hub.target import HubTarget
    from .hub_summary import push_as_dict, show_push

    quiet_library(always=quiet or as_json)
    bounds = bounds_of(options)
    target = HubTarget(repo_id, **options)
    pushed = upload(folder, target, report=report, bounds=bounds, dry_run=dry_run, notice=warn)
    if as_json:
        click.echo(json.dumps(push_as_dict(pushed), indent=2))
    elif not quiet:
        show_push(console(), pushed, verbose=verbose)
