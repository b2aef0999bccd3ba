"""The figures of a report: means, shares, and the recommended strength."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from .behaviour import behaviour_figures, behaviour_set
from .capability import capability_figures, capability_questions
from .neutral_prompts import PROMPTS
from .recorded_answers import Kind
from .repetition import DISTINCT, LOOP, SHORTEST, WINDOW, Repetition, diversity, repetition
from .scorers.base import TOPIC, Scorer
from .turns import CONVERSATIONS, OWN

if TYPE_CHECKING:
    from .engines import EvaluationSettings
    from .experiment import Direction, Variant
    from .stages import Findings

COLLAPSED_AT_MOST = 0.05
PERPLEXITY_AT_MOST = 4.0
TOPIC_LOSS_AT_MOST = 0.15
WORST = 0.05
"""Share of the positions whose mean is the worst KL."""

_DEFINITIONS = {
    "perplexity": "exp of the mean negative log probability per token of the answers, after their queries, under the "
    "unsteered base; low for text that the base could have written, and for text that repeats itself",
    "topic": "share of the answers that the base finds likelier after their own query than after another one of the "
    "set; one half is chance",
    "topic_gain": "log probability of an answer after its own query minus that after the other one, in nats per token",
    "kl": "Kullback-Leibler divergence of the steered next-token distribution from the base's, in nats, at each of the "
    "first 50 tokens of the base's own greedy answers to {neutral} everyday prompts: the mean over them",
    "kl_worst": "the mean of the largest 5% of these",
    "collapsed": f"share of the answers with a stretch of {WINDOW} words (or all of a shorter answer, from {SHORTEST} "
    f"on) in which fewer than {DISTINCT:.0%} of the pairs of neighbours are different, or with a loop of {LOOP} words "
    "or more",
    "unended": "share of the answers that went on to the limit of tokens",
    "distinct_2": "different pairs of neighbouring words over all pairs, of each answer; the mean",
}


def definitions(neutral: int = PROMPTS) -> dict[str, str]:
    """Figure -> its meaning; KL is over so many `neutral` prompts."""
    return {name: text.replace("{neutral}", str(neutral)) for name, text in _DEFINITIONS.items()}


def summarize(findings: Findings, scorers: Sequence[Scorer], settings: EvaluationSettings) -> dict[str, Any]:
    """Make the content of ``report.json``; a figure that could not be measured is null."""
    experiment = findings.experiment
    groups = list(dict.fromkeys(experiment.questions.groups))
    measured = {v.key: _variant(findings, v, groups, settings) for v in experiment.variants}
    shown = (
        experiment.held_out[0] if experiment.held_out and len(experiment.held_out) == 1 and len(groups) > 1 else "all"
    )
    main = max(scorers, key=lambda scorer: scorer.rank)
    directions = [_curve(findings, one, measured) for one in experiment.directions]
    return {
        **findings.record,
        "questions": {
            "name": experiment.questions.name,
            "sha256": experiment.questions.sha256,
            "count": len(experiment.questions.texts),
            "groups": {group: experiment.questions.groups.count(group) for group in groups if group},
            "held_out": None if experiment.held_out is None else list(experiment.held_out),
            "shown": shown,
        },
        "sampling": None if findings.record.get("answers") == "recorded" else asdict(settings.sampling),
        "engine": settings.engine,
        "scorers": [
            {"name": one.name, "unit": one.unit, "note": one.note, "main": one.name == main.name} for one in scorers
        ],
        "directions": directions,
        "best": {one["name"]: best(one, shown, main.name) for one in main_ones(directions) if one["emotions"]},
        "layers": _layers(findings),
        "turns": _turns(findings, main),
        "warnings": list(experiment.warnings),
        "definitions": definitions(experiment.neutral),
    }


def best(direction: Mapping[str, Any], group: str, scorer: str) -> dict[str, Any]:
    """Find the strength at which the emotion is strongest while the answers are still sane; None if there is none.

    Sane: at most 5% of the answers collapsed, perplexity at most four times the base's, and topic adherence at most
    0.15 below the base's; each only if it was measured.
    """
    points = [(point["strength"], point["groups"][group]) for point in direction["points"]]
    base = next((found for strength, found in points if strength == 0), None)
    why = "no strength raises the emotion and keeps the answers sane"
    if base is None:
        return {"strength": None, "why": "there are no answers at strength 0 to compare with"}
    sane = [(x, found) for x, found in points if x != 0 and all(_bounds(found, base).values())]
    rated = [(target(found, scorer, direction["emotions"]), x) for x, found in sane]
    top = max((pair for pair in rated if pair[0] is not None), default=None)
    before = target(base, scorer, direction["emotions"])
    if top is None or before is None or top[0] is None or top[0] <= before:
        return {"strength": None, "why": why}
    return {
        "strength": top[1],
        "why": f"{scorer}: {before:.3g} at 0, {top[0]:.3g} here; within bounds: {', '.join(_bounds(base, base))}",
    }


def chosen(data: Mapping[str, Any], direction: Mapping[str, Any]) -> dict[str, Any]:
    """The strength of a direction that further measures are made at, and the rule by which it was chosen.

    The best one (`best` is true then); without one, 1, or the strength that is nearest to it.
    """
    best = data["best"].get(direction["name"], {}).get("strength")
    if best is not None:
        return {"strength": best, "best": True, "rule": "the best strength"}
    own = [point["strength"] for point in direction["points"] if point["strength"]]
    nearest = min(own, key=lambda strength: (abs(strength - 1), strength), default=None)
    return {"strength": nearest, "best": False, "rule": "no strength is called the best; the nearest to 1"}


def chosen_variants(findings: Findings, scorers: Sequence[Scorer], settings: EvaluationSettings) -> list[Variant]:
    """The variant of each direction at its chosen strength."""
    data = summarize(findings, scorers, settings)
    wanted = {(one["name"], chosen(data, one)["strength"]) for one in main_ones(data["directions"])}
    return [v for v in findings.experiment.variants if v.strength and (v.direction, v.strength) in wanted]


def main_ones(directions: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The directions of a report that are evaluated for themselves: no controls, no prompts."""
    return [one for one in directions if one["kind"] not in ("control", "prompt")]


