"""Query sets: files, the sets that are shipped with emobake, and the paper's, which are fetched."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from itertools import islice
from pathlib import Path

from ..core.limits import MAX_ANSWERS
from ..core.spelling import did_you_mean
from ..core.strict_json import parse_json
from ..errors import EmobakeError, InputError
from ..storage.files import git_blob_id, read_small
from ..vectors.fetch import pull_queries
from ..vectors.registry import RegisteredQueries, registry
from .queries import parse_queries, parse_questions

OWN = "emobake"
"""Shipped set for extraction: 48 queries for each of the paper's five emotions."""
EVERYDAY = "everyday"
"""Shipped set for evaluation: 60 everyday queries, none of which is in `OWN`."""
REPLIES = "replies.json"
"""Shipped file of the queries with written replies."""
_PAPER = "xuanfengzu/EmotionVector"


@dataclass(frozen=True)
class Questions:
    """Queries of an evaluation."""

    name: str
    texts: tuple[str, ...]
    groups: tuple[str, ...]
    """Per text, the part of the set that it belongs to; ``""`` if there are no parts."""
    sha256: str
    """Digest of the file."""

    def sample(self, limit: int | None) -> list[int]:
        """Indices of at most `limit` texts of each group, spread evenly over it, because neighbours are often alike."""
        if limit is None:
            return list(range(len(self.texts)))
        kept = []
        for group in dict.fromkeys(self.groups):
            places = [i for i, own in enumerate(self.groups) if own == group]
            count = min(limit, len(places))
            kept += [places[i * len(places) // count] for i in range(count)]
        return kept

    def limited(self, limit: int | None) -> Questions:
        """Keep the texts of `sample`."""
        kept = self.sample(limit)
        return replace(self, texts=tuple(self.texts[i] for i in kept), groups=tuple(self.groups[i] for i in kept))


def open_queries(given: str | None) -> tuple[bytes, str]:
    """Read a query set for extraction: its content and the name of its file; None is `OWN`.

    Raises:
        InputError: no such file or name; the errors of `pull_queries`.
    """
    if given is None or (given == OWN and not Path(given).exists()):
        return shipped("emotions.json"), "emotions.json"
    if Path(given).exists():
        return read_small(Path(given), most=MAX_ANSWERS), given
    entry = _registered(given)
    if entry is None or entry.groups:
        names = [entry.name for entry in registry().queries if not entry.groups]
        raise _no_queries(given, [OWN, *names])
    return pull_queries(given), f"{given}.json"


def open_questions(given: str) -> Questions:
    """Read a query set for evaluation: a file as `parse_questions` reads it, or a name.

    A copy of a published file is recognised by its content, and gets its name and parts.

    Raises:
        InputError: no such file or name; the errors of `pull_queries`. BrokenFileError: no queries in it.
    """
    groups: dict[str, int] = {}
    if Path(given).exists():
        content, name = read_small(Path(given), most=MAX_ANSWERS), Path(given).name
        blob = git_blob_id(content)
        if entry := next((entry for entry in registry().queries if entry.file.blob == blob), None):
            name, groups = entry.name, dict(entry.groups)
    elif given == EVERYDAY:
        content, name = shipped("everyday.json"), given
    elif given == OWN:
        content, name = shipped("emotions.json"), given
    elif entry := _registered(given):
        content, name, groups = pull_queries(given), given, dict(entry.groups)
    else:
        raise _no_queries(given, [EVERYDAY, OWN, *(entry.name for entry in registry().queries)])
    found = parse_questions(content, name if name.endswith((".json", ".jsonl")) else f"{name}.json")
    if groups:
        texts = iter(found[""])
        found = {group: list(islice(texts, count)) for group, count in groups.items()}
    pairs = [(text, group) for group, texts in found.items() for text in texts]
    return Questions(
        name, tuple(text for text, _ in pairs), tuple(group for _, group in pairs), hashlib.sha256(content).hexdigest()
    )


@dataclass(frozen=True)
class Seen:
    """Queries from which vectors were made, or may have been."""

    texts: frozenset[str] | None
    """Texts in the form of `comparable`; None if unknown."""
    what: str
    """The queries in words; or why they are unknown, to complete "which queries the vectors were made from ..."."""


UNKNOWN = Seen(None, "is not known")


def extraction_queries(source: str, queries: Mapping[str, str], questions: Questions) -> Seen:
    """Find the queries from which vectors with this `source` and `queries` were made.

    Most of the paper's queries for evaluation are among those for extraction. If they are asked and nothing is known
    of the vectors, the paper's queries for extraction count as seen.
    """
    digest = queries.get("queries_sha256")
    own, made = shipped("emotions.json"), "those that the vectors were made from"
    if digest == hashlib.sha256(own).hexdigest():
        return Seen(_texts(parse_queries(own, "emotions.json").values()), made)
    replies = shipped(REPLIES)
    if digest == hashlib.sha256(replies).hexdigest():
        return Seen(_texts([[one["query"] for one in parse_json(replies, REPLIES)]]), made)
    if digest == questions.sha256:
        return Seen(_texts([questions.texts]), made)
    paper = next(entry for entry in registry().queries if not entry.groups)
    known = _PAPER in source or queries.get("queries") == f"{paper.name}.json"
    asked = _registered(questions.name)
    if known or (digest is None and asked is not None and asked.file.repository == paper.file.repository):
        try:
            content = pull_queries(paper.name)
        except EmobakeError:  # An evaluation without a network need not end here.
            return Seen(None, f"cannot be looked up, because {paper.name} cannot be fetched")
        texts = _texts(parse_queries(content, f"{paper.name}.json").values())
        return Seen(texts, made if known else "those that the paper's vectors were made from")
    return UNKNOWN


def comparable(text: str) -> str:
    """A query without the differences that two copies of it may have."""
    return " ".join(text.lower().split())


def _texts(lists: Iterable[Sequence[str]]) -> frozenset[str]:
    return frozenset(comparable(text) for texts in lists for text in texts)


def _no_queries(given: str, names: list[str]) -> InputError:
    like = did_you_mean(given, names)
    return InputError(f"{given}: no such file of queries; sets by name are {', '.join(names)}{like}")


def _registered(name: str) -> RegisteredQueries | None:
    return next((entry for entry in registry().queries if entry.name == name), None)


def open_shipped(name: str) -> Questions:
    """A shipped file of prompts by group, as `parse_questions` reads it."""
    content = shipped(name)
    pairs = [(text, group) for group, texts in parse_questions(content, name).items() for text in texts]
    return Questions(
        name.removesuffix(".json"),
        tuple(text for text, _ in pairs),
        tuple(group for _, group in pairs),
        hashlib.sha256(content).hexdigest(),
    )


def shipped(name: str) -> bytes:
    """Content of a shipped file of queries."""
    return (resources.files("emobake.vectors_data") / "queries" / name).read_bytes()
