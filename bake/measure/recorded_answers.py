"""Recorded answers, in the layout of the results published with the paper.

``results/base/<model>/<strength>.json`` holds the answers under the mean of all emotions' vectors, and
``results/emotion/<model>/<strength>/<emotion>.json`` those under one: a JSON list of texts, in the order of the
queries. Kinds that the published results do not have replace ``emotion``: ``mix``, ``control`` and ``prompt``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal, get_args

from ..core.limits import MAX_ANSWERS
from ..core.strict_json import parse_json
from ..errors import BrokenFileError, InputError
from ..storage.files import read_small

Kind = Literal["base", "emotion", "mix", "control", "prompt"]
BASE: Kind = "base"


@dataclass(frozen=True)
class Recorded:
    """The answers in one file."""

    kind: Kind
    model: str
    name: str
    """The emotion, or another name of the vectors; ``base`` for `BASE`."""
    strength: float
    answers: tuple[str, ...]
    file: str


def results_file(kind: Kind, model: str, name: str, strength: float) -> PurePath:
    """Path of a file of answers, below the folder ``results``."""
    if kind == BASE:
        return PurePath(kind, _plain(model), f"{strength:g}.json")
    return PurePath(kind, _plain(model), f"{strength:g}", f"{_plain(name)}.json")


def answers_json(answers: Sequence[str]) -> str:
    """Content of a file of answers."""
    return json.dumps(list(answers), ensure_ascii=False, indent=2) + "\n"


def read_results(folder: Path, count: int, sample: Sequence[int]) -> tuple[Recorded, ...]:
    """Read all answers below `folder` (``results``, or its parent), sorted by direction and strength.

    A file holds an answer to each of `count` queries, of which those with indices in `sample` are kept; or it holds
    only these, because no others were asked.

    Raises:
        InputError: no such folder, no answers in it, or another number of answers in a file.
        BrokenFileError: a file is no list of texts.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of recorded answers")
    root = folder / "results" if (folder / "results").is_dir() else folder
    found = [found for file in sorted(root.rglob("*.json")) if (found := _read(file, root, count, sample))]
    if not found:
        raise InputError(
            f"{folder}: holds no answers as base/<model>/<strength>.json or emotion/<model>/<strength>/<emotion>.json"
        )
    return tuple(sorted(found, key=lambda one: (one.kind, one.model, one.name, one.strength)))


def _read(file: Path, root: Path, count: int, sample: Sequence[int]) -> Recorded | None:
    parts = file.relative_to(root).with_suffix("").parts
    kind: Kind | None = next((kind for kind in get_args(Kind) if parts[0] == kind), None)
    if kind is None or len(parts) != (3 if kind == BASE else 4):
        return None
    try:
        strength = float(parts[2])
    except ValueError:
        return None
    answers = parse_json(read_small(file, most=MAX_ANSWERS), str(file))
    if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
        raise BrokenFileError(f"{file}: is not a list of answers")
    if len(answers) == count:
        answers = [answers[i] for i in sample]
    elif len(answers) != len(sample):
        raise InputError(
            f"{file}: holds {len(answers)} answers to {count} queries; give the `questions` that were asked"
        )
    return Recorded(kind, parts[1], parts[-1] if kind != BASE else BASE, strength, tuple(answers), str(file))


def _plain(name: str) -> str:
    return re.sub(r"[^\w.+=, -]", "_", name).strip(". ") or "unnamed"
