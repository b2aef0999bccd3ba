"""``emobake vectors extract``: from options to an extraction, and its summary."""

from __future__ import annotations

import json
import shlex
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..core.names import emotion_name
from ..errors import InputError
from . import completion
from .command import Command
from .options import batch_option, json_option, model_option, runtime_of, runtime_options, sampling_of, sampling_options
from .progress import count_bars
from .terminal import console, resumable, show_command, warn

if TYPE_CHECKING:
    from ..measure.extraction import Extraction, Method
    from ..measure.queries import Questionnaire


@click.command(cls=Command)
@model_option("Model to make vectors for: a folder, or a Hub id.", required=True)
@click.option("--revision", metavar="REV", help="Branch, tag or commit of a Hub model.")
@click.option("--base-model", metavar="ID", default="", help="Hub id to record when --model is a folder.")
@click.option(
    "--out", metavar="FILE", type=click.Path(path_type=Path), required=True, help="The .safetensors file to write."
)
@click.option(
    "--queries",
    metavar="FILE|NAME",
    help="Queries per emotion, JSON or JSONL; or emotionquery, the paper's 500, which are fetched. "
    "Default: 240 that are shipped with emobake.",
)
@click.option(
    "--every-emotion",
    is_flag=True,
    help="Ask every query under every emotion, in turn one of each: with five emotions, five times the answers.",
)
@click.option("--emotions", metavar="NAME,...", shell_complete=completion.emotions, help="Only these emotions.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Only the first N queries of each emotion.")
@click.option(
    "--emotional-prompt",
    metavar="TEXT|@FILE",
    help="Condition with {emotion} and {query}; docs/vectors.md has the default.",
)
@click.option("--neutral-prompt", metavar="TEXT|@FILE", help="Condition with {query} that is subtracted.")
@click.option(
    "--contrast",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Your own pairs of texts, JSONL with positive and negative, instead of queries.",
)
@click.option(
    "--reuse-answers",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Measure recorded answers instead of generating.",
)
@click.option(
    "--written",
    is_flag=True,
    help="Measure shipped replies to 32 queries, written neutrally and with each of the paper's emotions, instead of "
    "generating: for models too small to act an emotion.",
)
@click.option("--save-answers", metavar="FILE", type=click.Path(path_type=Path), help="Record the answers, as JSONL.")
@click.option(
    "--method",
    type=click.Choice(["mean", "trained"]),
    default="mean",
    show_default=True,
    help="mean: the mean difference, as in the paper. trained: a bias per layer, optimised by gradient for the "
    "emotional answers; docs/science.md compares them. --seed orders the queries of a training, too.",
)
@click.option(
    "--subtract-mean",
    is_flag=True,
    help="mean: subtract the mean over the emotions, query by query. Goes with --every-emotion, or with recorded "
    "answers of such a run.",
)
@click.option(
    "--best-layers",
    type=click.IntRange(1),
    metavar="N",
    help="mean: keep the N layers of each emotion in which the contrast separates best.",
)
@click.option("--steps", type=click.IntRange(1), metavar="N", help="trained: steps at most. Default: 300.")
@click.option(
    "--learning-rate",
    type=click.FloatRange(0, min_open=True),
    metavar="X",
    help="trained: step size, as a share of the mean difference. Default: 0.02.",
)
@click.option(
    "--kl-weight",
    type=click.FloatRange(0),
    metavar="X",
    help="trained: weight of the KL divergence from the base on the neutral answers. Default: 0.3.",
)
@click.option(
    "--queries-per-step", type=click.IntRange(1), metavar="N", help="trained: queries in one step. Default: 4."
)
@sampling_options(max_new_tokens=64, temperature=0.0, top_p=1.0)
@batch_option("Queries per batch; each is two sequences.")
@runtime_options
@click.option("--license", metavar="ID", default="", help="Licence identifier to record in the file.")
@click.option("--restart", is_flag=True, help="Forget the finished work of an interrupted run to the same --out.")
@click.option("--overwrite", is_flag=True, help="Replace --out.")
@json_option
@click.option("-q", "--quiet", is_flag=True, help="Print warnings and errors only.")
def extract(
    model: str, revision: str | None, base_model: str, out: Path, as_json: bool, quiet: bool, **options: Any
) -> None:
    """Make vectors for any causal language model that can be baked.

    Each query is answered under an emotional and under a neutral condition; a vector is the mean difference of the
    attention outputs over the answers. A killed run continues where it stopped. `accelerate launch -m emobake vectors
    extract ...` spreads the queries over processes.
    """
    from ..measure.extraction import extract as run
    from ..storage.model_name import ModelName

    questionnaire = _questionnaire(**{key: options.pop(key) for key in _QUESTIONS})
    method = _method(seed=options["seed"], **{key: options.pop(key) for key in _METHOD})
    if out.suffix != ".safetensors":
        raise InputError(f"{out}: give `out` a name that ends in .safetensors; `emobake vectors convert` writes others")
    name = ModelName.parse(model, revision=revision, base_model=base_model)
    sampling, runtime = sampling_of(options), runtime_of(options)
    with resumable(), ExitStack() as bars:
        progress = count_bars(bars, silent=quiet or as_json)
        done = run(
            name,
            out,
            questionnaire,
            method=method,
            sampling=sampling,
            runtime=runtime,
            progress=progress,
            notice=warn,
            **options,
        )
    _report(done, model, out, as_json=as_json, quiet=quiet)


