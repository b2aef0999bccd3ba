"""Limits on what a server sends: bytes, seconds, and how slow it may be. The one place for all requests.

huggingface_hub makes every request with a client that a factory returns; `httpx_limits` and `requests_limits` wrap the
factory, so that the rules of this module are kept for each request and answer. They hold for whatever else the process
asks of the Hub as well, and are generous: they end an answer without end, and one that is dripped. `bounded` narrows
them for what one thread asks.

Answers come uncompressed, because a small compressed one may unpack to gigabytes.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ..core.limits import MAX_SMALL
from ..core.text import one_line
from ..errors import HubError

FIRST_BYTE = 60.0
"""Seconds of silence, where a request does not say its own limit; huggingface_hub's mostly do not."""
COMMIT = 600.0
"""The same for requests by which the Hub makes something, such as a commit that copies large files."""
SLOW_SECONDS, SLOW_BYTES = 60.0, 30_000
"""A file that brings fewer bytes in this time is given up."""
ANSWER_SECONDS = 600.0
"""Seconds for an answer that is no file. Like a file of unknown size, it has at most `MAX_SMALL` bytes."""
LONGEST_WAIT = 120
"""Seconds that a server may ask to wait before the next try."""


@dataclass
class _Budget:
    """Bytes and time that are left for the requests of a thread."""

    what: str
    bytes: int | None
    deadline: float


class _Watch(threading.local):
    """The request of this thread: since when, until when, and what it has brought. Threads of a library have their own.

    A client of huggingface_hub works in the thread that asks, one request after the other.
    """

    def __init__(self) -> None:
        self.budgets: list[_Budget] = []
        self.name, self.steady, self.is_file, self.deadline = "", False, False, float("inf")
        self.begun, self.received = 0.0, 0

    def start(self, method: str, host: str, path: str) -> None:
        """A request begins."""
        self.name = one_line(f"{host}{path}")[:200]
        self.steady = method == "GET"  # A judge may send a sign of life for minutes.
        self.is_file = self.steady and not path.startswith("/api/")
        self.deadline, self.begun = float("inf"), 0.0
        self.heard(0)

    def heard(self, count: int) -> None:
        """Bytes have come, of whatever part of the answer.

        Raises:
            HubError: too few for the time.
        """
        now = time.monotonic()
        if now > min([self.deadline, *(budget.deadline for budget in self.budgets)]):
            raise self.too_slow()
        if count and not self.begun:  # From here on: the request may have sent gigabytes.
            self.begun, self.received = now, 0
            self.deadline = float("inf") if self.is_file else now + ANSWER_SECONDS
        self.received += count
        if self.steady and self.begun and now - self.begun > SLOW_SECONDS:
            if self.received < SLOW_BYTES:
                raise self.too_slow()
            self.begun, self.received = now, 0

    @property
    def what(self) -> str:
        """The budget's name, else the address without the query, which may be signed."""
        return self.budgets[-1].what if self.budgets else self.name

    def too_slow(self) -> HubError:
        """The error for a slow or endless answer."""
        return HubError(f"{self.what}: the server sends too slowly, or without end; try again later")

    def too_much(self, size: int) -> HubError:
        """The error for an answer of `size` bytes or more."""
        return HubError(f"{self.what}: the server sends {size} bytes or more, too many for what was asked")


watch = _Watch()


@contextlib.contextmanager
def bounded(what: str, *, bytes: int | None = None, seconds: float | None = None) -> Iterator[None]:
    """Bound all requests together that this thread makes in the block; `what` names them in messages.

    Raises:
        HubError: more bytes, or more time (by default `ANSWER_SECONDS`).
    """
    budget = _Budget(what, bytes, time.monotonic() + (ANSWER_SECONDS if seconds is None else seconds))
    watch.budgets.append(budget)
    try:
        yield
    finally:
        watch.budgets.remove(budget)


def silence(method: str) -> float:
    """Seconds that a server may be silent, where a request does not say it."""
    return FIRST_BYTE if method in ("GET", "HEAD") else COMMIT


@dataclass(frozen=True)
class Allowance:
    """Bytes that one answer may bring."""

    most: int | None
    budgets: list[_Budget]

    def counted(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """The content, counted while it comes.

        Raises:
            HubError: it is too much, or comes too slowly.
        """
        received = 0
        for chunk in chunks:
            received += len(chunk)
            for budget in self.budgets:
                budget.bytes = (budget.bytes or 0) - len(chunk)
            if received > (self.most or received) or any((budget.bytes or 0) < 0 for budget in self.budgets):
                raise watch.too_much(received)
            watch.heard(len(chunk))
            yield chunk


def allowance(headers: Any, method: str, path: str) -> Allowance:
    """Look at the `headers` of an answer, shorten the waits in them, and say how much may follow.

    Raises:
        HubError: the answer is compressed, or says that it is too large.
    """
    _shorten_waits(headers)
    if headers.get("content-encoding", "identity").lower() not in ("identity", ""):
        raise HubError(f"{watch.what}: the answer is compressed, which was not asked for; is there a proxy between?")
    if method == "HEAD":
        return Allowance(None, [])  # The length is that of what is not sent.
    declared = headers.get("content-length", "")
    most = MAX_SMALL if not declared.isdigit() or path.startswith("/api/") else None
    budgets = [budget for budget in watch.budgets if budget.bytes is not None]
    for left in (most, *(budget.bytes for budget in budgets)):
        if left is not None and declared.isdigit() and int(declared) > left:
            raise watch.too_much(int(declared))
    return Allowance(most, budgets)


def _shorten_waits(headers: Any) -> None:
    """Shorten the waits that huggingface_hub would obey, however long."""
    if headers.get("retry-after", "").isdigit() and len(headers["retry-after"]) > 2:
        headers["retry-after"] = str(min(int(headers["retry-after"][:9]), LONGEST_WAIT))
    if "ratelimit" in headers:
        headers["ratelimit"] = re.sub(
            r"\bt=(\d+)", lambda found: f"t={min(int(found[1][:9]), LONGEST_WAIT)}", headers["ratelimit"]
        )
