"""The YAML in front of a model card: a stranger's is read within limits, ours is written.

YAML can say much with few bytes: a name for a value (`&`, `*`) or a merge key (`<<`) that is used twice on each of 40
levels stands for 2^40 values. A card needs none of them.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..core.tensors import ReadAt
from ..core.text import printable

MAX_FRONT_MATTER = 100_000
"""Characters. The cards of known chat models have less than 20,000."""
_MAX_DEPTH = 16
_BLOCK = re.compile(r"\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|$)", re.DOTALL)


@dataclass(frozen=True)
class FrontMatter:
    """The metadata of a card."""

    values: Mapping[str, Any] = field(default_factory=dict)
    """JSON data; empty if there is none."""
    problem: str = ""
    """Reason why metadata is there but was not read, as a clause."""


def read_start(read: ReadAt) -> str:
    """Read the beginning of a model card, enough for its metadata; `read` gives any bytes of its file."""
    return read(0, 4 * MAX_FRONT_MATTER).decode("utf-8", "replace")


def read_front_matter(card: str) -> FrontMatter:
    """Read the metadata in front of the text of a model card; never fails."""
    start = card[: MAX_FRONT_MATTER + 100]
    block = _BLOCK.match(start)
    if block is None:
        unending = len(start) < len(card) and start.lstrip().startswith("---")
        return FrontMatter(problem=f"has more than {MAX_FRONT_MATTER} characters") if unending else FrontMatter()
    try:
        value = _load(block[1])
    except _RefusedError as error:
        return FrontMatter(problem=str(error))
    except Exception:  # yaml raises more than its own errors for strange tags and numbers.
        return FrontMatter(problem="is not valid YAML")
    if not isinstance(value, dict):
        return FrontMatter() if value is None else FrontMatter(problem="is not a mapping")
    return FrontMatter(value)


def write_front_matter(**values: Any) -> str:
    """Write metadata, as `huggingface_hub.ModelCardData` takes it, in its lines of dashes."""
    from huggingface_hub import ModelCardData

    return f"---\n{ModelCardData(**_printable(values)).to_yaml()}\n---"


class _RefusedError(Exception):
    """Valid YAML that is not read; the message is a clause."""


def _load(text: str) -> Any:
    """Load YAML whose events were looked through first: a loader builds everything before it returns anything."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    depth = 0
    for event in yaml.parse(text, loader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise _RefusedError("has anchors or aliases")
        if isinstance(event, yaml.ScalarEvent) and event.value == "<<" and event.implicit[0]:
            raise _RefusedError("has merge keys")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise _RefusedError(f"is nested deeper than {_MAX_DEPTH} levels")
    return _plain(yaml.load(text, loader))


def _plain(value: Any) -> Any:
    """`value` as JSON data.

    Raises:
        _RefusedError: something that JSON has not, or a number of hundreds of digits.
    """
    if isinstance(value, dict):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, datetime.date):
        return value.isoformat()
    if value is None or isinstance(value, str | float) or (isinstance(value, int) and abs(value) < 2**63):
        return value
    raise _RefusedError("has a value that a card cannot hand on")


def _printable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key if key is None else _printable(key): _printable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_printable(item) for item in value]
    return printable(value) if isinstance(value, str) else value
