"""Experiments as plain data, made before any model runs: directions, their variants, and the queries.

A direction is a row per layer that can be scaled; a variant is a direction at one strength; an experiment asks every
variant every query.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..core.names import emotion_name, is_emotion_name
from ..core.record import Record, RecordedVectors
from ..core.steering import Steering, weighted_sum
from ..core.vector_set import EMOTIONS, VectorSet
from ..errors import InputError
from .neutral_prompts import PROMPTS
from .query_sets import UNKNOWN, Questions, Seen, comparable
from .recorded_answers import BASE, Kind, Recorded

STRENGTHS = (-1.0, 0.0, 1.0, 2.0, 4.0)
"""Strengths of the paper's evaluation."""
SYSTEM_PROMPT = "Answer with {emotion}. Let {emotion} show in every sentence."
"""System prompt of the prompted baseline; ``{emotion}`` is the target emotions, such as ``joy and fear``."""


@dataclass(frozen=True)
class Recipe:
    """Recipe of a direction at strength 1, by which a bake is recognised."""

    weights: tuple[tuple[str, float], ...]
    """Emotion and weight, scale included; none is zero."""
    layers: tuple[int, ...] | None
    """Steered layers; None means all."""
    digests: Mapping[str, str]
    """Emotion -> digest of its rows, see `emobake.core.record.RecordedVectors.rows`."""


@dataclass(frozen=True, eq=False)
class Direction:
    """A steering direction that can be scaled."""

    name: str
    kind: Kind
    emotions: tuple[str, ...] = ()
    """Target emotions; empty if unknown."""
    rows: np.ndarray | None = None
    """float32 ``[layers, hidden]`` at strength 1; None if there are only answers or checkpoints."""
    like: str = ""
    """For a control: the direction whose norms it has. For a prompt: the direction that it stands beside."""
    system: str = ""
    """For a prompt: the system prompt before every query."""
    recipe: Recipe | None = None
    """Recipe of the rows; None if there is none, or if it is unknown."""


@dataclass(frozen=True, eq=False)
class Variant:
    """One model under test: a direction at a strength."""

    direction: str
    """Name of a `Direction`; empty for the base."""
    strength: float
    checkpoint: Path | None = None
    """A checkpoint that was baked with it."""
    answers: tuple[str, ...] | None = None
    """Recorded answers."""

    @property
    def key(self) -> str:
        """Name in records."""
        return f"{self.direction}@{self.strength:g}"


@dataclass(frozen=True, eq=False)
class Experiment:
    """All variants and all queries of an evaluation."""

    questions: Questions
    directions: tuple[Direction, ...]
    variants: tuple[Variant, ...]
    warnings: tuple[str, ...] = ()
    held_out: tuple[str, ...] | None = None
    """Groups of questions none of which was used to make the vectors; None if unknown."""
    neutral: int = PROMPTS
    """Number of neutral prompts, on which the variants are compared with the base."""
    limit: int | None = None
    """Number of prompts of each group of the shipped sets; None: all."""

    def direction(self, variant: Variant) -> Direction | None:
        """The direction of `variant`; None for the base."""
        return next((one for one in self.directions if one.name == variant.direction), None)

    def system(self, variant: Variant) -> str:
        """The system prompt of `variant`; empty for all but prompted ones."""
        direction = self.direction(variant)
        return "" if direction is None else direction.system

    def curve(self, direction: Direction) -> list[Variant]:
        """The variants of one direction by strength, with the base as strength 0."""
        own = [v for v in self.variants if v.direction == direction.name]
        if all(v.strength for v in own):
            own += [v for v in self.variants if not v.direction]
        return sorted(own, key=lambda v: v.strength)


