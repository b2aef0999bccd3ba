"""The limits on what a server sends, for requests, with which huggingface_hub makes its requests below version 1."""

from __future__ import annotations

import http.client
import io
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from ..errors import HubError
from .network_limits import Allowance, allowance, silence, watch


def limited(factory: Callable[[], Any]) -> Callable[[], Any]:
    """Wrap a factory of sessions, so that each session keeps the limits."""

    def make() -> Any:
        session = factory()
        for prefix, adapter in [*session.adapters.items()]:
            _watch_connections(adapter)
            session.mount(prefix, _Adapter(adapter))
        return session

    return make


class _Adapter:
    """Sends requests by another adapter, within the limits. A session asks its adapters for redirects as well."""

    def __init__(self, adapter: Any) -> None:
        self._adapter = adapter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._adapter, name)

    def send(self, request: Any, stream: bool = False, timeout: Any = None, **options: Any) -> Any:
        """Send a request; its answer is counted while it is read.

        Raises:
            HubError: the answer breaks a limit. Besides, the library's errors.
        """
        url = urlsplit(request.url)
        request.headers["Accept-Encoding"] = "identity"
        watch.start(request.method, url.hostname or "", url.path)
        response = self._adapter.send(request, stream=stream, timeout=_timeout(timeout, request.method), **options)
        try:
            left = allowance(response.headers, request.method, url.path)
        except HubError:
            response.close()
            raise
        response.iter_content = _counting(response, left)  # Whatever reads the content reads it by this method.
        return response


def _timeout(given: Any, method: str) -> Any:
    """Seconds to connect, and of silence, where the request does not say them."""
    if given is not None and not isinstance(given, int | float | tuple):
        return given
    connect, read = given if isinstance(given, tuple) else (given, given)
    # The body is sent within the seconds to connect, a large one at once.
    return connect or silence(method), read or silence(method)


def _counting(response: Any, left: Allowance) -> Callable[..., Iterator[bytes]]:
    read = response.iter_content

    def iter_content(*arguments: Any, **options: Any) -> Iterator[bytes]:
        try:
            yield from left.counted(read(*arguments, **options))
        except HubError:
            response.close()
            raise

    return iter_content


def _watch_connections(adapter: Any) -> None:
    """Have an adapter make connections whose bytes are watched: headers can be dripped for days."""

    def watched(manager: Any) -> Any:
        classes = manager.pool_classes_by_scheme
        manager.pool_classes_by_scheme = {scheme: _pool_class(pool) for scheme, pool in classes.items()}
        return manager

    if not hasattr(getattr(adapter, "poolmanager", None), "pool_classes_by_scheme"):
        return  # An adapter that a user has made.
    watched(adapter.poolmanager)
    make = adapter.proxy_manager_for
    adapter.proxy_manager_for = lambda *arguments, **options: watched(make(*arguments, **options))


@cache
def _pool_class(pool: Any) -> Any:
    """The subclass of a class of pools whose connections read answers as `_Answer`."""
    if issubclass(pool.ConnectionCls.response_class, _Answer):
        return pool
    connection = type(pool.ConnectionCls.__name__, (pool.ConnectionCls,), {"response_class": _Answer})
    return type(pool.__name__, (pool,), {"ConnectionCls": connection})


class _Answer(http.client.HTTPResponse):
    """An answer, its headers included, whose bytes are watched."""

    def __init__(self, sock: Any, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        self.fp: Any
        if isinstance(self.fp, io.BufferedReader):
            self.fp = io.BufferedReader(_Watched(self.fp.detach()))


class _Watched(io.RawIOBase):
    """Bytes from a connection, watched as they come."""

    def __init__(self, raw: io.RawIOBase) -> None:
        super().__init__()
        self._raw = raw

    def readable(self) -> bool:
        """True: it can be read."""
        return True

    def fileno(self) -> int:
        """Number of the connection."""
        return self._raw.fileno()

    def readinto(self, buffer: Any) -> int | None:
        """Read what has come."""
        count: int | None = self._raw.readinto(buffer)
        watch.heard(count or 0)
        return count

    def close(self) -> None:
        """Close the connection's file."""
        self._raw.close()
        super().close()
