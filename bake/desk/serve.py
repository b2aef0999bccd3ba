"""Running the desk: a socket, uvicorn, and an orderly end."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import Any

from ..core.packages import require
from ..errors import InputError
from .access import Access
from .app import make_app
from .session import DeskSession

_GRACE = 3
"""Seconds that open requests have at the end."""


def bind(access: Access) -> tuple[socket.socket, Access]:
    """Take the address; returns it with the port, which the system chooses if it is 0.

    Raises:
        InputError: the address is in use, or none of this machine; or other machines would reach it without a password.
    """
    if not access.is_loopback and not access.password:
        raise InputError(f"`host` {access.host}: other machines can reach it; give `password` as well")
    if access.behind and not access.password:
        raise InputError(f"`behind` {access.behind}: others can reach it there; give `password` as well")
    try:
        found = socket.getaddrinfo(access.host, access.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen()
        except BaseException:
            listening.close()
            raise
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"`host` {access.host} `port` {access.port}: cannot be bound ({reason})") from None
    return listening, replace(access, port=listening.getsockname()[1])


def server_of(desk: DeskSession, access: Access, ready: Callable[[], object] = lambda: None) -> Any:
    """Make a uvicorn server of a desk; `ready` is called once it answers.

    Raises:
        MissingPackageError: FastAPI or uvicorn is not installed.
    """
    uvicorn = require("uvicorn", extra="desk", purpose="the desk")

    class Server(uvicorn.Server):  # type: ignore[misc,name-defined]
        """A server that ends the streams of the desk before it waits for them, and returns after a signal."""

        should_exit: bool

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets=sockets)
            ready()

        def handle_exit(self, sig: int, frame: object) -> None:
            self.force_exit = bool(self.should_exit)
            self.should_exit = True
            desk.end_streams()

    return Server(
        uvicorn.Config(
            make_app(desk, access),
            log_level="critical",
            access_log=False,
            lifespan="off",
            server_header=False,
            proxy_headers=False,
            ws="none",
            timeout_graceful_shutdown=_GRACE,
        )
    )


def serve(desk: DeskSession, server: Any, listening: socket.socket) -> None:
    """Run a server until it is interrupted; then the answer and the bake that run are ended, in order."""
    with closing(listening):
        try:
            server.run(sockets=[listening])
        finally:
            desk.close()
