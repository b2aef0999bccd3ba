"""``emobake bake``: from options to a bake, and its summary."""

from __future__ import annotations

import json
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..core.outputs import Folder, GgufFile
from ..errors import InputError, OutputError
from ..storage.model_name import ModelName, is_gguf
from . import completion
from .command import Command
from .options import (
    bound_options,
    bounds_of,
    carrying_options,
    hub_options,
    model_and_vectors,
    model_option,
    output_options,
    parsed_mix,
    steering_options,
)
from .progress import byte_bar
from .terminal import console, echo, spelled, warn

if TYPE_CHECKING:
    from ..actions.request import BakeResult
    from ..storage.hub.target import HubTarget


@click.command(cls=Command)
@click.argument("persona", required=False, shell_complete=completion.personas)
@model_option("Model to steer: a folder or Hub id of a checkpoint or a PEFT adapter, or a GGUF file.")
@steering_options
@output_options
@hub_options
@carrying_options
@click.option(
    "--auto",
    is_flag=True,
    help="Scale the weights to the strength that was measured for the set, or that is the best in --report.",
)
@click.option(
    "--report",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="A report of `emobake eval` on this very steering: --auto takes its best strength, and nothing is written if "
    "it is beyond the bounds.",
)
@bound_options
@click.option("--dry-run", is_flag=True, help="Print the plan and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON on stdout.")
@click.option("-q", "--quiet", is_flag=True, help="Print warnings and errors only.")
@click.option("-v", "--verbose", is_flag=True, help="Name every file.")
@click.pass_context
def bake(
    context: click.Context,
    /,
    persona: str | None,
    auto: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **options: Any,
) -> None:
    """Bake emotion vectors into a model, and write a standalone copy of it.

    The attention output biases of the copy hold the weighted vectors (arXiv 2502.04075), so that transformers, vLLM,
    llama.cpp and mlx-lm serve it steered without hooks. The word `bake` may be left out.

    With PERSONA, a file that `emobake persona init` begins or the name of a shipped one, everything that it names is
    made: below --out, or beside the file. Of the options, --model, --vectors, --converter, --overwrite, --force and
    those of the summary go with it.
    """
    if persona is not None:
        from .persona import bake_file

        bake_file(persona, context, options | {"as_json": as_json, "quiet": quiet, "verbose": verbose})
        return
    if options["model"] is None:
        raise click.UsageError("give --model, a checkpoint's folder or Hub id (emobake --help shows examples)")
    from ..actions.bake import bake as run

    if auto:
        if options["scale"] != 1:
            raise click.UsageError("--auto chooses the scale; leave --scale out")
        options["scale"] = "auto"
    push = _push(options)
    model, vectors = model_and_vectors(options)
    out_name = options["out"] or ""
    out = _output(options, model)
    if (quiet or as_json) and (push is not None or not model.is_local):
        from ..storage.http import quiet_library

        quiet_library(always=True)
    targets, mix = options.pop("targets"), options.pop("mix")
    with ExitStack() as bars:
        result = run(
            model,
            vectors,
            out=out,
            push=push,
            mix=parsed_mix(mix),
            targets=targets.split(",") if targets else (),
            format=_format(options),
            bounds=bounds_of(options),
            progress=byte_bar(bars, silent=quiet or as_json),
            notice=warn,
            chosen=lambda told: None if quiet or as_json else echo(told, err=True),
            **options,
        )
    _report(result, out_name, as_json=as_json, quiet=quiet, verbose=verbose)


def _push(options: dict[str, Any]) -> HubTarget | None:
    """Make a target of the Hub options, and remove them; --revision is the branch if the model needs none."""
    name, model, revision = options.pop("push_to_hub"), options["model"], options["revision"]
    hub = {key: options.pop(key) for key in ("private", "create_pr", "commit_message")}
    if not name:
        if hub["private"] is not None or hub["create_pr"] or hub["commit_message"]:
            raise InputError("--private, --public, --create-pr and --commit-message go with `push`")
        return None
    from ..storage.hub.target import HubTarget

    branch = None
    if revision and ("@" in model or ModelName.parse(model).is_local):
        if "@" in name:
            raise click.UsageError(f"--revision {revision} is another branch than that in --push-to-hub {name}")
        branch, options["revision"] = revision, None
    return HubTarget(name, branch, overwrite=options["overwrite"], **hub)


def _output(options: dict[str, Any], model: ModelName) -> Folder | GgufFile | None:
    """Make a value of the output options, and remove them."""
    out, link_mode, overwrite = options.pop("out"), options.pop("link_mode"), options.pop("overwrite")
    gguf = {key: options.pop(key) for key in ("outtype", "converter", "keep_split", "share", "modelfile")}
    if (out is not None and is_gguf(out)) or (out is None and model.kind == "gguf" and options["dry_run"]):
        if link_mode not in ("auto", "copy"):
            raise InputError(f"`link_mode` {link_mode}: a GGUF file is copied, because its header changes")
        return GgufFile(out or model.name, overwrite=overwrite, **gguf)
    if gguf["outtype"] or gguf["converter"]:
        raise InputError("`outtype` and `converter` go with a checkpoint as `model` and a .gguf as `out`")
    if gguf["keep_split"]:
        raise InputError("`keep_split` goes with a split GGUF set as `model`")
    if gguf["share"]:
        raise InputError("`share` goes with a .gguf as `out`; of a checkpoint, `link_mode` hardlink shares the weights")
    if gguf["modelfile"]:
        raise InputError("`modelfile` goes with a .gguf as `out`")
    return None if out is None else Folder(out, link_mode, overwrite)


def _format(options: dict[str, Any]) -> Any:
    form, each = options.pop("format_"), options.pop("each")
    if each and form != "peft":
        raise InputError("`each` goes with `format` peft")
    return "peft-each" if each else form


def _report(result: BakeResult, out: str, *, as_json: bool, quiet: bool, verbose: bool) -> None:
    try:
        for warning in result.plan.warnings:
            warn(warning)
        if as_json:
            from .summary import as_dict

            click.echo(json.dumps(as_dict(result, out), indent=2))
        elif not quiet:
            from .summary import show

            show(console(), result, out, verbose=verbose)
        sys.stdout.flush()
    except OSError as error:
        # Also keeps the interpreter from failing on the same flush when it exits.
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115
        done = "nothing was written" if result.out is None else f"{out} is complete"
        if result.pushed is not None and result.pushed.commit:
            done = f"{result.pushed.url} is complete"
        raise OutputError(spelled(f"the summary could not be printed ({error.strerror}); {done}")) from None
