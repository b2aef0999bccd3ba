"""The command line: the group of commands, and errors as one line with an exit code.

Nothing but this room prints.
"""

from __future__ import annotations

import sys
from typing import NoReturn

import click

from .._version import __version__
from ..errors import EmobakeError, NoVectorsError, without_secrets
from .audit import audit
from .bake import bake
from .chat import chat
from .command import ShortForm
from .desk import desk
from .evaluate import eval_command
from .join import join
from .models import models
from .moods import moods
from .persona import persona
from .push import push
from .terminal import echo, spelled
from .tune import tune
from .unbake import unbake
from .vectors import vectors
from .verify import show_command, verify

_EPILOG = """\b
Examples:
  emobake --model meta-llama/Llama-3.1-8B-Instruct --times 0.5 0 0 0.5 0 --out ./angry-joy
  emobake --model ./SmolLM2-135M-Instruct --vectors ./ev --mix joy=2,anger=-0.5 --out ./joyful --dry-run
  emobake --model Qwen/Qwen2.5-7B-Instruct --mix joy=1 --push-to-hub me/joyful-qwen
  emobake push ./joyful me/joyful-smollm2
  emobake --model SmolLM2-135M-Instruct.Q4_1.gguf --vectors ./ev --mix joy=2 --out joyful.gguf
  emobake --model ./Mixtral-8x7B --vectors ./ev --mix joy=1 --format peft --out ./joy-adapter
  emobake moods ./moods --model SmolLM2-135M-Instruct.Q4_1.gguf --vectors ./ev --mix joy=1 --mix anger=1
  emobake bake persona.yaml
  emobake verify ./joyful --base ./SmolLM2-135M-Instruct --stack transformers
  emobake vectors extract --model Qwen/Qwen3-8B --out qwen3-8b.safetensors
"""


@click.group(
    cls=ShortForm,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("--debug", is_flag=True, expose_value=False, help="Show a traceback when something fails.")
@click.version_option(__version__, prog_name="emobake")
def cli() -> None:
    """Bake emotion vectors into a model's weights, so that every stack serves it steered, without hooks.

    `emobake bake` may be left out: `emobake --model ...` is short for `emobake bake --model ...`, and
    `emobake bake --help` lists its options.
    """


for _command in (
    audit,
    bake,
    chat,
    desk,
    push,
    eval_command,
    join,
    models,
    moods,
    persona,
    show_command,
    tune,
    unbake,
    vectors,
    verify,
):
    cli.add_command(_command)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of ``emobake``: errors become one line on stderr and an exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    try:
        # Taken out, so that it may stand anywhere on the line.
        words = [word for word in arguments if word != "--debug"]
        sys.exit(cli.main(words, prog_name="emobake", standalone_mode=False) or 0)
    except EmobakeError as error:
        _fail(_message(error), error.exit_code, debug=debug)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.Abort:
        _fail("interrupted; nothing was kept", 130)
    except click.ClickException as error:
        _fail(error.format_message(), 2)
    except (KeyboardInterrupt, BrokenPipeError):
        _fail("interrupted; nothing was kept", 130)
    except Exception as error:
        _fail(f"unexpected {type(error).__name__}: {error} (--debug shows where; please report it)", 1, debug=debug)


def _message(error: EmobakeError) -> str:
    """The error's line, with arguments as options and the command that helps."""
    text = spelled(str(error))
    if isinstance(error, NoVectorsError) and not error.model.lower().endswith(".gguf"):
        from .vectors import extract_command

        return f"{text}: {extract_command(error.model)}"
    return text


def _fail(message: str, code: int, *, debug: bool = False) -> NoReturn:
    if debug:
        import traceback

        for line in without_secrets(traceback.format_exc()).splitlines():
            echo(line, err=True)
    echo("emobake: " + without_secrets(message), err=True)
    sys.exit(code)
