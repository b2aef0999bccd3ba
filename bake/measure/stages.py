"""The stages of an evaluation: one function each, whose finished work is kept as it comes.

A killed run continues, and several processes share one under ``accelerate launch``. docs/evaluation.md defines the
measures. Needs torch and transformers, unless only recorded answers are scored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.progress import Progress, no_progress
from ..core.record import RECORD_FILE
from ..errors import InputError
from ..models.likelihood import Pair, SteeredModel, answer_logits, batches, divergences, log_likelihoods, norms
from ..models.loading import LiveModel, fingerprint, model_failing
from ..storage.files import sha256_of
from .engines import EvaluationSettings, Models, bias_norms
from .experiment import Direction, Experiment, Variant
from .ledger import WorkFolder, writing
from .neutral_prompts import continued, neutral_prompts
from .processes import Processes
from .recorded_answers import answers_json, results_file
from .scorers.base import Scorer

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class Findings:
    """Everything that was measured, before anything is averaged. Keys are `Variant.key`."""

    experiment: Experiment
    answers: Mapping[str, Sequence[str]]
    tokens: Mapping[str, Sequence[int | None]]
    """Length of each answer in tokens; None if unknown."""
    likelihoods: Mapping[str, Sequence[Mapping[str, float] | None]]
    """Per answer its ``tokens``, and its log probability under the base after its ``own`` query and an ``other`` one;
    None for an empty answer. Empty without a model."""
    divergences: Mapping[str, Sequence[Sequence[float]]]
    """KL from the base in nats, per neutral prompt and token."""
    scores: Mapping[str, Mapping[str, Sequence[Mapping[str, float]]]]
    """Scorer -> figures by emotion, per answer."""
    doses: Mapping[str, Sequence[float]]
    """Direction -> norm of its rows by layer, at strength 1."""
    scales: Mapping[str, Sequence[float]]
    """Site -> mean norm of the base's values there, by layer, while it answers neutral prompts."""
    record: Mapping[str, Any] = field(default_factory=dict)
    """Provenance: model, vectors, versions. JSON data, no local paths."""


@dataclass(frozen=True, eq=False)
class Stages:
    """The context of every stage: the experiment, the models, and the folder of finished work."""

    experiment: Experiment
    settings: EvaluationSettings
    work: WorkFolder
    models: Models | None
    """None if only recorded answers are scored."""
    progress: Progress

    @property
    def live(self) -> Models:
        """The models of a stage that runs them."""
        assert self.models is not None  # `carry_out` runs such stages only with a model.
        return self.models

    @property
    def base(self) -> LiveModel:
        """The base model."""
        return self.live.base

    @property
    def texts(self) -> Sequence[str]:
        """The queries."""
        return self.experiment.questions.texts

    def prompts(self) -> list[list[int]]:
        """Token ids of the queries."""
        return self.base.prompts(self.texts)

    @property
    def steered(self) -> list[Variant]:
        """Variants that have a model other than the base."""
        return [v for v in self.experiment.variants if v.direction and v.answers is None]

    def run(
        self,
        stage: str,
        variants: Sequence[Variant],
        count: int,
        split: Callable[[Variant, list[int]], list[list[int]]],
        work: Callable[[Variant, list[int]], Mapping[str, Any]],
        *,
        title: str = "",
        in_turn: bool = False,
    ) -> dict[str, Any]:
        """Do `work` on what is left of ``0 .. count - 1`` for each variant, this process's share of the batches.

        Args:
            stage: name of the ledger.
            variants: the variants to work on.
            count: number of items per variant.
            split: divides indices of items into batches.
            work: returns key -> result of a batch.
            title: name in the progress; default: `stage`.
            in_turn: do a batch for all variants before the next one, unless each variant is a model to load.

        Returns:
            Key -> result of all processes.
        """
        ledger, processes = self.work.ledger(stage), self.work.processes
        todo = {v.key: [i for i in range(count) if _key(v, i) not in ledger.done] for v in variants}
        parts = [(v, batch) for v in variants if todo[v.key] for batch in split(v, todo[v.key])]
        if in_turn and not any(v.checkpoint for v in variants):
            parts.sort(key=lambda part: part[1])
        mine = parts[processes.rank :: processes.size]
        left = sum(len(batch) for _, batch in mine)
        done = (len(variants) * count - sum(map(len, todo.values()))) // processes.size
        advance = self.progress(title or stage, done, done + left)
        for variant, batch in mine:
            ledger.add(work(variant, batch))
            advance(len(batch))
        return ledger.gathered()

    def fitting(self, pairs: Sequence[Pair], todo: Sequence[int]) -> list[list[int]]:
        """Divide the indices `todo` of `pairs` into batches that fit into memory."""
        return [[todo[i] for i in batch] for batch in batches(self.base, [pairs[i] for i in todo])]


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
    scales, doses = measure_scales(stages, neutral) if live is not None else ({}, _doses(experiment))
    scores = {scorer.name: score(stages, scorer, answers) for scorer in scorers}
    processes.wait()
    if not processes.is_first:
        return None
    count, variants = len(stages.texts), experiment.variants
    findings = Findings(
        experiment,
        {v.key: [answers[_key(v, i)]["text"] for i in range(count)] for v in variants},
        {v.key: [answers[_key(v, i)]["tokens"] for i in range(count)] for v in variants},
        {v.key: [likely[_key(v, i)] for i in range(count)] for v in variants} if live else {},
        {v.key: [kl[_key(v, i)] for i in range(experiment.neutral)] for v in stages.steered} if live else {},
        {name: {v.key: [found[_key(v, i)] for i in range(count)] for v in variants} for name, found in scores.items()},
        {one.name: doses[one.name] for one in experiment.directions if one.name in doses},
        scales,
        record,
    )
    return findings, work


