"""Carrying an evaluation out, in stages whose results are kept as they come.

A killed run goes on, and several processes share one under ``accelerate launch``. docs/evaluation.md defines the
measures. Needs torch and transformers, unless only recorded answers are looked at.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.record import MANIFEST
from ..errors import InputError
from ..models.likelihood import Pair, Side, answer_logits, batches, divergences, log_likelihoods, norms
from ..models.loading import LiveModel, fingerprint, model_failing
from ..storage.files import sha256_of
from .engines import Models, Settings, bias_norms
from .experiment import Direction, Study, Subject
from .ledger import Ledger, check_same, writing
from .neutral_prompts import PROMPTS, continued, neutral_prompts
from .processes import Team
from .recorded_answers import answers_json, results_file
from .scorers.base import Scorer

if TYPE_CHECKING:
    import torch


Progress = Callable[[str, int, int], Callable[[int], None]]
"""Given a stage's name, how much of it is done and how much there is, what is called with the number done since."""


@dataclass(frozen=True, eq=False)
class Findings:
    """Everything that was measured, before anything is averaged. Keys are `Subject.key`."""

    study: Study
    answers: Mapping[str, Sequence[str]]
    tokens: Mapping[str, Sequence[int | None]]
    """Length of each answer in tokens; None where it is not known."""
    likelihoods: Mapping[str, Sequence[Mapping[str, float] | None]]
    """Per answer its ``tokens``, and its log probability under the base after its ``own`` query and an ``other``;
    None for an empty answer. Empty without a model."""
    divergences: Mapping[str, Sequence[Sequence[float]]]
    """Per neutral prompt and token, KL from the base, in nats."""
    scores: Mapping[str, Mapping[str, Sequence[Mapping[str, float]]]]
    """Scorer -> per answer emotion -> figure."""
    doses: Mapping[str, Sequence[float]]
    """Direction -> norm of its rows by layer, at strength 1."""
    scales: Mapping[str, Sequence[float]]
    """Site -> mean norm of what the base has there, by layer, while it answers neutral prompts."""
    record: Mapping[str, Any] = field(default_factory=dict)
    """Of what, by what and how, as JSON data without local paths."""


def carry_out(
    study: Study,
    out: Path,
    live: LiveModel | None,
    scorers: Sequence[Scorer],
    settings: Settings,
    *,
    record: Mapping[str, Any],
    restart: bool = False,
    progress: Progress = lambda stage, done, total: lambda more: None,
) -> Findings | None:
    """Answer, measure and score; every process but the first gets None.

    What is finished stands in ``<out>/.partial`` until `remove_partial`.

    Raises:
        InputError: another evaluation was begun in `out`; the model's context is too small.
        EmobakeError: a model, a scorer or the engine failed; OutputError: `out` cannot be written.
    """
    if live is not None and any(subject.answers is None for subject in study.subjects):
        _check_room(live, study, settings.sampling.max_new_tokens)
    team = Team()
    folder = out / ".partial"
    begun = {
        **record,
        "questions": [study.questions.sha256, len(study.questions.texts)],
        "subjects": [subject.key for subject in study.subjects],
        "directions": {one.name: _digest(one) for one in study.directions},
        "checkpoints": {s.key: sha256_of(s.checkpoint / MANIFEST) for s in study.subjects if s.checkpoint},
        "answers": _digest_texts(study),
        "sampling": asdict(settings.sampling),
        "engine": settings.engine,
        "weights": None if live is None else fingerprint(live),
    }
    if team.rank == 0:
        with writing(out):
            if restart and folder.exists():
                shutil.rmtree(folder)
            folder.mkdir(parents=True, exist_ok=True)
            check_same(folder, begun, "an evaluation")
    team.wait()
    with writing(out):
        folder.mkdir(parents=True, exist_ok=True)  # on other machines
    run = _Run(study, folder, team, live, settings, progress)
    answers = run.answers()
    likelihoods: dict[str, Any] = {}
    kl: dict[str, Any] = {}
    scales: dict[str, list[float]] = {}
    if live is not None:
        neutral = run.neutral()
        kl = run.divergences(neutral)
        likelihoods = run.likelihoods(answers)
        scales = run.scales(neutral)
    scores = {scorer.name: run.scores(scorer, answers) for scorer in scorers}
    team.wait()
    if team.rank:
        return None
    count = len(study.questions.texts)
    return Findings(
        study,
        {s.key: [answers[_key(s, i)]["text"] for i in range(count)] for s in study.subjects},
        {s.key: [answers[_key(s, i)]["tokens"] for i in range(count)] for s in study.subjects},
        {s.key: [likelihoods[_key(s, i)] for i in range(count)] for s in study.subjects} if live else {},
        {s.key: [kl[_key(s, i)] for i in range(PROMPTS)] for s in run.steered} if live else {},
        {
            name: {s.key: [found[_key(s, i)] for i in range(count)] for s in study.subjects}
            for name, found in scores.items()
        },
        {d.name: run.doses[d.name] for d in study.directions if d.name in run.doses},
        scales,
        record,
    )


