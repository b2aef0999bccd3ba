"""Letting a live model answer a batch of prompts, so that an answer depends neither on its batch nor on the order.

Prompts are padded on the left and each token attends to its own prompt only; with a temperature every prompt draws
random numbers of its own. Needs torch and transformers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .loading import LiveModel

if TYPE_CHECKING:
    import torch

Tokens = Sequence[int]


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn. The same seed gives an answer the same random numbers whatever its batch is."""

    max_new_tokens: int = 64
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    seed: int = 0


def sample(
    live: LiveModel,
    prompts: Sequence[Tokens],
    sampling: Sampling,
    names: Sequence[str],
    watch: Callable[[torch.Tensor], None] = lambda alive: None,
) -> tuple[tuple[int, ...], ...]:
    """The tokens with which the model answers each of `prompts`, without what ends an answer.

    `names` identify the prompts: with a temperature, each draws its random numbers by the seed and its name. Before
    each pass over new tokens `watch` gets a bool ``[prompts]``: whose answer has not ended.
    """
    import torch
    from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

    ids, attention = padded(live, prompts, "left")
    ends = torch.tensor(live.end_tokens, device=ids.device)
    alive = torch.ones(len(prompts), dtype=torch.bool, device=ids.device)

    class Watch(StoppingCriteria):  # type: ignore[misc]
        """Between two passes: the token just drawn is what the next pass computes, unless it is an end."""

        def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
            alive.logical_and_(~torch.isin(input_ids[:, -1], ends))
            watch(alive)
            return ~alive

    config = GenerationConfig(
        do_sample=False,
        # One more than wanted: the last token drawn is never passed through the model, and is dropped below.
        max_new_tokens=sampling.max_new_tokens + 1,
        eos_token_id=list(live.end_tokens) or None,
        pad_token_id=live.pad_token,
    )
    with torch.inference_mode():
        sequences = live.model.generate(
            input_ids=ids,
            attention_mask=attention,
            generation_config=config,
            stopping_criteria=StoppingCriteriaList([Watch()]),
            logits_processor=_drawing(sampling, names),
        )
    return tuple(
        _until(row, live.end_tokens) for row in sequences[:, ids.shape[1] :][:, : sampling.max_new_tokens].tolist()
    )


def padded(live: LiveModel, rows: Sequence[Tokens], side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, both ``[sequences, longest]``."""
    import torch

    width = max(map(len, rows))
    ids = torch.full((len(rows), width), live.pad_token, dtype=torch.long)
    attention = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        place = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        ids[i, place] = torch.tensor(row, dtype=torch.long)
        attention[i, place] = 1
    return ids.to(live.device), attention.to(live.device)


def _until(tokens: Sequence[int], ends: Sequence[int]) -> tuple[int, ...]:
    end = next((i for i, token in enumerate(tokens) if token in ends), len(tokens))
    return tuple(tokens[:end])


def _drawing(sampling: Sampling, names: Sequence[str]) -> Any:
    """Logits processors after which the largest logit is a draw at the temperature; none for greedy."""
    import torch
    from transformers import LogitsProcessor, LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

    if sampling.temperature == 0:
        return LogitsProcessorList()
    seeds = [hashlib.sha256(f"{sampling.seed}/{name}".encode()).digest()[:8] for name in names]
    generators = [torch.Generator().manual_seed(int.from_bytes(seed, "little") >> 1) for seed in seeds]

    class Draw(LogitsProcessor):  # type: ignore[misc]
        """Gumbel noise: the index of ``logit + noise``'s maximum is distributed as the softmax.

        `generate`'s own sampling draws for the whole batch at once, so an answer would depend on its neighbours.
        """

        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            noise = torch.stack([torch.rand(scores.shape[1], generator=g) for g in generators])
            return scores - torch.log(-torch.log(noise.clamp(1e-20, 1 - 1e-7))).to(scores.device, scores.dtype)

    warpers = [TemperatureLogitsWarper(sampling.temperature)]
    if sampling.top_p < 1:
        warpers.append(TopPLogitsWarper(sampling.top_p))
    return LogitsProcessorList([*warpers, Draw()])
