"""``emobake eval``: from options to an evaluation, and its summary."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from ..errors import InputError
from . import completion
from .command import Command, Numbers
from .options import (
    batch_option,
    bound_options,
    bounds_of,
    json_option,
    model_and_vectors,
    model_option,
    named_sets,
    parsed_mix,
    runtime_of,
    runtime_options,
    sampling_of,
    sampling_options,
    steering_options,
)
from .progress import count_bars
from .terminal import console, resumable, warn


@click.command("eval", cls=Command)
@click.argument("checkpoints", nargs=-1, type=click.Path(path_type=Path))
@model_option("The unsteered base: a folder, or a model id on the Hub.")
@steering_options
@click.option(
    "--emotions",
    metavar="NAME,...",
    default="",
    shell_complete=completion.emotions,
    help="Each on its own, instead of --times or --mix; base: their mean.",
)
@click.option(
    "--strengths",
    type=Numbers("numbers, such as -1 0 1 2 4"),
    metavar="X ...",
    default="-1,0,1,2,4",
    show_default=True,
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
    help="The questions: JSON or JSONL; emotionquery+, the paper's 400, which are fetched; or everyday, 60 that are "
    "shipped with emobake.",
)
@click.option(
    "--limit",
    type=click.IntRange(1),
    metavar="N",
    help="Only N queries of each part of the set, and N of the 32 everyday prompts for KL.",
)
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
    help="Let this model of an OpenAI-compatible endpoint give absolute scores; OPENAI_BASE_URL and OPENAI_API_KEY "
    "name the endpoint.",
)
@click.option("--control/--no-control", default=True, help="A random direction of the same norm beside each.")
@click.option("--prompted/--no-prompted", default=True, help="The base under a system prompt beside each.")
@click.option(
    "--system-prompt",
    metavar="TEXT",
    default="",
    help="That system prompt; {emotion} stands for the target emotions. Default: Answer with {emotion}. Let {emotion} "
    "show in every sentence.",
)
@click.option(
    "--behaviour/--no-behaviour",
    default=True,
    help="Refusal, agreement and capability, by shipped prompts and tasks that need no download.",
)
@click.option(
    "--samples",
    type=click.IntRange(0, 64),
    default=4,
    show_default=True,
    metavar="N",
    help="Answers to each of 5 queries, for the diversity among them; 0: none.",
)
@click.option(
    "--turns",
    type=click.IntRange(0, 10),
    default=0,
    show_default=True,
    metavar="N",
    help="Measure the emotion by turn, over conversations of N turns with a scripted user.",
)
@click.option(
    "--lm-eval",
    metavar="TASK,...",
    default="",
    help="Run these tasks of lm-eval on the base and on each direction at its chosen strength.",
)
@bound_options
@sampling_options(max_new_tokens=512, temperature=0.6, top_p=0.9)
@batch_option("Answers generated at once.")
@click.option(
    "--engine",
    type=click.Choice(["transformers", "vllm"]),
    default="transformers",
    show_default=True,
    help="Generation backend. vllm bakes a temporary checkpoint first.",
)
@click.option(
    "--engine-python",
    metavar="EXE",
    type=click.Path(path_type=Path),
    help="Python with vLLM installed, for --engine vllm. Default: this one.",
)
@runtime_options
@click.option("--out", metavar="DIR", type=click.Path(path_type=Path), required=True, help="Folder for the report.")
@click.option("--restart", is_flag=True, help="Forget the finished work of an interrupted run to the same --out.")
@click.option("--overwrite", is_flag=True, help="Replace a report in --out.")
@json_option
@click.option("-q", "--quiet", is_flag=True, help="Print warnings and errors only.")
def eval_command(out: Path, overwrite: bool, restart: bool, as_json: bool, quiet: bool, **options: Any) -> None:
    """Measure what steering does: the emotion in the answers, what the model loses, and the best strength.

    On a model with vectors at several strengths; on baked CHECKPOINTS; or on recorded answers. A killed run continues
    where it stopped. `accelerate launch -m emobake eval ...` spreads the work over processes.
    """
    from ..measure.engines import EvaluationSettings
    from ..measure.evaluation import Report
    from ..measure.scorers.base import JUDGE

    engine, python = options.pop("engine"), options.pop("engine_python")
    if python is not None and engine != "vllm":
        raise click.UsageError("--engine-python goes with --engine vllm")
    judge, bounds = options.pop("judge"), bounds_of(options)
    common = {
        "out": Report(out, overwrite, restart),
        "questions": options.pop("questions"),
        "limit": options.pop("limit"),
        "scorers": [*options.pop("scorers"), *([f"{JUDGE}{judge}"] if judge else [])],
        "settings": EvaluationSettings(
            sampling_of(options),
            runtime_of(options),
            engine,
            python,
            **{key: options.pop(key) for key in ("behaviour", "samples", "turns")},
            benchmarks=tuple(filter(None, options.pop("lm_eval").split(","))),
        ),
    }
    with resumable(), ExitStack() as bars:
        data = _evaluate(options, progress=count_bars(bars, silent=quiet or as_json), **common)
    if data is None:
        return
    for warning in data["warnings"]:
        warn(warning)
    if as_json:
        click.echo(json.dumps(data, indent=2))
    elif not quiet:
        from .evaluation_tables import show_evaluation

        show_evaluation(console(), data, str(out), bounds)


def _evaluate(options: dict[str, Any], **common: Any) -> dict[str, Any] | None:
    """Evaluate a steered model, checkpoints or answers, as the options say."""
    from ..measure.evaluation import evaluate, evaluate_answers, evaluate_checkpoints

    checkpoints, answers = options.pop("checkpoints"), options.pop("answers")
    mix, system_prompt = parsed_mix(options.pop("mix")), _system_prompt(options)
    emotions = [name for name in options.pop("emotions").split(",") if name.strip()]
    steered = options["times"] is not None or mix is not None or bool(emotions)
    if sum(map(bool, (checkpoints, answers is not None, steered))) != 1:
        raise InputError("choose one: `times`, `mix` or `emotions` with a model; checkpoints; or `answers`")
    if steered:
        if options["model"] is None:
            raise InputError("no model: give `model`")
        model, source = model_and_vectors(options)
        return evaluate(
            model, vectors=source, mix=mix, emotions=emotions, system_prompt=system_prompt, **common, **options
        )
    base = None
    if options["model"] is not None:
        base, _ = model_and_vectors({**options, "vectors": ()})
    vectors = named_sets(options["vectors"])
    if checkpoints:
        return evaluate_checkpoints(checkpoints, model=base, vectors=vectors, system_prompt=system_prompt, **common)
    return evaluate_answers(answers, model=base, vectors=vectors, **common)


def _system_prompt(options: dict[str, Any]) -> str | None:
    """The system prompt of the prompted baseline; None if there is to be none."""
    from ..measure.experiment import SYSTEM_PROMPT

    prompted, text = options.pop("prompted"), options.pop("system_prompt")
    if text and not prompted:
        raise InputError("`system_prompt` does not go with --no-prompted")
    return text or SYSTEM_PROMPT if prompted else None
