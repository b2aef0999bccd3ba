"""Likelihoods under a live model, and the divergence between two models on given tokens.

Nothing is generated: prompt and answer go through in one pass. Logarithms are natural. Needs torch and transformers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from ..core.sites import SITES, Site
from ..formats.checkpoint.families import Family
from .hooks import Scope, adding, reading
from .loading import LiveModel
from .sampling import Tokens, padded

if TYPE_CHECKING:
    import torch

    from .hooks import Row

Pair = tuple[Tokens, Tokens]
"""A prompt and an answer; neither is empty."""
_LOGITS = 2**29
"""Bytes of float32 logits in one pass."""


@dataclass(frozen=True, eq=False)
class SteeredModel:
    """A live model with rows added at the site of its family; without rows, the model as it is."""

    live: LiveModel
    rows: Mapping[int, Row] = field(default_factory=dict)
    """Layer -> float32 ``[hidden]``."""
    scope: Scope = "every"
    """``last`` here means the prompt's last position and every later one, where hooks at the last position of each
    forward pass act while the answer is generated token by token."""


def batches(live: LiveModel, pairs: Sequence[Pair]) -> list[list[int]]:
    """Group indices of `pairs` of similar length whose logits fit into memory together, the longest first."""
    vocab = int(live.model.config.get_text_config().vocab_size)  # A quantised head's weight does not tell.
    budget = max(1, _LOGITS // (4 * vocab))
    lengths = [len(prompt) + len(answer) for prompt, answer in pairs]
    found: list[list[int]] = []
    for i in sorted(range(len(pairs)), key=lambda i: (-lengths[i], i)):
        if found and (len(found[-1]) + 1) * lengths[found[-1][0]] <= budget:
            found[-1].append(i)
        else:
            found.append([i])
    return found


def answer_logits(steered: SteeredModel, pairs: Sequence[Pair], *, differentiable: bool = False) -> list[torch.Tensor]:
    """The logits that predict each answer's tokens: float32 ``[answer tokens, vocabulary]`` per pair.

    Where they are `differentiable`, a backward pass reaches the steered model's rows that are tensors.
    """
    import torch

    live = steered.live
    ids, attention = padded(live, [[*prompt, *answer] for prompt, answer in pairs], "right")
    positions = _answers_mask(ids, pairs, first=-1, to_end=True) if steered.scope == "last" else None
    with torch.inference_mode(not differentiable), adding(live.model, live.family, steered.rows, positions=positions):
        logits = live.model(input_ids=ids, attention_mask=attention, use_cache=False).logits
    return [
        row[len(prompt) - 1 : len(prompt) + len(answer) - 1].float()
        for row, (prompt, answer) in zip(logits, pairs, strict=True)
    ]


def log_likelihoods(steered: SteeredModel, pairs: Sequence[Pair]) -> list[float]:
    """Log probability of each answer after its prompt: the sum over the answer's tokens."""
    import torch

    found = []
    for logits, (_, answer) in zip(answer_logits(steered, pairs), pairs, strict=True):
        tokens = torch.tensor(list(answer), device=logits.device)
        found.append(float(logits.log_softmax(-1).gather(-1, tokens[:, None]).double().sum()))
    return found


def divergences(known: Sequence[torch.Tensor], other: SteeredModel, pairs: Sequence[Pair]) -> list[list[float]]:
    """KL divergence of `other` from a known model, in nats, at each answer token.

    `known` are the known model's `answer_logits` for the same `pairs`.
    """
    return [
        [float(value) for value in kl_divergence(p, q)] for p, q in zip(known, answer_logits(other, pairs), strict=True)
    ]


def kl_divergence(reference: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """``KL(reference || other) = sum p (log p - log q)`` in nats, at each position of two logits.

    Takes ``[positions, vocabulary]`` twice, returns float64 ``[positions]``.
    """
    log_p, log_q = (logits.double().log_softmax(-1) for logits in (reference, other.to(reference.device)))
    result: torch.Tensor = (log_p.exp() * (log_p - log_q)).sum(-1).clamp(min=0)
    return result


def norms(live: LiveModel, pairs: Sequence[Pair], sites: Sequence[Site] = SITES) -> dict[str, np.ndarray]:
    """Mean Euclidean norms over the answers' positions: site -> float64 ``[layers]``; NaN for layers without it.

    ``attention_output`` is what the attention module adds, ``layer_output`` the residual stream after the layer.
    """
    return {site: _norms(live, replace(live.family, site=site), pairs) for site in sites}


def _norms(live: LiveModel, family: Family, pairs: Sequence[Pair]) -> np.ndarray:
    import torch

    sums: dict[int, float] = {}
    count = 0
    for batch in batches(live, pairs):
        chosen = [pairs[i] for i in batch]
        ids, attention = padded(live, [[*prompt, *answer] for prompt, answer in chosen], "right")
        mask = _answers_mask(ids, chosen, first=0)
        count += int(mask.sum())

        def see(layer: int, output: torch.Tensor, mask: torch.Tensor = mask) -> None:
            lengths = output.float().norm(dim=-1) * mask.to(output.device)
            sums[layer] = sums.get(layer, 0.0) + float(lengths.double().sum())

        with torch.inference_mode(), reading(live.model, family, live.layers, see):
            live.model.base_model(input_ids=ids, attention_mask=attention, use_cache=False)
    return np.array([sums.get(layer, np.nan) for layer in range(live.layers)]) / max(1, count)


def _answers_mask(ids: torch.Tensor, pairs: Sequence[Pair], *, first: int, to_end: bool = False) -> torch.Tensor:
    """Bool ``[pairs, positions]``: the answers, starting `first` positions after the prompt's end."""
    import torch

    place = torch.arange(ids.shape[1], device=ids.device)[None]
    begin = torch.tensor([len(prompt) + first for prompt, _ in pairs], device=ids.device)[:, None]
    end = torch.tensor([len(prompt) + len(answer) for prompt, answer in pairs], device=ids.device)[:, None]
    return (place >= begin) & ((place < end) | to_end)
