"""Chat templates of checkpoints and GGUF files, rendered within limits.

A template is a program (Jinja) that comes with a model. It runs in a process of its own (`render_chats`), which gets 5
seconds of computing and, where the system can limit it, 512 MB.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import OutputError

SECONDS = 30
"""Time for a template; the limit of its process on computing is shorter, but not every system has it."""
_CONVERSATIONS_PER_SECOND = 20
"""Conversations for which a template gets one second more."""

Message = Mapping[str, Any]
"""``{"role": "user", "content": "..."}``; templates of multimodal models take a list of parts as the content."""


class Rendered(NamedTuple):
    """A conversation as the model reads it."""

    text: str | None
    """None if the template fails."""
    reason: str
    """Why it fails, in one line; empty if it does not."""


def render_chats(
    template: str,
    tokens: Mapping[str, Any],
    conversations: Sequence[tuple[Sequence[Message], bool]],
    *,
    clock: bool = True,
) -> list[Rendered]:
    """Render conversations, each with or without the text before an answer (``add_generation_prompt``).

    `tokens` are further variables of the template: ``bos_token``, ``eos_token`` and others. Without `clock` the
    template has no ``strftime_now``, and its text does not depend on the day. Needs jinja2.

    Raises:
        OutputError: no process can be started.
    """
    if not conversations:
        return []
    chats = [([dict(message) for message in messages], generation) for messages, generation in conversations]
    given = json.dumps({"template": template, "tokens": dict(tokens), "clock": clock, "conversations": chats})
    seconds = SECONDS + len(conversations) / _CONVERSATIONS_PER_SECOND
    program = Path(__file__).with_name("render_chats.py")
    try:
        done = subprocess.run(
            [sys.executable, str(program)], input=given.encode(), capture_output=True, timeout=seconds, check=True
        )
        return [Rendered(*one) for one in json.loads(done.stdout)]
    except OSError as error:
        raise OutputError(f"the chat template cannot be rendered ({error.strerror}); run again") from None
    except (subprocess.SubprocessError, ValueError):
        return [Rendered(None, "it takes too much time or memory")] * len(conversations)
