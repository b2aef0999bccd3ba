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

from ..errors import InputError, OutputError

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


def render_prompts(
    template: str, tokens: Mapping[str, Any], conversations: Sequence[Sequence[Message]], name: str
) -> list[str]:
    """Render conversations, each ready for the next answer; `name` names the model in messages.

    Templates of multimodal checkpoints want the content as a list of parts, and some of them drop a plain text without
    a word: then the text is given as such a list. Needs jinja2.

    Raises:
        InputError: the template fails, or takes too much time or memory. OutputError: no process can be started.
    """
    parts = [[_in_parts(message) for message in messages] for messages in conversations]
    rendered = render_chats(template, tokens, [(messages, True) for messages in (*conversations, *parts)])
    half = len(conversations)
    texts = []
    for messages, plain, listed in zip(conversations, rendered[:half], rendered[half:], strict=True):
        text, reason = _chosen(plain, listed, messages[-1]["content"].strip() if messages else "")
        if text is None:
            raise InputError(f"{name}: its chat template fails ({reason})")
        texts.append(text)
    return texts


def joined(messages: Sequence[Message]) -> str:
    """A conversation for a model without a template: the texts one after another, as a base model reads them."""
    return "\n\n".join(message["content"] for message in messages) + "\n\n"


def no_template(name: str) -> str:
    """Remark on the model `name`, which has no template."""
    return (
        f"{name} has no chat template: it reads the texts one after another, as a base model does, and may "
        "not answer as an assistant"
    )


def _in_parts(message: Message) -> Message:
    return {**message, "content": [{"type": "text", "text": message["content"]}]}


def _chosen(plain: Rendered, listed: Rendered, last: str) -> Rendered:
    """The rendering that has the last text: with plain texts, or else with lists of parts."""
    if plain.text is None:
        return plain if listed.text is None else listed
    return listed if last not in plain.text and last in (listed.text or "") else plain