def remove_partial(out: Path) -> None:
    """Forget the stages, once everything is written."""
    shutil.rmtree(out / ".partial", ignore_errors=True)


def write_results(findings: Findings, out: Path, model: str) -> None:
    """Write all answers below ``out/results`` in the layout of the published results.

    Raises:
        OutputError: they cannot be written.
    """
    for direction in findings.study.directions:
        for subject in findings.study.curve(direction):
            file = out / "results" / results_file(direction.kind, model, direction.name, subject.strength)
            with writing(file):
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(answers_json(findings.answers[subject.key]), encoding="utf-8")


def _key(subject: Subject, i: int) -> str:
    return f"{subject.key}/{i}"


def _digest(direction: Direction) -> str:
    return "" if direction.rows is None else hashlib.sha256(direction.rows.tobytes()).hexdigest()


def _digest_texts(study: Study) -> str:
    given = [answer for subject in study.subjects for answer in subject.answers or ()]
    return hashlib.sha256("\0".join(given).encode("utf-8", "replace")).hexdigest() if given else ""


def _check_room(live: LiveModel, study: Study, wanted: int) -> None:
    prompts = [live.prompt([{"role": "user", "content": text}]) for text in study.questions.texts]
    longest = max(map(len, prompts))
    if live.context is not None and longest + wanted > live.context:
        raise InputError(
            f"{live.name}: its context of {live.context} has no room for {wanted} new tokens behind a query of "
            f"{longest}; take a smaller --max-new-tokens"
        )


