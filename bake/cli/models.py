"""``emobake models``: the ways to bake a family or a checkpoint, the stacks that each one serves, and what it costs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from ..core.sites import SITE, SITES
from ..core.stacks import STACKS, USUAL, Support
from . import completion
from .command import Command
from .options import json_option
from .terminal import STATUS_STYLES, console, show_command, styled

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from ..actions.overview import MethodOverview, Overview, StackOverview, Way
    from ..core.sites import Site

_FORMS = {"checkpoint": "checkpoint folders", "gguf": "GGUF files"}
_WORDS = {"unsteered": "UNSTEERED", "wrong": "WRONG"}


@click.command(cls=Command)
@click.argument("model", required=False, shell_complete=completion.models)
@click.option("--revision", metavar="REV", help="Branch, tag or commit of a Hub model.")
@click.option("--site", type=click.Choice(SITES), default=SITE, show_default=True, help="Where the vectors act.")
@click.option("--quantised", is_flag=True, help="Show which stacks load which quantisation, instead of families.")
@click.option("--stack", metavar="NAME", type=click.Choice(list(STACKS)), help="Tell all of one stack.")
@json_option
def models(
    model: str | None, revision: str | None, site: Site, quantised: bool, stack: str | None, as_json: bool
) -> None:
    """Show how a model can be baked: the routes, the stacks that each one serves, and what it costs.

    MODEL is a folder, a GGUF file or a Hub id, of which only the config or header is read (of an adapter that of its
    base, too); or a model_type such as qwen3. Without it, all families are listed. "*" marks what was seen in a run;
    the rest was read from sources.
    """
    from ..actions.overview import methods, overview, stack_overview

    if stack is not None:
        if model is not None or quantised:
            raise click.UsageError("--stack lists all families; leave MODEL and --quantised out")
        told = stack_overview(stack, site=site)
        if as_json:
            click.echo(json.dumps(told.to_json(), indent=2))
        else:
            _show_stack(console(), told)
        return
    if quantised:
        if model is not None:
            raise click.UsageError("--quantised lists all methods; without it, MODEL shows what its own allows")
        if as_json:
            click.echo(json.dumps([each.to_json() for each in methods()], indent=2))
        else:
            _show_methods(console(), methods())
        return
    from ..storage.model_name import ModelName

    name = None if model is None else ModelName.parse(model, revision=revision)
    found = overview(name, site=site)
    if as_json:
        click.echo(json.dumps([each.to_json() for each in found], indent=2))
        return
    _show(console(), found, details=model is not None)


def _show(to: Console, found: Sequence[Overview], *, details: bool) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("family", "route", *USUAL, "cost"):
        table.add_column(column)
    for each in found:
        for number, way in enumerate(_open(each, details=details)):
            cells = [_cell(way.stacks[stack]) for stack in USUAL]
            name = styled("" if number else each.family)
            table.add_row(name, styled(_route(way)), *cells, styled(_cost(way)))
    if table.row_count:
        to.print(table)
    refused = [each for each in found if each.refusal and not any(way.is_open for way in each.ways)]
    if refused and not details:
        to.print("No route:")
    for each in refused:
        to.print(styled((each.family, "bold"), f": {each.refusal}"))
    if details:
        _show_details(to, found)


def _show_methods(to: Console, found: Sequence[MethodOverview]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("method", *USUAL):
        table.add_column(column)
    for each in found:
        table.add_row(styled(each.name), *(_cell(each.stacks[stack]) for stack in USUAL))
    to.print(table)
    to.print("A model is served as the worse of its family and its method allows.")
    show_command(to, "emobake models MODEL")


def _show_stack(to: Console, found: StackOverview) -> None:
    from rich.table import Table

    stack = found.stack
    facts = Table.grid(padding=(0, 2))
    for label, text in (
        ("loads", " and ".join(_FORMS[form] for form in sorted(stack.loads))),
        ("run", stack.ran or "no"),
        ("read", stack.read),
        ("install", stack.install),
        ("convert", stack.convert.format(model="MODEL")),
        ("serve", (stack.serve or stack.serve_folder).format(model="MODEL")),
        ("verify", f"emobake verify OUT --base BASE --stack {stack.name} --python EXE" if stack.is_run else ""),
    ):
        if text:
            facts.add_row(styled((label, "bold")), styled(text))
    to.print(styled((stack.label, "bold")))
    to.print(facts)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("family", "route", "what it does"):
        table.add_column(column)
    for family, ways in found.families.items():
        for number, (route, support) in enumerate(ways.items()):
            table.add_row(styled("" if number else family), styled(route), _cell(support, support.note))
    for architecture, support in found.architectures.items():
        table.add_row(styled(architecture), styled("GGUF file"), _cell(support, support.note))
    to.print(table)


def _open(each: Overview, *, details: bool) -> list[Way]:
    return [way for way in each.ways if way.is_open or not details]


def _show_details(to: Console, found: Sequence[Overview]) -> None:
    """Print notes of stacks, and what closed ways would need."""
    for each in found:
        for way in each.ways:
            for stack in USUAL:
                support = way.stacks[stack]
                if way.is_open and (support.note or support.environment or support.status == "option"):
                    to.print(styled((f"{_route(way)}, {stack}", "bold"), f": {support.clause}"))
            if not way.is_open:
                to.print(styled((f"{_route(way)} does not apply", "dim"), f": {'; '.join(way.blockers)}"))
    open_ways = [way for each in found for way in each.ways if way.is_open]
    if any(not way.in_gguf for way in open_ways):
        to.print("--targets STACK,... picks the route for those stacks; --dry-run shows the plan.")
        show_command(to, "emobake bake --model MODEL --mix joy=1 --targets llama.cpp --dry-run")
    if any(way.in_gguf for way in open_ways):
        to.print("--out NAME.gguf bakes the file that llama.cpp's converter makes of the base.")
        show_command(to, "emobake bake --model MODEL --mix joy=1 --out joyful.gguf")


def _route(way: Way) -> str:
    form = ", text only" if way.text_only else ", as .gguf" if way.in_gguf else ""
    return f"{way.route}{form}"


def _cell(support: Support, note: str = "") -> RenderableType:
    word = _WORDS.get(support.status, support.status) + ("*" if support.run else "")
    return styled((word, STATUS_STYLES[support.status]), f"; {note}" if note else "")


def _cost(way: Way) -> str:
    if way.cost.is_free:
        return ""
    return f"cache x {way.cost.cache:.4g}, attention weights x {way.cost.attention:.4g}"
