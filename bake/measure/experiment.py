"""What an evaluation looks at: directions, each at several strengths, and the queries that are asked.

Plain data, made before any model runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..core.record import Record
from ..core.steering import Steering, weighted_sum
from ..core.vector_set import EMOTIONS, VectorSet, is_emotion_name
from ..errors import InputError
from .query_sets import UNKNOWN, Questions, Seen, comparable
from .recorded_answers import BASE, Kind, Recorded

STRENGTHS = (-1.0, 0.0, 1.0, 2.0, 4.0)
"""Of the paper's evaluation."""


@dataclass(frozen=True, eq=False)
class Direction:
    """Something added to a model, of which there is more at a greater strength."""

    name: str
    kind: Kind
    emotions: tuple[str, ...] = ()
    """Those that it is to bring out; empty if that cannot be said."""
    rows: np.ndarray | None = None
    """float32 ``[layers, hidden]`` at strength 1; None where only answers or checkpoints are there."""
    like: str = ""
    """For a control, the direction whose norm it has in every layer."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A model whose answers are looked at: one direction at one strength."""

    direction: str
    """Name of a `Direction`; empty for the base as it is."""
    strength: float
    checkpoint: Path | None = None
    """A model that is baked already."""
    answers: tuple[str, ...] | None = None
    """Answers that are there already."""

    @property
    def key(self) -> str:
        """What it is called in records."""
        return f"{self.direction}@{self.strength:g}"


@dataclass(frozen=True, eq=False)
class Study:
    """Everything that is asked of everything."""

    questions: Questions
    directions: tuple[Direction, ...]
    subjects: tuple[Subject, ...]
    warnings: tuple[str, ...] = ()
    held_out: tuple[str, ...] | None = None
    """Groups of the questions of which none was used to make the vectors; None where that is not known."""

    def direction(self, subject: Subject) -> Direction | None:
        """The direction of `subject`; None for the base."""
        return next((one for one in self.directions if one.name == subject.direction), None)

    def curve(self, direction: Direction) -> list[Subject]:
        """The subjects of one direction by strength, with the base as strength 0."""
        own = [s for s in self.subjects if s.direction == direction.name]
        if all(s.strength for s in own):
            own += [s for s in self.subjects if not s.direction]
        return sorted(own, key=lambda s: s.strength)

    @property
    def base(self) -> Subject | None:
        """The base as it is."""
        return next((s for s in self.subjects if not s.direction), None)


def steered_study(
    questions: Questions,
    vectors: VectorSet,
    steering: Steering | None,
    emotions: Sequence[str],
    strengths: Sequence[float],
    *,
    control: bool = True,
    seed: int = 0,
    seen: Seen = UNKNOWN,
) -> Study:
    """The weighted sum of `steering`, or each of `emotions` on its own, at each of `strengths` and at 0.

    Among `emotions`, ``base`` is the mean of all vectors of the set (EV_base in the paper). With `control` every
    direction gets a random one beside it, at its positive strengths. `seen` are the queries that the vectors come from.

    Raises:
        InputError: nothing to steer by, an unknown emotion, a strength that is not finite.
    """
    checked = _strengths(strengths)
    if steering is not None:
        if steering.is_zero:
            raise InputError("all weights are zero, there is nothing to evaluate; set some with --times or --mix")
        directions = [_direction(vectors, steering)]
    else:
        directions = [_emotion(vectors, emotion.strip().lower()) for emotion in emotions]
    if len({one.name for one in directions}) < len(directions):
        raise InputError("--emotions: the same name stands twice")
    subjects = [Subject("", 0.0)]
    subjects += [Subject(one.name, strength) for one in directions for strength in checked if strength]
    if control:
        controls = [_control(one, seed) for one in directions]
        subjects += [Subject(one.name, strength) for one in controls for strength in checked if strength > 0]
        directions += controls if any(strength > 0 for strength in checked) else []
    return _seen(Study(questions, tuple(directions), tuple(subjects)), seen)


def baked_study(questions: Questions, checkpoints: Iterable[tuple[Path, Record]], seen: Seen = UNKNOWN) -> Study:
    """Checkpoints that emobake has written, each with its record, and their base.

    Raises:
        InputError: a record of adapters; the same checkpoint twice.
    """
    directions: dict[str, Direction] = {}
    subjects = [Subject("", 0.0)]
    for folder, record in checkpoints:
        if record.adapters:
            raise InputError(f"{folder}: holds adapters, not a checkpoint; evaluate their base with --emotions")
        weights = [(name, weight * record.steering.scale) for name, weight in record.steering.weights if weight]
        if len(weights) == 1 and record.steering.layers is None:
            (name, strength), kind = weights[0], "emotion"
            wanted: tuple[str, ...] = (name,)
        else:
            name, strength, kind = folder.resolve().name, 1.0, "mix"
            wanted = tuple(emotion for emotion, weight in weights if weight > 0)
        directions[name] = Direction(name, "emotion" if kind == "emotion" else "mix", wanted)
        subjects.append(Subject(name, strength, checkpoint=folder))
    if len({subject.key for subject in subjects}) < len(subjects):
        raise InputError("two of the checkpoints have the same weights; give each once")
    return _seen(Study(questions, tuple(directions.values()), tuple(subjects)), seen)