class _Run:
    """One process's part of the stages."""

    def __init__(
        self,
        study: Study,
        folder: Path,
        team: Team,
        live: LiveModel | None,
        settings: Settings,
        progress: Progress,
    ) -> None:
        self.study, self.folder, self.team = study, folder, team
        self.settings, self.progress = settings, progress
        self._models = None if live is None else Models(live, study, settings)
        self.doses = {d.name: np.linalg.norm(d.rows, axis=1).tolist() for d in study.directions if d.rows is not None}

    @property
    def steered(self) -> list[Subject]:
        """Subjects that have a model, and not the base's."""
        return [s for s in self.study.subjects if s.direction and s.answers is None]

    def answers(self) -> dict[str, Any]:
        """Key -> ``{"text": ..., "tokens": count}``."""
        texts = self.study.questions.texts
        given = {
            _key(s, i): {"text": answer, "tokens": None}
            for s in self.study.subjects
            for i, answer in enumerate(s.answers or ())
        }
        subjects = [s for s in self.study.subjects if s.answers is None]
        if not subjects:
            return given
        prompts = [self._base.prompt([{"role": "user", "content": text}]) for text in texts]
        size = self.settings.batch_size if self.settings.engine == "transformers" else len(texts)

        def work(subject: Subject, places: list[int]) -> dict[str, Any]:
            found = self.models.answer(subject, [prompts[i] for i in places], [str(i) for i in places])
            return {
                _key(subject, i): {
                    "text": self._base.tokenizer.decode(tokens, skip_special_tokens=True),
                    "tokens": len(tokens),
                }
                for i, tokens in zip(places, found, strict=True)
            }

        return given | self._stage(
            "answers", subjects, len(texts), lambda _, todo: _by_length(todo, prompts, size), work
        )

    def neutral(self) -> list[Pair]:
        """Neutral prompts, and what the base says to them."""
        side = Side(self._base)
        prompts = neutral_prompts(side)
        base, size = Subject("", 0.0), self.settings.batch_size

        def work(_: Subject, places: list[int]) -> dict[str, Any]:
            pairs = continued(side, [prompts[i] for i in places], size)
            return {_key(base, i): list(answer) for i, (_, answer) in zip(places, pairs, strict=True)}

        found = self._stage("neutral", [base], len(prompts), lambda _, todo: _by_length(todo, prompts, size), work)
        return [(prompt, found[_key(base, i)]) for i, prompt in enumerate(prompts)]

    def divergences(self, neutral: Sequence[Pair]) -> dict[str, Any]:
        """Key of subject and prompt -> KL at each of the base's tokens."""
        known: dict[tuple[int, ...], list[torch.Tensor]] = {}  # of the last batch, for all subjects in turn

        def work(subject: Subject, places: list[int]) -> dict[str, Any]:
            pairs = [neutral[i] for i in places]
            with self.models.side(subject) as side, model_failing(side.live.name):
                if tuple(places) not in known:
                    known.clear()
                    known[tuple(places)] = answer_logits(Side(self._base), pairs)
                found = divergences(known[tuple(places)], side, pairs)
            return {_key(subject, i): [round(x, 6) for x in values] for i, values in zip(places, found, strict=True)}

        def split(_: Subject, todo: list[int]) -> list[list[int]]:
            return self._fitting(neutral, todo)

        return self._stage("divergence", self.steered, len(neutral), split, work, in_turn=True)

    def likelihoods(self, answers: Mapping[str, Any]) -> dict[str, Any]:
        """Key -> log probability of the answer under the base, after its own query and after another."""
        texts = self.study.questions.texts
        prompts = [self._base.prompt([{"role": "user", "content": text}]) for text in texts]
        others = [prompts[_other(texts, i)] for i in range(len(texts))]
        # A recorded answer may be longer than this model's context has room for behind either query.
        room = None if self._base.context is None else max(0, self._base.context - max(map(len, prompts)))

        def tokens(key: str) -> list[int]:
            return list(self._base.tokenizer(answers[key]["text"], add_special_tokens=False)["input_ids"])[:room]

        pairs = {s.key: [(prompts[i], tokens(_key(s, i))) for i in range(len(texts))] for s in self.study.subjects}

        def split(subject: Subject, todo: list[int]) -> list[list[int]]:
            empty = [i for i in todo if not pairs[subject.key][i][1]]
            return [
                *([empty] if empty else []),
                *self._fitting(pairs[subject.key], [i for i in todo if i not in empty]),
            ]

        def work(subject: Subject, places: list[int]) -> dict[str, Any]:
            own = [pairs[subject.key][i] for i in places]
            if not own[0][1]:
                return {_key(subject, i): None for i in places}
            with model_failing(self._base.name):
                first = log_likelihoods(Side(self._base), own)
                second = log_likelihoods(Side(self._base), [(others[i], pairs[subject.key][i][1]) for i in places])
            return {
                _key(subject, i): {"tokens": len(pair[1]), "own": round(a, 4), "other": round(b, 4)}
                for i, pair, a, b in zip(places, own, first, second, strict=True)
            }

        return self._stage("likelihood", self.study.subjects, len(texts), split, work)

    def scales(self, neutral: Sequence[Pair]) -> dict[str, list[float]]:
        """Mean norms at each site while the base answers neutral prompts; measured by every process for itself."""
        with model_failing(self._base.name):
            found = norms(self._base, neutral)
        for direction in self.study.directions:
            if direction.name not in self.doses:
                own = [s for s in self.study.subjects if s.direction == direction.name and s.checkpoint]
                if own and own[0].strength:
                    with self.models.side(own[0]) as side:
                        rows = bias_norms(self._base, side.live)
                    self.doses[direction.name] = [float(x) / abs(own[0].strength) for x in rows]
        return {site: values.tolist() for site, values in found.items()}

    def scores(self, scorer: Scorer, answers: Mapping[str, Any]) -> dict[str, Any]:
        """Key -> what the scorer says."""
        texts = self.study.questions.texts

        def work(subject: Subject, places: list[int]) -> dict[str, Any]:
            said = [answers[_key(subject, i)]["text"] for i in places]
            found = scorer.score([texts[i] for i in places], said)
            return {_key(subject, i): dict(figures) for i, figures in zip(places, found, strict=True)}

        stage = "scores-" + hashlib.sha256(scorer.name.encode()).hexdigest()[:12]
        size = scorer.batch_size
        return self._stage(stage, self.study.subjects, len(texts), lambda _, todo: _cut(todo, size), work, scorer.name)

    @property
    def models(self) -> Models:
        """The models; there are none when only recorded answers are looked at."""
        assert self._models is not None
        return self._models

    @property
    def _base(self) -> LiveModel:
        return self.models.base

    def _stage(
        self,
        stage: str,
        subjects: Sequence[Subject],
        count: int,
        split: Callable[[Subject, list[int]], list[list[int]]],
        work: Callable[[Subject, list[int]], Mapping[str, Any]],
        title: str = "",
        in_turn: bool = False,
    ) -> dict[str, Any]:
        """Do `work` on what is left of ``0 .. count - 1`` for each subject, this process's share of the batches.

        `in_turn`: a batch for all subjects before the next, unless each subject is a model to load.
        """
        ledger = Ledger(self.folder, stage, self.team)
        todo = {s.key: [i for i in range(count) if _key(s, i) not in ledger.done] for s in subjects}
        parts = [(s, batch) for s in subjects if todo[s.key] for batch in split(s, todo[s.key])]
        if in_turn and not any(s.checkpoint for s in subjects):
            parts.sort(key=lambda part: part[1])
        mine = parts[self.team.rank :: self.team.size]
        left = sum(len(batch) for _, batch in mine)
        done = (len(subjects) * count - sum(map(len, todo.values()))) // self.team.size
        advance = self.progress(title or stage, done, done + left)
        for subject, batch in mine:
            ledger.add(work(subject, batch))
            advance(len(batch))
        return ledger.gathered()

    def _fitting(self, pairs: Sequence[Pair], todo: Sequence[int]) -> list[list[int]]:
        return [[todo[i] for i in batch] for batch in batches(self._base, [pairs[i] for i in todo])]


def _by_length(todo: Iterable[int], prompts: Sequence[Sequence[int]], size: int) -> list[list[int]]:
    return _cut(sorted(todo, key=lambda i: (-len(prompts[i]), i)), size)


def _cut(todo: Sequence[int], size: int) -> list[list[int]]:
    return [list(todo[start : start + size]) for start in range(0, len(todo), size)]


def _other(texts: Sequence[str], i: int) -> int:
    """A query to set against query `i`: half the set away, because neighbours are alike in the published ones."""
    places = ((i + len(texts) // 2 + k) % len(texts) for k in range(len(texts)))
    return next((place for place in places if texts[place] != texts[i]), i)