def answer(stages: Stages) -> dict[str, Any]:
    """Key -> ``{"text": ..., "tokens": count}`` of each answer; recorded answers have no count."""
    given = {
        _key(v, i): {"text": text, "tokens": None}
        for v in stages.experiment.variants
        for i, text in enumerate(v.answers or ())
    }
    variants = [v for v in stages.experiment.variants if v.answers is None]
    if not variants:
        return given
    prompts, settings = stages.prompts(), stages.settings
    size = settings.runtime.batch_size if settings.engine == "transformers" else len(prompts)

    def work(variant: Variant, places: list[int]) -> dict[str, Any]:
        found = stages.live.answer(variant, [prompts[i] for i in places], [str(i) for i in places])
        return {
            _key(variant, i): {
                "text": stages.base.tokenizer.decode(tokens, skip_special_tokens=True),
                "tokens": len(tokens),
            }
            for i, tokens in zip(places, found, strict=True)
        }

    return given | stages.run("answers", variants, len(prompts), lambda _, todo: _by_length(todo, prompts, size), work)


def answer_neutral(stages: Stages) -> list[Pair]:
    """Neutral prompts, and the base's answers to them."""
    steered = SteeredModel(stages.base)
    prompts = neutral_prompts(steered, stages.experiment.neutral)
    base, size = Variant("", 0.0), stages.settings.runtime.batch_size

    def work(_: Variant, places: list[int]) -> dict[str, Any]:
        pairs = continued(steered, [prompts[i] for i in places], size)
        return {_key(base, i): list(said) for i, (_, said) in zip(places, pairs, strict=True)}

    found = stages.run("neutral", [base], len(prompts), lambda _, todo: _by_length(todo, prompts, size), work)
    return [(prompt, found[_key(base, i)]) for i, prompt in enumerate(prompts)]


def measure_divergences(stages: Stages, neutral: Sequence[Pair]) -> dict[str, Any]:
    """Key of variant and prompt -> KL from the base at each of the base's tokens."""
    known: dict[tuple[int, ...], list[torch.Tensor]] = {}
    """Logits of the base on the last batch, for all variants in turn."""

    def work(variant: Variant, places: list[int]) -> dict[str, Any]:
        pairs = [neutral[i] for i in places]
        with stages.live.steered(variant) as steered, model_failing(steered.live.name):
            if tuple(places) not in known:
                known.clear()
                known[tuple(places)] = answer_logits(SteeredModel(stages.base), pairs)
            found = divergences(known[tuple(places)], steered, pairs)
        return {_key(variant, i): [round(x, 6) for x in values] for i, values in zip(places, found, strict=True)}

    def split(_: Variant, todo: list[int]) -> list[list[int]]:
        return stages.fitting(neutral, todo)

    return stages.run("divergence", stages.steered, len(neutral), split, work, in_turn=True)


