"""``emobake join``."""

from __future__ import annotations

import shlex
from contextlib import ExitStack
from pathlib import Path

import click

from .command import Command
from .progress import byte_bar
from .terminal import console, show_command, styled


@click.command(cls=Command)
@click.argument("first", type=click.Path(path_type=Path))
@click.option("--out", metavar="FILE", required=True, help="The .gguf file to write.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier output of emobake, once the new one is complete.")
@click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
def join(first: Path, out: str, overwrite: bool, quiet: bool) -> None:
    """Make one GGUF file of a mood that shares its weights with others: the one that a bake without --share writes.

    FIRST is the file of the set that ends in -00001-of-00002.gguf.
    """
    from ..actions.join import join as run
    from ..core.outputs import GgufFile

    with ExitStack() as bars:
        size = run(first, GgufFile(out, overwrite), progress=byte_bar(bars, silent=quiet))
    if not quiet:
        to = console()
        to.print(styled((f"Joined: {out}", "bold"), f" ({size / 1e6:,.0f} MB)"))
        show_command(to, f"  llama-server -m {shlex.quote(out)}")
