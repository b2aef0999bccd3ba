"""Evaluations: how strong is the emotion, how much did the model lose, and which strength is best."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .._version import __version__
from ..core.arguments import as_list
from ..core.packages import require
from ..core.progress import Progress, no_progress
from ..core.record import Record
from ..core.steering import Steering, steering
from ..core.vector_set import VectorSet
from ..errors import InputError
from ..formats.output import read_record
from ..models.loading import LiveModel, load, weight_files
from ..models.steered import open_steered
from ..storage.files import reading
from ..storage.model_name import ModelName
from ..storage.publish import recover, write_all
from ..vectors.find import Vectors, VectorSource, find_vectors
from ..vectors.pictures import SUFFIXES, picture
from .carry_out import carry_out
from .engines import EvaluationSettings
from .experiment import STRENGTHS, SYSTEM_PROMPT, Experiment, baked_experiment, recorded_experiment, steered_experiment
from .ledger import writing
from .lm_eval import check_tasks
from .neutral_prompts import PROMPTS, neutral_count
from .plots import plot_evaluation
from .query_sets import Questions, Seen, comparable, extraction_queries, open_questions
from .receipt import LAYERS, TURNS, receipt_of
from .recorded_answers import read_results
from .report import examples_of, write_report
from .scorers.base import DEFAULT_CLASSIFIER, Scorer
from .scorers.open import open_scorers
from .search.parts import shipped_parts
from .stages import Findings, results_of
from .summary import summarize
from .turns import MOST

QUESTIONS = "emotionquery+"
REPORT = "report.json"


@dataclass(frozen=True)
class Report:
    """The folder of a report, and how it is written."""

    path: str | os.PathLike[str]
    """Folder for report.json, report.md, the pictures, and the answers in the published layout."""
    overwrite: bool = False
    """Replace an earlier report."""
    restart: bool = False
    """Forget the finished work of an interrupted evaluation."""

    def check(self) -> Path:
        """Refuse a folder that holds something else, before any work.

        Raises:
            InputError: a file, no parent folder, a report that may not be replaced, or foreign files.
        """
        out = Path(self.path)
        if out.exists() and not out.is_dir():
            raise InputError(f"{out}: is a file; give `out` a folder")
        if not out.absolute().parent.is_dir():
            raise InputError(f"{out}: its folder does not exist; make it first")
        if out.is_dir():
            recover(out.absolute() / REPORT)
            names = {path.name for path in out.iterdir()}
            if REPORT in names and ".partial" not in names and not self.overwrite:
                raise InputError(f"{out}: holds a report; choose another `out`, or `overwrite`")
            if names and not names & {REPORT, ".partial"}:
                raise InputError(f"{out}: exists and holds no report; choose another `out`")
        return out


def evaluate(
    model: str | os.PathLike[str] | ModelName,
    out: str | os.PathLike[str] | Report,
    vectors: Vectors | VectorSource | None = None,
    times: Iterable[float] | None = None,
    *,
    mix: Mapping[str, float] | None = None,
    emotions: Sequence[str] = (),
    scale: float = 1.0,
    layers: str | None = None,
    strengths: Sequence[float] = STRENGTHS,
    control: bool = True,
    system_prompt: str | None = SYSTEM_PROMPT,
    questions: str = QUESTIONS,
    limit: int | None = None,
    scorers: Sequence[str | Scorer] = (),
    settings: EvaluationSettings | None = None,
    progress: Progress = no_progress,
) -> dict[str, Any] | None:
    """Let a model answer `questions` at several strengths, measure the answers, and write a report.

    Give `times`, `mix` or `emotions`. docs/evaluation.md defines the measures. A killed evaluation continues where it
    stopped.

    Args:
        model: the unsteered base, a folder or a Hub id.
        out: folder for report.json, report.md, the pictures, and the answers in the published layout; or a `Report`,
            which says how.
        vectors: a set, as for `emobake.bake`.
        times: weights of the paper's five emotions.
        mix: weights by name instead.
        emotions: each is a direction of its own; ``base`` is the mean of all vectors.
        scale: factor for all weights.
        layers: layers to steer.
        strengths: factors for each direction; 0 is always among them.
        control: evaluate a random direction beside each.
        system_prompt: evaluate the base under this system prompt beside each, with the names of the target emotions in
            the place of ``{emotion}``; None: do not.
        questions: a file, or a name of `emobake.measure.query_sets.open_questions`.
        limit: number of queries of each part of the set, and of neutral prompts; None: all.
        scorers: names of `emobake.measure.scorers.open.open_scorers`, or objects with the interface of `Scorer`;
            default: a classifier.
        settings: how the evaluation is carried out.
        progress: told of this process's part of each stage.

    Returns:
        The content of report.json; None for all processes but the first.

    Raises:
        InputError: (exit code 2) bad input; nothing was written.
        ModelError, HubError, OutputError: (exit code 1) a model, scorer or endpoint failed; finished work is kept.
    """
    plan = _prepare(out, questions, limit, scorers, settings)
    emotions = as_list("emotions", emotions, "['joy']")
    strengths = as_list("strengths", strengths, "[0, 1, 2]")
    weights = _weights(times, mix, emotions, scale, layers)
    seen: Seen | None = None

    def experiment_with(found: VectorSet) -> Experiment:
        nonlocal seen
        seen = seen or _seen(found, (), plan.asked)
        return steered_experiment(
            plan.asked,
            found,
            weights,
            emotions,
            strengths,
            control=control,
            system_prompt=system_prompt,
            seed=plan.settings.seed,
            seen=seen,
        )

    live, found = open_steered(model, vectors, accept=experiment_with, runtime=plan.settings.runtime)
    return _run(plan, experiment_with(found), live, found.name, "generated", progress)


def evaluate_checkpoints(
    checkpoints: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str] | Report,
    *,
    model: str | os.PathLike[str] | ModelName | None = None,
    vectors: Vectors | None = None,
    system_prompt: str | None = SYSTEM_PROMPT,
    questions: str = QUESTIONS,
    limit: int | None = None,
    scorers: Sequence[str | Scorer] = (),
    settings: EvaluationSettings | None = None,
    progress: Progress = no_progress,
) -> dict[str, Any] | None:
    """Evaluate baked checkpoints and their base; arguments, result and errors as for `evaluate`.

    Args:
        checkpoints: outputs of emobake.
        out: folder for the report.
        model: the base; default: the one in the record of the first checkpoint.
        vectors: the set that was baked, to tell which questions are held out; default: by the records.
        system_prompt: as for `evaluate`.
        questions: the queries.
        limit: number of queries of each part of the set.
        scorers: how answers are scored.
        settings: how the evaluation is carried out.
        progress: told of this process's part of each stage.
    """
    plan = _prepare(out, questions, limit, scorers, settings)
    found = _find(vectors, model)
    checkpoints = as_list("checkpoints", checkpoints, "['./joyful']")
    baked = [(Path(one), read_record(Path(one))) for one in checkpoints]
    seen = _seen(found, [record for _, record in baked], plan.asked)
    experiment = baked_experiment(plan.asked, baked, seen, system_prompt=system_prompt)
    base = model or baked[0][1].base.model
    if not base:
        raise InputError("the base of the checkpoints is not recorded; give it as `model`")
    live = _load(base, plan.settings)
    return _run(plan, experiment, live, None if found is None else found.name, "generated", progress)


def evaluate_answers(
    answers: str | os.PathLike[str],
    out: str | os.PathLike[str] | Report,
    *,
    model: str | os.PathLike[str] | ModelName | None = None,
    vectors: Vectors | None = None,
    questions: str = QUESTIONS,
    limit: int | None = None,
    scorers: Sequence[str | Scorer] = (),
    settings: EvaluationSettings | None = None,
    progress: Progress = no_progress,
) -> dict[str, Any] | None:
    """Evaluate recorded answers; arguments, result and errors as for `evaluate`.

    Args:
        answers: folder in the layout of the published results.
        out: folder for the report.
        model: the base, for measures that need one; None: these are left out.
        vectors: the set behind the answers, to tell which questions are held out.
        questions: the queries that were asked.
        limit: number of queries of each part of the set.
        scorers: how answers are scored.
        settings: how the evaluation is carried out.
        progress: told of this process's part of each stage.
    """
    plan = _prepare(out, questions, limit, scorers, settings)
    found = _find(vectors, model)
    seen = _seen(found, (), plan.asked)
    recorded = read_results(Path(answers), len(plan.every.texts), plan.every.sample(limit))
    experiment = recorded_experiment(plan.asked, recorded, seen)
    live = None if model is None else _load(model, plan.settings)
    return _run(plan, experiment, live, None if found is None else found.name, "recorded", progress)


@dataclass(frozen=True, eq=False)
class _Plan:
    """The arguments that every evaluation has, parsed and checked."""

    report: Report
    folder: Path
    every: Questions
    """All queries of the set."""
    asked: Questions
    """Questions that are asked."""
    limit: int | None
    scorers: Sequence[Scorer]
    settings: EvaluationSettings


def _prepare(
    out: str | os.PathLike[str] | Report,
    questions: str,
    limit: int | None,
    scorers: Sequence[str | Scorer],
    settings: EvaluationSettings | None,
) -> _Plan:
    settings = settings or EvaluationSettings()
    report = out if isinstance(out, Report) else Report(out)
    folder = report.check()
    require("matplotlib.figure", extra="eval", purpose="evaluation")  # Better to know before the work.
    check_tasks(settings.benchmarks)
    if not 0 <= settings.turns <= MOST or settings.samples < 0:
        raise InputError(f"`turns` takes a number from 0 to {MOST}, and `samples` one from 0 on")
    every = open_questions(questions)
    scorers = as_list("scorers", scorers, "['lexicon']")
    given = [one for one in scorers if not isinstance(one, str)]
    names = [one for one in scorers if isinstance(one, str)]
    if not given and not names:
        names = [DEFAULT_CLASSIFIER]
    opened = [*given, *open_scorers(names, settings.runtime.device)]
    return _Plan(report, folder, every, every.limited(limit), limit, opened, settings)


def _weights(
    times: Iterable[float] | None,
    mix: Mapping[str, float] | None,
    emotions: Sequence[str],
    scale: float,
    layers: str | None,
) -> Steering | None:
    """The weighted sum to evaluate; None for `emotions`."""
    if not emotions:
        return steering(times, mix, scale=scale, layers=layers)
    if times is not None or mix is not None:
        raise InputError("`emotions`, `times` and `mix` are ways to say the same; give one")
    if scale != 1 or layers is not None:
        raise InputError("`emotions` takes each emotion as it is; give `mix` for `scale` and `layers`")
    return None


def _find(vectors: Vectors | None, model: str | os.PathLike[str] | ModelName | None) -> VectorSet | None:
    if vectors is None:
        return None
    with reading():
        return find_vectors(vectors, None, model=str(model))


def _load(model: str | os.PathLike[str] | ModelName, settings: EvaluationSettings) -> LiveModel:
    name = ModelName.parse(model)
    if name.kind == "gguf":
        raise InputError(f"{name}: an evaluation runs checkpoints; give the one that the GGUF file was made from")
    return load(name, settings.runtime)


def _seen(vectors: VectorSet | None, records: Sequence[Record], asked: Questions) -> Seen:
    """The queries behind the vectors, or else behind everything that was baked; known only if all are."""
    baked = [bake for record in records for bake in (record, *record.history)]
    origins = [(one.source, one.queries) for bake in baked for one in bake.vectors.origins] or [("", {})]
    if vectors is not None:
        origins = [(one.source, one.queries) for one in vectors.parts or (vectors,)]
    found = [one for source, queries in origins for one in _seen_of(source, queries, asked)]
    known = [one.texts for one in found if one.texts is not None]
    if len(known) < len(found):
        return next(one for one in found if one.texts is None)
    return Seen(frozenset[str]().union(*known), found[0].what)


def _seen_of(source: str, queries: Mapping[str, str], asked: Questions) -> Iterator[Seen]:
    """The queries behind one set; a search has seen those of its second set, and those that chose the rows."""
    yield extraction_queries(source, queries, asked)
    blended = {key.removeprefix("blend_"): text for key, text in queries.items() if key.startswith("blend_")}
    if blended:
        yield extraction_queries("", blended, asked)
    seed = queries.get("search_seed", "")
    if re.fullmatch(r"\d{1,9}", seed):
        parts = shipped_parts(int(seed))
        texts = [*parts.train.everyday, *parts.validation.everyday]
        yield Seen(frozenset(map(comparable, texts)), "those that the vectors were made from")


def _run(
    plan: _Plan,
    experiment: Experiment,
    live: LiveModel | None,
    vectors: str | None,
    answers: str,
    progress: Progress,
) -> dict[str, Any] | None:
    """Carry the experiment out, and write the report."""
    experiment = _limited(experiment, plan, live)
    if live is not None:
        experiment = replace(experiment, warnings=(*experiment.warnings, *_notes(live, experiment)))
    record = {
        "emobake": __version__,
        "model": None if live is None else live.base_model or _label(live),
        "vectors": vectors,
        "answers": answers,
    }
    done = carry_out(
        experiment,
        plan.folder,
        live,
        plan.scorers,
        plan.settings,
        record=record,
        restart=plan.report.restart,
        progress=progress,
    )
    if done is None:
        return None
    findings, work = done
    data = summarize(findings, plan.scorers, plan.settings)
    if live is not None and answers == "generated":
        data["receipt"] = receipt_of(data, experiment.directions, weight_files(live))
    _write(findings, data, plan.folder, _label(live))
    work.remove()
    return data


def _notes(live: LiveModel, experiment: Experiment) -> list[str]:
    """Remarks on the model: no chat template, or no place for a system prompt."""
    notes = [live.note] if live.note else []
    if any(one.system for one in experiment.directions) and not live.has_system_role:
        notes.append(
            f"{live.name}: its chat template has no place for a system prompt, which stands before the user's message"
        )
    return notes


def _limited(experiment: Experiment, plan: _Plan, live: LiveModel | None) -> Experiment:
    """The experiment with as many neutral prompts as the limit allows, and a warning if anything is left out."""
    neutral, asked, every = neutral_count(plan.limit), len(plan.asked.texts), len(plan.every.texts)
    parts = [f"{asked} of the {every} queries"] if asked < every else []
    if live is not None and neutral < PROMPTS:
        parts.append(f"{neutral} of the {PROMPTS} everyday prompts for KL and the norms")
    if not parts:
        return experiment
    warning = f"a quick look at {' and '.join(parts)}; a whole run gives steadier figures"
    return replace(experiment, neutral=neutral, limit=plan.limit, warnings=(*experiment.warnings, warning))


def _write(findings: Findings, data: dict[str, Any], folder: Path, label: str) -> None:
    """Write all files of the report at once."""
    figures = plot_evaluation(data)
    experiment = findings.experiment
    shown = data["questions"]["shown"]
    places = [i for i, group in enumerate(experiment.questions.groups) if shown in ("all", group)]
    said = findings.answers
    curves = {
        one.name: [(f"{v.strength:g}", said[v.key]) for v in experiment.curve(one)]
        for one in experiment.directions
        if not one.like
    }
    for one in experiment.directions:
        if one.kind == "prompt" and one.like in curves:
            curves[one.like].append(("prompt", said[experiment.curve(one)[-1].key]))
    files = {
        REPORT: json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n",
        "report.md": write_report(data, examples_of(experiment.questions.texts, places, curves), tuple(figures)),
    }
    if data["answers"] == "generated":
        files |= {f"results/{path}": text for path, text in results_of(findings, label).items()}
    pictures = {f"{name}{suffix}": picture(figure, suffix) for name, figure in figures.items() for suffix in SUFFIXES}
    outdated = ("results", *(f"{name}{suffix}" for name in (LAYERS, TURNS) for suffix in SUFFIXES))
    with writing(folder):
        content = {name: text.encode() for name, text in files.items()} | pictures
        write_all(folder / REPORT, content, outdated=outdated)


def _label(live: LiveModel | None) -> str:
    if live is None:
        return "model"
    return live.base_model.rpartition("/")[2] or Path(live.name).absolute().name
