"""``emobake tune --search``: from options to a search, and its summary."""

from __future__ import annotations

import json
import shlex
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import model_and_vectors, parsed_mix, runtime_of
from .progress import count_bars
from .terminal import console, echo, resumable, show_command, warn

if TYPE_CHECKING:
    from ..measure.search.points import Point
    from ..measure.search.results import Searched

ONLY_HERE = ("budget_kl", "trials", "seed", "blend", "out", "scorers", "restart", "overwrite")
"""Options that go with --search."""
ONLY_ELSEWHERE = ("target_kl", "match", "max_scale", "limit", "plot", "quiet")
"""Options that do not."""


def run_search(
    mix: tuple[str, ...], out: Path | None, as_json: bool, budget_kl: float, trials: int, seed: int, **options: Any
) -> None:
    """Search, write the set, and print what the test says."""
    from ..measure.search.search import SearchSettings, search

    if out is None:
        raise click.UsageError("--search writes a vector set: give --out NAME.safetensors")
    name = options["model"]
    model, vectors = model_and_vectors(options)
    settings = SearchSettings(budget_kl, trials, seed, runtime_of(options))

    def say(point: Point) -> None:
        if not as_json:
            found = point.figures
            stopped = " (stopped)" if found.collapsed is None else f", collapsed {found.collapsed:.0%}"
            console(stderr=True).print(f"{point.name}: emotion {found.emotion:+.2f}, KL {found.kl:.3f}{stopped}")

    with resumable(), ExitStack() as bars:
        done = search(
            model,
            out,
            vectors,
            mix=parsed_mix(mix),
            settings=settings,
            tried=say,
            progress=count_bars(bars, silent=as_json),
            notice=warn,
            **options,
        )
    if done is None:
        return
    if as_json:
        click.echo(json.dumps(done.to_json(), indent=2))
    else:
        _show(done, name, out)


def _show(done: Searched, model: str, out: Path) -> None:
    from rich.table import Table

    test = done.test
    table = Table(title=f"{len(test['queries'])} test queries, which no trial has seen", title_justify="left")
    table.add_column("")
    for title in ("emotion", "words per 100", "KL", "KL worst 5%", "collapsed", "perplexity"):
        table.add_column(title, justify="right")
    rows = [("base", test["base"])]
    kinds = [kind for kind in ("plain", "second", "tuned") if kind in test]
    rows += [(f"{kind} x {one['strength']:g}", one) for kind in kinds for one in test[kind]]
    for label, one in rows:
        perplexity = "" if one["perplexity"] is None else f"{one['perplexity']:.3g}"
        cells = (f"{one['emotion']:.2f}", f"{one['lexicon']:.2f}", f"{one['kl']:.3f}", f"{one['kl_worst']:.2f}")
        table.add_row(label, *cells, f"{one['collapsed']:.1%}", perplexity)
    console().print(table)
    found = test["comparison"]
    best, plain = found["best_tuned"], found["best_plain"]
    if best is None:
        warn(
            "on the test queries no strength of the tuned rows is within the bounds; look at the table before you bake"
        )
    if plain is None:
        echo("No plain strength is within the bounds on the test queries.")
    elif found["rise_ratio"] is not None:
        echo(f"{best or 'tuned 1'} raises the emotion {found['rise_ratio']:.2f} times as far as {plain}.")
    if found["kl_ratio_at_equal_rise"] is not None:
        echo(f"At the rise of {plain} the KL of the tuned rows is {found['kl_ratio_at_equal_rise']:.2f} of its KL.")
    (emotion,) = done.vectors.emotions
    echo(f"Wrote {out}, and beside it the trials and pictures ({out.stem}.search.json, .png, .svg)")
    words = f"emobake --model {shlex.quote(model)} --vectors {shlex.quote(str(out))} --mix {shlex.quote(emotion)}=1"
    show_command(console(), f"{words}{' --auto' if best else ''} --out ./steered")
