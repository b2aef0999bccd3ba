"""Runs of the command line, in this process and in others."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .paths import TESTS

BASE, TARGET = "owner/tiny", "me/joyful"
"""Repositories on the stand-in for the Hub: a base that is there, and where its bakes go."""
TIMES = ("--times", "0.5", "0", "0", "0.5", "0")


# The Hub's library waits between attempts, up to half a minute in all; without waiting it does the same.
IMPATIENT = "import sys, time\ntime.sleep = lambda s: None\nfrom emobake.cli import main\nmain(sys.argv[1:])"


def run_silently(words: Sequence[object]) -> None:
    """Run a command line in this process; children that are forked from it then have its modules loaded."""
    from emobake.cli.app import main

    silent = io.StringIO()
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(silent), contextlib.redirect_stderr(silent):
        main([str(word) for word in words])


@dataclass(frozen=True)
class Ran:
    """Result of a run of the command line."""

    code: int
    out: str
    err: str

    def one_line(self, *words: str, code: int = 2) -> str:
        """The error line, once it is sure that it is the only one and has `words` in it."""
        assert self.code == code, f"exit code {self.code}: {self.err or self.out}"
        lines = self.err.splitlines()
        assert len(lines) == 1 and lines[0].startswith("emobake: "), self.err
        assert "Traceback" not in self.err and "unexpected" not in self.err, self.err
        assert not self.out, self.out
        for word in words:
            assert word in lines[0], f"{word!r} is not in: {lines[0]}"
        return lines[0]

    def ok(self) -> Ran:
        """Itself, once it is sure that the run succeeded."""
        assert self.code == 0, f"exit code {self.code}: {self.err}"
        return self


Run = Callable[..., Ran]


def clean_environment() -> dict[str, str]:
    """This process's environment without what would steer the Hub's library or colour the output."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING", "FORCE_COLOR", "COLUMNS"))}


def run_process(
    *command: object, env: Mapping[str, str] | None = None, timeout: float = 60, within: Sequence[str] = ()
) -> Ran:
    """Run ``python`` with this command line in a process of its own, which the command `within` starts."""
    done = subprocess.run(
        [*within, sys.executable, *map(str, command)],
        capture_output=True,
        check=False,
        text=True,
        env=clean_environment() | {"PYTHONPATH": str(TESTS)} | dict(env or {}),
        timeout=timeout,
        stdin=subprocess.DEVNULL,
    )
    return Ran(done.returncode, done.stdout, done.stderr)