def measure_likelihoods(stages: Stages, answers: Mapping[str, Any]) -> dict[str, Any]:
    """Key -> log probability of the answer under the base, after its own query and after another one."""
    base, texts, prompts = stages.base, stages.texts, stages.prompts()
    others = [prompts[_other(texts, i)] for i in range(len(texts))]
    # A recorded answer may be longer than this model's context allows after either query.
    room = None if base.context is None else max(0, base.context - max(map(len, prompts)))

    def tokens(key: str) -> list[int]:
        return list(base.tokenizer(answers[key]["text"], add_special_tokens=False)["input_ids"])[:room]

    variants = stages.experiment.variants
    pairs = {v.key: [(prompts[i], tokens(_key(v, i))) for i in range(len(texts))] for v in variants}

    def split(variant: Variant, todo: list[int]) -> list[list[int]]:
        empty = [i for i in todo if not pairs[variant.key][i][1]]
        rest = [i for i in todo if i not in empty]
        return [*([empty] if empty else []), *stages.fitting(pairs[variant.key], rest)]

    def work(variant: Variant, places: list[int]) -> dict[str, Any]:
        own = [pairs[variant.key][i] for i in places]
        if not own[0][1]:
            return {_key(variant, i): None for i in places}
        with model_failing(base.name):
            first = log_likelihoods(SteeredModel(base), own)
            second = log_likelihoods(SteeredModel(base), [(others[i], pairs[variant.key][i][1]) for i in places])
        return {
            _key(variant, i): {"tokens": len(pair[1]), "own": round(a, 4), "other": round(b, 4)}
            for i, pair, a, b in zip(places, own, first, second, strict=True)
        }

    return stages.run("likelihood", variants, len(texts), split, work)


def measure_scales(stages: Stages, neutral: Sequence[Pair]) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Mean norms of the base at each site while it answers neutral prompts, and the norms of each direction.

    Every process measures them itself.
    """
    with model_failing(stages.base.name):
        found = norms(stages.base, neutral)
    doses = _doses(stages.experiment)
    for direction in stages.experiment.directions:
        own = [v for v in stages.experiment.variants if v.direction == direction.name and v.checkpoint and v.strength]
        if direction.name not in doses and own:
            with stages.live.steered(own[0]) as steered:
                rows = bias_norms(stages.base, steered.live)
            doses[direction.name] = [float(x) / abs(own[0].strength) for x in rows]
    return {site: values.tolist() for site, values in found.items()}, doses


def score(stages: Stages, scorer: Scorer, answers: Mapping[str, Any]) -> dict[str, Any]:
    """Key -> figures of one scorer."""
    texts = stages.texts

    def work(variant: Variant, places: list[int]) -> dict[str, Any]:
        said = [answers[_key(variant, i)]["text"] for i in places]
        found = scorer.score([texts[i] for i in places], said)
        return {_key(variant, i): dict(figures) for i, figures in zip(places, found, strict=True)}

    stage = "scores-" + hashlib.sha256(scorer.name.encode()).hexdigest()[:12]
    variants, size = stages.experiment.variants, scorer.batch_size
    return stages.run(stage, variants, len(texts), lambda _, todo: _cut(todo, size), work, title=scorer.name)


def results_of(findings: Findings, model: str) -> dict[str, str]:
    """All answers in the layout of the published results: path below ``results`` -> text."""
    found = {}
    for direction in findings.experiment.directions:
        for variant in findings.experiment.curve(direction):
            file = results_file(direction.kind, model, direction.name, variant.strength)
            found[file.as_posix()] = answers_json(findings.answers[variant.key])
    return found


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
    return "" if direction.rows is None else hashlib.sha256(direction.rows.tobytes()).hexdigest()


def _doses(experiment: Experiment) -> dict[str, list[float]]:
    return {
        one.name: np.linalg.norm(one.rows, axis=1).tolist() for one in experiment.directions if one.rows is not None
    }


def _check_room(live: LiveModel, experiment: Experiment, wanted: int) -> None:
    prompts = live.prompts(experiment.questions.texts)
    longest = max(map(len, prompts))
    if live.context is not None and longest + wanted > live.context:
        raise InputError(
            f"{live.name}: its context of {live.context} has no room for {wanted} new tokens after a query of "
            f"{longest}; take a smaller `max_new_tokens`"
        )


def _key(variant: Variant, i: int) -> str:
    return f"{variant.key}/{i}"


def _by_length(todo: Iterable[int], prompts: Sequence[Sequence[int]], size: int) -> list[list[int]]:
    return _cut(sorted(todo, key=lambda i: (-len(prompts[i]), i)), size)


def _cut(todo: Sequence[int], size: int) -> list[list[int]]:
    return [list(todo[start : start + size]) for start in range(0, len(todo), size)]


def _other(texts: Sequence[str], i: int) -> int:
    """A query to compare query `i` with: half the set away, because neighbours are alike in the published sets."""
    places = ((i + len(texts) // 2 + k) % len(texts) for k in range(len(texts)))
    return next((place for place in places if texts[place] != texts[i]), i)
