"""Mean attention output over the tokens of an answer, per layer, for a batch of answers at a time.

Two ways that agree to rounding: while answers are generated, each new token passing through the cache once; or over
given answers in one pass. Either keeps one running sum ``[sequences, hidden]`` per layer, never the activations of all
tokens. Needs torch and transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from ..errors import ModelError
from ..models.hooks import reading
from ..models.loading import LiveModel
from ..models.sampling import Sampling, Tokens, padded, sample

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class AnswerMeans:
    """Answers and their means."""

    answers: tuple[tuple[int, ...], ...]
    """Token ids, without the token that ends an answer."""
    means: np.ndarray
    """float32 ``[sequences, layers, hidden]``; zero for an empty answer, and in a layer without attention."""


def generate_means(live: LiveModel, prompts: Sequence[Tokens], sampling: Sampling, names: Sequence[str]) -> AnswerMeans:
    """Answer all `prompts` at once, and measure; `names` identify them as in `emobake.models.sampling.sample`."""
    sums = _RunningSums(live, len(prompts))

    def count(alive: torch.Tensor) -> None:
        sums.mask = alive[:, None].float()

    with reading(live.model, live.family, live.layers, sums.see):
        answers = sample(live, prompts, sampling, names, count)
    return AnswerMeans(answers, sums.means([len(answer) for answer in answers]))


def measure_means(
    live: LiveModel, prompts: Sequence[Tokens], answers: Sequence[Tokens], padding: Literal["left", "right"] = "right"
) -> AnswerMeans:
    """Measure given `answers`, each after its own prompt (which may be empty), in one pass."""
    import torch

    texts = [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
    ids, attention = padded(live, texts, padding)
    sums = _RunningSums(live, len(texts))
    # The last positions of each row, as many as its answer has tokens.
    from_end = attention.flip(1).cumsum(1).flip(1)
    lengths = torch.tensor([len(answer) for answer in answers], device=ids.device)
    sums.mask = ((from_end <= lengths[:, None]) & (attention == 1)).float()
    # Without its head: the logits of every position are not wanted, and would take most of the memory.
    body = live.model.base_model
    positions = {} if padding == "right" else {"position_ids": (attention.cumsum(1) - 1).clamp(min=0)}
    with torch.inference_mode(), reading(live.model, live.family, live.layers, sums.see):
        body(input_ids=ids, attention_mask=attention, use_cache=False, **positions)
    return AnswerMeans(tuple(map(tuple, answers)), sums.means([len(answer) for answer in answers]))


class _RunningSums:
    """Running sums of the attention outputs at the positions that `mask` selects."""

    def __init__(self, live: LiveModel, sequences: int) -> None:
        self.live = live
        self.sequences = sequences
        self.mask: torch.Tensor | None = None
        """float32 ``[sequences, positions]`` of the next forward pass, 1 where it counts; None: nothing counts."""
        self.sums: dict[int, torch.Tensor] = {}

    def see(self, layer: int, output: torch.Tensor) -> None:
        if self.mask is None:
            return
        # A model without a cache passes everything again: the new positions come last.
        output = output[:, -self.mask.shape[1] :].float()
        added = (self.mask.to(output.device)[:, None, :] @ output)[:, 0]
        self.sums[layer] = self.sums[layer] + added if layer in self.sums else added

    def means(self, counts: Sequence[int]) -> np.ndarray:
        if any(counts) and not self.sums:
            raise ModelError(f"{self.live.name}: no attention module was run; its attention outputs cannot be read")
        means = np.zeros((self.sequences, self.live.layers, self.live.hidden), np.float32)
        for layer, total in self.sums.items():
            means[:, layer] = total.cpu().numpy()
        return means / np.maximum(np.array(counts, np.float32), 1)[:, None, None]
