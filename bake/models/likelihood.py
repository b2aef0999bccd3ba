"""What a live model, steered or not, makes of given tokens: how likely they are, and how far two models differ there.

Nothing is generated here: prompt and answer go through in one pass. Logarithms are natural. Needs torch and
transformers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from ..formats.checkpoint.families import Architecture
from .hooks import Scope, observed, steered
from .loading import LiveModel
from .sampling import Tokens, padded

if TYPE_CHECKING:
    import torch

Pair = tuple[Tokens, Tokens]
"""A prompt and an answer; neither is empty."""
_LOGITS = 2**29
"""Bytes of float32 logits in one pass."""


@dataclass(frozen=True, eq=False)
class Side:
    """A model as it is, or as it is with rows added at the site of its `arch`."""

    live: LiveModel
    rows: Mapping[int, np.ndarray] = field(default_factory=dict)
    """Layer -> float32 ``[hidden]``."""
    scope: Scope = "every"
    """``last`` here means: at the prompt's last position and every one after it, which is what hooks at the last
    position of each forward pass do while the answer is generated token by token."""


def batches(live: LiveModel, pairs: Sequence[Pair]) -> list[list[int]]:
    """Indices of `pairs` of about the same length whose logits fit into memory together, the longest first."""
    vocab = int(live.model.get_output_embeddings().weight.shape[0])
    budget = max(1, _LOGITS // (4 * vocab))
    lengths = [len(prompt) + len(answer) for prompt, answer in pairs]
    found: list[list[int]] = []
    for i in sorted(range(len(pairs)), key=lambda i: (-lengths[i], i)):
        if found and (len(found[-1]) + 1) * lengths[found[-1][0]] <= budget:
            found[-1].append(i)
        else:
            found.append([i])
    return found


def answer_logits(side: Side, pairs: Sequence[Pair]) -> list[torch.Tensor]:
    """For each pair float32 ``[answer tokens, vocabulary]``: the logits that predict the answer's tokens."""
    import torch

    live = side.live
    ids, attention = padded(live, [[*prompt, *answer] for prompt, answer in pairs], "right")
    positions = _answers_mask(ids, pairs, first=-1, to_end=True) if side.scope == "last" else None
    with torch.inference_mode(), steered(live.model, live.arch, side.rows, positions=positions):
        logits = live.model(input_ids=ids, attention_mask=attention, use_cache=False).logits
    return [
        row[len(prompt) - 1 : len(prompt) + len(answer) - 1].float()
        for row, (prompt, answer) in zip(logits, pairs, strict=True)
    ]


def log_likelihoods(side: Side, pairs: Sequence[Pair]) -> list[float]:
    """The log probability of each answer after its prompt: the sum over the answer's tokens."""
    import torch

    found = []
    for logits, (_, answer) in zip(answer_logits(side, pairs), pairs, strict=True):
        tokens = torch.tensor(list(answer), device=logits.device)
        found.append(float(logits.log_softmax(-1).gather(-1, tokens[:, None]).double().sum()))
    return found


def divergences(known: Sequence[torch.Tensor], other: Side, pairs: Sequence[Pair]) -> list[list[float]]:
    """Kullback-Leibler divergence of `other`'s next-token distribution from a known one, in nats, at each answer token.

    ``KL(known || other) = sum p (log p - log q)``: what it costs to take `other` for it. `known` is what
    `answer_logits` gives for the same `pairs`.
    """
    found = []
    for p, q in zip(known, answer_logits(other, pairs), strict=True):
        log_p, log_q = p.log_softmax(-1), q.to(p.device).log_softmax(-1)
        values = (log_p.exp() * (log_p - log_q)).sum(-1).clamp(min=0)
        found.append([float(value) for value in values])
    return found


def norms(live: LiveModel, pairs: Sequence[Pair]) -> dict[str, np.ndarray]:
    """Mean Euclidean norms over the answers' positions: site -> float64 ``[layers]``; NaN where a layer lacks it.

    ``attention_output`` is what the attention module adds, ``layer_output`` the residual stream after the layer.
    """
    return {site: _norms(live, replace(live.arch, site=site), pairs) for site in ("attention_output", "layer_output")}


def _norms(live: LiveModel, arch: Architecture, pairs: Sequence[Pair]) -> np.ndarray:
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

        with torch.inference_mode(), observed(live.model, arch, live.layers, see):
            live.model.base_model(input_ids=ids, attention_mask=attention, use_cache=False)
    return np.array([sums.get(layer, np.nan) for layer in range(live.layers)]) / max(1, count)


def _answers_mask(ids: torch.Tensor, pairs: Sequence[Pair], *, first: int, to_end: bool = False) -> torch.Tensor:
    """Bool ``[pairs, positions]``: the answers, from `first` after the prompt on."""
    import torch

    place = torch.arange(ids.shape[1], device=ids.device)[None]
    begin = torch.tensor([len(prompt) + first for prompt, _ in pairs], device=ids.device)[:, None]
    end = torch.tensor([len(prompt) + len(answer) for prompt, answer in pairs], device=ids.device)[:, None]
    return (place >= begin) & ((place < end) | to_end)
