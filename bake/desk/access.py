"""Who may talk to the desk: a guard in front of every request, before anything reads it.

A page of a stranger in the same browser can send requests to any address of this machine, and can give a name of its
own that address (DNS rebinding). So a request needs the random token in its path, a Host header that names the desk,
and no Origin but the desk's own. Bound to another address, it needs a password, too.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import ipaddress
import re
import secrets
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import InputError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LARGEST = 256 * 1024
"""Bytes of a request's body."""
_ORIGIN = re.compile(r"https?://[a-z0-9.-]+(:[0-9]{1,5})?")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
_AFTER_WRONG = 1.0
"""Seconds until the answer to a wrong password."""
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


@dataclass(frozen=True)
class Access:
    """The door of a desk."""

    host: str = "127.0.0.1"
    """Address that it is bound to."""
    port: int = 0
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    """First part of every path."""
    password: str = ""
    """Asked for by HTTP, with any user name; empty: none, on the loopback only."""
    behind: str = ""
    """Address, without a path, at which a proxy serves the desk, such as ``https://me.hf.space``; empty: none does."""

    def __post_init__(self) -> None:
        if self.behind and not _ORIGIN.fullmatch(self.behind):
            raise InputError(f"`behind` {self.behind[:120]!r}: give an address such as https://desk.example")

    @property
    def is_loopback(self) -> bool:
        """True if no other machine can reach it."""
        return is_loopback(self.host)

    @property
    def url(self) -> str:
        """The address to open."""
        if self.behind:
            return f"{self.behind}/{self.token}/"
        name = self.host
        if self.host in ("0.0.0.0", "::"):
            name = socket.gethostname()
        return f"http://{_bracketed(name)}:{self.port}/{self.token}/"

    def allows_host(self, header: str) -> bool:
        """True if a Host header names the desk, and not a name that somebody else has led here."""
        if self.behind and header.lower() == self._proxy:
            return True
        name, _, port = header.rpartition(":")
        if port != str(self.port) or not name:
            return False
        name = name.strip("[]").lower()
        if name in LOOPBACK or name == self.host.lower():
            return True
        if self.is_loopback:
            return False
        # An address cannot be led anywhere else; of names only the machine's own.
        return _is_address(name) or name in {socket.gethostname().lower(), socket.getfqdn().lower()}

    def origin(self, host: str) -> str:
        """The origin of the desk's own page, for a request to `host`."""
        return self.behind if self.behind and host.lower() == self._proxy else f"http://{host}"

    @property
    def _proxy(self) -> str:
        """The Host header of requests that came to the proxy."""
        return self.behind.partition("://")[2]

    def allows_user(self, header: str) -> bool:
        """True if an Authorization header has the password."""
        if not self.password:
            return True
        kind, _, coded = header.partition(" ")
        try:
            given = base64.b64decode(coded, validate=True).decode().partition(":")[2]
        except (binascii.Error, ValueError):
            return False
        return kind.lower() == "basic" and secrets.compare_digest(given.encode(), self.password.encode())


def is_loopback(host: str) -> bool:
    """True if only this machine reaches `host`, an address or a name."""
    return host.lower() == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


class Guard:
    """An ASGI application in front of another one, which it gives paths without the token."""

    def __init__(self, app: App, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close"})
            return
        headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
        refusal = self._refusal(scope, headers)
        if refusal is not None and refusal[0] == 404 and self._access.password and scope["path"] == "/":
            # The password was right, so whoever asks may know the token.
            await _lead_to(send, f"/{self._access.token}/")
            return
        if refusal is None:
            path = scope["path"].removeprefix(f"/{self._access.token}")
            inner = {**scope, "path": path, "raw_path": path.encode(), "root_path": ""}
            await self._app(inner, receive, _with_headers(send))
            return
        status, text = refusal
        if status == 401:
            await asyncio.sleep(_AFTER_WRONG if headers.get("authorization") else 0)
        await _refuse(send, status, text)

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        """Status and reason of the first check that fails; None if all pass."""
        host, access = headers.get("host", ""), self._access
        token = scope["path"].split("/")[1] if scope["path"].startswith("/") else ""
        kind, length = headers.get("content-type", "").partition(";")[0].strip(), headers.get("content-length", "")
        reads = scope["method"] in ("GET", "HEAD")
        checks = (
            (access.allows_host(host), 421, "this desk has another name; open the address that emobake printed"),
            (headers.get("origin") in (None, access.origin(host)), 403, "requests of other pages are refused"),
            (
                headers.get("sec-fetch-site") in (None, "same-origin", "none") or (reads and _opens_a_tab(headers)),
                403,
                "requests of other pages are refused",
            ),
            (access.allows_user(headers.get("authorization", "")), 401, "the password is missing or wrong"),
            (
                secrets.compare_digest(token.encode(), access.token.encode()),
                404,
                "nothing is here; open the address that emobake printed, with its token",
            ),
            (reads or kind == "application/json", 415, "requests are JSON"),
            # The server reads no more than that.
            (
                reads or (length.isdigit() and int(length) <= LARGEST),
                413,
                "the request is too large, or does not say how large it is",
            ),
        )
        return next(((status, text) for holds, status, text in checks if not holds), None)


def _with_headers(send: Send) -> Send:
    async def headed(message: Message) -> None:
        if message["type"] == "http.response.start":
            more = [(key.encode(), value.encode()) for key, value in _HEADERS.items()]
            message = {**message, "headers": [*message.get("headers", []), *more]}
        await send(message)

    return headed


def _opens_a_tab(headers: dict[str, str]) -> bool:
    """True if a link of another page was followed: that page sees nothing of the answer, and can send nothing along."""
    return (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")) == ("navigate", "document")


async def _lead_to(send: Send, path: str) -> None:
    headed = _with_headers(send)
    headers = [(b"location", path.encode()), (b"content-length", b"0")]
    await headed({"type": "http.response.start", "status": 307, "headers": headers})
    await headed({"type": "http.response.body", "body": b""})


async def _refuse(send: Send, status: int, text: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    if status == 401:
        headers.append((b"www-authenticate", b'Basic realm="emobake desk", charset="UTF-8"'))
    headed = _with_headers(send)
    await headed({"type": "http.response.start", "status": status, "headers": headers})
    await headed({"type": "http.response.body", "body": f"{text}\n".encode()})


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _bracketed(name: str) -> str:
    return f"[{name}]" if ":" in name else name
