"""Generating text with a live model: one call of transformers' `generate` for every purpose.

In a batch, an answer depends neither on its neighbours nor on their order: prompts are padded on the left, each token
attends to its own prompt only, and with a temperature every prompt draws random numbers of its own. Needs torch and
transformers.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from .loading import LiveModel

if TYPE_CHECKING:
    import torch

Tokens = Sequence[int]


@dataclass(frozen=True)
class Sampling:
    """Sampling of the answers. The defaults are those of the answers published with the paper.

    Raises:
        InputError: a number out of its range, or none.
    """

    max_new_tokens: int = 512
    temperature: float = 0.6
    """0 is greedy."""
    top_p: float = 0.9
    seed: int | None = 0
    """An answer gets the same random numbers whatever its batch; None (in a conversation) draws anew each time."""

    def __post_init__(self) -> None:
        if not self.max_new_tokens >= 1:
            raise InputError(f"`max_new_tokens` takes a number from 1 on, not {self.max_new_tokens}")
        if not 0 <= self.temperature < math.inf:
            raise InputError(f"`temperature` takes a number from 0 on, not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise InputError(f"`top_p` takes a number above 0, at most 1, not {self.top_p}")


GREEDY = Sampling(max_new_tokens=64, temperature=0.0, top_p=1.0)
"""Short greedy answers, as extraction uses them."""


def generate(
    model: Any,
    ids: torch.Tensor,
    attention: torch.Tensor,
    *,
    max_new_tokens: int,
    end_tokens: Sequence[int],
    pad_token: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    **more: Any,
) -> Any:
    """Call the model's `generate` on token ids ``[sequences, positions]``; greedy without a temperature.

    `more` are further arguments of transformers, such as a streamer.
    """
    import torch

    # As arguments, not as a GenerationConfig: transformers 4 reads a `do_sample` of False in a config as not set, and
    # samples as the model's own configuration says.
    drawing: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    if temperature > 0:
        drawing = {"do_sample": True, "temperature": temperature, "top_p": top_p}
    with torch.inference_mode():
        return model.generate(
            input_ids=ids,
            attention_mask=attention,
            max_new_tokens=max_new_tokens,
            eos_token_id=list(end_tokens) or None,
            pad_token_id=pad_token,
            **drawing,
            **more,
        )


def sample(
    live: LiveModel,
    prompts: Sequence[Tokens],
    sampling: Sampling,
    names: Sequence[str],
    watch: Callable[[torch.Tensor], None] = lambda alive: None,
) -> tuple[tuple[int, ...], ...]:
    """Generate an answer to each of `prompts`, without the token that ends it.

    With a temperature, each prompt draws random numbers by the seed and its name in `names`. Before each pass over new
    tokens, `watch` receives a bool ``[prompts]``: the answers that have not ended.
    """
    import torch
    from transformers import StoppingCriteria, StoppingCriteriaList

    ids, attention = padded(live, prompts, "left")
    ends = torch.tensor(live.end_tokens, device=ids.device)
    alive = torch.ones(len(prompts), dtype=torch.bool, device=ids.device)

    class Watch(StoppingCriteria):  # type: ignore[misc]
        """Called between two passes: the token just drawn is the input of the next pass, unless it is an end."""

        def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
            alive.logical_and_(~torch.isin(input_ids[:, -1], ends))
            watch(alive)
            return ~alive

    sequences = generate(
        live.model,
        ids,
        attention,
        # One more than wanted: the last token drawn is never passed through the model, and is dropped below.
        max_new_tokens=sampling.max_new_tokens + 1,
        end_tokens=live.end_tokens,
        pad_token=live.pad_token,
        stopping_criteria=StoppingCriteriaList([Watch()]),
        logits_processor=_drawing(sampling, names),
    )
    return tuple(
        _until(row, live.end_tokens) for row in sequences[:, ids.shape[1] :][:, : sampling.max_new_tokens].tolist()
    )


def padded(live: LiveModel, rows: Sequence[Tokens], side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, both ``[sequences, longest]``, padded on the ``left`` or ``right``."""
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
        """Adds Gumbel noise: the index of ``logit + noise``'s maximum is distributed as the softmax.

        `generate`'s own sampling draws for the whole batch at once, so an answer would depend on its neighbours.
        """

        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            noise = torch.stack([torch.rand(scores.shape[1], generator=g) for g in generators])
            return scores - torch.log(-torch.log(noise.clamp(1e-20, 1 - 1e-7))).to(scores.device, scores.dtype)

    warpers = [TemperatureLogitsWarper(sampling.temperature)]
    if sampling.top_p < 1:
        warpers.append(TopPLogitsWarper(sampling.top_p))
    return LogitsProcessorList([*warpers, Draw()])
