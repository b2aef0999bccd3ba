"""``emobake chat``: a conversation at a terminal, through a pipe, or of the questions given as options."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import EmobakeError, InputError, OutputError
from .options import running_options, steering_options
from .terminal import console, escape, warn

if TYPE_CHECKING:
    from ..actions.conversation import Answer, Conversation
    from ..core.steering import Steering

_HELP = """\
/times A D F J S       weights of anger, disgust, fear, joy and sadness
/mix joy=1,anger=-0.5  weights by name
/scale X               a factor for all weights
/scope every|last      add the vectors at every position, as a baked checkpoint does,
                       or at the last of each forward pass, as the paper's code does
/compare [QUESTION]    answer without and with the vectors (the last question once more)
/bake OUT              write a checkpoint with the weights of now
/show                  weights, scope, sampling, model and vectors
/reset                 forget the conversation; earlier answers colour the later ones
/quit                  leave; so do /exit and Ctrl-D
Ctrl-C stops an answer. A question that begins with / needs a space before it."""

_SCOPES = {"every": "at every position", "last": "at the last position of each forward pass"}
_WIDE = 100
"""Columns from which on two answers go side by side."""


@click.command()
@click.option("--model", metavar="PATH|ID", required=True, help="Model to talk to: a folder, or a model id on the Hub.")
@steering_options
@click.option(
    "--scope",
    type=click.Choice(["every", "last"]),
    default="every",
    show_default=True,
    help="every: add at every position, as a baked checkpoint does; last: at the last position of each forward "
    "pass, as the paper's code does.",
)
@click.option("--temperature", type=click.FloatRange(0), default=0.6, show_default=True, help="0 is greedy.")
@click.option(
    "--top-p", type=click.FloatRange(0, 1, min_open=True), default=0.9, show_default=True, help="Nucleus sampling."
)
@click.option("--greedy", is_flag=True, help="Take the likeliest token always, whatever --temperature says.")
@click.option("--seed", type=int, help="Of the random numbers: the same session gives the same answers.")
@click.option(
    "--max-new-tokens", type=click.IntRange(1), default=512, show_default=True, help="Length of an answer at most."
)
@click.option("--system", metavar="TEXT", default="", help="System prompt.")
@running_options
@click.option(
    "--prompt",
    "prompts",
    metavar="TEXT",
    multiple=True,
    help="Ask this, print the answer and leave. Given more than once: one conversation.",
)
@click.option("--json", "as_json", is_flag=True, help="With --prompt: print the answers as JSON.")
def chat(
    temperature: float,
    top_p: float,
    greedy: bool,
    seed: int | None,
    max_new_tokens: int,
    prompts: tuple[str, ...],
    as_json: bool,
    mix: str | None,
    **options: Any,
) -> None:
    """Talk to a model that is steered while it runs, and change its mood between answers.

    It begins unsteered without --times and --mix. Nothing is written. /help lists what can be typed instead of a
    question; with lines from a pipe, the answers alone are printed.
    """
    if as_json and not prompts:
        raise click.UsageError("--json goes with --prompt")
    from ..actions.conversation import Sampling, open_conversation
    from ..core.steering import parse_mix

    interactive = not prompts and sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()
    parsed = None if mix is None else parse_mix(mix)
    if interactive:
        console(stderr=True).print(f"Loading {escape(options['model'])} ...", style="dim", highlight=False)
    conversation = open_conversation(
        mix=parsed,
        sampling=Sampling(0.0 if greedy else temperature, top_p, max_new_tokens, seed),
        **options,
    )
    try:
        if as_json:
            click.echo(json.dumps([_asked(conversation, prompt) for prompt in prompts], indent=2))
        else:
            _Session(conversation, interactive).run(prompts)
    except OSError as error:
        # Also keeps the interpreter from failing on the same text when it exits.
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115
        raise OutputError(f"the answer could not be printed ({error.strerror})") from None


def _asked(conversation: Conversation, prompt: str) -> dict[str, Any]:
    answer = conversation.answer(prompt)
    if answer.interrupted:
        raise KeyboardInterrupt
    return {
        "prompt": prompt,
        "answer": answer.text,
        "weights": dict(conversation.weights.weights),
        "scale": conversation.weights.scale,
        "scope": conversation.scope,
        "tokens": answer.tokens,
    }


class _Session:
    """What is typed or piped in, and what is printed."""

    def __init__(self, conversation: Conversation, interactive: bool) -> None:
        self.conversation = conversation
        self.interactive = interactive
        self.console = console()
        self.commands: dict[str, Callable[[str], None]] = {
            "times": self._times,
            "mix": self._mix,
            "scale": self._scale,
            "scope": self._scope,
            "compare": self._compare,
            "bake": self._bake,
            "show": self._show,
            "reset": self._reset,
            "help": lambda _: self._say(_HELP),
        }

    def run(self, prompts: tuple[str, ...]) -> None:
        """Answer `prompts`, or if there are none everything that is typed."""
        for prompt in prompts:
            self._answer(prompt)
        if prompts:
            return
        if self.interactive:
            self._show_briefly()
        for line in self._lines():
            if line.split() in (["/quit"], ["/exit"]):
                return
            try:
                self._obey(line)
            except EmobakeError as error:
                # Options are spelled as commands here.
                text = re.sub(r"--(?=(?:times|mix|scale|scope)\b)", "/", str(error))
                click.echo("emobake: " + " ".join(text.split()), err=True)
            except KeyboardInterrupt:
                if not self.interactive:
                    raise
                self._say("\ninterrupted")

    def _lines(self) -> Iterator[str]:
        if not self.interactive:
            yield from (line.rstrip("\r\n") for line in sys.stdin or ())
            return
        with suppress(ImportError):
            import readline  # noqa: F401 - from now on `input` edits lines and remembers them
        while True:
            try:
                line = input("> ")
            except EOFError:
                self._say("")
                return
            except KeyboardInterrupt:
                self._say("\n/quit or Ctrl-D leaves.", "dim")
                continue
            yield line

    def _obey(self, line: str) -> None:
        if not line.startswith("/"):
            if line.strip():
                self._answer(line.strip())
            return
        name, _, rest = line[1:].partition(" ")
        if name not in self.commands:
            raise InputError(f"/{name}: no such command; /help lists them (for a question, put a space before the /)")
        self.commands[name](rest.strip())

    def _answer(self, question: str | None, *, plain: bool = False, keep: bool = True) -> Answer:
        page = _Page(shutil.get_terminal_size().columns if sys.stdout.isatty() else None)
        answer = self.conversation.answer(question, page, plain=plain, keep=keep)
        click.echo()
        if self.interactive:
            self._say(_measures(answer) + "\n", "dim")
        elif answer.interrupted:
            raise KeyboardInterrupt
        return answer

    def _times(self, rest: str) -> None:
        from ..core.steering import steering

        try:
            times = tuple(float(word) for word in rest.split())
        except ValueError:
            raise InputError(f"/times {rest}: these are not five numbers") from None
        self._steer(steering(times))

    def _mix(self, rest: str) -> None:
        from ..core.steering import parse_mix, steering

        self._steer(steering(mix=parse_mix(rest)))

    def _scale(self, rest: str) -> None:
        from ..core.steering import steering

        try:
            scale = float(rest)
        except ValueError:
            raise InputError(f"/scale {rest}: this is not a number") from None
        steering((0.0,) * 5, scale=scale)  # refuses what is not finite
        self._steer(self.conversation.weights, scale)

    def _steer(self, weights: Steering, scale: float | None = None) -> None:
        old = self.conversation.weights
        new = replace(weights, scale=old.scale if scale is None else scale, layers=old.layers)
        self.conversation.steer(new)
        self._say_weights()

    def _scope(self, rest: str) -> None:
        if rest not in _SCOPES:
            raise InputError(f"/scope {rest}: choose every or last")
        self.conversation.scope = rest  # type: ignore[assignment]
        self._say_weights()

    def _compare(self, rest: str) -> None:
        question = rest or None
        if self.conversation.weights.is_zero:
            raise InputError("all weights are zero, so both answers are the model's own; set some with /times or /mix")
        if question is None and not self.conversation.turns:
            raise InputError("nothing was asked yet; /compare QUESTION asks")
        if not self.interactive or self.console.width < _WIDE:
            self._say("unsteered", "bold")
            if not self._answer(question, plain=True, keep=False).interrupted:
                self._say(recipe(self.conversation.weights), "bold")
                self._answer(question, keep=question is not None)
            return
        self._compare_side_by_side(question)

    def _compare_side_by_side(self, question: str | None) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.table import Table
        from rich.text import Text

        texts, measures = ["", ""], ["", ""]

        def table() -> Table:
            # Not to the edge: the ^C that a terminal shows would begin a new line and upset what is drawn over.
            both = Table(box=None, width=wide.width - 4, padding=(0, 4, 0, 0), header_style="bold")
            for title in ("unsteered", recipe(self.conversation.weights)):
                both.add_column(title, ratio=1)
            both.add_row(*(Text(text.strip()) for text in texts))
            both.add_row(*(Text(measure, "dim") for measure in measures))
            return both

        wide = Console()
        with Live(table(), console=wide, transient=True, auto_refresh=False, vertical_overflow="ellipsis") as view:
            for side, plain in enumerate((True, False)):

                def hear(piece: str, side: int = side) -> None:
                    texts[side] += _printable(piece)
                    view.update(table(), refresh=True)

                keep = question is not None and not plain
                answer = self.conversation.answer(question, hear, plain=plain, keep=keep)
                measures[side] = _measures(answer)
                if answer.interrupted:
                    break
        wide.print(table())
        self._say("")

    def _bake(self, rest: str) -> None:
        from .summary import next_commands

        out = rest[1:-1] if len(rest) > 1 and rest[0] == rest[-1] and rest[0] in "'\"" else rest
        if not out:
            raise InputError("/bake needs the folder to write: /bake ./joyful")
        out = str(Path(out).expanduser())
        if self.conversation.scope == "last":
            warn("a bake acts at every position, not at the last as this chat does now; /scope every shows it")
        result = self.conversation.bake(out)
        plan = result.plan
        for warning in plan.warnings:
            warn(warning)
        layers = sum(layer.norm > 0 for layer in plan.layers)
        self._say(f"Baked {recipe(self.conversation.weights)} into {out}", "bold")
        self._say(f"{layers} of {len(plan.layers)} layers steered, route {plan.route}")
        loads = {name: stack.status for name, stack in plan.stacks.items()}
        self._say("loads steered: " + (", ".join(n for n, status in loads.items() if status == "steered") or "nowhere"))
        for name, stack in plan.stacks.items():
            if stack.status != "steered":
                from ..core.stacks import describe

                self._say(f"{name}: {describe(stack)}")
        self._say(next_commands(result, out)[0] + "\n")

    def _show(self, _: str) -> None:
        live, vectors, sampling = self.conversation.live, self.conversation.vectors, self.conversation.sampling
        dtype = str(live.model.dtype).removeprefix("torch.")
        drawn = f"temperature {sampling.temperature:g}, top-p {sampling.top_p:g}" if sampling.temperature else "greedy"
        seed = "" if sampling.seed is None or not sampling.temperature else f", seed {sampling.seed}"
        self._say(f"model     {live.name} ({live.arch.model_type}, {live.layers} layers, {dtype} on {live.device})")
        self._say(f"vectors   {vectors.name}")
        self._say(f"emotions  {', '.join(vectors.emotions)}")
        self._say_weights()
        self._say(f"sampling  {drawn}, at most {sampling.max_new_tokens} new tokens{seed}")
        if self.conversation.system:
            self._say(f"system    {self.conversation.system}")
        self._say(f"history   {len(self.conversation.turns)} answered questions")

    def _show_briefly(self) -> None:
        live, vectors = self.conversation.live, self.conversation.vectors
        self._say(f"model     {live.name}")
        self._say(f"vectors   {vectors.name}: {', '.join(vectors.emotions)}")
        self._say_weights()
        self._say("/help lists the commands, Ctrl-D leaves.\n", "dim")

    def _say_weights(self) -> None:
        weights, scope = self.conversation.weights, self.conversation.scope
        where = "" if weights.layers is None else f" in layers {', '.join(map(str, weights.layers))}"
        self._say(f"weights   {recipe(weights)}{where}")
        self._say(f"scope     {scope}: {_SCOPES[scope]}")

    def _reset(self, _: str) -> None:
        self.conversation.turns = []
        self._say("The conversation is forgotten; weights and settings stay.")

    def _say(self, text: str, style: str = "") -> None:
        self.console.print(text, style=style or None, markup=False, highlight=False)


def recipe(weights: Steering) -> str:
    """Weights in words."""
    if weights.is_zero:
        return "none, the model is unsteered" + ("" if weights.scale else " (the scale is 0)")
    return weights.recipe


def _measures(answer: Answer) -> str:
    why = " (stopped)" if answer.interrupted else "" if answer.ended else " (cut at the limit)"
    return f"{answer.tokens} tokens{why}, {answer.tokens / answer.seconds:.1f} tokens/s"


def _printable(text: str) -> str:
    """`text` without the control characters by which a model could play with the terminal."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "", text)


class _Page:
    """Prints text as it comes; on a terminal, breaks lines between words instead of at the edge."""

    def __init__(self, width: int | None) -> None:
        self.width = width
        self.column = 0
        self.space = ""
        """White space that is printed once it is known not to end a line."""

    def __call__(self, piece: str) -> None:
        """Print the next piece."""
        if self.width is None:
            sys.stdout.write(piece)
        else:
            for part in re.findall(r"\n|[^\S\n]+|\S+", _printable(piece)):
                self._print(part, self.width)
        sys.stdout.flush()

    def _print(self, part: str, width: int) -> None:
        from rich.cells import cell_len

        if part == "\n":
            sys.stdout.write(part)
            self.column, self.space = 0, ""
        elif part.isspace():
            self.space += part
        else:
            length = cell_len(self.space + part)
            if self.column and self.column + length > width:
                self.column, self.space, length = 0, "", cell_len(part)
                sys.stdout.write("\n")
            sys.stdout.write(self.space + part)
            self.column, self.space = self.column + length, ""