def steered_experiment(
    questions: Questions,
    vectors: VectorSet,
    steering: Steering | None,
    emotions: Sequence[str],
    strengths: Sequence[float],
    *,
    control: bool = True,
    system_prompt: str | None = None,
    seed: int = 0,
    seen: Seen = UNKNOWN,
) -> Experiment:
    """Make an experiment on a model that is steered while it runs.

    Args:
        questions: the queries.
        vectors: a set for the model.
        steering: a weighted sum as the only direction; None: each of `emotions` is one.
        emotions: emotions of the set, or ``base`` for the mean of all its vectors (EV_base in the paper).
        strengths: factors; 0 is always among them.
        control: add to every direction a random one with the same norms, at the positive strengths.
        system_prompt: add to every direction the base under this system prompt, such as `SYSTEM_PROMPT`; None: do not.
        seed: of the random directions.
        seen: the queries that the vectors were made from.

    Raises:
        InputError: nothing to steer by, an unknown emotion, or a strength that is not finite.
    """
    checked = _strengths(strengths)
    if steering is not None:
        if steering.is_zero:
            raise InputError("all weights are zero, there is nothing to evaluate; set some with `times` or `mix`")
        directions = [_mixed(vectors, steering)]
    else:
        directions = [_single(vectors, emotion_name(emotion)) for emotion in emotions]
    if len({one.name for one in directions}) < len(directions):
        raise InputError("`emotions`: the same name is given twice")
    variants = [Variant("", 0.0)]
    variants += [Variant(one.name, strength) for one in directions for strength in checked if strength]
    if control:
        controls = [_control(one, seed) for one in directions]
        variants += [Variant(one.name, strength) for one in controls for strength in checked if strength > 0]
        directions += controls if any(strength > 0 for strength in checked) else []
    experiment = _prompted(Experiment(questions, tuple(directions), tuple(variants)), system_prompt)
    return _with_seen(experiment, seen)


def baked_experiment(
    questions: Questions,
    checkpoints: Iterable[tuple[Path, Record]],
    seen: Seen = UNKNOWN,
    *,
    system_prompt: str | None = None,
) -> Experiment:
    """Make an experiment on baked checkpoints, each with its record, and their base.

    `system_prompt` as for `steered_experiment`.

    Raises:
        InputError: a record of adapters; the same checkpoint twice.
    """
    directions: dict[str, Direction] = {}
    variants = [Variant("", 0.0)]
    for folder, record in checkpoints:
        if record.adapters:
            raise InputError(f"{folder}: holds adapters, not a checkpoint; evaluate their base with `emotions`")
        weights = [(name, weight * record.steering.scale) for name, weight in record.steering.weights if weight]
        if len(weights) == 1 and record.steering.layers is None:
            name, strength = weights[0]
            one = Recipe(((name, 1.0),), None, record.vectors.rows)
            directions[name] = Direction(name, "emotion", (name,), recipe=one)
        else:
            name, strength = folder.resolve().name, 1.0
            whole = Recipe(tuple(weights), record.steering.layers, record.vectors.rows)
            wanted = tuple(emotion for emotion, weight in weights if weight > 0)
            directions[name] = Direction(name, "mix", wanted, recipe=whole)
        variants.append(Variant(name, strength, checkpoint=folder))
    if len({variant.key for variant in variants}) < len(variants):
        raise InputError("two of the checkpoints have the same weights; give each once")
    experiment = _prompted(Experiment(questions, tuple(directions.values()), tuple(variants)), system_prompt)
    return _with_seen(experiment, seen)


def recorded_experiment(questions: Questions, recorded: Sequence[Recorded], seen: Seen = UNKNOWN) -> Experiment:
    """Make an experiment on recorded answers; each direction brings its own at strength 0."""
    several = len({one.model for one in recorded}) > 1
    directions: dict[str, Direction] = {}
    variants = []
    for one in recorded:
        name = f"{one.model}: {one.name}" if several else one.name
        if one.kind in ("control", "prompt"):
            like = one.name.partition(" like ")[2]
            directions[name] = Direction(name, one.kind, like=f"{one.model}: {like}" if several else like)
        else:
            wanted = (one.name,) if one.kind == "emotion" and is_emotion_name(one.name) else ()
            directions[name] = Direction(name, one.kind, wanted or (EMOTIONS if one.kind == BASE else ()))
        variants.append(Variant(name, one.strength, answers=one.answers))
    return _with_seen(Experiment(questions, tuple(directions.values()), tuple(variants)), seen)


