"""The limits on what a server sends, for httpx, with which huggingface_hub makes its requests since version 1."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from .network_limits import COMMIT, FIRST_BYTE, Allowance, allowance, silence, watch


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
        watch.heard(len(data))
        return data

    def start_tls(self, *arguments: Any, **options: Any) -> _Connection:
        """Encrypt from here on."""
        return _Connection(self._stream.start_tls(*arguments, **options))


def _before(request: Any) -> None:
    request.headers["Accept-Encoding"] = "identity"
    given = request.extensions.get("timeout") or {}
    most = {"connect": FIRST_BYTE, "read": silence(request.method), "write": COMMIT}
    own = {kind: given.get(kind) or seconds for kind, seconds in most.items()}
    request.extensions = {**request.extensions, "timeout": {**given, **own}}
    watch.start(request.method, request.url.host, request.url.path)


def _after(response: Any) -> None:
    request = response.request
    left = allowance(response.headers, request.method, request.url.path)
    response.stream = _stream_class(_base(response.stream))(response.stream, left)


def _base(stream: object) -> type:
    """The HTTP library's class of byte streams; the library depends on the version of huggingface_hub."""
    return next(kind for kind in type(stream).__mro__ if kind.__name__ == "SyncByteStream")


@cache
def _stream_class(base: type) -> Callable[..., Any]:
    class LimitedStream(base):  # type: ignore[misc]
        """The bytes of an answer, counted."""

        def __init__(self, stream: Any, left: Allowance) -> None:
            self._stream, self._left = stream, left

        def __iter__(self) -> Iterator[bytes]:
            return self._left.counted(self._stream)

        def close(self) -> None:
            """Close the connection, or give it back."""
            self._stream.close()

        @property
        def elapsed(self) -> Any:
            """Time from the request to the end of the answer; None before the end."""
            return getattr(self._stream, "elapsed", None)

    return LimitedStream
