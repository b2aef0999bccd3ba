"""Starting a runner in another interpreter, and reading its response. The package describes the protocol."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.stacks import STACKS, Stack
from ...errors import InputError, MissingPackageError, ModelError
from .start import NOT_INSTALLED

# A child must see its own interpreter's packages and nothing of ours.
_OUR_OWN = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")

# Progress bars and log records: never the reason of a failure.
_NOISE = re.compile(r"\d+%\||it/s\]|s/it\]|^(INFO|DEBUG|WARNING)\b")


@dataclass(frozen=True)
class Generation:
    """Tokens that one stack generated."""

    stack: str
    version: str
    tokens: tuple[tuple[int, ...], ...]
    """New tokens per prompt, without a trailing end-of-sequence token."""


def run_stack(
    stack: str,
    checkpoint: Path,
    prompts: Sequence[Sequence[int] | str],
    *,
    max_new_tokens: int = 60,
    python: Path | None = None,
    options: Mapping[str, Any] | None = None,
    timeout: float = 1800,
    verbose: bool = False,
) -> Generation:
    """Let `stack` continue `prompts` greedily.

    Args:
        stack: a name in `emobake.core.stacks.STACKS`.
        checkpoint: a folder; for a stack that loads GGUF files, perhaps such a file.
        prompts: token ids, or texts for a stack that tokenizes.
        max_new_tokens: length of a continuation at most.
        python: interpreter of the environment that has the stack; default: this one.
        options: further fields of the request, of `Stack.options`; the runner's docstring describes them.
        timeout: seconds after which the child is ended.
        verbose: show the child's output on stderr instead of keeping it for the error message.

    Raises:
        InputError: an unknown stack or option, or an empty prompt.
        MissingPackageError: the interpreter does not have the stack. ModelError: the stack failed.
    """
    known = STACKS.get(stack)
    if known is None or not known.is_run:
        runnable = [name for name, each in STACKS.items() if each.is_run]
        raise InputError(f"no stack {stack!r} can be run: choose from {', '.join(runnable)}")
    unknown = sorted(set(options or {}) - known.options)
    if unknown:
        raise InputError(f"{unknown[0]} is no option of {stack}")
    if not prompts or not all(prompts):
        raise InputError("nothing to generate from: every prompt needs at least one token")
    eos = eos_token_ids(checkpoint)
    request: dict[str, Any] = {
        "stack": stack,
        "checkpoint": str(checkpoint.resolve()),
        "prompts": [prompt if isinstance(prompt, str) else list(prompt) for prompt in prompts],
        "max_new_tokens": max_new_tokens,
        "eos_token_ids": list(eos),
        **(options or {}),
    }
    interpreter = Path(sys.executable) if python is None else python
    with tempfile.TemporaryDirectory(prefix="emobake-") as folder:
        answer = _run(known, interpreter, request, Path(folder), timeout, verbose)
    return _parse(stack, answer, len(prompts), set(eos))


def eos_token_ids(checkpoint: Path) -> tuple[int, ...]:
    """Ids that end a generation: of generation_config.json, else of config.json."""
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


def _run(stack: Stack, python: Path, request: dict[str, Any], folder: Path, timeout: float, verbose: bool) -> str:
    """Run the stack's script in `folder`; returns the text of its response."""
    request_file, response_file, log = folder / "request.json", folder / "response.json", folder / "log"
    request_file.write_text(json.dumps(request), encoding="utf-8")
    # Not `resolve()`: an environment's python is a link, and following it would leave the environment.
    program = str(Path(os.path.abspath(python.expanduser())) if len(python.parts) > 1 else python)  # noqa: PTH100
    here = Path(__file__).parent
    call = [program, *map(str, (here / "start.py", here / stack.runner, request_file, response_file))]
    code = _wait(stack.name, call, python, folder, log, timeout, verbose)
    # Backticks of others are none of our arguments.
    reason = _reason(log.read_text(encoding="utf-8", errors="replace")).replace("`", "'") or "its output is above"
    if code == NOT_INSTALLED:
        raise MissingPackageError(
            f"{stack.name} is not installed for {python} ({reason}): {stack.install} there, "
            "or name an interpreter that has it"
        )
    if code != 0:
        raise ModelError(f"{stack.name} ({python}) failed with exit code {code}: {reason}")
    try:
        return response_file.read_text(encoding="utf-8")
    except OSError:
        raise ModelError(f"{stack.name} ({python}) wrote no response: {reason}") from None


def _wait(stack: str, call: list[str], python: Path, folder: Path, log: Path, timeout: float, verbose: bool) -> int:
    """Start the child, wait for it, and return its exit code."""
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
                env=_environment(call[0]),
                start_new_session=True,
            )
        except OSError as error:
            raise ModelError(f"cannot start the interpreter {python} for {stack}: {error.strerror}") from None
        try:
            return child.wait(timeout)
        except subprocess.TimeoutExpired:
            raise ModelError(f"{stack} ({python}) did not finish within {timeout:g} s and was stopped") from None
        finally:
            _end(child)


def _environment(program: str) -> dict[str, str]:
    """The child's environment: ours, as if the environment of `program` were the active one."""
    env = {name: value for name, value in os.environ.items() if name not in _OUR_OWN}
    if Path(program).is_absolute():  # Stacks start tools that are installed beside their interpreter.
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
    """End the child, if it still runs, and the workers of its session."""
    if child.poll() is not None:
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(child.pid, signal.SIGKILL)
        else:
            child.kill()
    child.wait()


def _reason(log: str) -> str:
    """The last meaningful lines of a log, joined."""
    lines = [line.strip() for line in re.split(r"[\r\n]+", log)]
    lines = [line for line in lines if line and not _NOISE.search(line)]
    # The runner's own last line names the exception; a stack's shutdown messages follow it.
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
        raise ModelError(f"{stack}: malformed response ({error})") from None
    cut = (sequence[:-1] if sequence and sequence[-1] in eos else sequence for sequence in tokens)
    return Generation(stack, version, tuple(tuple(sequence) for sequence in cut))
