"""Runs of the command line in forked children of this process, which has all modules loaded: thousands take minutes."""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from emobake.cli.app import main

from .running import Ran

MEGABYTE = 2**20


@dataclass(frozen=True)
class Child(Ran):
    """A run in a child; `code` is minus the signal that ended it, if one did."""

    seconds: float
    """Time of computing, which does not depend on what else the machine does."""
    megabytes: float
    """Peak of its memory."""

    def clean(self) -> Child:
        """Itself, once it is sure that nothing unexpected was said."""
        assert "Traceback" not in self.err and "unexpected" not in self.err, self.err
        return self


def run_forked(
    words: Sequence[object],
    *,
    before: Callable[[], object] = lambda: None,
    after: Callable[[], object] = lambda: None,
    seconds: int = 120,
    megabytes: int = 4096,
) -> Child:
    """Run a command line between `before` and `after`; it is ended after so many `seconds` of computing, or ten
    times that of waiting, and gets so much memory at most.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    streams = [os.memfd_create("stdout"), os.memfd_create("stderr")]
    size = _address_space()
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            for number, stream in enumerate(streams, 1):
                os.dup2(stream, number)
            signal.alarm(10 * seconds)
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
            resource.setrlimit(resource.RLIMIT_AS, (size + megabytes * MEGABYTE,) * 2)
            before()
            main([str(word) for word in words])
        except SystemExit as stop:
            code = int(stop.code or 0)
        finally:
            after()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    _, status, used = os.wait4(pid, 0)
    said = []
    for stream in streams:
        with os.fdopen(stream, "rb") as file:
            file.seek(0)
            said.append(file.read().decode(errors="replace"))
    code, computing = os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime
    return Child(code, said[0], said[1], computing, used.ru_maxrss * 1024 / MEGABYTE)


def _address_space() -> int:
    """Bytes of this process, in memory or not."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
