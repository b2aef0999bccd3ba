"""The mean attention output over the tokens of an answer, per layer, for a batch of answers at a time.

Two ways that agree to rounding: while the answers are generated, each new token going through the cache once, or
over given answers in one pass. Either keeps one running sum ``[sequences, hidden]`` per layer and never the
activations of all tokens. Needs torch and transformers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .errors import EmobakeError
from .hooks import observed
from .live import LiveModel

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


@dataclass(frozen=True, eq=False)
class Measured:
    """Answers and their means."""

    answers: tuple[tuple[int, ...], ...]
    """Token ids, without what ends an answer."""
    means: np.ndarray
    """float32 ``[sequences, layers, hidden]``; zero for an empty answer, and in a layer without attention."""


class _Sums:
    """Running sums of the attention outputs at the positions that `mask` marks."""

    def __init__(self, live: LiveModel, sequences: int) -> None:
        self.live = live
        self.sequences = sequences
        self.mask: torch.Tensor | None = None
        """float32 ``[sequences, positions]`` of the next forward pass, 1 where it counts; None: it does not count."""
        self.sums: dict[int, torch.Tensor] = {}

    def see(self, layer: int, output: torch.Tensor) -> None:
        if self.mask is None:
            return
        # A model without a cache passes everything again: what is new comes last.
        output = output[:, -self.mask.shape[1] :].float()
        added = (self.mask.to(output.device)[:, None, :] @ output)[:, 0]
        self.sums[layer] = self.sums[layer] + added if layer in self.sums else added

    def means(self, counts: Sequence[int]) -> np.ndarray:
        if not self.sums:
            raise EmobakeError(f"{self.live.name}: no attention module was run; its attention outputs cannot be read")
        means = np.zeros((self.sequences, self.live.layers, self.live.hidden), np.float32)
        for layer, total in self.sums.items():
            means[:, layer] = total.cpu().numpy()
        return means / np.maximum(np.array(counts, np.float32), 1)[:, None, None]


def generate(live: LiveModel, prompts: Sequence[Tokens], sampling: Sampling, names: Sequence[str]) -> Measured:
    """Let the model answer all `prompts` at once, and measure.

    `names` identify the prompts: with a temperature, each draws its random numbers by the seed and its name.
    Prompts are padded on the left and each token attends to its own prompt only, so neither the batch nor its order
    changes an answer by more than rounding.
    """
    import torch
    from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

    ids, attention = _padded(live, prompts, "left")
    sums = _Sums(live, len(prompts))
    ends = torch.tensor(live.end_tokens, device=ids.device)
    alive = torch.ones(len(prompts), dtype=torch.bool, device=ids.device)

    class Watch(StoppingCriteria):  # type: ignore[misc]
        """Between two passes: the token just drawn is what the next pass computes; count it unless it is an end."""

        def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
            alive.logical_and_(~torch.isin(input_ids[:, -1], ends))
            sums.mask = alive[:, None].float()
            return ~alive

    config = GenerationConfig(
        do_sample=False,
        # One more than wanted: the last token drawn is never passed through the model, and is dropped below.
        max_new_tokens=sampling.max_new_tokens + 1,
        eos_token_id=list(live.end_tokens) or None,
        pad_token_id=live.pad_token,
    )
    with torch.inference_mode(), observed(live.model, live.arch, live.layers, sums.see):
        sequences = live.model.generate(
            input_ids=ids,
            attention_mask=attention,
            generation_config=config,
            stopping_criteria=StoppingCriteriaList([Watch()]),
            logits_processor=_drawing(sampling, names),
        )
    answers = tuple(
        _until(row, live.end_tokens) for row in sequences[:, ids.shape[1] :][:, : sampling.max_new_tokens].tolist()
    )
    return Measured(answers, sums.means([len(answer) for answer in answers]))


def measure(
    live: LiveModel, prompts: Sequence[Tokens], answers: Sequence[Tokens], padding: Literal["left", "right"] = "right"
) -> Measured:
    """Measure given `answers`, each after its own prompt (which may be empty), in one pass."""
    import torch

    texts = [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
    ids, attention = _padded(live, texts, padding)
    sums = _Sums(live, len(texts))
    # The last so many of each row's own tokens.
    from_end = attention.flip(1).cumsum(1).flip(1)
    lengths = torch.tensor([len(answer) for answer in answers], device=ids.device)
    sums.mask = ((from_end <= lengths[:, None]) & (attention == 1)).float()
    # Without its head: the logits of every position are not wanted, and would be most of the memory.
    body = live.model.base_model
    positions = {} if padding == "right" else {"position_ids": (attention.cumsum(1) - 1).clamp(min=0)}
    with torch.inference_mode(), observed(live.model, live.arch, live.layers, sums.see):
        body(input_ids=ids, attention_mask=attention, use_cache=False, **positions)
    return Measured(tuple(map(tuple, answers)), sums.means([len(answer) for answer in answers]))


def _padded(live: LiveModel, rows: Sequence[Tokens], side: str) -> tuple[torch.Tensor, torch.Tensor]:
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
