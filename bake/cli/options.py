"""Options that several commands share, so that they are spelled and explained alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _together(*options: Decorator) -> Decorator:
    """One decorator for several, which stand in ``--help`` in the order given."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return add


steering_options = _together(
    click.option(
        "--revision",
        metavar="REV",
        help="Branch, tag or commit of a Hub model; also written --model ID@REV.",
    ),
    click.option(
        "--vectors",
        metavar="SET",
        help="Emotion vectors: a file or folder, a name that `emobake vectors list` shows, or a Hub repository. "
        "Default: the set published for the model.",
    ),
    click.option(
        "--vectors-for",
        metavar="ID",
        default="",
        help="Use the set published for this model, e.g. for a fine-tune of it.",
    ),
    click.option(
        "--site",
        type=click.Choice(["attention_output", "layer_output"]),
        callback=lambda _context, _option, value: value or "",
        help="Where the vectors act, for a file that does not say; refused where it says otherwise.",
    ),
    click.option("--base-model", metavar="ID", default="", help="Hub id of the base when --model is a folder."),
    click.option(
        "--times",
        nargs=5,
        type=float,
        metavar="A D F J S",
        help="Weights of anger, disgust, fear, joy, sadness; any real numbers.",
    ),
    click.option("--mix", metavar="NAME=X,...", help="Weights by name, e.g. joy=0.5,anger=-1. Instead of --times."),
    click.option("--scale", type=float, default=1.0, metavar="X", help="A factor for all weights."),
    click.option("--layers", metavar="LIST", help="Layers to steer, e.g. 8-27 or 0,4-6; the others get nothing."),
)
"""Which vectors, and how much of them."""


def sampling_options(max_new_tokens: int, temperature: float, top_p: float) -> Decorator:
    """How recorded answers are drawn, with these defaults."""
    return _together(
        click.option(
            "--max-new-tokens",
            type=click.IntRange(1, 8192),
            default=max_new_tokens,
            show_default=True,
            help="Length of an answer at most.",
        ),
        click.option(
            "--temperature",
            type=click.FloatRange(0),
            default=temperature,
            show_default=True,
            help="Of the answers; 0 is greedy.",
        ),
        click.option(
            "--top-p",
            type=click.FloatRange(0, 1, min_open=True),
            default=top_p,
            show_default=True,
            help="With a temperature: nucleus sampling.",
        ),
        click.option(
            "--seed",
            type=click.IntRange(0),
            default=0,
            show_default=True,
            help="With a temperature: of the random numbers.",
        ),
    )


running_options = _together(
    click.option(
        "--dtype",
        type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
        default="auto",
        show_default=True,
        help="Of the model; auto: float32 on a CPU, else its own.",
    ),
    click.option("--device", metavar="DEVICE", default="auto", show_default=True, help="cpu, cuda:0, mps ..."),
    click.option("--device-map", metavar="MAP", help="auto: spread a model that is larger than one GPU."),
)
"""How a model runs."""

hub_options = _together(
    click.option(
        "--private/--public",
        default=None,
        help="Of a repository that does not exist yet. Default: private when the base is.",
    ),
    click.option("--create-pr", is_flag=True, help="Open a pull request there instead of committing."),
    click.option("--commit-message", metavar="TEXT", default="", help="Default: what was baked."),
)
"""How a model gets to the Hub."""

json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")
