"""The YAML in front of a model card: a stranger's is read within limits, ours is written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..core.tensors import ReadAt
from ..core.text import printable
from .safe_yaml import RefusedError, load_yaml

MAX_FRONT_MATTER = 100_000
"""Characters. The cards of known chat models have less than 20,000."""
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
        value = load_yaml(block[1])
    except RefusedError as error:
        return FrontMatter(problem=str(error))
    if not isinstance(value, dict):
        return FrontMatter() if value is None else FrontMatter(problem="is not a mapping")
    return FrontMatter(value)


def write_front_matter(**values: Any) -> str:
    """Write metadata, as `huggingface_hub.ModelCardData` takes it, in its lines of dashes."""
    from huggingface_hub import ModelCardData

    return f"---\n{ModelCardData(**_printable(values)).to_yaml()}\n---"


def _printable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key if key is None else _printable(key): _printable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_printable(item) for item in value]
    return printable(value) if isinstance(value, str) else value
