"""YAML that others wrote, read as JSON data within limits.

YAML can say much with few bytes: a name for a value (`&`, `*`) or a merge key (`<<`) that is used twice on each of 40
levels stands for 2^40 values. Neither a model card nor a persona needs them.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import Any

_MAX_DEPTH = 16


class RefusedError(Exception):
    """YAML that is not read; the message is a clause, such as "has anchors or aliases"."""


def load_yaml(text: str, *, unique: bool = False) -> Any:
    """Load YAML whose events were looked through first: a loader builds everything before it returns anything.

    Dates become texts. With `unique`, a key that is there twice is refused; else the last one counts.

    Raises:
        RefusedError: it is not valid YAML, has anchors, aliases or merge keys, is nested too deep, or holds something
            that JSON has not.
    """
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    depth = 0
    try:
        for event in yaml.parse(text, loader):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
                raise RefusedError("has anchors or aliases")
            if isinstance(event, yaml.ScalarEvent) and event.value == "<<" and event.implicit[0]:
                raise RefusedError("has merge keys")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _MAX_DEPTH:
                raise RefusedError(f"is nested deeper than {_MAX_DEPTH} levels")
        if unique:
            for key, line in _repeated(yaml.compose(text, loader)):
                raise RefusedError(f"has {key[:60]!r} twice (line {line})")
        return _plain(yaml.load(text, loader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = "" if mark is None else f" (line {mark.line + 1}: {error.problem})"
        raise RefusedError(f"is not valid YAML{where}") from None
    except RefusedError:
        raise
    except Exception:  # yaml raises more than its own errors for strange tags and numbers.
        raise RefusedError("is not valid YAML") from None


def _repeated(node: Any) -> Iterator[tuple[str, int]]:
    """Keys that a mapping in a composed document has twice, with their lines."""
    import yaml

    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    yield key.value, key.start_mark.line + 1
                seen.add(key.value)
            yield from _repeated(value)
    elif isinstance(node, yaml.SequenceNode):
        for one in node.value:
            yield from _repeated(one)


def _plain(value: Any) -> Any:
    """`value` as JSON data.

    Raises:
        RefusedError: something that JSON has not, or a number of hundreds of digits.
    """
    if isinstance(value, dict):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, datetime.date):
        return value.isoformat()
    if value is None or isinstance(value, str | float) or (isinstance(value, int) and abs(value) < 2**63):
        return value
    raise RefusedError("has a value that it cannot hand on")
