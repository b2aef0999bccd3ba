"""Render a chat template, as a program of its own: `modelfile` runs it, and gives up when it takes too long.

A template is a stranger's program. Jinja's sandbox keeps it from files and from Python's own objects, but not from
loops without end or from texts of gigabytes; a process of its own with limits of the system can be stopped. Reads one
JSON object from stdin, ``{"template": ..., "tokens": {...}, "conversations": [[messages, generation], ...]}``, and
writes a JSON list with a text for each conversation, or null where the template fails.

Imports nothing of emobake, so that it starts quickly.
"""

from __future__ import annotations

import json
import sys
from typing import Any

CPU_SECONDS = 5
"""The largest known template takes milliseconds."""
MEMORY = 512 * 2**20
"""Bytes of address space; where the system has no such limit (macOS, Windows), time alone ends a flood."""
LONGEST = 200_000
"""Characters of a rendered conversation."""


def limit() -> None:
    """Ask the system to end this process when it needs too much."""
    try:
        import resource
    except ImportError:  # Windows
        return
    for kind, most in ((resource.RLIMIT_CPU, CPU_SECONDS), (resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(kind)[1]
        own = most if hard == resource.RLIM_INFINITY else min(most, hard)
        try:
            resource.setrlimit(kind, (own, own))
        except (ValueError, OSError):  # A system that knows the limit and does not take it.
            continue


def render(asked: dict[str, Any]) -> list[str | None]:
    """Render every conversation."""
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )

    def fail(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment.globals["raise_exception"] = fail
    texts: list[str | None] = []
    try:
        compiled = environment.from_string(asked["template"])
    except Exception:
        return [None] * len(asked["conversations"])
    for messages, generation in asked["conversations"]:
        try:
            pieces, length = [], 0
            for piece in compiled.generate(
                messages=messages, add_generation_prompt=generation, tools=None, **asked["tokens"]
            ):
                pieces.append(piece)
                length += len(piece)
                if length > LONGEST:
                    raise ValueError("too long")
            texts.append("".join(pieces))
        except Exception:  # MemoryError and RecursionError, too.
            texts.append(None)
    return texts


if __name__ == "__main__":
    if not getattr(sys.flags, "safe_path", False):
        del sys.path[0]  # The folder of this program is no place to import from. Option -P is not in Python 3.10.
    limit()
    json.dump(render(json.load(sys.stdin)), sys.stdout)
