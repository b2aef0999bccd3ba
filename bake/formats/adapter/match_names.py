"""Match names with regular expressions, as a program of its own: `patterns` runs it, and stops it in time.

A pattern of a stranger may take years on a name of thirty letters, and Python cannot interrupt it. Reads a JSON list
``[[how, pattern], ...]`` and one of names from stdin, in one list; ``how`` is ``match`` or ``fullmatch``. Writes a JSON
list: for each pattern a list with true or false for each name, or null for one that is no pattern. Imports nothing of
emobake.
"""

from __future__ import annotations

import json
import re
import sys


def match(how: str, pattern: str, names: list[str]) -> list[bool] | None:
    """Match each of the names; None if `pattern` is none."""
    try:
        compiled = re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        return None
    by = compiled.match if how == "match" else compiled.fullmatch
    return [by(name) is not None for name in names]


if __name__ == "__main__":
    patterns, given = json.load(sys.stdin)
    json.dump([match(how, pattern, given) for how, pattern in patterns], sys.stdout)
