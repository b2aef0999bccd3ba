"""An exchange while it is answered: work in a thread of its own, whose events are an iterator."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

Event = dict[str, Any]
"""JSON data with a ``type``."""
Tell = Callable[[Event], object]
Work = Callable[[Tell, Callable[[], bool]], object]
"""``work(tell, stopped)`` tells events, and ends soon once ``stopped()`` is true. It handles its own errors."""


class Reply:
    """Events of an exchange, which goes on if nobody iterates any more, until it is stopped."""

    def __init__(self, work: Work, after: Callable[[], object] = lambda: None) -> None:
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._work, self._after = work, after
        self._thread = threading.Thread(target=self._run, name="emobake-reply", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def __iter__(self) -> Iterator[Event]:
        """The events, in their order, as they come."""
        while (event := self._events.get()) is not None:
            yield event

    def stop(self) -> None:
        """End the exchange after the token that is being generated; what was said so far is kept."""
        self._stop.set()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for its end; False if `seconds` were not enough."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._work(self._events.put, self._stop.is_set)
        finally:
            self._after()
            self._events.put(None)