_QUESTIONS = (
    "queries",
    "every_emotion",
    "emotions",
    "limit",
    "emotional_prompt",
    "neutral_prompt",
    "contrast",
    "reuse_answers",
    "written",
)


def _questionnaire(
    queries: str | None,
    every_emotion: bool,
    emotions: str | None,
    limit: int | None,
    emotional_prompt: str | None,
    neutral_prompt: str | None,
    contrast: Path | None,
    reuse_answers: Path | None,
    written: bool,
) -> Questionnaire:
    from ..core.limits import MAX_ANSWERS
    from ..measure.queries import EMOTIONAL, NEUTRAL, ask, parse_answers, parse_contrasts, parse_queries
    from ..measure.query_sets import open_queries
    from ..measure.written import written_answers
    from ..storage.files import read_small

    if every_emotion and (contrast or reuse_answers or written):
        raise click.UsageError(
            "--every-emotion asks queries; --contrast, --reuse-answers and --written bring answers along"
        )
    if sum(map(bool, (queries, contrast, reuse_answers, written))) > 1:
        raise click.UsageError("--queries, --contrast, --reuse-answers and --written exclude one another; give one")
    if contrast is not None:
        if emotional_prompt or neutral_prompt:
            raise click.UsageError(
                "--contrast has texts of its own: --emotional-prompt and --neutral-prompt do nothing"
            )
        found = parse_contrasts(read_small(contrast, most=MAX_ANSWERS), str(contrast))
    else:
        prompts = _template(emotional_prompt, EMOTIONAL), _template(neutral_prompt, NEUTRAL)
        if reuse_answers is not None:
            found = parse_answers(read_small(reuse_answers, most=MAX_ANSWERS), str(reuse_answers), *prompts)
        elif written:
            found = written_answers(*prompts)
        else:
            content, name = open_queries(queries)
            asked = parse_queries(content, name)
            found = ask(asked, content, Path(name).name, *prompts, every_emotion=every_emotion)
    if emotions is not None:
        found = found.of([emotion_name(name) for name in emotions.split(",")])
    return found.limited(limit)


_TRAINING = ("steps", "learning_rate", "kl_weight", "queries_per_step")
_METHOD = ("method", "subtract_mean", "best_layers", *_TRAINING)


def _method(seed: int, method: str, subtract_mean: bool, best_layers: int | None, **training: Any) -> Method:
    from ..measure.extraction import MeanDifference
    from ..measure.training import Training

    given = {key: value for key, value in training.items() if value is not None}
    if method == "trained":
        if subtract_mean or best_layers is not None:
            raise click.UsageError("--subtract-mean and --best-layers go with --method mean")
        return Training(**given, seed=seed)
    if given:
        raise click.UsageError(f"--{next(iter(given)).replace('_', '-')} goes with --method trained")
    return MeanDifference(subtract_mean, best_layers)


def _template(given: str | None, default: str) -> str:
    from ..storage.files import read_small

    if given is None:
        return default
    if not given.startswith("@"):
        return given
    return read_small(Path(given[1:])).decode("utf-8", "replace").rstrip("\n")


def _report(done: Extraction, model: str, out: Path, *, as_json: bool, quiet: bool) -> None:
    from ..vectors.arithmetic import describe
    from .vector_tables import as_dict, show_statistics

    description = describe(done.vectors)
    if done.skipped:
        warn(
            f"{len(done.skipped)} of the queries had no answer at all and are left out, for example "
            f"{done.skipped[0].query[:60]!r} ({done.skipped[0].emotion})"
        )
    for problem in description.problems:
        warn(problem)
    if as_json:
        click.echo(json.dumps(as_dict(done.vectors, description) | {"skipped": len(done.skipped)}, indent=2))
        return
    if quiet:
        return
    show_statistics(console(), done.vectors, description)
    first, name = done.vectors.emotions[0], shlex.quote(str(out))
    for line in (
        f"Wrote {out}",
        "Next:",
        f"  emobake vectors show {name} --plot vectors.png",
        f"  emobake chat --model {shlex.quote(model)} --vectors {name} --mix {shlex.quote(first)}=1",
        f"  emobake --model {shlex.quote(model)} --vectors {name} --mix {shlex.quote(first)}=1 --out ./steered",
    ):
        show_command(console(), line)
