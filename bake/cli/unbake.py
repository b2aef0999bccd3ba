"""``emobake unbake``."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..core.outputs import LINK_MODES
from . import completion
from .command import Command
from .options import json_option
from .progress import byte_bar
from .terminal import console, list_names, styled

if TYPE_CHECKING:
    from ..actions.unbake import Unbaked


@click.command(cls=Command)
@click.argument("baked", metavar="OUT", shell_complete=completion.models)
@click.option("--out", metavar="BASE", required=True, help="Folder to write, or .gguf file for the base of one.")
@click.option("--revision", metavar="REV", help="Branch, tag or commit of an OUT on the Hub; also written ID@REV.")
@click.option("--last", is_flag=True, help="Of a model that was baked more than once, undo the last bake alone.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier output of emobake, once the base is complete.")
@click.option(
    "--link-mode",
    type=click.Choice(LINK_MODES),
    default="auto",
    show_default=True,
    help="How weight files that the bake left as they were are carried over, as for `emobake bake`.",
)
@json_option
@click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
def unbake(
    baked: str,
    out: str,
    revision: str | None,
    last: bool,
    overwrite: bool,
    link_mode: Any,
    as_json: bool,
    quiet: bool,
) -> None:
    """Make the base of OUT again, byte for byte, of OUT alone: of its weights, and of what the bake kept beside them.

    OUT is the folder of a baked checkpoint or of a steered adapter, a baked .gguf (of a set the first file), or
    ID[@REV] on the Hub. Where that is impossible, the reason is told and nothing is written.

    What is written is compared with the digests in the record. Of weights the bake records them with --hash, and for
    models from the Hub; weight files without one are named.
    """
    from ..actions.unbake import unbake as run
    from ..storage.http import quiet_library
    from ..storage.model_name import ModelName

    model = ModelName.parse(baked, revision=revision)
    if (quiet or as_json) and not model.is_local:
        quiet_library(always=True)
    with ExitStack() as bars:
        found = run(
            model,
            _output(out, link_mode, overwrite=overwrite),
            last=last,
            progress=byte_bar(bars, silent=quiet or as_json),
        )
    if found.out.suffix == ".gguf":
        out = str(Path(out).with_name(found.out.name))  # The first file of a set has numbers in its name.
    if as_json:
        click.echo(json.dumps(_as_dict(found, out), indent=2))
    elif not quiet:
        _show(found, out)


def _output(out: str, link_mode: Any, *, overwrite: bool) -> Any:
    from ..core.outputs import Folder, GgufFile
    from ..errors import InputError
    from ..storage.model_name import is_gguf

    if not is_gguf(out):
        return Folder(out, link_mode, overwrite)
    if link_mode not in ("auto", "copy"):
        raise InputError(f"`link_mode` {link_mode}: a GGUF file is copied, because its header changes")
    return GgufFile(out, overwrite)


def _as_dict(found: Unbaked, out: str) -> dict[str, Any]:
    return {
        "out": out,
        "base": found.model or None,
        "bakes_undone": found.bakes,
        "files": [{"name": name, "size": size} for name, size in found.files.items()],
        "proved": list(found.proved),
        "unproved": list(found.unproved),
        "left_out": list(found.left_out),
        "notes": list(found.notes),
    }


def _show(found: Unbaked, out: str) -> None:
    to = console()
    to.print(styled((f"Restored: {out}", "bold")))
    count, size = len(found.files), sum(found.files.values())
    undone = "" if found.bakes == 1 else f", {found.bakes} bakes undone"
    base = found.model or "a local model"
    to.print(styled(f"base     {base} ({count} file{'s' * (count != 1)}, {size / 1e6:,.2f} MB{undone})"))
    if found.proved:
        to.print(styled(f"proved   {list_names(found.proved, verbose=True)}: the sha256 of the base"))
    if found.unproved:
        names = list_names(found.unproved, verbose=True)
        to.print(styled(f"unproved {names}: the record keeps no digest of the base's weights, only their sizes"))
    if found.left_out:
        to.print(styled(f"missing  {', '.join(found.left_out)}: of the base, and never part of OUT"))
    for note in found.notes:
        to.print(styled(f"note     {note}"))
