"""Render conversations in a chat template, as a program of its own: `chat_template` runs it, and stops it in time.

A template is a stranger's program. Jinja's sandbox keeps it from files and from Python's own objects, but not from
loops without end or from texts of gigabytes; a process of its own with limits of the system can be stopped. Reads one
JSON object from stdin, ``{"template": ..., "tokens": {...}, "clock": true, "conversations": [[messages, generation],
...]}``, and writes a JSON list: for each conversation its text and an empty string, or null and the reason why the
template fails.

The environment is the one of transformers (``render_jinja_template`` of 4.57 to 5.23): the same options, tags, filters
and functions. Imports nothing of emobake and not transformers either, so that it starts in a tenth of a second.
"""

from __future__ import annotations

import datetime
import json
import sys
from typing import Any

CPU_SECONDS = 5
"""The largest known template takes milliseconds."""
CONVERSATIONS_PER_SECOND = 100
"""Conversations for which a process gets one second more."""
MEMORY = 512 * 2**20
"""Bytes of address space; where the system has no such limit (macOS, Windows), time alone ends a flood."""
LONGEST = 200_000
"""Characters that a template may add to the messages of a conversation."""


def limit(conversations: int) -> None:
    """Ask the system to end this process when it needs too much."""
    try:
        import resource
    except ImportError:  # Windows
        return
    seconds = CPU_SECONDS + conversations // CONVERSATIONS_PER_SECOND
    for kind, most in ((resource.RLIMIT_CPU, seconds), (resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(kind)[1]
        own = most if hard == resource.RLIM_INFINITY else min(most, hard)
        try:
            resource.setrlimit(kind, (own, own))
        except (ValueError, OSError):  # A system that knows the limit and does not take it.
            continue


def environment(clock: bool) -> Any:
    """Jinja's sandbox as chat templates expect it, with today's date (``strftime_now``) if `clock`."""
    import jinja2
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """``{% generation %} ... {% endgeneration %}`` marks answers for training; here it stands for its content."""

        tags = frozenset({"generation"})  # type: ignore[assignment]  # Jinja only reads it.

        def parse(self, parser: Any) -> nodes.Node:
            line = next(parser.stream).lineno
            return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)

    def raise_exception(message: Any) -> None:
        raise jinja2.TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
        # Jinja's own writes HTML's special characters as escapes, which no model expects.
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)

    def strftime_now(form: str) -> str:
        return datetime.datetime.now().strftime(form)

    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    made.filters["tojson"] = tojson
    made.globals["raise_exception"] = raise_exception
    if clock:
        made.globals["strftime_now"] = strftime_now
    return made


def render(asked: dict[str, Any]) -> list[tuple[str | None, str]]:
    """Render every conversation."""
    try:
        compiled = environment(asked["clock"]).from_string(asked["template"])
    except Exception as error:
        return [(None, reason(error))] * len(asked["conversations"])
    rendered: list[tuple[str | None, str]] = []
    for messages, generation in asked["conversations"]:
        room = LONGEST + sum(len(str(message)) for message in messages)
        variables = {"messages": messages, "add_generation_prompt": generation, "tools": None, "documents": None}
        try:
            pieces, length = [], 0
            for piece in compiled.generate(asked["tokens"] | variables):
                pieces.append(piece)
                length += len(piece)
                if length > room:
                    raise ValueError(f"it writes more than {room} characters")
            rendered.append(("".join(pieces), ""))
        except Exception as error:  # MemoryError and RecursionError, too.
            rendered.append((None, reason(error)))
    return rendered


def reason(error: Exception) -> str:
    """Message of an error, in one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


if __name__ == "__main__":
    if not getattr(sys.flags, "safe_path", False):
        del sys.path[0]  # The folder of this program is no place to import from. Option -P is not in Python 3.10.
    given = json.load(sys.stdin)
    limit(len(given["conversations"]))
    json.dump(render(given), sys.stdout)