def _strengths(strengths: Sequence[float]) -> list[float]:
    if not strengths or not all(math.isfinite(strength) for strength in strengths):
        raise InputError("`strengths` takes finite numbers, for example -1 0 1 2 4")
    return sorted(set(strengths))


def _mixed(vectors: VectorSet, steering: Steering) -> Direction:
    rows = weighted_sum(vectors, steering)
    weights = [(name, weight) for name, weight in steering.weights if weight]
    wanted = tuple(name for name, weight in weights if weight * steering.scale > 0)
    recipe = _recipe(vectors, steering)
    if len(weights) == 1 and weights[0][1] == 1 and steering.scale == 1 and steering.layers is None:
        return Direction(weights[0][0], "emotion", wanted, rows, recipe=recipe)
    # The scale is in the rows; a single emotion with another weight gets another name than the plain one.
    name = "+".join(f"{weight * steering.scale:g} {name}" for name, weight in weights)
    return Direction(name.replace("+-", "-"), "mix", wanted, rows, recipe=recipe)


def _recipe(vectors: VectorSet, steering: Steering) -> Recipe:
    weights = tuple((name, weight * steering.scale) for name, weight in steering.weights if weight)
    return Recipe(weights, steering.layers, RecordedVectors.of(vectors, steering).rows)


def _single(vectors: VectorSet, emotion: str) -> Direction:
    if emotion == BASE and BASE not in vectors.emotions:
        rows = vectors.rows.mean(axis=0, dtype=np.float64).astype(np.float32)
        mean = Steering(tuple((name, 1 / len(vectors.emotions)) for name in vectors.emotions))
        return Direction(BASE, BASE, vectors.emotions, rows, recipe=_recipe(vectors, mean))
    alone = Steering(((emotion, 1.0),))
    rows = weighted_sum(vectors, alone)
    if not rows.any():
        raise InputError(f"{vectors.name}: its vectors of {emotion} are all zero")
    return Direction(emotion, "emotion", (emotion,), rows, recipe=_recipe(vectors, alone))


def _control(direction: Direction, seed: int) -> Direction:
    """Random rows, each with the norm of the direction's row in that layer."""
    assert direction.rows is not None
    rows = np.random.default_rng(seed).standard_normal(direction.rows.shape)
    rows *= np.linalg.norm(direction.rows, axis=1, keepdims=True) / np.linalg.norm(rows, axis=1, keepdims=True)
    return Direction(
        f"random like {direction.name}", "control", direction.emotions, rows.astype(np.float32), direction.name
    )


def _prompted(experiment: Experiment, system_prompt: str | None) -> Experiment:
    """The experiment with the base under a system prompt beside every direction that has target emotions.

    The mean of all emotions is no emotion that one could ask for.
    """
    if system_prompt is None:
        return experiment
    if not system_prompt.strip():
        raise InputError("`system_prompt` is empty; say how to answer, for example: Answer with {emotion}.")
    wanted = [one for one in experiment.directions if one.kind in ("emotion", "mix") and one.emotions]
    prompts = [
        Direction(
            f"prompt like {one.name}",
            "prompt",
            one.emotions,
            like=one.name,
            system=system_prompt.replace("{emotion}", _listed(one.emotions)),
        )
        for one in wanted
    ]
    variants = [Variant(one.name, 1.0) for one in prompts]
    return replace(
        experiment,
        directions=(*experiment.directions, *prompts),
        variants=(*experiment.variants, *variants),
    )


def _listed(names: Sequence[str]) -> str:
    """Names in words: ``anger, fear and joy``."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _with_seen(experiment: Experiment, seen: Seen) -> Experiment:
    """Divide the questions of the experiment into held-out ones and those that the vectors were made from."""
    questions = experiment.questions
    if seen.texts is None:
        warning = f"{questions.name}: which queries the vectors were made from {seen.what}; none can be called held out"
        return replace(experiment, warnings=(*experiment.warnings, warning))
    used = [comparable(text) in seen.texts for text in questions.texts]
    if not any(used):
        return replace(experiment, held_out=tuple(dict.fromkeys(questions.groups)))
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
    return replace(experiment, questions=questions, held_out=held_out, warnings=(*experiment.warnings, warning))
