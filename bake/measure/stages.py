"""The stages of an evaluation: one function each, whose finished work is kept as it comes.

A killed run continues, and several processes share one under ``accelerate launch``. docs/evaluation.md defines the
measures. Needs torch and transformers, unless only recorded answers are scored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.progress import Progress
from ..models.likelihood import Pair, SteeredModel, answer_logits, batches, divergences, log_likelihoods, norms
from ..models.loading import LiveModel, model_failing
from ..models.sampling import Sampling
from .engines import EvaluationSettings, Models, bias_norms
from .experiment import Experiment, Variant
from .ledger import WorkFolder
from .neutral_prompts import continued, neutral_prompts
from .recorded_answers import answers_json, results_file
from .scorers.base import Scorer

if TYPE_CHECKING:
    import torch

    from .turns import Turns


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
    behaviour: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Answers to the shipped prompts for behaviour."""
    capability: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Answers to the shipped tasks."""
    samples: Mapping[str, Sequence[Sequence[str]]] = field(default_factory=dict)
    """Several answers to each of a few queries."""
    turns: Turns | None = None
    """Conversations of several turns."""
    benchmarks: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    """Task -> metric -> figure."""


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

    def prompts(self, variants: Sequence[Variant], texts: Sequence[str] = ()) -> dict[str, list[list[int]]]:
        """System prompt of each of `variants` -> token ids of `texts` under it; default: of the queries."""
        systems = dict.fromkeys(self.experiment.system(variant) for variant in variants)
        return {system: self.base.prompts(texts or self.texts, system) for system in systems}

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
        todo = {v.key: [i for i in range(count) if key_of(v, i) not in ledger.done] for v in variants}
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


def answer(stages: Stages) -> dict[str, Any]:
    """Key -> ``{"text": ..., "tokens": count}`` of each answer; recorded answers have no count."""
    given = {
        key_of(v, i): {"text": text, "tokens": None}
        for v in stages.experiment.variants
        for i, text in enumerate(v.answers or ())
    }
    variants = [v for v in stages.experiment.variants if v.answers is None]
    if not variants:
        return given
    prompts, settings, count = stages.prompts(variants), stages.settings, len(stages.texts)
    size = settings.runtime.batch_size if settings.engine == "transformers" else count

    def work(variant: Variant, places: list[int]) -> dict[str, Any]:
        own = prompts[stages.experiment.system(variant)]
        found = stages.live.answer(variant, [own[i] for i in places], [str(i) for i in places])
        return {
            key_of(variant, i): {
                "text": stages.base.tokenizer.decode(tokens, skip_special_tokens=True),
                "tokens": len(tokens),
            }
            for i, tokens in zip(places, found, strict=True)
        }

    def split(variant: Variant, todo: list[int]) -> list[list[int]]:
        return by_length(todo, prompts[stages.experiment.system(variant)], size)

    return given | stages.run("answers", variants, count, split, work)


def answer_here(
    stages: Stages, stage: str, variants: Sequence[Variant], texts: Sequence[str], sampling: Sampling, copies: int = 1
) -> dict[str, list[list[str]]]:
    """Key of variant -> for each text its answers, `copies` of them, in transformers whatever the engine."""
    prompts, size = stages.prompts(variants, texts), stages.settings.runtime.batch_size

    def work(variant: Variant, places: list[int]) -> dict[str, Any]:
        own = prompts[stages.experiment.system(variant)]
        names = [f"{stage}/{i}" for i in places]
        found = stages.live.answer_here(variant, [own[i // copies] for i in places], names, sampling)
        texts = (str(stages.base.tokenizer.decode(tokens, skip_special_tokens=True)) for tokens in found)
        return {key_of(variant, i): text for i, text in zip(places, texts, strict=True)}

    def split(variant: Variant, todo: list[int]) -> list[list[int]]:
        own = prompts[stages.experiment.system(variant)]
        return by_length(todo, [prompt for prompt in own for _ in range(copies)], size)

    found = stages.run(stage, variants, len(texts) * copies, split, work)
    return {
        v.key: [[found[key_of(v, i * copies + k)] for k in range(copies)] for i in range(len(texts))] for v in variants
    }


def answer_neutral(stages: Stages) -> list[Pair]:
    """Neutral prompts, and the base's answers to them."""
    steered = SteeredModel(stages.base)
    prompts = neutral_prompts(steered, stages.experiment.neutral)
    base, size = Variant("", 0.0), stages.settings.runtime.batch_size

    def work(_: Variant, places: list[int]) -> dict[str, Any]:
        pairs = continued(steered, [prompts[i] for i in places], size)
        return {key_of(base, i): list(said) for i, (_, said) in zip(places, pairs, strict=True)}

    found = stages.run("neutral", [base], len(prompts), lambda _, todo: by_length(todo, prompts, size), work)
    return [(prompt, found[key_of(base, i)]) for i, prompt in enumerate(prompts)]


