"""``emobake audit``: whether emotions look baked into a model, which ones, and which stacks would ignore them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from ..core.stacks import USUAL
from . import completion
from .command import Command
from .options import json_option, named_sets
from .terminal import STATUS_STYLES, console, show_indented, show_rows, spelled, styled

if TYPE_CHECKING:
    from rich.console import Console

    from ..actions.audit import Audit
    from ..actions.verdict import Finding
    from ..core.constant_rows import ConstantRows

_STYLES = {"none": "bold green", "own": "bold", "known": "bold yellow", "unknown": "bold yellow"}
_NEAREST = 5
"""Emotions that are named with their cosines; the JSON has all."""


@click.command(cls=Command)
@click.argument("model", shell_complete=completion.models)
@click.option("--revision", metavar="REV", help="Branch, tag or commit of a Hub model; also written ID@REV.")
@click.option(
    "--vectors",
    metavar="SET",
    multiple=True,
    shell_complete=completion.sets,
    help="A further set to compare with: a file or folder, a name, or a Hub repository. May be given more than once. "
    "Sets that `emobake vectors list` shows are compared with where they fit the model.",
)
@json_option
@click.option("-v", "--verbose", is_flag=True, help="Print a table of all layers.")
def audit(model: str, revision: str | None, vectors: tuple[str, ...], as_json: bool, verbose: bool) -> None:
    """Tell whether emotions look baked into MODEL: which, how strongly, and which stacks would ignore them.

    MODEL is a folder, a GGUF file or a Hub id, from emobake or from anyone; of a Hub model only headers and biases are
    fetched. Its biases of the attention and MLP outputs are compared with its weights and with all known vectors that
    fit. The exit code is 0 whatever the verdict.
    """
    from ..actions.audit import audit as run_audit
    from ..storage.model_name import ModelName

    found = run_audit(ModelName.parse(model, revision=revision), named_sets(vectors))
    if as_json:
        click.echo(json.dumps(_spelled(found.to_json()), indent=2))
        return
    _show(console(), found, verbose=verbose)


def _spelled(data: dict[str, Any]) -> dict[str, Any]:
    """The JSON of an audit with the arguments in its sentences spelled as options."""
    record = data["record"] and {**data["record"], "said": list(map(spelled, data["record"]["said"]))}
    return {**data, "record": record, "notes": list(map(spelled, data["notes"]))}


def _show(to: Console, found: Audit, *, verbose: bool) -> None:
    from ..actions.audit import would_ignore

    to.print(styled(f"{found.name} ({found.family}): ", (found.verdict, _STYLES[found.kind])))
    for each in found.findings:
        if each.kind != "none" or verbose:
            _show_finding(to, each)
            if verbose and each.kind != "none":
                _show_layers(to, each)
    for line in found.notes:
        to.print(styled(("Note:", "bold"), f" {spelled(line)}"))
    _show_record(to, found)
    for each in found.findings:
        _show_stacks(to, each)
        for sentence in would_ignore(each):
            to.print(styled(("Beware: ", "bold red"), sentence))


def _show_finding(to: Console, each: Finding) -> None:
    from ..actions.verdict import what_it_is

    rows = each.rows
    to.print(styled((each.place.capitalize(), "bold"), f": {what_it_is(rows)}, in {_layers(rows)}"))
    if each.kind == "none":
        return
    for reason in (*each.reasons, *rows.notes):
        show_indented(to, spelled(reason))
    for number, fit in enumerate(each.fits):
        share = f"{fit.explained:.1%}"
        if fit.explained_apart > fit.explained + 0.01:
            share += f" ({fit.explained_apart:.1%} with weights of each layer's own)"
        cosines = ", ".join(f"{emotion} {cosine:.3f}" for emotion, cosine in fit.nearest[:_NEAREST])
        mix = " + ".join(f"{weight:.3g} x {emotion}" for emotion, weight in fit.terms) or "nothing"
        label = "nearest" if number == 0 else "also near"
        show_indented(to, (f"{label}:", "dim"), f" {mix} of {fit.name} explains {share}; cosines: {cosines}")


def _layers(rows: ConstantRows) -> str:
    """The layers and the sizes of what they hold."""
    acting = rows.acting
    norms = [row.norm for row in acting if row.norm is not None]
    columns = [row.columns for row in acting if row.columns is not None]
    said = f"{len(acting)} of {rows.layers} layers"
    if not acting:
        return f"{len(rows.rows)} of {rows.layers} layers, all zeros"
    if norms:
        said += f", norms {min(norms):.3g} to {max(norms):.3g}"
    if columns:
        said += f" ({min(columns):.3g} to {max(columns):.3g} columns of the projection)"
    return said


def _show_layers(to: Console, each: Finding) -> None:
    """Print a row for each layer: the tensor, its norms, and its cosines with the nearest emotions."""
    best = each.fits[0] if each.fits else None
    emotions = [] if best is None else [emotion for emotion, _ in best.nearest[:_NEAREST]]
    table = []
    for row in each.rows.rows:
        cosines = []
        for emotion in emotions:
            cosine = None if best is None else best.layer_cosines[emotion].get(row.layer)
            cosines.append("" if cosine is None else f"{cosine:.3f}")
        where = row.tensor if row.column is None else f"{row.tensor}, column {row.column}"
        sizes = ["" if value is None else f"{value:.3g}" for value in (row.norm, row.columns)]
        table.append([str(row.layer), where, *sizes, *cosines])
    show_rows(to, ["layer", "tensor", "norm", "in columns", *emotions], table)


def _show_record(to: Console, found: Audit) -> None:
    record = found.record
    if record is None:
        to.print("No record of emobake.")
        return
    what = f"says {record.recipe}, and " if record.recipe else ""
    mark = ("agrees", "green") if record.agrees else ("does NOT agree", "bold red")
    to.print(styled(("Record of emobake", "bold"), f": {what}", mark))
    for line in record.said:
        show_indented(to, spelled(line))


def _show_stacks(to: Console, each: Finding) -> None:
    """Print what the usual stacks do with rows that look baked in."""
    if each.kind not in ("known", "unknown"):
        return
    from rich.table import Table

    to.print(f"Stacks, for the {each.place}:")
    table = Table.grid(padding=(0, 2))
    for name, support in each.rows.stacks.items():
        if name in USUAL:
            table.add_row("  " + name, styled((support.clause, STATUS_STYLES[support.status])))
    to.print(table)
