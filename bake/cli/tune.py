"""``emobake tune``: from options to the search for a scale, and its result; `tune_search` searches for a shape."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .command import Command
from .options import (
    batch_option,
    json_option,
    model_and_vectors,
    model_option,
    parsed_mix,
    runtime_of,
    runtime_options,
    steering_options,
)
from .progress import count_bars
from .terminal import console, echo, option, warn
from .tune_search import ONLY_ELSEWHERE, ONLY_HERE, run_search

if TYPE_CHECKING:
    from ..core.progress import Advance


@click.command(cls=Command)
@model_option("Model to steer: a folder, or a model id on the Hub.", required=True)
@steering_options
@click.option(
    "--target-kl",
    type=click.FloatRange(0, min_open=True),
    metavar="X",
    help="Find the scale at which the next-token distribution is X nats from the base's, on average.",
)
@click.option(
    "--match",
    type=click.Choice(["last"]),
    help="last: find the scale at which a bias comes closest to adding the vectors at the last position of each "
    "forward pass, as the paper's code does.",
)
@click.option(
    "--max-scale", type=click.FloatRange(0, min_open=True), default=8.0, show_default=True, help="End of the search."
)
@click.option(
    "--limit",
    type=click.IntRange(1),
    metavar="N",
    help="Only N of the 32 prompts on which the models are compared: quicker, and rougher.",
)
@click.option(
    "--plot", metavar="FILE", type=click.Path(path_type=Path), help="Draw the curve into a .png or .svg file."
)
@click.option(
    "--search",
    "shape",
    is_flag=True,
    help="Search, on Optuna's samplers, for other rows that raise the emotion more and damage the model less: weights "
    "by layer, less of what all emotions or neutral outputs have in common. Needs emobake[search].",
)
@click.option(
    "--budget-kl",
    type=click.FloatRange(0, min_open=True),
    default=0.5,
    show_default=True,
    metavar="X",
    help="With --search: mean KL of the chosen rows at most.",
)
@click.option(
    "--trials", type=click.IntRange(5), default=60, show_default=True, help="With --search: number of trials."
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="With --search: the same seed gives the same trials.",
)
@click.option(
    "--blend",
    metavar="PATH|NAME",
    help="With --search: a second set, such as one of vectors extract --method trained. Its rows for the same mix may "
    "take the place of the vectors' own, in part or whole.",
)
@click.option(
    "--scorer",
    "scorers",
    metavar="NAME",
    multiple=True,
    help="With --search: a text classifier, a folder or Hub id, as one more measure of emotion. May be given more than "
    "once.",
)
@click.option(
    "--out",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="With --search: the .safetensors file to write; the trials and pictures come beside it.",
)
@click.option(
    "--restart", is_flag=True, help="With --search: forget the trials of an interrupted run to the same --out."
)
@click.option("--overwrite", is_flag=True, help="With --search: replace --out.")
@batch_option("Answers generated at once.")
@runtime_options
@json_option
@click.option("-q", "--quiet", is_flag=True, help="Print the scale only, at the end; no progress.")
@click.pass_context
def tune(
    context: click.Context,
    /,
    mix: tuple[str, ...],
    scale: float,
    plot: Path | None,
    as_json: bool,
    quiet: bool,
    shape: bool,
    **options: Any,
) -> None:
    """Find the --scale for a bake: one that keeps to a budget of KL, or matches the paper's way of steering.

    With --search, find other rows than the vectors' own: a vector set that raises the emotion more at less damage. A
    killed search continues where it stopped.
    """
    given = [name for name in (ONLY_ELSEWHERE if shape else ONLY_HERE) if _is_given(context, name)]
    if given:
        raise click.UsageError(f"{option(given[0])} {'does not go' if shape else 'goes'} with --search")
    own = {name: options.pop(name) for name in ONLY_HERE}
    if shape:
        if scale != 1:
            raise click.UsageError("--search finds the scale, too; leave --scale out")
        for name in set(ONLY_ELSEWHERE) & options.keys():
            del options[name]
        run_search(mix, as_json=as_json, **own, **options)
        return
    from ..measure.neutral_prompts import PROMPTS, neutral_count
    from ..measure.plots import plot_curve
    from ..measure.tuning import tune as search
    from ..vectors.pictures import check_picture

    if scale != 1:
        raise click.UsageError("--scale is the result of this command; leave it out")
    if plot is not None:
        check_picture(plot)

    def say(scale: float, kl: float) -> None:
        if not (quiet or as_json):
            console(stderr=True).print(f"scale {scale:.4f}: KL {kl:.4f}")

    model, vectors = model_and_vectors(options)
    runtime = runtime_of(options)

    @cache
    def announce() -> None:
        """Say once, when the work begins, what takes so long."""
        if not (quiet or as_json):
            count = neutral_count(options["limit"])
            console(stderr=True).print(f"{count} prompts are answered, then scales are tried ...", style="dim")

    with ExitStack() as bars:
        show = count_bars(bars, silent=quiet or as_json)

        def progress(task: str, done: int, total: int) -> Advance:
            announce()
            return show(task, done, total)

        found = search(
            model, vectors, mix=parsed_mix(mix), runtime=runtime, tried=say, progress=progress, notice=warn, **options
        )
    if found.prompts < PROMPTS:
        warn(f"the figures are of {found.prompts} of the {PROMPTS} prompts; another run without `limit` may differ")
    if plot is not None:
        plot_curve(found, plot, target_kl=options["target_kl"])
    if as_json:
        click.echo(json.dumps(asdict(found), indent=2))
    elif quiet:
        echo(f"{found.scale:g}")
    else:
        of = "the base" if options["match"] is None else "last-position steering"
        echo(f"KL from {of}: {found.kl_at_one:.4f} nats at scale 1, {found.kl:.4f} at scale {found.scale:g}")
        if found.reference is not None:
            echo(f"KL of last-position steering from the base: {found.reference:.4f}")
        echo(f"Bake with --scale {found.scale:g}")


def _is_given(context: click.Context, name: str) -> bool:
    """True if the user gave this option, be it with its default."""
    return context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
