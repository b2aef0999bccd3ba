"""`extract`: emotion vectors for a model, by the paper's method, resumable and over several processes.

For every query the model answers under an emotional and under a neutral condition; each layer's attention output
is averaged over the tokens of the answer, the neutral mean subtracted from the emotional, and the differences
averaged over the queries of an emotion (arXiv 2502.04075). Only sums are kept: memory does not grow with the
number of queries.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .._version import __version__
from ..core.vector_set import EMOTIONS, SITE, VectorSet
from ..errors import EmobakeError, InputError, VectorError
from ..models.loading import LiveModel, fingerprint, load, model_failing
from ..models.sampling import Sampling, Tokens
from ..storage.files import read_small
from ..vectors.write import write_set
from .answer_means import generate, measure
from .contrast_sums import Sums
from .ledger import check_same, writing
from .processes import Team
from .queries import Answer, Contrast, Questionnaire, answer_line

Progress = Callable[[int, int], Callable[[int], None]]
"""Given how many contrasts are done and how many there are, what is called with the number done since."""


@dataclass(frozen=True, eq=False)
class Extraction:
    """What an extraction gave."""

    vectors: VectorSet
    skipped: tuple[Contrast, ...]
    """Contrasts in which one side had no answer at all."""


def extract(
    model: str | os.PathLike[str],
    out: str | os.PathLike[str],
    questionnaire: Questionnaire,
    *,
    revision: str | None = None,
    base_model: str = "",
    sampling: Sampling | None = None,
    batch_size: int = 16,
    dtype: str = "auto",
    device: str = "auto",
    device_map: str | None = None,
    save_answers: str | os.PathLike[str] | None = None,
    license: str = "",
    overwrite: bool = False,
    restart: bool = False,
    progress: Progress = lambda done, total: lambda more: None,
) -> Extraction:
    """Measure the vectors of all emotions in `questionnaire` and write them to `out`.

    Args:
        model: a checkpoint's folder, or a model id on the Hub.
        out: the file to write, in a form that `emobake.vector_exports.write_set` knows by its suffix.
        questionnaire: made by `emobake.queries.ask`, `parse_contrasts` or `parse_answers`.
        revision: branch, tag or commit of a Hub model.
        base_model: Hub id to record when `model` is a folder.
        sampling: how answers are generated (greedily without).
        batch_size: contrasts per batch; each is two sequences.
        dtype: of the model; auto is float32 on a CPU and the checkpoint's own elsewhere. Sums are float64.
        device: where it runs; auto is a GPU if there is one.
        device_map: ``auto`` spreads a large model over several devices.
        save_answers: JSONL file to record the answers in, for `parse_answers`.
        license: licence identifier to record.
        overwrite: replace an existing `out`.
        restart: forget what an interrupted extraction to the same `out` had finished.
        progress: told of the contrasts of this process.

    A killed run goes on from the last finished batch: its sums are in a folder ``<out>.partial`` beside `out`. Under
    ``accelerate launch`` each process takes its share of the batches and the first one writes.

    Raises:
        InputError: (exit code 2) bad input, or `out` exists; nothing was written.
        EmobakeError: (exit code 1) the model does not load or run, or `out` cannot be written.

    """
    target, sampling = Path(out), sampling or Sampling()
    if target.exists() and not overwrite:
        raise InputError(f"{target}: exists; choose another --out, or --overwrite")
    if not target.absolute().parent.is_dir():
        raise InputError(f"{target}: its folder does not exist; make it first")
    team = Team()
    live = load(str(model), revision=revision, base_model=base_model, dtype=dtype, device=device, device_map=device_map)
    record = _record(live, questionnaire, sampling)
    work = _Work(
        Path(f"{target}.partial"), team, record | {"weights": fingerprint(live)}, questionnaire, live, restart=restart
    )
    batches = _batches(live, questionnaire.contrasts, batch_size)
    mine = [rest for batch in batches[team.rank :: team.size] if (rest := [i for i in batch if i not in work.done])]
    begun = sum(map(len, batches[team.rank :: team.size]))
    advance = progress(begun - sum(map(len, mine)), begun)
    for batch in mine:
        contrasts = [questionnaire.contrasts[i] for i in batch]
        answers, differences = _measure(live, contrasts, sampling)
        work.add(batch, contrasts, answers, differences)
        advance(len(batch))
    sums, lines = work.gather()
    skipped = tuple(questionnaire.contrasts[i] for i in sorted(sums.skipped))
    vectors = _finish(sums, live, record | {"skipped": len(skipped)}, target.name, license)
    if team.rank == 0:
        write_set(vectors, target, overwrite=overwrite)
        if save_answers is not None:
            _write_lines(Path(save_answers), lines)
        work.remove()
    team.wait()
    return Extraction(vectors, skipped)


def _record(live: LiveModel, questionnaire: Questionnaire, sampling: Sampling) -> dict[str, Any]:
    """What the result depends on, as JSON data without local paths."""
    import torch
    import transformers

    record = {
        "emobake": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "model": live.base_model or live.arch.model_type,
        "revision": live.revision,
        "dtype": str(live.model.dtype).removeprefix("torch."),
        **questionnaire.record,
    }
    if any(contrast.positive is None for contrast in questionnaire.contrasts):
        record["max_new_tokens"] = sampling.max_new_tokens
        if sampling.temperature:
            record |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "seed": sampling.seed}
    return record


def _batches(live: LiveModel, contrasts: Sequence[Contrast], size: int) -> list[list[int]]:
    """Indices of contrasts of about the same length, the longest first: if memory is short, it shows at once."""
    lengths = [sum(len(text or "") for text in (c.positive_prompt, c.negative_prompt)) for c in contrasts]
    lengths = [
        length + sum(len(a.text) for a in (c.positive, c.negative) if a)
        for length, c in zip(lengths, contrasts, strict=True)
    ]
    order = sorted(range(len(contrasts)), key=lambda i: (-lengths[i], i))
    return [order[start : start + size] for start in range(0, len(order), size)]


def _measure(
    live: LiveModel, contrasts: Sequence[Contrast], sampling: Sampling
) -> tuple[list[tuple[Answer, Answer]], np.ndarray]:
    """The answers, and positive minus negative mean: float32 ``[contrasts, layers, hidden]``; NaN without answers."""
    sides = [
        (prompt, answer, f"{c.emotion}/{c.number}/{side}")
        for c in contrasts
        for side, prompt, answer in (("+", c.positive_prompt, c.positive), ("-", c.negative_prompt, c.negative))
    ]
    pairs = [_tokenized(live, prompt, answer) for prompt, answer, _ in sides]
    with model_failing(live.name):
        if contrasts[0].positive is None:
            found = generate(live, [prompt for prompt, _ in pairs], sampling, [name for _, _, name in sides])
        else:
            found = measure(live, [prompt for prompt, _ in pairs], [answer for _, answer in pairs])
    answers = [
        given or Answer(live.tokenizer.decode(tokens, skip_special_tokens=False), tokens)
        for (_, given, _), tokens in zip(sides, found.answers, strict=True)
    ]
    empty = np.array([not tokens for tokens in found.answers]).reshape(-1, 2).any(axis=1)
    differences = found.means[0::2] - found.means[1::2]
    differences[empty] = np.nan
    return list(zip(answers[0::2], answers[1::2], strict=True)), differences


def _tokenized(live: LiveModel, prompt: str | None, answer: Answer | None) -> tuple[Tokens, Tokens]:
    """Token ids in front of the answer, and of the answer (empty if it is still to be generated)."""
    before: list[int] = [] if prompt is None else live.prompt([{"role": "user", "content": prompt}])
    if answer is None:
        return before, ()
    if answer.tokens and live.tokenizer.decode(answer.tokens, skip_special_tokens=False) == answer.text:
        return before, answer.tokens
    tokens = live.tokenizer(answer.text, add_special_tokens=False)["input_ids"]
    if prompt is None and live.tokenizer.bos_token_id in live.tokenizer(answer.text)["input_ids"][:1]:
        # A text that stands for itself begins as the model knows texts; the beginning itself is not measured.
        before = [live.tokenizer.bos_token_id]
    return before, tokens


def _finish(sums: Sums, live: LiveModel, record: dict[str, Any], name: str, license: str) -> VectorSet:
    order = sorted(sums.emotions, key=lambda e: (EMOTIONS.index(e) if e in EMOTIONS else len(EMOTIONS), e))
    for emotion in order:
        if not sums.count(emotion):
            raise VectorError(f"{live.name}: gave no answer at all for {emotion}; look at the condition prompts")
    rows = np.stack([sums.mean(emotion) for emotion in order]).astype(np.float32)
    if not np.isfinite(rows).all():
        raise EmobakeError(f"{live.name}: its attention outputs are not finite; try --dtype float32")
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


class _Work:
    """What this process has finished, in memory and in the folder from which a killed run goes on."""

    def __init__(
        self,
        folder: Path,
        team: Team,
        record: dict[str, Any],
        questionnaire: Questionnaire,
        live: LiveModel,
        *,
        restart: bool,
    ) -> None:
        self.folder, self.team = folder, team
        self.contrasts = questionnaire.contrasts
        if team.rank == 0:
            with writing(folder):
                if restart and folder.exists():
                    shutil.rmtree(folder)
                folder.mkdir(exist_ok=True)
                check_same(folder, record, "an extraction")
        team.wait()
        folder.mkdir(exist_ok=True)  # on other machines
        # Every file holds other contrasts than the rest. A run with fewer processes than the one before leaves files
        # without an owner, which the first process takes over.
        shape = (live.layers, live.hidden)
        self.sums = Sums.load(self._file(team.rank), questionnaire.emotions, shape)
        if team.rank == 0:
            for file in sorted(folder.glob("sums-*.safetensors")):
                if int(file.stem.partition("-")[2]) >= team.size:
                    self.sums = self.sums.plus(Sums.load(file, questionnaire.emotions, shape))
                    self.sums.save(self._file(0))
                    file.unlink()
        self.done = frozenset(team.gather(sorted(self.sums.done)))

    def _file(self, rank: int) -> Path:
        return self.folder / f"sums-{rank}.safetensors"

    def add(
        self,
        batch: Sequence[int],
        contrasts: Sequence[Contrast],
        answers: Sequence[tuple[Answer, Answer]],
        differences: np.ndarray,
    ) -> None:
        """Take a finished batch in, and keep it on the disk: first the answers, then the sums that say it is done."""
        with writing(self.folder):
            with (self.folder / f"answers-{self.team.rank}.jsonl").open("a", encoding="utf-8") as file:
                file.write("\n")  # ends what a killed run may have left half written
                for i, contrast, pair in zip(batch, contrasts, answers, strict=True):
                    file.write(f"{i} {answer_line(contrast, *pair)}")
            for i, contrast, difference in zip(batch, contrasts, differences, strict=True):
                self.sums.add(i, contrast.emotion, contrast.number, difference)
            self.sums.save(self._file(self.team.rank))

    def gather(self) -> tuple[Sums, list[str]]:
        """The sums of all processes, and their answers as lines of JSONL in the order of the questionnaire."""
        lines: dict[int, str] = {}
        for file in self.folder.glob("answers-*.jsonl"):
            for line in read_small(file, str(file)).decode("utf-8", "replace").split("\n"):
                number, _, text = line.partition(" ")
                with contextlib.suppress(ValueError):
                    json.loads(text)
                    lines[int(number)] = text + "\n"
        own = {i: text for i, text in lines.items() if i in self.sums.done}
        return self.sums.gathered(self.team.sum, self.team.gather), [
            text for _, text in sorted(set(self.team.gather(list(own.items()))))
        ]

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def _write_lines(file: Path, lines: Iterable[str]) -> None:
    with writing(file):
        file.write_text("".join(lines), encoding="utf-8")
