"""Neutral prompts, on which a steered model is compared with its base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..core.progress import Advance, no_advance
from ..models.hooks import adding
from ..models.likelihood import Pair, SteeredModel, answer_logits, batches, divergences
from ..models.loading import model_failing
from ..models.sampling import Sampling, Tokens, sample
from .query_sets import EVERYDAY, open_questions

if TYPE_CHECKING:
    import torch

PROMPTS = 32
TOKENS = 50
"""Tokens of an answer that are compared."""


def neutral_count(limit: int | None) -> int:
    """Number of neutral prompts: all `PROMPTS`, or fewer if the user wants a quick look at `limit` prompts."""
    return PROMPTS if limit is None else min(limit, PROMPTS)


def neutral_prompts(steered: SteeredModel, count: int = PROMPTS, system: str = "") -> Sequence[Tokens]:
    """Token ids of `count` everyday queries, spread over the shipped ones, each under the same `system` prompt."""
    return steered.live.prompts(open_questions(EVERYDAY).limited(count).texts, system)


def continued(
    steered: SteeredModel,
    prompts: Sequence[Tokens],
    batch_size: int,
    advance: Advance = no_advance,
    *,
    tokens: int = TOKENS,
) -> list[Pair]:
    """Answer each prompt greedily, in at most so many `tokens`; `advance` is told of finished ones.

    An empty answer becomes one padding token, so that the one distribution there is gets compared.

    Raises:
        ModelError: the model failed.
    """
    live = steered.live
    pairs: list[Pair] = []
    for start in range(0, len(prompts), batch_size):
        batch = prompts[start : start + batch_size]
        with model_failing(live.name), adding(live.model, live.family, steered.rows, steered.scope):
            names = [str(start + i) for i in range(len(batch))]
            answers = sample(live, batch, Sampling(tokens, temperature=0.0), names)
        pairs += [(prompt, answer or (live.pad_token,)) for prompt, answer in zip(batch, answers, strict=True)]
        advance(len(batch))
    return pairs


@dataclass(frozen=True, eq=False)
class Reference:
    """Answers to prompts, and a model's logits at their tokens, with which other models are compared."""

    live_name: str
    """Name of the model in messages."""
    parts: Sequence[Sequence[Pair]]
    """Prompts and answers, in batches that fit into memory."""
    logits: Sequence[Sequence[torch.Tensor]]
    """The model's `answer_logits` of each batch."""

    @classmethod
    def of(cls, steered: SteeredModel, pairs: Sequence[Pair]) -> Reference:
        """Take the logits of `steered`.

        Raises:
            ModelError: the model failed.
        """
        parts = [[pairs[i] for i in batch] for batch in batches(steered.live, pairs)]
        with model_failing(steered.live.name):
            return cls(steered.live.name, parts, [answer_logits(steered, part) for part in parts])

    def divergences(self, other: SteeredModel) -> list[float]:
        """KL of another model from this one in nats, at each token of the answers.

        Raises:
            ModelError: the model failed.
        """
        parts = zip(self.logits, self.parts, strict=True)
        with model_failing(self.live_name):
            return [x for own, part in parts for one in divergences(own, other, part) for x in one]
