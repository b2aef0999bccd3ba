"""The command line: the group of commands, and errors as one line with an exit code.

Nothing but this room prints.
"""

from __future__ import annotations

import sys
from typing import Any, NoReturn

import click

from .._version import __version__
from ..errors import EmobakeError, NoVectorsError
from .bake import run_bake
from .chat import chat
from .evaluate import eval_command
from .options import carrying_options, hub_options, output_options, steering_options
from .push import push
from .terminal import echo, spelled
from .tune import tune
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
  emobake verify ./joyful --base ./SmolLM2-135M-Instruct --stack transformers
  emobake vectors extract --model Qwen/Qwen3-8B --out qwen3-8b.safetensors
"""


@click.group(
    invoke_without_command=True,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--model", metavar="PATH|ID", help="Model to steer: a checkpoint's folder, a model id on the Hub, or a GGUF file."
)
@steering_options
@output_options
@hub_options
@carrying_options
@click.option("--dry-run", is_flag=True, help="Print the plan and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON on stdout.")
@click.option("-q", "--quiet", is_flag=True, help="Print warnings and errors only.")
@click.option("-v", "--verbose", is_flag=True, help="Name every file.")
@click.option("--debug", is_flag=True, help="Show a traceback when something fails.")
@click.version_option(__version__, prog_name="emobake")
@click.pass_context
def cli(ctx: click.Context, /, debug: bool, **options: Any) -> None:
    """Bake emotion vectors into a model's weights.

    Writes a standalone checkpoint whose attention output biases hold the weighted vectors (arXiv 2502.04075), so that
    transformers, vLLM, llama.cpp and mlx-lm serve it steered without hooks.
    """
    ctx.obj = {"debug": debug}
    if ctx.invoked_subcommand is None:
        run_bake(**options)


for _command in (chat, push, eval_command, show_command, tune, vectors, verify):
    cli.add_command(_command)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of ``emobake``: errors become one line on stderr and an exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    try:
        sys.exit(cli.main(arguments, prog_name="emobake", standalone_mode=False) or 0)
    except EmobakeError as error:
        if debug:
            raise
        _fail(_message(error), error.exit_code)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.Abort:
        _fail("interrupted; nothing was kept", 130)
    except click.ClickException as error:
        _fail(error.format_message(), 2)
    except (KeyboardInterrupt, BrokenPipeError):
        _fail("interrupted; nothing was kept", 130)
    except Exception as error:
        if debug:
            raise
        _fail(f"unexpected {type(error).__name__}: {error} (--debug shows where; please report it)", 1)


def _message(error: EmobakeError) -> str:
    """The error's line, with arguments as options and the command that helps."""
    text = spelled(str(error))
    if isinstance(error, NoVectorsError) and not error.model.lower().endswith(".gguf"):
        from .vectors import extract_command

        return f"{text}: {extract_command(error.model)}"
    return text


def _fail(message: str, code: int) -> NoReturn:
    echo("emobake: " + " ".join(message.split()), err=True)
    sys.exit(code)
