"""The neutral prompts on which a steered model is held against its base."""

from __future__ import annotations

from collections.abc import Sequence

from ..models.hooks import steered
from ..models.likelihood import Pair, Side
from ..models.loading import model_failing
from ..models.sampling import Sampling, Tokens, sample
from .query_sets import EVERYDAY, open_questions

PROMPTS = 32
TOKENS = 50
"""Of an answer that are looked at."""


def neutral_prompts(side: Side) -> list[Tokens]:
    """Token ids of everyday queries, spread over those that come with emobake."""
    texts = open_questions(EVERYDAY).limited(PROMPTS).texts
    return [side.live.prompt([{"role": "user", "content": text}]) for text in texts]


def continued(side: Side, prompts: Sequence[Tokens], batch_size: int) -> list[Pair]:
    """Each prompt with what the model, steered as `side` says, answers greedily in at most `TOKENS` tokens.

    Where that is nothing at all, one token stands there, so that the one distribution there is, is looked at.

    Raises:
        EmobakeError: the model failed.
    """
    live = side.live
    pairs: list[Pair] = []
    for start in range(0, len(prompts), batch_size):
        batch = prompts[start : start + batch_size]
        with model_failing(live.name), steered(live.model, live.arch, side.rows, side.scope):
            answers = sample(live, batch, Sampling(TOKENS), [str(start + i) for i in range(len(batch))])
        pairs += [(prompt, answer or (live.pad_token,)) for prompt, answer in zip(batch, answers, strict=True)]
    return pairs
