"""``emobake persona``: files of personas, and their bake by ``emobake bake``."""

from __future__ import annotations

import json
import shlex
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from ..errors import InputError
from . import completion
from .command import Group
from .options import json_option, model_option, named_sets
from .progress import byte_bar, count_bars
from .terminal import console, echo, show_command, show_rows, spelled, styled, warn

if TYPE_CHECKING:
    from ..core.persona import Persona
    from ..measure.bake_persona import PersonaResult

_vectors_option = click.option(
    "--vectors", metavar="SET", multiple=True, shell_complete=completion.sets, help="These vectors, not the persona's."
)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def persona() -> None:
    """Keep a personality in a file: base, vectors, weights, outputs, system prompt and sampling.

    `emobake bake FILE` makes every output that it names. A PERSONA is a YAML or TOML file, or a name that `list` shows.
    """


@persona.command()
@click.argument("file", default="persona.yaml", type=click.Path())
@model_option("Start from this model: a folder, a GGUF file or a Hub id. Default: SmolLM2-135M-Instruct.")
@click.option(
    "--like", metavar="NAME", default="", shell_complete=completion.personas, help="Start from this shipped persona."
)
@click.option("--overwrite", is_flag=True, help="Replace FILE.")
def init(file: str, **options: Any) -> None:
    """Write a commented example to start from, by default persona.yaml."""
    from ..actions.new_persona import new_persona

    new_persona(file, **options)
    name = shlex.quote(file)
    console().print(styled((f"Wrote {file}", "bold")))
    for command in (f"emobake persona check {name}", f"emobake bake {name} --dry-run", f"emobake bake {name}"):
        show_command(console(), "  " + command)


@persona.command()
@click.argument("persona", shell_complete=completion.personas)
@model_option("The base, in place of the persona's.")
@_vectors_option
@json_option
def check(persona: str, model: str | None, vectors: tuple[str, ...], as_json: bool) -> None:
    """Check PERSONA: every field, its sets and emotions; and say what it would make.

    Nothing is fetched or written; `emobake bake PERSONA --dry-run` plans the outputs with the base itself.
    """
    from dataclasses import asdict

    from ..actions.check_persona import check_persona
    from ..actions.personas import PersonaRun, load_persona

    found = load_persona(persona)
    checked = check_persona(found, PersonaRun(model=model, vectors=named_sets(vectors)))
    if as_json:
        click.echo(json.dumps(asdict(checked), indent=2))
        return
    to = console()
    to.print(styled((f"{found.name or persona} is well-formed", "bold")))
    rows = (
        ("base", checked.base),
        ("vectors", checked.sets),
        ("mix", checked.recipe),
        ("strength", checked.strength),
        *_of_voice(found),
        *(("" if number else "makes", text) for number, text in enumerate(checked.outputs)),
    )
    _show_facts(rows)
    for sentence in checked.open:
        warn(sentence)


@persona.command()
@click.argument("persona", shell_complete=completion.personas)
@json_option
def show(persona: str, as_json: bool) -> None:
    """Show PERSONA: what it is, its recipe, its voice, its examples and its receipt."""
    from ..actions.personas import load_persona

    found = load_persona(persona)
    if as_json:
        click.echo(json.dumps(found.data, indent=2, ensure_ascii=False))
        return
    to = console()
    to.print(styled((found.name or persona, "bold")))
    for line in found.description.splitlines():
        to.print(styled(line))
    data = found.data
    told = ("base", "adapter", "vectors", "vectors_for", "site", "mix", "layers", "strength", "targets", "license")
    _show_facts(
        (
            *((name.replace("_", " "), _plain(data[name])) for name in told if name in data),
            *_of_voice(found),
            *(("" if number else "examples", text) for number, text in enumerate(found.examples)),
            *(("" if number else "outputs", _plain(one)) for number, one in enumerate(data["outputs"])),
            *(("" if number else "receipt", line) for number, line in enumerate(_of_receipt(found))),
        )
    )