def beside(directions: Sequence[Mapping[str, Any]], main: Mapping[str, Any], kind: Kind) -> Mapping[str, Any] | None:
    """The control or the prompt that stands beside a direction; None if there is none."""
    return next((one for one in directions if one["kind"] == kind and one["like"] == main["name"]), None)


def target(measured: Mapping[str, Any], scorer: str, emotions: Iterable[str]) -> float | None:
    """Mean of a scorer's figures for the target emotions of a direction."""
    figures = [x for emotion in emotions if (x := measured["scores"].get(scorer, {}).get(emotion)) is not None]
    return sum(figures) / len(figures) if figures else None


def _bounds(found: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, bool]:
    """Measures of sanity -> whether the measured figure is within bounds."""
    bounds = {"collapsed": found["collapsed"] <= COLLAPSED_AT_MOST}
    if found["perplexity"] and base["perplexity"]:
        bounds["perplexity"] = found["perplexity"] <= PERPLEXITY_AT_MOST * base["perplexity"]
    if found["topic"] is not None and base["topic"] is not None:
        bounds["topic"] = found["topic"] >= base["topic"] - TOPIC_LOSS_AT_MOST
    return bounds


def worst(divergences: np.ndarray) -> float:
    """Mean of the largest 5% of the divergences ``[positions]``, which are not empty."""
    return float(np.sort(divergences)[-math.ceil(WORST * divergences.size) :].mean())


def _curve(findings: Findings, direction: Direction, measured: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": direction.name,
        "kind": direction.kind,
        "control": direction.kind == "control",
        "like": direction.like or None,
        "system_prompt": direction.system or None,
        "emotions": list(direction.emotions),
        "points": [{"strength": v.strength, **measured[v.key]} for v in findings.experiment.curve(direction)],
    }


def _variant(
    findings: Findings, variant: Variant, groups: Sequence[str], settings: EvaluationSettings
) -> dict[str, Any]:
    texts = [repetition(text) for text in findings.answers[variant.key]]
    own = findings.experiment.questions.groups
    parts = {"all": list(range(len(own)))}
    parts |= {group: [i for i, one in enumerate(own) if one == group] for group in groups if len(groups) > 1}
    kl = np.array([x for values in findings.divergences.get(variant.key, ()) for x in values])
    if not variant.direction and findings.divergences:
        kl = np.zeros(1)
    return {
        "kl": _number(kl.mean()) if kl.size else None,
        "kl_worst": _number(worst(kl)) if kl.size else None,
        **_besides(findings, variant),
        "groups": {part: _group(findings, variant.key, places, texts, settings) for part, places in parts.items()},
    }


def _besides(findings: Findings, variant: Variant) -> dict[str, Any]:
    """The figures that do not come from the answers to the queries; None for what was not measured."""
    key, limit = variant.key, findings.experiment.limit
    told, done, drawn = findings.behaviour.get(key), findings.capability.get(key), findings.samples.get(key)
    return {
        "behaviour": None if told is None else behaviour_figures(told, behaviour_set().limited(limit).groups),
        "capability": None if done is None else capability_figures(capability_questions().limited(limit).texts, done),
        "diversity": None if drawn is None else _mean([diversity(answers) for answers in drawn]),
        "benchmarks": findings.benchmarks.get(key),
    }


