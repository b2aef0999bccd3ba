"""``emobake moods``: several moods of one base, and the weights that they share."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import without_secrets
from .command import Command
from .options import json_option, model_and_vectors, model_option, moods_options
from .progress import byte_bar
from .terminal import console, echo, resumable, show_command, show_rows, spelled, styled, warn

if TYPE_CHECKING:
    from ..actions.moods import Mood, Moods


@click.command(cls=Command)
@click.argument("folder", type=click.Path())
@model_option("Base of the moods: a folder or Hub id of a checkpoint, or a GGUF file.", required=True)
@moods_options
@json_option
@click.option("-q", "--quiet", is_flag=True, help="Print warnings and errors only.")
def moods(folder: str, as_json: bool, quiet: bool, **options: Any) -> None:
    """Bake several moods of one model into FOLDER; they share the model's weights on the disk.

    Of a GGUF file each mood is a small file beside a link to one that all share, of a checkpoint a folder with links to
    its weights. A mood that is there already stays as it is. Exit code 1 or 2 if one could not be written; the others
    are.
    """
    from ..actions.moods import bake_moods

    model, vectors = model_and_vectors(options)
    mixes = _mixes(options.pop("mixes"), options.pop("names"))
    targets = options.pop("targets")
    if (quiet or as_json) and not model.is_local:
        from ..storage.http import quiet_library

        quiet_library(always=True)
    with resumable(), ExitStack() as bars:
        found = bake_moods(
            model,
            vectors,
            folder,
            mixes,
            targets=targets.split(",") if targets else (),
            progress=byte_bar(bars, silent=quiet or as_json),
            notice=warn,
            **options,
        )
    for warning in dict.fromkeys(f"{mood.name}: {text}" for mood in found.there for text in _warnings(mood)):
        warn(warning)
    if as_json:
        click.echo(json.dumps(_as_dict(found, Path(folder)), indent=2))
    elif not quiet and found.there:
        _show(found, Path(folder))
    for mood in found.failed:
        echo(without_secrets(f"emobake: {mood.name} was not written: {spelled(str(mood.error))}"), err=True)
    if found.failed:
        raise SystemExit(max(mood.error.exit_code for mood in found.failed if mood.error is not None))


def _mixes(mixes: tuple[str, ...], names: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """Name of each mood -> its weights."""
    from ..actions.moods import mood_name
    from ..core.steering import parse_mix

    if not mixes:
        raise click.UsageError("give --mix once for each mood, e.g. --mix joy=1 --mix anger=1")
    if names and len(names) != len(mixes):
        raise click.UsageError(f"--name is given {len(names)} times and --mix {len(mixes)} times; give both as often")
    parsed = [parse_mix(mix) for mix in mixes]
    named = list(names) or [mood_name(mix) for mix in parsed]
    twice = next((name for name in named if named.count(name) > 1), None)
    if twice is not None:
        raise click.UsageError(f"two moods would be named {twice!r}; give each a --name of its own")
    return dict(zip(named, parsed, strict=True))


def _warnings(mood: Mood) -> tuple[str, ...]:
    return () if mood.result is None or mood.kept else mood.result.plan.warnings


def _where(mood: Mood, folder: Path) -> str:
    """The place of a mood, as its user named the folder."""
    return str(folder / mood.place.name)


def _commands(found: Moods, folder: Path) -> list[str]:
    """Commands that serve the first mood."""
    from .summary import next_commands

    first = next((mood for mood in found.there if mood.result is not None), None)
    if first is None or first.result is None:
        return []
    from dataclasses import replace

    out = folder / (f"{first.name}.gguf" if first.result.plan.form == "gguf" else first.name)
    result = replace(first.result, out=out)
    return [command for command in next_commands(result, str(out)) if not command.startswith("emobake ")]


def _as_dict(found: Moods, folder: Path) -> dict[str, Any]:
    return {
        "moods": [
            {
                "name": mood.name,
                "out": _where(mood, folder),
                "total": mood.result.plan.effect.recipe,
                "own_bytes": mood.own,
                "was_there": mood.kept,
            }
            for mood in found.there
            if mood.result is not None
        ],
        "failed": {mood.name: spelled(str(mood.error)) for mood in found.failed},
        "shared": dict(found.shared),
        "shared_bytes": sum(found.shared.values()),
        "serve": _commands(found, folder),
    }


def _show(found: Moods, folder: Path) -> None:
    """Print the moods with the bytes of each, those that they share, and how to serve one."""
    to = console()
    rows = [
        (mood.name, _where(mood, folder), f"{mood.own / 1e6:,.2f}", "was there" if mood.kept else "baked")
        for mood in found.there
    ]
    count, size = len(found.shared), sum(found.shared.values())
    name = next(iter(found.shared), "")
    what = name if count == 1 else f"{count} weight files"
    rows.append(("shared by all", what, f"{size / 1e6:,.2f}", "once"))
    show_rows(to, ("mood", "where", "MB", ""), rows)
    to.print(styled("Serve one:"))
    for command in _commands(found, folder):
        show_command(to, "  " + command)