@persona.command("list")
@json_option
def list_personas(as_json: bool) -> None:
    """Show the personas that are shipped with emobake."""
    from ..actions.personas import load_persona, shipped_personas

    found = {name: load_persona(name) for name in shipped_personas()}
    if as_json:
        click.echo(json.dumps({name: one.data for name, one in found.items()}, indent=2, ensure_ascii=False))
        return
    rows = [
        (name, "" if one.base is None else one.base.id, _plain(dict(one.mix)), one.description.split(". ")[0])
        for name, one in found.items()
    ]
    show_rows(console(), ("name", "model", "mix", "what it is"), rows)
    show_command(console(), "Start from one: emobake persona init FILE.yaml --like NAME")


@persona.command()
def schema() -> None:
    """Print the JSON schema of a persona's file, by which editors complete it."""
    from ..core.persona_table import persona_schema

    click.echo(json.dumps(persona_schema(), indent=2))


def bake_file(persona: str, context: click.Context, options: dict[str, Any]) -> None:
    """``emobake bake PERSONA``: make every output, and print a summary for each.

    Raises:
        click.UsageError: an option that a persona says itself, or that goes with no file.
    """
    allowed = ("persona", "out", "model", "revision", "vectors", "converter", "overwrite", "force", "dry_run")
    for parameter in context.command.params:
        name = parameter.name or ""
        given = context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        if given and name not in (*allowed, "as_json", "quiet", "verbose"):
            raise click.UsageError(f"{parameter.opts[0]} does not go with a persona; write it into {persona}")
    from ..measure.bake_persona import bake_persona
    from ..storage.model_name import ModelName

    silent = options["quiet"] or options["as_json"]
    if silent:
        from ..storage.http import quiet_library

        quiet_library(always=True)
    model, revision = options["model"], options["revision"]
    if revision is not None and model is None:
        raise InputError("`revision` goes with `model`; or write it into the persona, under base")

    def tell(text: str) -> None:
        if not silent:
            echo(text, err=True)

    with ExitStack() as bars:
        result = bake_persona(
            persona,
            out=options["out"],
            model=None if model is None else ModelName.parse(model, revision=revision),
            vectors=named_sets(options["vectors"]),
            converter=options["converter"],
            overwrite=options["overwrite"],
            force=options["force"],
            dry_run=options["dry_run"],
            tried=lambda scale, kl: tell(f"strength {scale:.4f}: KL {kl:.4f}"),
            progress=byte_bar(bars, silent=silent),
            counting=count_bars(bars, silent=silent),
            notice=warn,
            chosen=tell,
        )
    _report(result, as_json=options["as_json"], quiet=options["quiet"], verbose=options["verbose"])


def _report(result: PersonaResult, *, as_json: bool, quiet: bool, verbose: bool) -> None:
    """Print what became of each output; a warning that several have is printed once."""
    from .summary import as_dict, show

    baked = [(one, one.result) for one in result.outputs]
    for warning in dict.fromkeys(text for _, each in baked if each is not None for text in each.plan.warnings):
        warn(warning)
    for one in result.outputs:
        if one.unplanned:
            warn(f"{one.name}: {one.unplanned}")
    if as_json:
        outputs = [
            {"kind": one.output.kind, "place": one.name}
            | ({"unplanned": spelled(one.unplanned)} if each is None else as_dict(each, one.name))
            for one, each in baked
        ]
        tuned = None if result.tuned is None else {"strength": result.tuned.scale, "kl": result.tuned.kl}
        click.echo(json.dumps({"persona": result.persona.name, "tuned": tuned, "outputs": outputs}, indent=2))
    elif not quiet:
        to = console()
        for number, (one, each) in enumerate(baked):
            if each is not None:
                if number:
                    to.print("")
                to.print(styled((f"{one.output.kind} {one.name}", "bold")))
                show(to, each, one.name, verbose=verbose)


def _show_facts(rows: Any) -> None:
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    for name, text in rows:
        table.add_row(name, styled(text))
    console().print(table)


def _of_voice(found: Persona) -> list[tuple[str, str]]:
    rows = [("prompt", found.system_prompt)] if found.system_prompt else []
    if found.sampling.given:
        rows.append(("sampling", _plain(found.sampling.given)))
    return rows


def _of_receipt(found: Persona) -> list[str]:
    receipt = found.data.get("receipt", {})
    return [f"{name.replace('_', ' ')}: {_plain(value)}" for name, value in receipt.items()]


def _plain(value: Any) -> str:
    """A value in words, without the signs of a language."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(one)}" for name, one in value.items())
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
