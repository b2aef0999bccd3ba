"""``emobake chat``: from options to a conversation."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import OutputError
from .command import Command
from .options import (
    model_and_vectors,
    model_option,
    parsed_mix,
    runtime_of,
    runtime_options,
    sampling_of,
    sampling_options,
    steering_options,
)
from .terminal import console, styled, warn

if TYPE_CHECKING:
    from ..actions.conversation import Conversation


@click.command(cls=Command)
@model_option("Model to talk to: a folder, a model id on the Hub, or a GGUF file, in llama.cpp.", required=True)
@steering_options
@click.option(
    "--scope",
    type=click.Choice(["every", "last"]),
    default="every",
    show_default=True,
    help="every: add at every position, as a baked checkpoint does; last: at the last position of each forward "
    "pass, as the paper's code does.",
)
@sampling_options(max_new_tokens=512, temperature=0.6, top_p=0.9, seed=None, longest=None)
@click.option("--greedy", is_flag=True, help="Always take the likeliest token, whatever --temperature says.")
@click.option("--system", metavar="TEXT", default="", help="System prompt.")
@runtime_options
@click.option(
    "--prompt",
    "prompts",
    metavar="TEXT",
    multiple=True,
    help="Ask this, print the answer and leave. Given more than once: one conversation.",
)
@click.option("--json", "as_json", is_flag=True, help="With --prompt: print the answers as JSON.")
def chat(greedy: bool, prompts: tuple[str, ...], as_json: bool, mix: tuple[str, ...], **options: Any) -> None:
    """Talk to a model that is steered while it runs, and change its mood between answers; or to a GGUF file.

    It begins unsteered without --times and --mix. Nothing is written. /help lists the commands that can be typed
    instead of a question; with lines from a pipe, only the answers are printed.
    """
    if as_json and not prompts:
        raise click.UsageError("--json goes with --prompt")
    from ..actions.conversation import open_conversation
    from .session import Session

    interactive = not prompts and sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()
    weights = parsed_mix(mix)
    if interactive:
        console(stderr=True).print(styled((f"Loading {options['model']} ...", "dim")))
    sampling = sampling_of(options)
    if greedy:
        sampling = replace(sampling, temperature=0.0)
    model, vectors = model_and_vectors(options)
    runtime = runtime_of(options)
    conversation = open_conversation(model, vectors, mix=weights, sampling=sampling, runtime=runtime, **options)
    if conversation.model.note:
        warn(conversation.model.note)
    try:
        if as_json:
            click.echo(json.dumps([_asked(conversation, prompt) for prompt in prompts], indent=2))
        else:
            Session(conversation, interactive).run(prompts)
    except OSError as error:
        # Also keeps the interpreter from failing on the same text when it exits.
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115
        raise OutputError(f"the answer could not be printed ({error.strerror})") from None


def _asked(conversation: Conversation, prompt: str) -> dict[str, Any]:
    answer = conversation.answer(prompt)
    if answer.interrupted:
        raise KeyboardInterrupt
    return {"prompt": prompt, "answer": answer.text, **_mood(conversation), "tokens": answer.tokens}


def _mood(conversation: Conversation) -> dict[str, Any]:
    from ..actions.commands import steered
    from ..actions.conversation import GgufConversation

    if isinstance(conversation, GgufConversation):
        return {"mood": conversation.mood or None}
    weights = steered(conversation).weights
    return {"weights": dict(weights.weights), "scale": weights.scale, "scope": steered(conversation).scope}
