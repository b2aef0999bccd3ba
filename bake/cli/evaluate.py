"""``emobake eval`` and ``emobake tune``: from options to measurements, and what is said of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from .options import json_option, running_options, sampling_options, steering_options
from .terminal import console, count_bar, going_on_later, warn


class NumbersCommand(click.Command):
    """A command whose ``--strengths`` takes numbers until something else comes, as ``--times`` takes five."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Join the numbers into one word, which is what click can take."""
        if "--strengths" in args:
            begin = args.index("--strengths") + 1
            end = begin
            while end < len(args) and _is_number(args[end]):
                end += 1
            if end > begin:
                args = [*args[: begin - 1], f"--strengths={','.join(args[begin:end])}", *args[end:]]
        return super().parse_args(ctx, args)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _strengths(_context: click.Context, _option: click.Parameter, value: str) -> list[float]:
    words = value.replace(",", " ").split()
    if not all(map(_is_number, words)):
        raise click.BadParameter(f"{value!r} is not a list of numbers such as -1 0 1 2 4")
    return list(map(float, words))


@click.command("eval", cls=NumbersCommand)
@click.argument("checkpoints", nargs=-1, type=click.Path(path_type=Path))
@click.option("--model", metavar="PATH|ID", help="The unsteered base: a folder, or a model id on the Hub.")
@steering_options
@click.option(
    "--emotions", metavar="NAME,...", default="", help="Each on its own, instead of --times or --mix; base: their mean."
)
@click.option(
    "--strengths",
    metavar="X ...",
    default="-1,0,1,2,4",
    show_default=True,
    callback=_strengths,
    help="Factors at which the vectors are added.",
)
@click.option(
    "--answers",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Score recorded answers, in the layout of the published results, instead of generating.",
)
@click.option(
    "--queries",
    "questions",
    metavar="FILE|NAME",
    default="emotionquery+",
    show_default=True,
    help="What is asked: JSON or JSONL; emotionquery+, the paper's 400, which are fetched; or everyday, 60 that come "
    "with emobake.",
)
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Only N queries of each part of the set.")
@click.option(
    "--scorer",
    "scorers",
    metavar="NAME",
    multiple=True,
    help="A text classifier of emotions, a folder or Hub id; or lexicon, which needs no download and is weak. May be "
    "given more than once. Default: SamLowe/roberta-base-go_emotions.",
)
@click.option(
    "--judge",
    metavar="MODEL",
    default="",
    help="Have this model of an OpenAI-compatible endpoint give absolute scores; OPENAI_BASE_URL and OPENAI_API_KEY "
    "say which.",
)
@click.option("--control/--no-control", default=True, help="A random direction of the same norm beside each.")
@sampling_options(max_new_tokens=512, temperature=0.6, top_p=0.9)
@click.option("--batch-size", type=click.IntRange(1), default=16, show_default=True, help="Answers generated at once.")
@click.option(
    "--engine",
    type=click.Choice(["transformers", "vllm"]),
    default="transformers",
    show_default=True,
    help="What generates. vllm runs baked checkpoints; what is not baked yet is, for the while.",
)
@click.option(
    "--engine-python",
    metavar="EXE",
    type=click.Path(path_type=Path),
    help="With vllm: a Python interpreter that has it. Default: this one.",
)
@running_options
@click.option("--out", metavar="DIR", type=click.Path(path_type=Path), required=True, help="Folder for the report.")
@click.option("--restart", is_flag=True, help="Forget what an interrupted run to the same --out had finished.")
@click.option("--overwrite", is_flag=True, help="Replace a report in --out.")
@json_option
@click.option("-q", "--quiet", is_flag=True, help="Print warnings and errors only.")
def eval_command(
    checkpoints: tuple[Path, ...],
    model: str | None,
    mix: str | None,
    emotions: str,
    out: Path,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Measure what steering does: the emotion in the answers, what the model loses, and the best strength.

    Of a model with vectors at several strengths; of CHECKPOINTS that are baked; or of recorded answers. A killed run
    goes on where it stopped. `accelerate launch -m emobake eval ...` spreads the work over processes.
    """
    from ..core.steering import parse_mix
    from ..measure.engines import Settings
    from ..measure.evaluation import evaluate
    from ..measure.report import show
    from ..models.sampling import Sampling

    sampling = Sampling(**{key: options.pop(key) for key in ("max_new_tokens", "temperature", "top_p", "seed")})
    running = ("batch_size", "engine", "engine_python", "dtype", "device", "device_map")
    settings = Settings(sampling, **{key: options.pop(key) for key in running})
    if settings.engine_python is not None and settings.engine != "vllm":
        raise click.UsageError("--engine-python goes with --engine vllm")
    with going_on_later(), ExitStack() as bars:
        data = evaluate(
            model,
            out,
            checkpoints=checkpoints,
            mix=parse_mix(mix) if mix else None,
            emotions=[name for name in emotions.split(",") if name.strip()],
            settings=settings,
            progress=stages(bars, silent=quiet or as_json),
            **options,
        )
    if data is None:
        return
    for warning in data["warnings"]:
        warn(warning)
    if as_json:
        click.echo(json.dumps(data, indent=2))
    elif not quiet:
        show(console(), data, str(out))


def stages(bars: ExitStack, *, silent: bool) -> Callable[[str, int, int], Callable[[int], None]]:
    """A bar for each stage, under one another."""
    shown: list[Any] = []

    def start(stage: str, done: int, total: int) -> Callable[[int], None]:
        if silent:
            return lambda more: None
        if not shown:
            shown.append(bars.enter_context(count_bar()))
        task = shown[0].add_task(stage, total=total, completed=done)
        return lambda more: shown[0].advance(task, more)

    return start


@click.command()
@click.option("--model", metavar="PATH|ID", required=True, help="Model to steer: a folder, or a model id on the Hub.")
@steering_options
@click.option(
    "--target-kl",
    type=click.FloatRange(0, min_open=True),
    metavar="X",
    help="The scale at which the next-token distribution is X nats from the base's, on average.",
)
@click.option(
    "--match",
    type=click.Choice(["last"]),
    help="last: the scale at which a bias comes closest to adding the vectors at the last position of each forward "
    "pass, as the paper's code does.",
)
@click.option(
    "--max-scale", type=click.FloatRange(0, min_open=True), default=8.0, show_default=True, help="Where to stop."
)
@click.option(
    "--plot", metavar="FILE", type=click.Path(path_type=Path), help="Draw the curve into a .png or .svg file."
)
@click.option("--batch-size", type=click.IntRange(1), default=16, show_default=True, help="Answers generated at once.")
@running_options
@json_option
@click.option("-q", "--quiet", is_flag=True, help="Print the scale only.")
def tune(
    model: str, mix: str | None, scale: float, plot: Path | None, as_json: bool, quiet: bool, **options: Any
) -> None:
    """Find the --scale for a bake: one that keeps to a budget of KL, or matches the paper's way of steering."""
    from dataclasses import asdict

    from ..core.steering import parse_mix
    from ..measure.tuning import check_picture, plot_curve
    from ..measure.tuning import tune as search

    if scale != 1:
        raise click.UsageError("--scale is what this command finds; leave it out")
    if plot is not None:
        check_picture(plot)

    def say(scale: float, kl: float) -> None:
        if not (quiet or as_json):
            console(stderr=True).print(f"scale {scale:.4f}: KL {kl:.4f}", highlight=False)

    found = search(model, mix=parse_mix(mix) if mix else None, progress=say, **options)
    if plot is not None:
        plot_curve(found, plot, target_kl=options["target_kl"])
    if as_json:
        click.echo(json.dumps(asdict(found), indent=2))
    elif quiet:
        click.echo(f"{found.scale:g}")
    else:
        of = "the base" if options["match"] is None else "last-position steering"
        click.echo(f"KL from {of}: {found.kl_at_one:.4f} nats at scale 1, {found.kl:.4f} at scale {found.scale:g}")
        if found.reference is not None:
            click.echo(f"KL of last-position steering from the base: {found.reference:.4f}")
        click.echo(f"Bake with --scale {found.scale:g}")
