"""Capability without a download: shipped tasks of arithmetic, recall and copying, answered greedily.

The tasks are small enough that a model of 135 million parameters does a part of them, and they are counted by one rule.
They tell whether a steering damages a model, not how good it is; `lm_eval` runs the usual benchmarks.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from ..core.strict_json import parse_json
from ..models.sampling import Sampling
from .query_sets import Questions, shipped

SAMPLING = Sampling(max_new_tokens=24, temperature=0.0)
"""Sampling of the answers to `capability_tasks`."""
KINDS = ("arithmetic", "recall", "copy")


@dataclass(frozen=True)
class Task:
    """A task whose answer can be counted."""

    kind: str
    """One of `KINDS`."""
    prompt: str
    answers: tuple[str, ...]
    """Accepted answers."""

    def is_right(self, answer: str) -> bool:
        """True if an accepted answer stands in `answer` as whole words; case and punctuation do not count."""
        said = _words(answer)
        return any(
            said[start : start + len(wanted)] == wanted
            for wanted in map(_words, self.answers)
            for start in range(len(said) - len(wanted) + 1)
        )


@cache
def capability_tasks() -> tuple[Task, ...]:
    """The shipped tasks, 20 of each kind; written for this project."""
    found = parse_json(shipped("capability.json"), "capability.json")
    return tuple(Task(one["kind"], one["prompt"], tuple(one["answers"])) for one in found)


def capability_questions() -> Questions:
    """The prompts of `capability_tasks`, with their kinds as groups."""
    tasks = capability_tasks()
    return Questions("capability", tuple(one.prompt for one in tasks), tuple(one.kind for one in tasks), "")


def capability_digest() -> str:
    """Digest of the file of the tasks."""
    return hashlib.sha256(shipped("capability.json")).hexdigest()


def capability_figures(prompts: Sequence[str], answers: Sequence[str]) -> dict[str, Any]:
    """The share of right answers, ``right``, and that of each kind.

    `prompts` are those of tasks that were answered.
    """
    tasks = {one.prompt: one for one in capability_tasks()}
    found = [(tasks[prompt].kind, tasks[prompt].is_right(said)) for prompt, said in zip(prompts, answers, strict=True)]
    kinds = {kind: [right for own, right in found if own == kind] for kind in KINDS}
    return {
        "right": _share([right for _, right in found]),
        "by_kind": {kind: _share(counted) for kind, counted in kinds.items()},
        "tasks": len(found),
    }


def _share(counted: Sequence[bool]) -> float | None:
    return float(f"{sum(counted) / len(counted):.6g}") if counted else None


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
