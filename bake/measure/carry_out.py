"""All stages of an evaluation, in their order.

Needs torch and transformers, unless only recorded answers are scored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..core.progress import Progress, no_progress
from ..core.record import RECORD_FILE
from ..errors import InputError
from ..models.loading import LiveModel, fingerprint
from ..models.sampling import Sampling
from ..storage.files import sha256_of
from . import behaviour, capability
from .behaviour import behaviour_set
from .capability import capability_digest, capability_questions
from .engines import EvaluationSettings, Models
from .experiment import Direction, Experiment, Variant
from .ledger import WorkFolder, writing
from .lm_eval import run_lm_eval
from .processes import Processes
from .scorers.base import Scorer
from .stages import (
    Findings,
    Stages,
    answer,
    answer_here,
    answer_neutral,
    doses_of,
    key_of,
    measure_divergences,
    measure_likelihoods,
    measure_scales,
    score,
)
from .summary import chosen_variants
from .turns import converse

SAMPLED = 5
"""Queries that are answered several times."""
SAMPLE_TOKENS = 64
"""Tokens of each such answer at most."""


def carry_out(
    experiment: Experiment,
    out: Path,
    live: LiveModel | None,
    scorers: Sequence[Scorer],
    settings: EvaluationSettings,
    *,
    record: Mapping[str, Any],
    restart: bool = False,
    progress: Progress = no_progress,
) -> tuple[Findings, WorkFolder] | None:
    """Answer, measure and score; every process but the first gets None.

    Finished work is in ``<out>/.partial`` until the returned `WorkFolder` is removed.

    Raises:
        InputError: another evaluation was begun in `out`; the model's context is too small.
        ModelError, HubError: a model, scorer or endpoint failed. OutputError: `out` cannot be written.
    """
    if live is not None and any(variant.answers is None for variant in experiment.variants):
        _check_room(live, experiment, settings.sampling.max_new_tokens)
    processes = Processes()
    begun = _begun(experiment, live, settings, record)
    with writing(out):
        work = WorkFolder(out / ".partial", processes, begun, "an evaluation", restart=restart)
    models = None if live is None else Models(live, experiment, settings)
    stages = Stages(experiment, settings, work, models, progress)
    answers = answer(stages)
    neutral = answer_neutral(stages) if live is not None else []
    kl = measure_divergences(stages, neutral) if live is not None else {}
    likely = measure_likelihoods(stages, answers) if live is not None else {}
    scales, doses = measure_scales(stages, neutral) if live is not None else ({}, doses_of(experiment))
    count, variants = len(stages.texts), experiment.variants
    texts = {v.key: [answers[key_of(v, i)]["text"] for i in range(count)] for v in variants}
    scores = {scorer.name: score(stages, scorer, stages.texts, texts, variants) for scorer in scorers}
    findings = Findings(
        experiment,
        texts,
        {v.key: [answers[key_of(v, i)]["tokens"] for i in range(count)] for v in variants},
        {v.key: [likely[key_of(v, i)] for i in range(count)] for v in variants} if live else {},
        {v.key: [kl[key_of(v, i)] for i in range(experiment.neutral)] for v in stages.steered} if live else {},
        {
            name: {v.key: [found[key_of(v, i)] for i in range(count)] for v in variants}
            for name, found in scores.items()
        },
        {one.name: doses[one.name] for one in experiment.directions if one.name in doses},
        scales,
        record,
    )
    if live is not None and any(variant.answers is None for variant in variants):
        findings = _with_receipt(stages, findings, scorers)
    processes.wait()
    return (findings, work) if processes.is_first else None


def _with_receipt(stages: Stages, findings: Findings, scorers: Sequence[Scorer]) -> Findings:
    """Measure behaviour, capability and diversity; and at the chosen strengths turns and benchmarks."""
    experiment, settings = stages.experiment, stages.settings
    controls = {one.name for one in experiment.directions if one.kind == "control"}
    variants = [v for v in experiment.variants if v.answers is None and v.direction not in controls]
    if settings.behaviour:
        asked, tasks = (one.limited(experiment.limit) for one in (behaviour_set(), capability_questions()))
        told = answer_here(stages, "behaviour", variants, asked.texts, behaviour.SAMPLING)
        done = answer_here(stages, "capability", variants, tasks.texts, capability.SAMPLING)
        findings = replace(
            findings,
            behaviour={key: [said for (said,) in one] for key, one in told.items()},
            capability={key: [said for (said,) in one] for key, one in done.items()},
        )
    if settings.samples > 1:
        texts = replace(experiment.questions, groups=("",) * len(stages.texts)).limited(SAMPLED).texts
        drawn = sampling_of_samples(settings.sampling)
        findings = replace(findings, samples=answer_here(stages, "samples", variants, texts, drawn, settings.samples))
    if not settings.turns and not settings.benchmarks:
        return findings
    chosen = [Variant("", 0.0), *chosen_variants(findings, scorers, settings)]
    if settings.turns:
        prompts = [v for v in variants if experiment.system(v)]
        findings = replace(findings, turns=converse(stages, [*chosen, *prompts], scorers))
    if settings.benchmarks:
        findings = replace(findings, benchmarks=_benchmarks(stages, chosen))
    return findings


def _benchmarks(stages: Stages, variants: Sequence[Variant]) -> dict[str, Any]:
    """Key of variant -> its figures of lm-eval."""

    def work(variant: Variant, places: list[int]) -> dict[str, Any]:
        settings = stages.settings
        with stages.live.checkpoint(variant) as folder, stages.live.aside():
            found = run_lm_eval(folder, settings.benchmarks, settings.runtime, stages.experiment.limit)
        return {key_of(variant, i): found for i in places}

    found = stages.run("lm-eval", variants, 1, lambda _, todo: [[i] for i in todo], work)
    return {v.key: found[key_of(v, 0)] for v in variants}


def sampling_of_samples(sampling: Sampling) -> Sampling:
    """The sampling of several answers to one query: that of the answers, or the published one where they are greedy."""
    return replace(
        sampling,
        max_new_tokens=min(sampling.max_new_tokens, SAMPLE_TOKENS),
        temperature=sampling.temperature or Sampling.temperature,
    )


def _begun(
    experiment: Experiment, live: LiveModel | None, settings: EvaluationSettings, record: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything that the results depend on."""
    given = [text for variant in experiment.variants for text in variant.answers or ()]
    return {
        **record,
        "questions": [experiment.questions.sha256, len(experiment.questions.texts)],
        "neutral prompts": experiment.neutral,
        "subjects": [variant.key for variant in experiment.variants],
        "directions": {one.name: _digest(one) for one in experiment.directions},
        "checkpoints": {v.key: sha256_of(v.checkpoint / RECORD_FILE) for v in experiment.variants if v.checkpoint},
        "answers": hashlib.sha256("\0".join(given).encode("utf-8", "replace")).hexdigest() if given else "",
        "sampling": asdict(settings.sampling),
        "engine": settings.engine,
        "behaviour": [behaviour_set().sha256, capability_digest()] if settings.behaviour else None,
        "samples": settings.samples,
        "turns": settings.turns,
        "benchmarks": list(settings.benchmarks),
        "weights": None if live is None else fingerprint(live),
    }


def _digest(direction: Direction) -> str:
    content = direction.system.encode() if direction.rows is None else direction.rows.tobytes()
    return hashlib.sha256(content).hexdigest() if content else ""


def _check_room(live: LiveModel, experiment: Experiment, wanted: int) -> None:
    systems = {experiment.system(variant) for variant in experiment.variants}
    longest = max(len(one) for system in systems for one in live.prompts(experiment.questions.texts, system))
    if live.context is not None and longest + wanted > live.context:
        raise InputError(
            f"{live.name}: its context of {live.context} has no room for {wanted} new tokens after a query of "
            f"{longest}; take a smaller `max_new_tokens`"
        )
