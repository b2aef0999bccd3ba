"""Where the queries of an extraction come from: a file, the set that comes with emobake, or the paper's, fetched."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from .errors import InputError
from .registry import registry
from .sources import read_small
from .vector_sets import pull_queries

OWN = "emobake"
"""Name of the set that comes along: 48 queries for each of the paper's five emotions."""


def open_queries(given: str | None) -> tuple[bytes, str]:
    """The content of a query set, and the name of its file; None is our own.

    Raises:
        InputError: no such file or name; what `pull_queries` raises.
    """
    if given is None or (given == OWN and not Path(given).exists()):
        return (resources.files("emobake.vectors_data") / "queries" / "emotions.json").read_bytes(), "emotions.json"
    if Path(given).exists():
        return read_small(Path(given), given), given
    names = [entry.name for entry in registry().queries]
    if given in names:
        return pull_queries(given), f"{given}.json"
    raise InputError(f"{given}: no such file of queries, nor one of {', '.join([OWN, *names])}")