def recorded_study(questions: Questions, recorded: Sequence[Recorded], seen: Seen = UNKNOWN) -> Study:
    """Answers that were recorded before; each direction brings its own at strength 0."""
    several = len({one.model for one in recorded}) > 1
    directions: dict[str, Direction] = {}
    subjects = []
    for one in recorded:
        name = f"{one.model}: {one.name}" if several else one.name
        wanted = (one.name,) if one.kind == "emotion" and is_emotion_name(one.name) else ()
        if one.kind == "control":
            like = one.name.partition(" like ")[2]
            directions[name] = Direction(name, "control", like=f"{one.model}: {like}" if several else like)
        else:
            directions[name] = Direction(name, one.kind, wanted or (EMOTIONS if one.kind == BASE else ()))
        subjects.append(Subject(name, one.strength, answers=one.answers))
    return _seen(Study(questions, tuple(directions.values()), tuple(subjects)), seen)


def _strengths(strengths: Sequence[float]) -> list[float]:
    if not strengths or not all(math.isfinite(strength) for strength in strengths):
        raise InputError("--strengths takes finite numbers, for example -1 0 1 2 4")
    return sorted(set(strengths))


def _direction(vectors: VectorSet, steering: Steering) -> Direction:
    rows = weighted_sum(vectors, steering)
    weights = [(name, weight) for name, weight in steering.weights if weight]
    wanted = tuple(name for name, weight in weights if weight * steering.scale > 0)
    if len(weights) == 1 and weights[0][1] == 1 and steering.scale == 1 and steering.layers is None:
        return Direction(weights[0][0], "emotion", wanted, rows)
    # The scale is in the rows; a single emotion with another weight keeps its name apart from the plain one's.
    name = "+".join(f"{weight * steering.scale:g} {name}" for name, weight in weights)
    return Direction(name.replace("+-", "-"), "mix", wanted, rows)


def _emotion(vectors: VectorSet, emotion: str) -> Direction:
    if emotion == BASE and BASE not in vectors.emotions:
        return Direction(BASE, BASE, vectors.emotions, vectors.rows.mean(axis=0, dtype=np.float64).astype(np.float32))
    rows = weighted_sum(vectors, Steering(((emotion, 1.0),)))
    if not rows.any():
        raise InputError(f"{vectors.name}: its vectors of {emotion} are all zero")
    return Direction(emotion, "emotion", (emotion,), rows)


def _control(direction: Direction, seed: int) -> Direction:
    """Random rows, each of the norm of the direction's in that layer."""
    assert direction.rows is not None
    rows = np.random.default_rng(seed).standard_normal(direction.rows.shape)
    rows *= np.linalg.norm(direction.rows, axis=1, keepdims=True) / np.linalg.norm(rows, axis=1, keepdims=True)
    return Direction(
        f"random like {direction.name}", "control", direction.emotions, rows.astype(np.float32), direction.name
    )


def _seen(study: Study, seen: Seen) -> Study:
    """The study, with its questions parted into those that the vectors were made from and those held out."""
    questions = study.questions
    if seen.texts is None:
        warning = f"{questions.name}: which queries the vectors were made from {seen.what}; none can be called held out"
        return replace(study, warnings=(*study.warnings, warning))
    used = [comparable(text) in seen.texts for text in questions.texts]
    if not any(used):
        return replace(study, held_out=tuple(dict.fromkeys(questions.groups)))
    warning = f"{questions.name}: {sum(used)} of the {len(used)} queries are among {seen.what}; " + (
        "none is held out" if all(used) else "only the figures of the rest are held out"
    )
    if len(set(questions.groups)) == 1 and not all(used):
        questions = replace(questions, groups=tuple("extraction" if one else "held-out" for one in used))
    groups: Mapping[str, list[bool]] = {
        group: [one for one, own in zip(used, questions.groups, strict=True) if own == group]
        for group in dict.fromkeys(questions.groups)
    }
    held_out = tuple(group for group, own in groups.items() if not any(own))
    return replace(study, questions=questions, held_out=held_out, warnings=(*study.warnings, warning))