def measure_divergences(stages: Stages, neutral: Sequence[Pair]) -> dict[str, Any]:
    """Key of variant and prompt -> KL from the base at each of the base's tokens."""
    known: dict[tuple[int, ...], list[torch.Tensor]] = {}
    """Logits of the base on the last batch, for all variants in turn."""
    systems = dict.fromkeys(stages.experiment.system(variant) for variant in stages.steered)
    base, count = SteeredModel(stages.base), len(neutral)
    prompts = {system: neutral_prompts(base, count, system) for system in systems}

    def work(variant: Variant, places: list[int]) -> dict[str, Any]:
        pairs = [neutral[i] for i in places]
        # A prompted variant reads its system prompt before the same prompt and answer.
        own = prompts[stages.experiment.system(variant)]
        with stages.live.steered(variant) as steered, model_failing(steered.live.name):
            if tuple(places) not in known:
                known.clear()
                known[tuple(places)] = answer_logits(base, pairs)
            found = divergences(known[tuple(places)], steered, [(own[i], neutral[i][1]) for i in places])
        return {key_of(variant, i): [round(x, 6) for x in values] for i, values in zip(places, found, strict=True)}

    def split(_: Variant, todo: list[int]) -> list[list[int]]:
        return stages.fitting(neutral, todo)

    return stages.run("divergence", stages.steered, len(neutral), split, work, in_turn=True)


def measure_likelihoods(stages: Stages, answers: Mapping[str, Any]) -> dict[str, Any]:
    """Key -> log probability of the answer under the base, after its own query and after another one."""
    base, texts = stages.base, stages.texts
    prompts = base.prompts(texts)
    others = [prompts[_other(texts, i)] for i in range(len(texts))]
    # A recorded answer may be longer than this model's context allows after either query.
    room = None if base.context is None else max(0, base.context - max(map(len, prompts)))

    def tokens(key: str) -> list[int]:
        return list(base.tokenizer(answers[key]["text"], add_special_tokens=False)["input_ids"])[:room]

    variants = stages.experiment.variants
    pairs = {v.key: [(prompts[i], tokens(key_of(v, i))) for i in range(len(texts))] for v in variants}

    def split(variant: Variant, todo: list[int]) -> list[list[int]]:
        empty = [i for i in todo if not pairs[variant.key][i][1]]
        rest = [i for i in todo if i not in empty]
        return [*([empty] if empty else []), *stages.fitting(pairs[variant.key], rest)]

    def work(variant: Variant, places: list[int]) -> dict[str, Any]:
        own = [pairs[variant.key][i] for i in places]
        if not own[0][1]:
            return {key_of(variant, i): None for i in places}
        with model_failing(base.name):
            first = log_likelihoods(SteeredModel(base), own)
            second = log_likelihoods(SteeredModel(base), [(others[i], pairs[variant.key][i][1]) for i in places])
        return {
            key_of(variant, i): {"tokens": len(pair[1]), "own": round(a, 4), "other": round(b, 4)}
            for i, pair, a, b in zip(places, own, first, second, strict=True)
        }

    return stages.run("likelihood", variants, len(texts), split, work)


def measure_scales(stages: Stages, neutral: Sequence[Pair]) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Mean norms of the base at each site while it answers neutral prompts, and the norms of each direction.

    Every process measures them itself.
    """
    with model_failing(stages.base.name):
        found = norms(stages.base, neutral)
    doses = doses_of(stages.experiment)
    for direction in stages.experiment.directions:
        own = [v for v in stages.experiment.variants if v.direction == direction.name and v.checkpoint and v.strength]
        if direction.name not in doses and own:
            with stages.live.steered(own[0]) as steered:
                rows = bias_norms(stages.base, steered.live)
            doses[direction.name] = [float(x) / abs(own[0].strength) for x in rows]
    return {site: values.tolist() for site, values in found.items()}, doses


def score(
    stages: Stages,
    scorer: Scorer,
    queries: Sequence[str],
    answers: Mapping[str, Sequence[str]],
    variants: Sequence[Variant],
    stage: str = "scores",
) -> dict[str, Any]:
    """Key -> figures of one scorer; `answers` are those of each variant to `queries`."""

    def work(variant: Variant, places: list[int]) -> dict[str, Any]:
        found = scorer.score([queries[i] for i in places], [answers[variant.key][i] for i in places])
        return {key_of(variant, i): dict(figures) for i, figures in zip(places, found, strict=True)}

    ledger, size = f"{stage}-{hashlib.sha256(scorer.name.encode()).hexdigest()[:12]}", scorer.batch_size
    return stages.run(ledger, variants, len(queries), lambda _, todo: _cut(todo, size), work, title=scorer.name)


def results_of(findings: Findings, model: str) -> dict[str, str]:
    """All answers in the layout of the published results: path below ``results`` -> text."""
    found = {}
    for direction in findings.experiment.directions:
        for variant in findings.experiment.curve(direction):
            file = results_file(direction.kind, model, direction.name, variant.strength)
            found[file.as_posix()] = answers_json(findings.answers[variant.key])
    return found


def doses_of(experiment: Experiment) -> dict[str, list[float]]:
    """Direction -> norm of its rows by layer."""
    return {
        one.name: np.linalg.norm(one.rows, axis=1).tolist() for one in experiment.directions if one.rows is not None
    }


def key_of(variant: Variant, i: int) -> str:
    """Key of item `i` of `variant` in a ledger."""
    return f"{variant.key}/{i}"


def by_length(todo: Iterable[int], prompts: Sequence[Sequence[int]], size: int) -> list[list[int]]:
    """Divide the indices `todo` of `prompts` into batches of `size`, the longest prompts first."""
    return _cut(sorted(todo, key=lambda i: (-len(prompts[i]), i)), size)


def _cut(todo: Sequence[int], size: int) -> list[list[int]]:
    return [list(todo[start : start + size]) for start in range(0, len(todo), size)]


def _other(texts: Sequence[str], i: int) -> int:
    """A query to compare query `i` with: half the set away, because neighbours are alike in the published sets."""
    places = ((i + len(texts) // 2 + k) % len(texts) for k in range(len(texts)))
    return next((place for place in places if texts[place] != texts[i]), i)
