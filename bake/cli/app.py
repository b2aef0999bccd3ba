"""The command line: parse, call, print, exit code. Nothing but the modules named cli prints."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .._version import __version__
from ..actions.gguf_options import OUTTYPES
from ..errors import EmobakeError, OutputError
from .chat import chat
from .evaluate import eval_command, tune
from .options import hub_options, steering_options
from .push import push
from .terminal import console, escape, warn
from .vectors import vectors as vectors_commands

if TYPE_CHECKING:
    from ..core.plan import BakePlan

_LINK_MODES = ("auto", "reflink", "copy", "hardlink", "symlink")

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
@click.option("--out", metavar="PATH", type=click.Path(path_type=Path), help="Folder to write, or .gguf file.")
@click.option(
    "--outtype",
    type=click.Choice(OUTTYPES),
    help="From a checkpoint into a .gguf: what llama.cpp's converter writes the weights as. Default: auto, 16 bits.",
)
@click.option("--converter", metavar="EXE", default="", help="That converter. Default: the one that is installed.")
@click.option("--keep-split", is_flag=True, help="Of a split GGUF set, write a set too, not one file.")
@click.option("--modelfile", is_flag=True, help="Write an Ollama Modelfile beside the .gguf.")
@click.option(
    "--push-to-hub",
    metavar="REPO[@BRANCH]",
    default="",
    help="Put the result into this Hub repository, in one commit; made if need be. Without --out, a Hub model's "
    "weights do not pass through this machine. --revision names the branch when --model is a folder or ID@REV.",
)
@hub_options
@click.option(
    "--overwrite",
    is_flag=True,
    help="Replace an earlier output of emobake, once the new one is complete; on the Hub, any model.",
)
@click.option(
    "--targets",
    metavar="STACK,...",
    help="Stacks that must load the result steered, of transformers, vllm, llama.cpp, mlx; refuse otherwise.",
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["checkpoint", "peft"]),
    default="checkpoint",
    show_default=True,
    help="A standalone checkpoint, or a PEFT adapter (any Linear projection; cannot be merged by PEFT).",
)
@click.option("--each", is_flag=True, help="With --format peft: one adapter per emotion, for set_adapter.")
@click.option(
    "--link-mode",
    type=click.Choice(_LINK_MODES),
    default="auto",
    show_default=True,
    help="How weight files are carried over. auto: reflink where the file system can, else copy. hardlink and "
    "symlink share the base's bytes: saving into either folder later changes both, so they are never the default.",
)
@click.option("--hash", "hash_files", is_flag=True, help="Record the sha256 of every weight file (reads them all).")
@click.option("--force", is_flag=True, help="Write even when all weights are zero.")
@click.option("--dry-run", is_flag=True, help="Print the plan and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON on stdout.")
@click.option("-q", "--quiet", is_flag=True, help="Print warnings and errors only.")
@click.option("-v", "--verbose", is_flag=True, help="Name every file.")
@click.option("--debug", is_flag=True, help="Show a traceback when something fails.")
@click.version_option(__version__, prog_name="emobake")
@click.pass_context
def cli(ctx: click.Context, /, debug: bool, **options: Any) -> None:
    """Bake emotion vectors into a model's weights.

    Writes a standalone checkpoint whose attention output biases hold the weighted vectors (arXiv 2502.04075),
    so that transformers, vLLM, llama.cpp and mlx-lm serve it steered with no code of ours.
    """
    ctx.obj = {"debug": debug}
    if ctx.invoked_subcommand is None:
        _bake(**options)


def _bake(
    model: str | None,
    vectors: str | None,
    times: tuple[float, ...] | None,
    mix: str | None,
    out: Path | None,
    targets: str | None,
    format_: Any,
    link_mode: Any,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    revision: str | None,
    push_to_hub: str,
    outtype: str | None,
    **options: Any,
) -> None:
    if model is None:
        raise click.UsageError("give --model, a checkpoint's folder or Hub id (emobake --help shows examples)")
    from ..actions.bake import bake
    from ..core.steering import parse_mix
    from ..storage.model_name import is_local

    if push_to_hub and revision and ("@" in model or is_local(model, None)):
        if "@" in push_to_hub:
            raise click.UsageError(f"--revision {revision} is another branch than that in --push-to-hub {push_to_hub}")
        push_to_hub, revision = f"{push_to_hub}@{revision}", None
    if (quiet or as_json) and (push_to_hub or not is_local(model.partition("@")[0], None)):
        _quiet_hub()

    with ExitStack() as bars:
        result = bake(
            model,
            vectors,
            times,
            out,
            mix=None if mix is None else parse_mix(mix),
            targets=targets.split(",") if targets else (),
            format=format_,
            link_mode=link_mode,
            revision=revision,
            push_to_hub=push_to_hub,
            outtype=outtype or "",
            progress=_progress(bars, silent=quiet or as_json),
            notice=warn,
            **options,
        )
    try:
        for warning in result.plan.warnings:
            warn(warning)
        if as_json:
            from .summary import as_dict

            click.echo(json.dumps(as_dict(result, str(out or "")), indent=2))
        elif not quiet:
            from .summary import show

            show(console(), result, str(out or ""), verbose=verbose)
        sys.stdout.flush()
    except OSError as error:
        # Also keeps the interpreter from failing on the same flush when it exits.
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115
        done = "nothing was written" if result.out is None else f"{out} is complete"
        if result.pushed is not None and result.pushed.commit:
            done = f"{result.pushed.url} is complete"
        raise OutputError(f"the summary could not be printed ({error.strerror}); {done}") from None


@cli.command()
@click.argument("out")
@click.option("--base", metavar="PATH|ID", help="The base, to compare every carried tensor with (and to run).")
@click.option("--revision", metavar="REV", help="Branch, tag or commit of a Hub base.")
@click.option("--vectors", metavar="SET", help="The vectors, to compute every bias anew.")
@click.option(
    "--stack",
    type=click.Choice(["transformers", "vllm", "llama.cpp", "mlx"]),
    multiple=True,
    help="Run it there as well. transformers: against the hook; the others: greedy tokens against transformers.",
)
@click.option(
    "--python",
    metavar="EXE",
    help="Python of the environment that has the --stack (default: this one). Not for transformers.",
)
@click.option(
    "--max-new-tokens",
    type=click.IntRange(1, 4096),
    default=60,
    show_default=True,
    help="Tokens to generate per prompt when a stack is run.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the checks as JSON on stdout.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but failures.")
def verify(as_json: bool, quiet: bool, **options: Any) -> None:
    """Check a finished output: its bytes, and with --stack what it does where it will be served.

    OUT is a folder, or ID[@REV] on the Hub; there the weights stay where they are, unless they are to be run.

    Exit code 1 when a check fails or a stack is not installed.
    """
    from ..actions.verify import verify as run_checks

    checks = run_checks(**options)
    failed = [check for check in checks if check.ok is False]
    if as_json:
        click.echo(json.dumps([check.as_dict() for check in checks], indent=2))
    else:
        marks = {True: "[green]ok  [/]", False: "[bold red]FAIL[/]", None: "[dim]info[/]"}
        out_console = console()
        for check in checks:
            if not quiet or check.ok is False:
                out_console.print(f"{marks[check.ok]} {escape(check.name)}: {escape(check.detail)}", highlight=False)
    if failed:
        raise SystemExit(1)


@cli.command("show")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the whole record as JSON on stdout.")
def show_command(out: Path, as_json: bool) -> None:
    """Show what was baked into OUT, a finished output's folder or .gguf file: its weights, its base and its vectors."""
    from ..core.record import parse_record
    from ..formats.read_record import read_manifest
    from ..storage.files import reading
    from .summary import show_manifest

    with reading():
        manifest = read_manifest(out)
    record = parse_record(manifest, str(out))
    if as_json:
        click.echo(json.dumps(manifest, indent=2))
    else:
        show_manifest(console(), record, manifest)


