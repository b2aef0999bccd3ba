"""All stages of an evaluation, in their order.

Needs torch and transformers, unless only recorded answers are scored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..core.progress import Progress, no_progress
from ..core.record import RECORD_FILE
from ..errors import InputError
from ..models.loading import LiveModel, fingerprint
from ..storage.files import sha256_of
from .engines import EvaluationSettings, Models
from .experiment import Direction, Experiment
from .ledger import WorkFolder, writing
from .processes import Processes
from .scorers.base import Scorer
from .stages import (
    Findings,
    Stages,
    answer,
    answer_neutral,
    doses_of,
    key_of,
    measure_divergences,
    measure_likelihoods,
    measure_scales,
    score,
)


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
    scores = {scorer.name: score(stages, scorer, answers) for scorer in scorers}
    processes.wait()
    if not processes.is_first:
        return None
    count, variants = len(stages.texts), experiment.variants
    findings = Findings(
        experiment,
        {v.key: [answers[key_of(v, i)]["text"] for i in range(count)] for v in variants},
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
    return findings, work


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
