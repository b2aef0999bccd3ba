"""Neutral prompts, on which a steered model is compared with its base."""

from __future__ import annotations

from collections.abc import Sequence

from ..core.progress import Advance, no_advance
from ..models.hooks import adding
from ..models.likelihood import Pair, SteeredModel
from ..models.loading import model_failing
from ..models.sampling import Sampling, Tokens, sample
from .query_sets import EVERYDAY, open_questions

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
    steered: SteeredModel, prompts: Sequence[Tokens], batch_size: int, advance: Advance = no_advance
) -> list[Pair]:
    """Answer each prompt greedily, in at most `TOKENS` tokens; `advance` is told of finished ones.

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
            answers = sample(live, batch, Sampling(TOKENS, temperature=0.0), names)
        pairs += [(prompt, answer or (live.pad_token,)) for prompt, answer in zip(batch, answers, strict=True)]
        advance(len(batch))
    return pairs
