"""``emobake verify`` and ``emobake show``: finished outputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..core.stacks import STACKS
from . import completion
from .command import Command
from .options import json_option, named_sets
from .terminal import console, echo, spelled, styled, warn

if TYPE_CHECKING:
    from rich.console import Console

    from ..core.record import Record


@click.command(cls=Command)
@click.argument("out", shell_complete=completion.models)
@click.option(
    "--base",
    metavar="PATH|ID",
    shell_complete=completion.models,
    help="The base, to compare every carried tensor with (and to run).",
)
@click.option("--revision", metavar="REV", help="Branch, tag or commit of a Hub base.")
@click.option(
    "--adapter",
    metavar="PATH|ID",
    shell_complete=completion.models,
    help="The adapter that was baked, for an output that was made of one. Without --base, the base that it names.",
)
@click.option(
    "--vectors",
    metavar="SET",
    multiple=True,
    shell_complete=completion.sets,
    help="The vectors, to compute every bias again; as often as they were given to the bake. Default: the set that the "
    "record names, if it has a name here or on the Hub.",
)
@click.option(
    "--stack",
    type=click.Choice([name for name, stack in STACKS.items() if stack.is_run]),
    multiple=True,
    help="Run it there as well. transformers: against the hook; the others: greedy tokens against transformers.",
)
@click.option(
    "--python",
    metavar="EXE",
    help="Python of the environment that has the --stack (default: this one). Not for transformers.",
)
@click.option(
    "--max-new-tokens",
    type=click.IntRange(1, 4096),
    default=60,
    show_default=True,
    help="Tokens to generate per prompt when a stack is run.",
)
@click.option(
    "--node-modules", metavar="PATH", help="Folder node_modules of a --stack in Node.js (default: that of --python)."
)
@click.option(
    "--weights",
    metavar="TYPE",
    help="Have the converter of the --stack quantise as well, such as int8 or int4, and compare with its float form.",
)
@json_option
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but failures.")
def verify(
    base: str | None, revision: str | None, vectors: tuple[str, ...], as_json: bool, quiet: bool, **options: Any
) -> None:
    """Check a finished output: its bytes, and with --stack its behaviour where it will be served.

    OUT is a folder, or ID[@REV] on the Hub; there its weights are fetched only with --stack.

    Exit code 1 when a check fails or a stack is not installed.
    """
    from dataclasses import replace

    from ..actions.verify import verify as run_checks
    from ..storage.model_name import ModelName

    name = None if base is None else ModelName.parse(base, revision=revision)
    found = run_checks(base=name, vectors=named_sets(vectors), **options)
    checks = [replace(check, detail=spelled(check.detail)) for check in found]
    if as_json:
        click.echo(json.dumps([check.as_dict() for check in checks], indent=2))
    else:
        marks = {True: ("ok  ", "green"), False: ("FAIL", "bold red"), None: ("info", "dim")}
        out_console = console()
        for check in checks:
            if not quiet or check.ok is False:
                out_console.print(styled(marks[check.ok], f" {check.name}: {check.detail}"))
    if any(check.ok is False for check in checks):
        raise SystemExit(1)


@click.command("show", cls=Command)
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the whole record as JSON on stdout.")
@click.option(
    "--recipe", is_flag=True, help="Print the persona that makes OUT again, for a .yaml file that `emobake bake` reads."
)
def show_command(out: Path, as_json: bool, recipe: bool) -> None:
    """Show the record of OUT, a finished output's folder or .gguf file: its weights, its base and its vectors."""
    if recipe:
        if as_json:
            raise click.UsageError("--recipe and --json: give one")
        from ..actions.recipe import recipe_of

        found = recipe_of(out)
        for line in found.text.splitlines():
            echo(line)
        for remark in found.remarks:
            warn(remark)
        return
    from ..core.record import Record
    from ..formats.output import read_record_json
    from ..storage.files import reading

    with reading():
        data = read_record_json(out)
    record = Record.from_json(data, str(out))
    if as_json:
        click.echo(json.dumps(data, indent=2))
    else:
        _show_record(console(), record)


def _show_record(console: Console, record: Record) -> None:
    """Print what a record says: the weights, the base, the vectors, and how much each layer got."""
    from rich.table import Table

    from ..core.totals import steers_in_total, total_recipe
    from .summary import cost_in_words, headline, layers_changed

    if record.adapters:
        console.print(styled((f"Adapters: {', '.join(record.adapters)} (`emobake show` each)", "bold")))
        return
    history = record.history
    total = headline(total_recipe(record), steers=steers_in_total(record), again=bool(history))
    console.print(styled((f"Baked: {total}", "bold")))
    base, vectors = record.base, record.vectors
    table = Table.grid(padding=(0, 2))
    at = f"@{base.revision}" if base.revision else ""
    table.add_row("base", styled(f"{base.model or 'not known'}{at} ({', '.join(w.name for w in base.weights)})"))
    if record.adapter is not None:
        table.add_row("adapter", styled(f"{record.adapter.model or 'a local one'} ({record.adapter.how})"))
    count = len(vectors.sha256)
    digests = f", {count} digest{'s' * (count != 1)}" if count else ""
    table.add_row("vectors", styled(f"{vectors.name}, of the {vectors.site.replace('_', ' ')}{digests}"))
    table.add_row("layers", layers_changed(record.biases, again=bool(history)))
    how = (record.form, record.model_type, record.route, record.version)
    table.add_row("made as", styled(" ".join(text[:40] for text in how)))
    if not record.cost.is_free:
        table.add_row("cost", cost_in_words(record.cost))
    for number, earlier in enumerate(history):
        table.add_row("" if number else "before", styled(earlier.steering.recipe))
    if record.persona is not None:
        table.add_row("persona", styled(record.persona.name or "without a name"))
    if history:
        table.add_row("last", styled(record.steering.recipe))
    console.print(table)