cli.add_command(chat)
cli.add_command(push)
cli.add_command(eval_command)
cli.add_command(tune)
cli.add_command(vectors_commands)


def _quiet_hub() -> None:
    from ..storage.hub.errors import quiet_library

    quiet_library(always=True)


def _progress(bars: ExitStack, *, silent: bool) -> Callable[[BakePlan], Callable[[int], None]]:
    """A bar on stderr for copies that take a while; none when stderr is not a terminal."""

    def start(plan: BakePlan) -> Callable[[int], None]:
        if silent or not sys.stderr.isatty() or plan.bytes_carried < 200e6:
            return lambda _: None
        from rich.progress import DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

        columns = (*Progress.get_default_columns()[:2], DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        bar = bars.enter_context(Progress(*columns, console=console(stderr=True), transient=True))
        task = bar.add_task("carrying over", total=plan.bytes_carried)
        return lambda done: bar.advance(task, done)

    return start


def main(arguments: list[str] | None = None) -> None:
    """Entry point of ``emobake``: errors become one line on stderr and an exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    try:
        sys.exit(cli.main(arguments, prog_name="emobake", standalone_mode=False) or 0)
    except EmobakeError as error:
        if debug:
            raise
        _fail(str(error), error.exit_code)
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


def _fail(message: str, code: int) -> None:
    click.echo("emobake: " + " ".join(message.split()), err=True)
    sys.exit(code)
