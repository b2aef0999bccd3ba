"""Limits on what a server sends: bytes, seconds, and how slow it may be. The one place for all requests.

huggingface_hub makes every request with a client that a factory returns; the factory is wrapped here, so that hooks of
each client look at each request and answer. They hold for whatever else the process asks of the Hub as well, and are
generous: they end an answer without end, and one that is dripped. `bounded` narrows them for what one thread asks.

Answers come uncompressed, because a small compressed one may unpack to gigabytes.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
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

    def start(self, request: Any) -> None:
        """A request begins."""
        self.name = one_line(f"{request.url.host}{request.url.path}")[:200]
        self.steady = request.method == "GET"  # A judge may send a sign of life for minutes.
        self.is_file = self.steady and not request.url.path.startswith("/api/")
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


_watch = _Watch()


@contextlib.contextmanager
def bounded(what: str, *, bytes: int | None = None, seconds: float | None = None) -> Iterator[None]:
    """Bound all requests together that this thread makes in the block; `what` names them in messages.

    Raises:
        HubError: more bytes, or more time (by default `ANSWER_SECONDS`).
    """
    budget = _Budget(what, bytes, time.monotonic() + (ANSWER_SECONDS if seconds is None else seconds))
    _watch.budgets.append(budget)
    try:
        yield
    finally:
        _watch.budgets.remove(budget)


def limited(factory: Callable[[], Any]) -> Callable[[], Any]:
    """Wrap a factory of HTTP clients, so that each client keeps the limits."""

    def make() -> Any:
        client = factory()
        hooks = client.event_hooks
        client.event_hooks = {
            "request": [*hooks.get("request", []), _before],
            "response": [*hooks.get("response", []), _after],
        }
        for transport in (client._transport, *client._mounts.values()):
            pool = getattr(transport, "_pool", None)
            if pool is not None and hasattr(pool, "_network_backend"):  # Not of a transport that a user has made.
                pool._network_backend = _Backend(pool._network_backend)
        return client

    return make


class _Backend:
    """Makes connections whose bytes are watched: headers can be dripped for days, and no hook sees them."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def connect_tcp(self, *arguments: Any, **options: Any) -> _Connection:
        """Connect to a server."""
        return _Connection(self._backend.connect_tcp(*arguments, **options))


class _Connection:
    """A connection whose bytes are watched."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def read(self, *arguments: Any, **options: Any) -> bytes:
        """Read what has come."""
        data: bytes = self._stream.read(*arguments, **options)
        _watch.heard(len(data))
        return data

    def start_tls(self, *arguments: Any, **options: Any) -> _Connection:
        """Encrypt from here on."""
        return _Connection(self._stream.start_tls(*arguments, **options))


def _before(request: Any) -> None:
    request.headers["Accept-Encoding"] = "identity"
    silence = COMMIT if request.method not in ("GET", "HEAD") else FIRST_BYTE
    given = request.extensions.get("timeout") or {}
    most = {"connect": FIRST_BYTE, "read": silence, "write": COMMIT}
    own = {kind: given.get(kind) or seconds for kind, seconds in most.items()}
    request.extensions = {**request.extensions, "timeout": {**given, **own}}
    _watch.start(request)


def _after(response: Any) -> None:
    request = response.request
    _shorten_waits(response.headers)
    if response.headers.get("content-encoding", "identity").lower() not in ("identity", ""):
        raise HubError(f"{_watch.what}: the answer is compressed, which was not asked for; is there a proxy between?")
    if request.method == "HEAD":
        return
    declared = response.headers.get("content-length", "")
    most = MAX_SMALL if not declared.isdigit() or request.url.path.startswith("/api/") else None
    budgets = [budget for budget in _watch.budgets if budget.bytes is not None]
    for left in (most, *(budget.bytes for budget in budgets)):
        if left is not None and declared.isdigit() and int(declared) > left:
            raise _watch.too_much(int(declared))
    response.stream = _stream_class(_base(response.stream))(response.stream, most, budgets)


def _base(stream: object) -> type:
    """The HTTP library's class of byte streams; the library depends on the version of huggingface_hub."""
    return next(kind for kind in type(stream).__mro__ if kind.__name__ == "SyncByteStream")


@cache
def _stream_class(base: type) -> Callable[..., Any]:
    class LimitedStream(base):  # type: ignore[misc]
        """The bytes of an answer, counted."""

        def __init__(self, stream: Any, most: int | None, budgets: list[_Budget]) -> None:
            self._stream, self._most, self._budgets = stream, most, budgets

        def __iter__(self) -> Iterator[bytes]:
            received = 0
            for chunk in self._stream:
                received += len(chunk)
                for budget in self._budgets:
                    budget.bytes = (budget.bytes or 0) - len(chunk)
                if received > (self._most or received) or any((budget.bytes or 0) < 0 for budget in self._budgets):
                    raise _watch.too_much(received)
                _watch.heard(len(chunk))
                yield chunk

        def close(self) -> None:
            """Close the connection, or give it back."""
            self._stream.close()

        @property
        def elapsed(self) -> Any:
            """Time from the request to the end of the answer; None before the end."""
            return getattr(self._stream, "elapsed", None)

    return LimitedStream


def _shorten_waits(headers: Any) -> None:
    """Shorten the waits that huggingface_hub would obey, however long."""
    if headers.get("retry-after", "").isdigit() and len(headers["retry-after"]) > 2:
        headers["retry-after"] = str(min(int(headers["retry-after"][:9]), LONGEST_WAIT))
    if "ratelimit" in headers:
        headers["ratelimit"] = re.sub(
            r"\bt=(\d+)", lambda found: f"t={min(int(found[1][:9]), LONGEST_WAIT)}", headers["ratelimit"]
        )