def _turns(findings: Findings, main: Scorer) -> dict[str, Any] | None:
    """The emotion by turn, mean over the conversations; None if no conversations were held."""
    found = findings.turns
    if found is None:
        return None
    mains = [one for one in findings.experiment.directions if not one.like and one.emotions]

    def curve(direction: Direction, variant: Variant, own: int) -> dict[str, Any]:
        talks, said = found.scores[main.name][variant.key][own], found.answers[variant.key][own]
        by_turn = zip(*talks, strict=True)
        return {
            "direction": direction.name,
            "who": "base" if not variant.direction else "prompt" if variant.direction != direction.name else "vectors",
            "strength": variant.strength if variant.direction == direction.name else None,
            "own_system_prompt": bool(own),
            "system_tokens": found.system_tokens[variant.key],
            "emotion": [_target_mean(figures, direction.emotions) for figures in by_turn],
            "collapsed": [_mean([repetition(text).collapsed for text in texts]) for texts in zip(*said, strict=True)],
        }

    likes = {one.name: one.like for one in findings.experiment.directions}
    return {
        "conversations": CONVERSATIONS,
        "own_system_prompt": OWN,
        "scorer": main.name,
        "curves": [
            curve(one, variant, own)
            for one in mains
            for variant in found.variants
            if variant.direction in ("", one.name) or likes.get(variant.direction) == one.name
            for own in (0, 1)
        ],
    }


def _target_mean(figures: Sequence[Mapping[str, float]], emotions: Sequence[str]) -> float | None:
    return _mean([one[emotion] for one in figures for emotion in emotions if emotion in one])


def _group(
    findings: Findings, key: str, places: Sequence[int], texts: Sequence[Repetition], settings: EvaluationSettings
) -> dict[str, Any]:
    answers = [findings.answers[key][i] for i in places]
    tokens = [count for i in places if (count := findings.tokens[key][i]) is not None]
    chosen = [texts[i] for i in places]
    likely = [found for i in places if findings.likelihoods and (found := findings.likelihoods[key][i])]
    per_token = [-one["own"] / one["tokens"] for one in likely]
    gains = [(one["own"] - one["other"]) / one["tokens"] for one in likely]
    total = sum(one["tokens"] for one in likely)
    return {
        "answers": len(answers),
        "empty": sum(not answer.strip() for answer in answers),
        "words": _mean([len(answer.split()) for answer in answers]),
        "tokens": _mean(tokens),
        "unended": _mean([count >= settings.sampling.max_new_tokens for count in tokens]),
        "collapsed": _mean([one.collapsed for one in chosen]),
        "distinct_1": _mean([one.distinct_1 for one in chosen]),
        "distinct_2": _mean([one.distinct_2 for one in chosen]),
        "distinct_3": _mean([one.distinct_3 for one in chosen]),
        "perplexity": _number(np.exp(-sum(one["own"] for one in likely) / total)) if total else None,
        "perplexity_median": _number(np.exp(np.median(per_token))) if per_token else None,
        "topic": _mean([gain > 0 for gain in gains]),
        "topic_gain": _mean(gains),
        "scores": {scorer: _means([found[key][i] for i in places]) for scorer, found in findings.scores.items()},
    }


def _layers(findings: Findings) -> dict[str, Any]:
    """Norms at strength 1, and their ratio to the base's norms at each site."""

    def over(dose: Sequence[float], own: Sequence[float]) -> list[float | None]:
        return [_number(x / y) if y > 0 else None for x, y in zip(dose, own, strict=True)]  # NaN is not above 0.

    return {
        name: {"norm": [_number(x) for x in dose]}
        | {f"of_{site}": over(dose, own) for site, own in findings.scales.items()}
        for name, dose in findings.doses.items()
    }


def _means(figures: Sequence[Mapping[str, float]]) -> dict[str, float | None]:
    names = list(dict.fromkeys(name for one in figures for name in one))
    order = [name for name in names if name != TOPIC] + [name for name in names if name == TOPIC]
    return {name: _mean([one[name] for one in figures if name in one]) for name in order}


def _mean(values: Sequence[float]) -> float | None:
    return _number(sum(values) / len(values)) if values else None


def _number(value: float) -> float:
    """Six significant digits; no figure here has more."""
    return float(f"{value:.6g}")
