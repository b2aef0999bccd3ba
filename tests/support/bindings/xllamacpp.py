"""A stand-in for xllamacpp: its server answers every prompt with the request, as JSON, and then ends.

A file whose name has "strange" in it does not load. A prompt with "overlong" does not fit, one with "broken" fails, and
one with "endless" is answered until it is stopped.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator
from threading import Event
from types import SimpleNamespace
from typing import Any

__version__ = "0.stand-in"
stopped = Event()
"""Set once an answer was stopped."""


class CommonParams(SimpleNamespace):
    """Parameters, which are written only."""

    def __init__(self) -> None:
        super().__init__(model=SimpleNamespace())


class Server:
    """The server."""

    def __init__(self, params: CommonParams) -> None:
        if "strange" in params.model.path:
            raise RuntimeError("Failed to init server")
        self.params = params

    def handle_completions(self, asked: dict[str, Any], hear: Callable[[dict[str, Any]], bool]) -> None:
        """Answer in pieces, until `hear` returns True."""
        text = str(asked["prompt"][-1])
        if "broken" in text:
            raise ValueError("the `server` broke\nin two")
        if "overlong" in text:
            hear({"error": {"type": "exceed_context_size_error", "n_prompt_tokens": 9000, "n_ctx": self.params.n_ctx}})
            return
        for number, piece in enumerate(self._pieces(asked, "endless" in text), 1):
            if hear(_chunk(piece, number, "" if piece else "stop")):
                stopped.set()
                return

    def _pieces(self, asked: dict[str, Any], endless: bool) -> Iterator[str]:
        if endless:
            for _ in itertools.count():
                time.sleep(0.001)
                yield "on and "
        said = json.dumps(asked | {"params": {**vars(self.params), "model": self.params.model.path}})
        yield from (said[start : start + 7] for start in range(0, len(said), 7))
        yield ""


def _chunk(text: str, tokens: int, finish: str) -> dict[str, Any]:
    choice = {"text": text, "index": 0, "logprobs": None, "finish_reason": finish or None}
    return {"choices": [choice], "object": "text_completion", "timings": {"predicted_n": tokens}}
