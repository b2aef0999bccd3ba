"""``emobake vectors``: get, make, inspect, change and share emotion vectors."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..core.sites import SITES
from ..core.spelling import did_you_mean
from ..errors import InputError
from . import completion
from .command import Group
from .extract import extract
from .options import json_option, parsed_mix
from .terminal import console, echo, show_command, show_rows, styled, warn

if TYPE_CHECKING:
    from ..core.vector_set import VectorSet

_OUT_FORMS = ".safetensors, .npz, .gguf (one emotion of the layer output), or no suffix for a folder of JSON files"


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def vectors() -> None:
    """Get, make, inspect, change and share emotion vectors.

    A SET is a file or folder, a name that `list` shows, or a Hub repository (owner/name[@revision]).
    """


@vectors.command("list")
@json_option
def list_sets(as_json: bool) -> None:
    """Show the sets that have a name, and for which models they are used without --vectors."""
    from ..vectors.fetch import is_cached
    from ..vectors.registry import registry

    entries = registry().sets
    where = {
        e.name: "shipped with emobake" if e.shipped else "cached" if is_cached(e) else "fetched when needed"
        for e in entries
    }
    if as_json:
        rows = [
            {
                "name": e.name,
                "base_model": e.base_model,
                "also_for": list(e.same_weights),
                "layers": e.layers,
                "hidden_size": e.hidden_size,
                "license": e.license,
                "source": e.source,
                "by_name": e.by_name,
                "where": where[e.name],
            }
            for e in entries
        ]
        click.echo(json.dumps(rows, indent=2))
        return
    cells = [(e.name, e.base_model, str(e.layers), str(e.hidden_size), e.license, where[e.name]) for e in entries]
    show_rows(console(), ("name", "model", "layers", "hidden", "licence", "where"), cells)
    for one in entries:
        if one.by_name:
            console().print(styled(f"{one.name} is used when it is named."))
    show_command(console(), "Any other model: emobake vectors extract --model MODEL --out NAME.safetensors")


@vectors.command()
@click.argument("name", shell_complete=completion.set_names)
@click.option("--out", metavar="PATH", type=click.Path(path_type=Path), help=f"Write it here as well: {_OUT_FORMS}.")
@click.option("--overwrite", is_flag=True, help="Replace --out.")
def pull(name: str, out: Path | None, overwrite: bool) -> None:
    """Fetch a published set into the cache, and print where it is.

    NAME is a name that `list` shows, or the Hub id of a model that has a set.
    """
    from ..vectors.fetch import pull as fetch
    from ..vectors.open import open_vectors
    from ..vectors.registry import find_by_model, find_by_name, models_with_sets, set_names
    from ..vectors.write import write_set

    entry = find_by_name(name) or find_by_model([name])
    if entry is None:
        like = did_you_mean(name, (*set_names(), *models_with_sets()))
        raise InputError(f"{name}: no set has that name or is for that model; `emobake vectors list` shows all{like}")
    path = fetch(entry)
    if out is not None:
        write_set(open_vectors(path), out, overwrite=overwrite)
    echo(str(out or path))


@vectors.command()
@click.argument("set_", metavar="SET", shell_complete=completion.sets)
@click.option("--plot", metavar="PNG", type=click.Path(path_type=Path), help="Draw norms and cosines into a picture.")
@json_option
def show(set_: str, plot: Path | None, as_json: bool) -> None:
    """Show a set: shape and site, norms per layer, cosines between emotions, statistics.

    Reports problems: layers without a vector, emotions that are the same, too few queries.
    """
    from ..vectors.arithmetic import describe
    from .vector_tables import as_dict, show_set

    found = _open(set_)
    description = describe(found)
    if plot is not None:
        from ..vectors.plot import plot_set

        plot_set(found, description, plot)
    if as_json:
        click.echo(json.dumps(as_dict(found, description), indent=2))
    else:
        show_set(console(), found, description)
        if plot is not None:
            console().print(styled(f"Picture: {plot}"))


@vectors.command()
@click.argument("sets", metavar="SET...", nargs=-1, required=True, shell_complete=completion.sets)
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--site",
    type=click.Choice(SITES),
    help="Where the vectors act, for a file that does not say it: the attention module's output, or the residual "
    "stream after the block.",
)
@click.option(
    "--first-row",
    type=click.IntRange(-1, 1023),
    metavar="LAYER",
    help="Layer of the first row, for a file that does not say it: 0 is the first decoder block, -1 the embeddings.",
)
@click.option("--emotion", metavar="NAME", help="The emotion to write into a .gguf, which holds one.")
@click.option("--base-model", metavar="ID", help="Hub id of the model it was made from, to record.")
@click.option("--license", metavar="ID", help="Licence identifier to record.")
@click.option("--source", metavar="TEXT", help="Where it comes from, to record.")
@click.option("--overwrite", is_flag=True, help="Replace OUT.")
def convert(
    sets: tuple[str, ...],
    out: Path,
    site: str | None,
    first_row: int | None,
    emotion: str | None,
    base_model: str | None,
    license: str | None,
    source: str | None,
    overwrite: bool,
) -> None:
    """Write SET in another form, chosen by the suffix of OUT: .safetensors, .npz, .gguf, or none for a JSON folder.

    Reads what `--vectors` reads, and the .npz, .pt, .gguf and .safetensors files of other projects. Given more than one
    SET, writes the emotions of all of them.
    """
    from dataclasses import replace

    from ..vectors.merge import merge_sets
    from ..vectors.open import open_vectors

    if site is not None or first_row is not None:
        found = merge_sets([open_vectors(Path(one), site=site or "", first_row=first_row) for one in sets])
    else:
        found = _open(*sets)
    found = replace(
        found,
        base_model=base_model or found.base_model,
        license=license or found.license,
        source=source or found.source,
    )
    _write(found, out, overwrite, emotion=emotion or "")
    _say_zero_layers(found)


@vectors.command()
@click.argument("set_", metavar="SET", shell_complete=completion.sets)
@click.option(
    "--out", metavar="PATH", type=click.Path(path_type=Path), required=True, help=f"Where to write: {_OUT_FORMS}."
)
@click.option("--name", metavar="NAME", help="Name of the new emotion.")
@click.option(
    "--mix",
    metavar="NAME=X,...",
    multiple=True,
    shell_complete=completion.weights,
    help="Its recipe, e.g. joy=0.5,sadness=0.5. Given more than once: all together.",
)
@click.option("--only", is_flag=True, help="Write the new emotion alone, not beside the others.")
@click.option(
    "--remove-common",
    is_flag=True,
    help="First subtract from every emotion the mean of all of them; the rest tells them apart.",
)
@click.option("--overwrite", is_flag=True, help="Replace --out.")
def mix(
    set_: str, out: Path, name: str | None, mix: tuple[str, ...], only: bool, remove_common: bool, overwrite: bool
) -> None:
    """Make a new named emotion from others, or remove the part that all emotions share, or both."""
    from ..vectors import arithmetic

    recipe = parsed_mix(mix)
    if (name is None) != (recipe is None):
        raise click.UsageError("--name and --mix go together: --name bittersweet --mix joy=0.5,sadness=0.5")
    if name is None and not remove_common:
        raise click.UsageError("give --name and --mix, or --remove-common, or all three")
    if only and name is None:
        raise click.UsageError("--only goes with --name and --mix")
    found = _open(set_)
    if remove_common:
        found = arithmetic.remove_common(found)
    if name is not None and recipe is not None:
        found = arithmetic.add_mix(found, name, recipe, only=only)
    _write(found, out, overwrite)


@vectors.command()
@click.argument("set_", metavar="SET", shell_complete=completion.sets)
@click.argument("repo_id", metavar="OWNER/NAME")
@click.option("--private", is_flag=True, help="Make the repository private, if it is new.")
@click.option("--commit-message", metavar="TEXT", default="", help="Message of the commit.")
@click.option("--base-model", metavar="ID", help="Hub id of the model it was made from, if the set does not say it.")
@click.option("--license", metavar="ID", help="Licence identifier, if the set does not say it.")
def push(
    set_: str, repo_id: str, private: bool, commit_message: str, base_model: str | None, license: str | None
) -> None:
    """Share SET on the Hub as a small repository with a card; `--vectors OWNER/NAME` then finds it."""
    from dataclasses import replace

    from ..storage.hub.target import HubTarget
    from ..vectors.share import push_vectors

    found = _open(set_)
    found = replace(found, base_model=base_model or found.base_model, license=license or found.license)
    if not found.license:
        warn("no licence is recorded, so others may not use the set; give --license, e.g. --license mit")
    target = HubTarget(repo_id, private=private or None, commit_message=commit_message)
    done = push_vectors(found, target, notice=warn)
    echo(done.url if done.changed else f"{done.url} (already the same: nothing was uploaded)")


def extract_command(model: str) -> str:
    """The command that makes vectors for `model`."""
    file = re.sub(r"[^\w.-]+", "-", Path(model).name.lower()) or "vectors"
    return f"emobake vectors extract --model {shlex.quote(model)} --out {shlex.quote(file)}.safetensors"


def _open(*sets: str) -> VectorSet:
    from ..storage.files import reading
    from ..vectors.find import find_vectors

    with reading():
        return find_vectors(list(sets))


def _write(found: VectorSet, out: Path, overwrite: bool, *, emotion: str = "") -> None:
    from ..vectors.write import write_set

    for path in write_set(found, out, emotion=emotion, overwrite=overwrite):
        echo(str(path))


def _say_zero_layers(found: VectorSet) -> None:
    zero = [layer for layer in range(found.layers) if not found.rows[:, layer].any()]
    if zero:
        warn(f"no vector in layer {', '.join(map(str, zero))}: nothing is steered there")


vectors.add_command(extract)
