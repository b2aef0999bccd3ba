"""`extract`: emotion vectors for a model, by the paper's method, resumable and over several processes.

For every query the model answers under an emotional and under a neutral condition; each layer's attention output is
averaged over the tokens of the answer, the neutral mean subtracted from the emotional, and the differences averaged
over the queries of an emotion (arXiv 2502.04075). Only sums are kept: memory does not grow with the number of queries.
A `Training` instead of the mean takes the same answers, and optimises the vectors for them.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .._version import __version__
from ..core.progress import Notice, Progress, no_notice, no_progress
from ..core.sites import SITE
from ..core.vector_set import VectorSet
from ..errors import InputError, ModelError, VectorError
from ..models.loading import LiveModel, Runtime, fingerprint, load, model_failing
from ..models.sampling import GREEDY, Sampling, Tokens
from ..storage.model_name import ModelName
from ..storage.publish import write_file
from ..vectors.arithmetic import keep_best_layers
from ..vectors.formats.metadata import in_order
from ..vectors.write import write_set
from .answer_means import generate_means, measure_means
from .contrast_sums import ContrastSums
from .ledger import WorkFolder, writing
from .processes import Processes
from .queries import Answer, Contrast, Questionnaire, answer_line, parse_answers
from .training import Example, Training, train_emotions


@dataclass(frozen=True)
class MeanDifference:
    """The paper's method, and what may be changed about it.

    Raises:
        InputError: `best_layers` is no number from 1 on.
    """

    subtract_mean: bool = False
    """Subtract from each difference the mean over the emotions that were asked the same query (arXiv 2510.11328)."""
    best_layers: int | None = None
    """Keep so many layers of each emotion, those with the largest `emobake.vectors.arithmetic.separation`."""

    def __post_init__(self) -> None:
        if self.best_layers is not None and self.best_layers < 1:
            raise InputError(f"`best_layers` takes a number from 1 on, not {self.best_layers}")


Method = MeanDifference | Training
"""A way to make vectors of answers."""


@dataclass(frozen=True, eq=False)
class Extraction:
    """A finished extraction."""

    vectors: VectorSet
    skipped: tuple[Contrast, ...]
    """Contrasts in which one side had no answer."""


def extract(
    model: str | os.PathLike[str] | ModelName,
    out: str | os.PathLike[str],
    questionnaire: Questionnaire,
    *,
    method: Method = MeanDifference(),
    sampling: Sampling = GREEDY,
    runtime: Runtime | None = None,
    save_answers: str | os.PathLike[str] | None = None,
    license: str = "",
    overwrite: bool = False,
    restart: bool = False,
    progress: Progress = no_progress,
    notice: Notice = no_notice,
) -> Extraction:
    """Measure the vectors of all emotions in `questionnaire` and write them to `out`.

    A killed run continues after its last finished batch: its sums are in a folder ``<out>.partial`` beside `out`. Under
    ``accelerate launch`` each process takes its share of the batches and the first one writes. With a `Training` the
    answers come first, then each emotion in turn is trained; the steps of an unfinished one are lost when killed.

    Args:
        model: a checkpoint's folder, or a model id on the Hub.
        out: the file to write, in a form that `emobake.write_set` knows by its suffix.
        questionnaire: made by `ask`, `parse_contrasts` or `parse_answers` of `emobake.measure.queries`.
        method: `MeanDifference`, or a `Training`.
        sampling: how answers are generated.
        runtime: how the model runs; a batch has `Runtime.batch_size` contrasts of two sequences each. Sums
            are float64.
        save_answers: JSONL file to record the answers in, for `parse_answers`.
        license: licence identifier to record.
        overwrite: replace an existing `out`.
        restart: forget the finished work of an interrupted extraction to the same `out`.
        progress: told of the contrasts of this process, and of the steps of a training.
        notice: told of what the user must not miss, such as a model without a chat template.

    Raises:
        InputError: (exit code 2) bad input, or `out` exists; nothing was written.
        ModelError: (exit code 1) the model does not load or run. OutputError: `out` cannot be written.
    """
    target, runtime = Path(out), runtime or Runtime()
    if target.exists() and not overwrite:
        raise InputError(f"{target}: exists; choose another `out`, or `overwrite`")
    if not target.absolute().parent.is_dir():
        raise InputError(f"{target}: its folder does not exist; make it first")
    _check_enough(method, questionnaire)
    groups = questionnaire.scenarios() if isinstance(method, MeanDifference) and method.subtract_mean else None
    processes = Processes()
    live = load(ModelName.parse(model), runtime)
    if live.note and processes.is_first:
        notice(live.note)
    record = _record(live, questionnaire, method, sampling)
    begun = record | {"weights": fingerprint(live)}
    work = WorkFolder(Path(f"{target}.partial"), processes, begun, "an extraction", restart=restart)
    state = _State(work, questionnaire, (live.layers, live.hidden))
    batches = groups or _batches(questionnaire.contrasts, runtime.batch_size)
    for batch in _announced(state, batches, progress):
        contrasts = [questionnaire.contrasts[i] for i in batch]
        answers, differences = _measure(live, contrasts, sampling, runtime.batch_size)
        if groups is not None:
            differences -= differences.mean(axis=0)  # Of NaN, an answer that is missing, comes NaN for each of them.
        state.add(batch, contrasts, answers, differences)
    sums, lines = state.gather()
    skipped = tuple(questionnaire.contrasts[i] for i in sorted(sums.skipped))
    vectors = _mean_vectors(sums, live, record | {"skipped": len(skipped)}, target.name, license)
    if isinstance(method, Training):
        vectors = _trained(live, vectors, lines, method, work, progress)
    else:
        vectors = _changed(vectors, method)
    if processes.is_first:
        write_set(vectors, target, overwrite=overwrite)
        if save_answers is not None:
            with writing(Path(save_answers)):
                write_file(Path(save_answers), "".join(lines).encode())
        work.remove()
    processes.wait()
    return Extraction(vectors, skipped)


def _check_enough(method: Method, questionnaire: Questionnaire) -> None:
    """Refuse, before any work, contrasts of which the method cannot make vectors.

    Raises:
        InputError: an emotion with one query where two are needed, or an answer without its query.
    """
    trained = isinstance(method, Training)
    if trained and not all(contrast.query for contrast in questionnaire.contrasts):
        raise InputError("training needs the query of each answer; give each pair of texts a 'prompt'")
    counts = Counter(contrast.emotion for contrast in questionnaire.contrasts)
    emotion, count = min(counts.items(), key=lambda entry: entry[1])
    if count < 2 and (isinstance(method, Training) or method.best_layers):
        why = "one to learn from, one held out" if trained else "one has no spread"
        raise InputError(f"{'training' if trained else '`best_layers`'} needs two queries of {emotion} at least: {why}")


class _State:
    """Finished contrasts: sums in memory, and on the disk with the answers, so that a killed run continues.

    Each process has a file of sums of other contrasts than the rest. A run with fewer processes than the one before
    leaves files without an owner; the first process takes them over.
    """

    def __init__(self, work: WorkFolder, questionnaire: Questionnaire, shape: tuple[int, int]) -> None:
        self.work, self.processes = work, work.processes
        self.answers = work.ledger("answers")
        self._file = work.folder / f"sums-{self.processes.rank}.safetensors"
        self.sums = ContrastSums.load(self._file, questionnaire.emotions, shape)
        if self.processes.is_first:
            for file in sorted(work.folder.glob("sums-*.safetensors")):
                if int(file.stem.partition("-")[2]) >= self.processes.size:
                    self.sums = self.sums.plus(ContrastSums.load(file, questionnaire.emotions, shape))
                    self.sums.save(self._file)
                    file.unlink()
        self.done = frozenset(self.processes.gather(sorted(self.sums.done)))

    def add(
        self,
        batch: Sequence[int],
        contrasts: Sequence[Contrast],
        answers: Sequence[tuple[Answer, Answer]],
        differences: np.ndarray,
    ) -> None:
        """Take in a finished batch, and keep it on the disk: first the answers, then the sums that say it is done."""
        lines = [answer_line(contrast, *pair) for contrast, pair in zip(contrasts, answers, strict=True)]
        self.answers.add({str(i): line for i, line in zip(batch, lines, strict=True)})
        for i, contrast, difference in zip(batch, contrasts, differences, strict=True):
            self.sums.add(i, contrast.emotion, contrast.number, difference)
        with writing(self.work.folder):
            self.sums.save(self._file)

    def gather(self) -> tuple[ContrastSums, list[str]]:
        """The sums of all processes, and their answers as lines of JSONL in the order of the questionnaire."""
        sums, answers = self.sums.gathered(self.processes), self.answers.gathered()
        return sums, [answers[str(i)] for i in sorted(sums.done) if str(i) in answers]


def _announced(state: _State, batches: Sequence[Sequence[int]], progress: Progress) -> Iterable[list[int]]:
    """Yield the unfinished contrasts of each batch of this process, and report each batch once it is done."""
    own = batches[state.processes.rank :: state.processes.size]
    left = [rest for batch in own if (rest := [i for i in batch if i not in state.done])]
    total = sum(map(len, own))
    advance = progress("queries", total - sum(map(len, left)), total)
    for batch in left:
        yield batch
        advance(len(batch))


def _record(live: LiveModel, questionnaire: Questionnaire, method: Method, sampling: Sampling) -> dict[str, Any]:
    """Settings that the result depends on, as JSON data without local paths."""
    import torch
    import transformers

    record = {
        "emobake": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "model": live.base_model or live.family.label,
        "revision": live.revision,
        "dtype": str(live.model.dtype).removeprefix("torch."),
        **questionnaire.record,
    }
    if isinstance(method, Training):
        record["training"] = asdict(method)
    else:
        record |= {key: value for key, value in asdict(method).items() if value}
    if any(contrast.positive is None for contrast in questionnaire.contrasts):
        record["max_new_tokens"] = sampling.max_new_tokens
        if sampling.temperature:
            record |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "seed": sampling.seed}
    return record


def _batches(contrasts: Sequence[Contrast], size: int) -> list[list[int]]:
    """Indices of contrasts of similar length, the longest first: if memory is short, it shows at once."""
    lengths = [sum(len(text or "") for text in (c.positive_prompt, c.negative_prompt)) for c in contrasts]
    lengths = [
        length + sum(len(a.text) for a in (c.positive, c.negative) if a)
        for length, c in zip(lengths, contrasts, strict=True)
    ]
    order = sorted(range(len(contrasts)), key=lambda i: (-lengths[i], i))
    return [order[start : start + size] for start in range(0, len(order), size)]


def _measure(
    live: LiveModel, contrasts: Sequence[Contrast], sampling: Sampling, size: int
) -> tuple[list[tuple[Answer, Answer]], np.ndarray]:
    """Measure as `_measure_at_once` does, `size` contrasts at a time."""
    parts = [contrasts[start : start + size] for start in range(0, len(contrasts), size)]
    answers, differences = zip(*(_measure_at_once(live, part, sampling) for part in parts), strict=True)
    return [pair for found in answers for pair in found], np.concatenate(differences)


def _measure_at_once(
    live: LiveModel, contrasts: Sequence[Contrast], sampling: Sampling
) -> tuple[list[tuple[Answer, Answer]], np.ndarray]:
    """The answers, and positive minus negative mean: float32 ``[contrasts, layers, hidden]``; NaN without answers."""
    sides = [
        (prompt, answer, f"{c.emotion}/{c.number}/{side}")
        for c in contrasts
        for side, prompt, answer in (("+", c.positive_prompt, c.positive), ("-", c.negative_prompt, c.negative))
    ]
    prompts = iter(live.prompts([prompt for prompt, _, _ in sides if prompt is not None]))
    pairs = [_tokenized(live, None if prompt is None else next(prompts), answer) for prompt, answer, _ in sides]
    with model_failing(live.name):
        if contrasts[0].positive is None:
            found = generate_means(live, [prompt for prompt, _ in pairs], sampling, [name for _, _, name in sides])
        else:
            found = measure_means(live, [prompt for prompt, _ in pairs], [answer for _, answer in pairs])
    answers = [
        given or Answer(live.tokenizer.decode(tokens, skip_special_tokens=False), tokens)
        for (_, given, _), tokens in zip(sides, found.answers, strict=True)
    ]
    empty = np.array([not tokens for tokens in found.answers]).reshape(-1, 2).any(axis=1)
    differences = found.means[0::2] - found.means[1::2]
    differences[empty] = np.nan
    return list(zip(answers[0::2], answers[1::2], strict=True)), differences


def _tokenized(live: LiveModel, prompt: Tokens | None, answer: Answer | None) -> tuple[Tokens, Tokens]:
    """Token ids of the prompt, and of the answer (empty if it is still to be generated)."""
    before: Tokens = prompt or []
    if answer is None:
        return before, ()
    if answer.tokens and live.tokenizer.decode(answer.tokens, skip_special_tokens=False) == answer.text:
        return before, answer.tokens
    tokens = live.tokenizer(answer.text, add_special_tokens=False)["input_ids"]
    if prompt is None and live.tokenizer.bos_token_id in live.tokenizer(answer.text)["input_ids"][:1]:
        # A text without a prompt begins as the model knows texts; the first token itself is not measured.
        before = [live.tokenizer.bos_token_id]
    return before, tokens


def _mean_vectors(sums: ContrastSums, live: LiveModel, record: Mapping[str, Any], name: str, license: str) -> VectorSet:
    order = in_order(sums.emotions)
    for emotion in order:
        if not sums.count(emotion):
            raise VectorError(f"{live.name}: gave no answer at all for {emotion}; look at the condition prompts")
    rows = np.stack([sums.mean(emotion) for emotion in order]).astype(np.float32)
    if not np.isfinite(rows).all():
        raise ModelError(f"{live.name}: its attention outputs are not finite; try `dtype` float32")
    return VectorSet(
        tuple(order),
        rows,
        name,
        site=SITE,
        base_model=live.base_model,
        source=f"emobake {__version__}: attention output averaged over the answer, emotional minus neutral condition",
        license=license,
        statistics={emotion: found for emotion in order if (found := sums.statistics(emotion)) is not None},
        extraction=record,
    )


def _changed(vectors: VectorSet, method: MeanDifference) -> VectorSet:
    if method.subtract_mean:
        vectors = replace(vectors, source=f"{vectors.source}; minus the mean over the emotions, query by query")
    return vectors if method.best_layers is None else keep_best_layers(vectors, method.best_layers)


def _trained(
    live: LiveModel, means: VectorSet, lines: Sequence[str], training: Training, work: WorkFolder, progress: Progress
) -> VectorSet:
    """Train vectors for the answers in `lines`; `means` are the mean differences of the same answers."""
    contrasts = parse_answers("".join(lines).encode(), "answers.jsonl").contrasts
    examples: dict[str, list[Example]] = {emotion: [] for emotion in means.emotions}
    for contrast, prompt in zip(contrasts, live.prompts([contrast.query for contrast in contrasts]), strict=True):
        emotional, neutral = (_tokenized(live, prompt, answer) for answer in (contrast.positive, contrast.negative))
        if emotional[1] and neutral[1]:
            examples[contrast.emotion].append(Example(emotional, neutral))
    differences = dict(zip(means.emotions, means.rows, strict=True))
    trained = train_emotions(live, examples, differences, training, work, progress)
    return replace(
        means,
        rows=np.stack([trained[emotion].rows for emotion in means.emotions]),
        source=f"emobake {__version__}: biases of the attention output, trained for the emotional answers",
        statistics={},
        extraction={**means.extraction, "trained": {emotion: found.record for emotion, found in trained.items()}},
    )
