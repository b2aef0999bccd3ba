"""`evaluate`: how strong is the emotion, how much did the model lose, and which strength is best."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._version import __version__
from ..core.record import Record
from ..core.steering import Steering, steering
from ..core.vector_set import VectorSet
from ..errors import InputError
from ..formats.read_record import read_record
from ..models.steered import open_steered
from ..storage.files import reading
from ..storage.model_name import is_gguf
from ..vectors.find import find_vectors
from .engines import Settings
from .experiment import STRENGTHS, Study, baked_study, recorded_study, steered_study
from .ledger import writing
from .query_sets import Questions, Seen, extraction_queries, open_questions
from .recorded_answers import read_results
from .report import examples_of, markdown
from .scorers.base import DEFAULT_CLASSIFIER, Scorer
from .scorers.open import open_scorers
from .stages import Findings, Progress, carry_out, remove_partial, write_results
from .summary import summarize

if TYPE_CHECKING:
    from ..models.loading import LiveModel

QUESTIONS = "emotionquery+"
REPORT = "report.json"


def evaluate(
    model: str | os.PathLike[str] | None,
    out: str | os.PathLike[str],
    *,
    vectors: str | os.PathLike[str] | None = None,
    times: Iterable[float] | None = None,
    mix: Mapping[str, float] | None = None,
    emotions: Sequence[str] = (),
    scale: float = 1.0,
    layers: str | None = None,
    revision: str | None = None,
    base_model: str = "",
    vectors_for: str = "",
    site: str = "",
    strengths: Sequence[float] = STRENGTHS,
    checkpoints: Sequence[str | os.PathLike[str]] = (),
    answers: str | os.PathLike[str] | None = None,
    questions: str = QUESTIONS,
    limit: int | None = None,
    scorers: Sequence[str | Scorer] = (),
    judge: str = "",
    control: bool = True,
    settings: Settings | None = None,
    restart: bool = False,
    overwrite: bool = False,
    progress: Progress = lambda stage, done, total: lambda more: None,
) -> dict[str, Any] | None:
    """Let a model answer `questions` at several strengths, measure the answers, and write a report into `out`.

    Three ways to say of what: a `model` with what steers it (`times`, `mix`, or each of `emotions` on its own) at
    `strengths`; `checkpoints` that are baked, with their base as `model` (default: the one in their record); or
    `answers` that were recorded, with the base as `model` for what needs one.

    Args:
        model: the unsteered base, a folder or a Hub id.
        out: folder for report.json, report.md, the pictures, and the answers in the published layout.
        vectors: a set, as for `emobake.bake`; for checkpoints and answers, the one that they were made with, to tell
            which questions are held out.
        times: weights of the paper's five emotions.
        mix: weights by name, instead.
        scale: a factor for all weights.
        layers: those that are steered.
        revision: of a Hub model.
        base_model: Hub id of the base when `model` is a folder.
        vectors_for: the model whose published set is meant.
        site: where vectors act that do not say.
        emotions: each is a direction of its own; ``base`` is the mean of all vectors.
        strengths: factors for each direction; 0 is always among them.
        checkpoints: outputs of emobake.
        answers: folder in the layout of the published results.
        questions: a file, or a name (`emobake.query_sets.open_questions`).
        limit: only so many of each part of the questions.
        scorers: names (`emobake.scorers.open_scorers`), or objects with its interface; default: a classifier.
        judge: model of an OpenAI-compatible endpoint that gives absolute scores.
        control: evaluate a random direction beside each.
        settings: how it is carried out.
        restart: forget what an interrupted evaluation in `out` had finished.
        overwrite: replace a report in `out`.
        progress: told of this process's part of each stage.

    Returns:
        What report.json holds; None for all processes but the first.

    Raises:
        InputError: (exit code 2) bad input; nothing was written.
        EmobakeError: (exit code 1) a model, scorer or endpoint failed; what was finished is kept for the next run.
    """
    from .plots import need_matplotlib, plot_evaluation

    settings = settings or Settings()
    folder = _free(Path(out), overwrite=overwrite, restart=restart)
    need_matplotlib()
    ways = (checkpoints, answers is not None, times is not None or mix is not None or emotions)
    if sum(map(bool, ways)) != 1:
        raise InputError("say of what in one way: --times, --mix or --emotions with a model; checkpoints; or --answers")
    every = open_questions(questions)
    asked = every.limited(limit)
    given = [one for one in scorers if not isinstance(one, str)]
    names = [one for one in scorers if isinstance(one, str)]
    if not given and not names and not judge:
        names = [DEFAULT_CLASSIFIER]
    chosen = [*given, *(open_scorers(names, judge, settings.device) if names or judge else [])]
    found: VectorSet | None = None
    live: LiveModel | None = None
    where = {"revision": revision, "base_model": base_model}
    if answers is not None or checkpoints:
        if vectors is not None:
            with reading():
                found = find_vectors(vectors, None, model=str(model), site=site)
        baked = [(Path(one), read_record(Path(one))) for one in checkpoints]
        seen = _seen(found, [record for _, record in baked], asked)
        if answers is not None:
            recorded = read_results(Path(answers), len(every.texts), every.sample(limit))
            study = recorded_study(asked, recorded, seen)
            base = model
        else:
            study = baked_study(asked, baked, seen)
            base = model or baked[0][1].base_model
        if base is not None:
            live = _load(base, settings, **where)
    else:
        live, found, study = _steered(
            model,
            vectors,
            settings,
            _directions(times, mix, emotions, scale, layers),
            asked,
            emotions,
            strengths,
            control,
            vectors_for=vectors_for,
            site=site,
            **where,
        )
    record = {
        "emobake": __version__,
        "model": None if live is None else live.base_model or _label(live),
        "vectors": None if found is None else found.name,
        "answers": "recorded" if answers is not None else "generated",
    }
    findings = carry_out(study, folder, live, chosen, settings, record=record, restart=restart, progress=progress)
    if findings is None:
        return None
    data = summarize(findings, chosen, settings)
    _write(findings, data, folder, _label(live), plot_evaluation)
    return data


def _write(
    findings: Findings,
    data: dict[str, Any],
    folder: Path,
    label: str,
    plot: Callable[[Mapping[str, Any], Path], tuple[str, ...]],
) -> None:
    """All files; report.json last, because it says that the rest is there."""
    for name in ("results", REPORT):
        old = folder / name
        with writing(old):
            shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
    if data["answers"] == "generated":
        write_results(findings, folder, label)
    pictures = plot(data, folder)
    study = findings.study
    shown = data["questions"]["shown"]
    places = [i for i, group in enumerate(study.questions.groups) if shown in ("all", group)]
    curves = {
        one.name: [(s.strength, findings.answers[s.key]) for s in study.curve(one)]
        for one in study.directions
        if one.kind != "control"
    }
    with writing(folder):
        text = markdown(data, examples_of(study.questions.texts, places, curves), pictures)
        (folder / "report.md").write_text(text, encoding="utf-8")
        content = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        (folder / REPORT).write_text(content, encoding="utf-8")
    remove_partial(folder)


def _free(out: Path, *, overwrite: bool, restart: bool) -> Path:
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; give --out a folder")
    if not out.absolute().parent.is_dir():
        raise InputError(f"{out}: its folder does not exist; make it first")
    if out.is_dir():
        names = {path.name for path in out.iterdir()}
        if REPORT in names and ".partial" not in names and not overwrite:
            raise InputError(f"{out}: holds a report; choose another --out, or --overwrite")
        if names and not names & {REPORT, ".partial"}:
            raise InputError(f"{out}: exists and holds no report; choose another --out")
    return out


def _directions(
    times: Iterable[float] | None,
    mix: Mapping[str, float] | None,
    emotions: Sequence[str],
    scale: float,
    layers: str | None,
) -> Steering | None:
    """What `times` or `mix` say; None for `emotions`."""
    if not emotions:
        return steering(None if times is None else tuple(times), mix, scale=scale, layers=layers)
    if times is not None or mix is not None:
        raise InputError("--emotions, --times and --mix are ways to say the same; give one")
    if scale != 1 or layers is not None:
        raise InputError("--emotions takes each emotion as it is; give --mix for --scale and --layers")
    return None


def _steered(
    model: str | os.PathLike[str] | None,
    vectors: str | os.PathLike[str] | None,
    settings: Settings,
    weights: Steering | None,
    asked: Questions,
    emotions: Sequence[str],
    strengths: Sequence[float],
    control: bool,
    **where: str | None,
) -> tuple[LiveModel, VectorSet, Study]:
    seen: Seen | None = None

    def study_of(fit: VectorSet) -> Study:
        nonlocal seen
        seen = seen or _seen(fit, (), asked)
        seed = settings.sampling.seed
        return steered_study(asked, fit, weights, emotions, strengths, control=control, seed=seed, seen=seen)

    if model is None:
        raise InputError("no model: give --model")
    running = {"dtype": settings.dtype, "device": settings.device, "device_map": settings.device_map}
    live, found = open_steered(model, vectors, accept=study_of, **where, **running)  # type: ignore[arg-type]
    return live, found, study_of(found)


def _seen(vectors: VectorSet | None, records: Sequence[Record], asked: Questions) -> Seen:
    """The queries behind the vectors, or else behind everything that was baked; known only if all are."""
    baked = [bake for record in records for bake in (record, *record.history)]
    origins = [(one.vector_source, one.vector_queries) for one in baked] or [("", {})]
    if vectors is not None:
        origins = [(vectors.source, vectors.queries)]
    found = [extraction_queries(source, queries, asked) for source, queries in origins]
    known = [one.texts for one in found if one.texts is not None]
    if len(known) < len(found):
        return next(one for one in found if one.texts is None)
    return Seen(frozenset[str]().union(*known), found[0].what)


def _load(model: str | os.PathLike[str], settings: Settings, **where: Any) -> LiveModel:
    from ..models.loading import load

    if not os.fspath(model):
        raise InputError("which base the checkpoints come from is not recorded; give it as --model")
    if is_gguf(str(model)):
        raise InputError(f"{model}: an evaluation runs checkpoints; give the one that the GGUF file was made from")
    return load(str(model), dtype=settings.dtype, device=settings.device, device_map=settings.device_map, **where)


def _label(live: LiveModel | None) -> str:
    if live is None:
        return "model"
    return live.base_model.rpartition("/")[2] or Path(live.name).absolute().name
