"""Trained vectors: a row per layer that is optimised for emotional answers, while the weights stay frozen.

The rows are added at the site at every position, as a bias is. Adam lowers the cross entropy of the answers that the
model gives under the emotional condition, each after its query alone, plus a weight times the KL divergence from the
base on its neutral answers. An eighth of the queries is held out; the rows that are best there are kept. A vector
that is optimised for answers instead of averaged from them is the idea of BiPO (arXiv 2406.00045), whose loss is
another one. Needs torch and transformers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.progress import Advance, Progress, no_advance
from ..errors import InputError, ModelError
from ..models.hooks import site_modules
from ..models.likelihood import Pair, SteeredModel, answer_logits, batches, kl_divergence
from ..models.loading import LiveModel, model_failing
from .ledger import WorkFolder

if TYPE_CHECKING:
    import torch

Terms = Callable[[SteeredModel, Sequence[Pair], bool], "torch.Tensor"]
"""Sum of a figure over the tokens of all answers; differentiable if the last argument is true."""
_CHECK = 10
"""Steps between two looks at the held-out queries."""
_PATIENCE = 6
"""Looks without a better loss after which the training ends."""
_HELD_OUT = 8
"""One query of so many is held out."""
_MOST_HELD_OUT = 32


@dataclass(frozen=True)
class Training:
    """Settings of a training.

    Raises:
        InputError: a number out of its range.
    """

    steps: int = 300
    """Steps at most."""
    learning_rate: float = 0.02
    """Step size of Adam, as a share of the root mean square of the mean difference's row in the layer, so that one
    value suits models and layers of any size."""
    kl_weight: float = 0.3
    """Weight of the KL divergence, in nats per token, beside the cross entropy."""
    queries_per_step: int = 4
    seed: int = 0
    """Seed of the order of the queries."""

    def __post_init__(self) -> None:
        for name in ("steps", "queries_per_step"):
            if getattr(self, name) < 1:
                raise InputError(f"`{name}` takes a number from 1 on, not {getattr(self, name)}")
        if not 0 < self.learning_rate < math.inf:
            raise InputError(f"`learning_rate` takes a number above 0, not {self.learning_rate}")
        if not 0 <= self.kl_weight < math.inf:
            raise InputError(f"`kl_weight` takes a number from 0 on, not {self.kl_weight}")


@dataclass(frozen=True)
class Example:
    """Two answers to one query, each after the query alone."""

    emotional: Pair
    neutral: Pair


@dataclass(frozen=True)
class Loss:
    """Mean figures per token, in nats."""

    cross_entropy: float
    """Cross entropy of the emotional answers."""
    kl: float
    """KL divergence from the base, on the neutral answers."""

    def total(self, kl_weight: float) -> float:
        """The figure that is lowered."""
        return self.cross_entropy + kl_weight * self.kl


@dataclass(frozen=True, eq=False)
class Trained:
    """The rows of one emotion, and how they came about."""

    rows: np.ndarray
    """float32 ``[layers, hidden]``; zero in a layer without the site."""
    step: int
    """Step after which these rows were there; 0 if no step was better than the base."""
    before: Loss
    """Loss of the base on the held-out queries."""
    after: Loss
    """Loss of the rows on the held-out queries."""

    @property
    def record(self) -> dict[str, Any]:
        """The course of the training, as JSON data."""
        losses = {"before": self.before, "after": self.after}
        return {"step": self.step} | {
            name: {key: round(value, 4) for key, value in asdict(loss).items()} for name, loss in losses.items()
        }


def train_emotions(
    live: LiveModel,
    examples: Mapping[str, Sequence[Example]],
    differences: Mapping[str, np.ndarray],
    training: Training,
    work: WorkFolder,
    progress: Progress,
) -> dict[str, Trained]:
    """Train the rows of each emotion; `differences` are its mean differences, ``[layers, hidden]``.

    Finished emotions are kept in `work`. Of several processes each trains its share of the emotions.

    Raises:
        ModelError: an emotion with fewer than two examples, the model failed, or the loss is no number any more.
    """
    processes, ledger = work.processes, work.ledger("trained")
    for emotion, found in examples.items():
        if len(found) < 2:
            raise ModelError(
                f"{live.name}: answered fewer than two queries of {emotion}; look at the condition prompts"
            )
    for emotion in list(examples)[processes.rank :: processes.size]:
        if emotion not in ledger.done:
            advance = progress(f"training {emotion}", 0, training.steps)
            done = train(live, examples[emotion], differences[emotion], training, advance)
            ledger.add({emotion: asdict(done) | {"rows": done.rows.tolist()}})
    return {emotion: _from_record(ledger.gathered()[emotion]) for emotion in examples}


def train(
    live: LiveModel,
    examples: Sequence[Example],
    difference: np.ndarray,
    training: Training,
    advance: Advance = no_advance,
) -> Trained:
    """Train the rows of one emotion on two examples or more.

    The weights of the model need no gradients from then on. `advance` is told of the steps.

    Raises:
        ModelError: the model failed, or the loss is no number any more.
    """
    import torch

    live.model.requires_grad_(False)
    aside = (list(range(_HELD_OUT - 1, len(examples), _HELD_OUT)) or [len(examples) - 1])[:_MOST_HELD_OUT]
    held_out = [examples[i] for i in aside]
    order = _order([example for i, example in enumerate(examples) if i not in aside], training)
    rows = {
        layer: torch.zeros(live.hidden, device=live.device, requires_grad=True)
        for layer in site_modules(live.model, live.family, live.layers)
    }
    sizes = np.sqrt(np.square(difference).mean(axis=1))
    rates = [{"params": [row], "lr": training.learning_rate * float(sizes[layer])} for layer, row in rows.items()]
    optimiser = torch.optim.Adam(rates)
    steered = SteeredModel(live, rows)
    with model_failing(live.name):
        before = _loss(steered, held_out)
        best = Trained(_snapshot(live, rows), 0, before, before)
        for step in range(1, training.steps + 1):
            optimiser.zero_grad()
            _loss(steered, next(order), (1.0, training.kl_weight))
            optimiser.step()
            advance(1)
            if step % _CHECK and step < training.steps:
                continue
            found = _loss(steered, held_out)
            if not math.isfinite(found.total(training.kl_weight)):
                raise ModelError(f"{live.name}: the training diverged at step {step}; take a smaller `learning_rate`")
            if found.total(training.kl_weight) < best.after.total(training.kl_weight):
                best = Trained(_snapshot(live, rows), step, before, found)
            if step - best.step >= _PATIENCE * _CHECK:
                advance(training.steps - step)
                break
    return best


def _order(examples: Sequence[Example], training: Training) -> Iterator[list[Example]]:
    """Batches without end: every query once, in a random order, then all again."""
    random = np.random.default_rng(training.seed)
    left: list[Example] = []
    while True:
        while len(left) < training.queries_per_step:
            left += [examples[i] for i in random.permutation(len(examples))]
        yield left[: training.queries_per_step]
        left = left[training.queries_per_step :]


def _loss(steered: SteeredModel, examples: Sequence[Example], weights: tuple[float, float] | None = None) -> Loss:
    """Measure the loss on `examples`.

    With `weights`, of the cross entropy and of the KL, add the gradients of the weighted sum to those of the rows.
    """
    first, second = weights or (None, None)
    return Loss(
        _mean(_cross_entropy, steered, [example.emotional for example in examples], first),
        _mean(_divergence, steered, [example.neutral for example in examples], second),
    )


def _mean(terms: Terms, steered: SteeredModel, pairs: Sequence[Pair], weight: float | None) -> float:
    """The mean of `terms` over the tokens of all answers, in passes that fit into memory."""
    tokens, total = sum(len(answer) for _, answer in pairs), 0.0
    for batch in batches(steered.live, pairs):
        part = terms(steered, [pairs[i] for i in batch], weight is not None) / tokens
        if weight:
            (weight * part).backward()
        total += float(part.detach())
    return total


def _cross_entropy(steered: SteeredModel, pairs: Sequence[Pair], differentiable: bool) -> torch.Tensor:
    import torch

    found = answer_logits(steered, pairs, differentiable=differentiable)
    targets = torch.tensor([token for _, answer in pairs for token in answer], device=found[0].device)
    return torch.nn.functional.cross_entropy(torch.cat(found), targets, reduction="sum")


def _divergence(steered: SteeredModel, pairs: Sequence[Pair], differentiable: bool) -> torch.Tensor:
    import torch

    known = answer_logits(SteeredModel(steered.live), pairs)
    found = answer_logits(steered, pairs, differentiable=differentiable)
    return kl_divergence(torch.cat(known), torch.cat(found)).sum()


def _snapshot(live: LiveModel, rows: Mapping[int, torch.Tensor]) -> np.ndarray:
    table = np.zeros((live.layers, live.hidden), np.float32)
    for layer, row in rows.items():
        table[layer] = row.detach().cpu().numpy()
    return table


def _from_record(record: Mapping[str, Any]) -> Trained:
    losses = (Loss(**record[key]) for key in ("before", "after"))
    return Trained(np.array(record["rows"], np.float32), record["step"], *losses)
