"""Measures of emotion that no list of words decides: how likely emotional answers are, and a probe.

The texts of the likelihood and the examples of the probe are answers to the same queries, with an emotion and without.
Needs torch and scikit-learn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...core.packages import require
from ...models.hooks import reading
from ...models.likelihood import Pair, SteeredModel, answer_logits, batches, log_likelihoods
from ...models.loading import LiveModel, model_failing
from ...models.sampling import Tokens

REGULARISATION = 0.01
"""C of the logistic regression: a few dozen examples have many more dimensions than that."""


@dataclass(frozen=True)
class Contrast:
    """An emotional and a neutral answer to the same query."""

    emotion: str
    query: str
    emotional: tuple[int, ...]
    """Token ids, not empty."""
    neutral: tuple[int, ...]


@dataclass(frozen=True)
class Likely:
    """Log probabilities per token of the answers of a contrast, each after the plain query."""

    emotional: float
    neutral: float

    def rise(self, base: Likely) -> float:
        """Rise of the emotional answer over `base`, less a rise that it shares with the neutral one.

        A neutral answer that becomes unlikely counts for nothing: that is damage, which KL measures, and no emotion.
        """
        return self.emotional - base.emotional - max(0.0, self.neutral - base.neutral)


def likelihoods(steered: SteeredModel, contrasts: Sequence[Contrast]) -> list[Likely]:
    """Measure how likely the answers of each contrast are."""
    live = steered.live
    prompts = live.prompts([contrast.query for contrast in contrasts])
    pairs: list[Pair] = [(p, c.emotional) for p, c in zip(prompts, contrasts, strict=True)]
    pairs += [(p, c.neutral) for p, c in zip(prompts, contrasts, strict=True)]
    found = np.zeros(len(pairs))
    with model_failing(live.name):
        for batch in batches(live, pairs):
            found[batch] = log_likelihoods(steered, [pairs[i] for i in batch])
    found /= [len(answer) for _, answer in pairs]
    return [Likely(float(a), float(b)) for a, b in found.reshape(2, -1).T]


@dataclass(frozen=True, eq=False)
class Reading:
    """The base's view of answers, each after its query, from one pass."""

    states: np.ndarray
    """float32 ``[answers, hidden]``: mean output of the middle layer over the answer; zero for an empty answer."""
    log_likelihoods: list[float]
    """Log probability of each answer; 0 for an empty one."""


def read_answers(live: LiveModel, pairs: Sequence[tuple[Tokens, Tokens]]) -> Reading:
    """Pass answers through the unsteered base.

    Raises:
        ModelError: the model failed.
    """
    import torch

    middle, family = live.layers // 2, replace(live.family, site="layer_output")
    states = np.zeros((len(pairs), live.hidden), np.float32)
    likely = [0.0] * len(pairs)
    full = [i for i, (_, answer) in enumerate(pairs) if answer]
    with model_failing(live.name):
        for batch in batches(live, [pairs[i] for i in full]):
            places = [full[i] for i in batch]
            chosen = [pairs[i] for i in places]
            seen: dict[int, torch.Tensor] = {}

            def see(layer: int, output: torch.Tensor, seen: dict[int, torch.Tensor] = seen) -> None:
                if layer == middle:
                    seen[layer] = output

            with reading(live.model, family, live.layers, see):
                logits = answer_logits(SteeredModel(live), chosen)
            for row, (i, (prompt, answer)) in enumerate(zip(places, chosen, strict=True)):
                end = len(prompt) + len(answer)
                states[i] = seen[middle][row, len(prompt) : end].float().mean(0).cpu().numpy()
                tokens = torch.tensor(list(answer), device=logits[row].device)[:, None]
                likely[i] = float(logits[row].log_softmax(-1).gather(-1, tokens).double().sum())
    return Reading(states, likely)


class Probe:
    """A logistic regression that tells answers with an emotion from others by the base's middle layer."""

    def __init__(self, emotional: np.ndarray, others: np.ndarray) -> None:
        """Fit to states ``[answers, hidden]`` of both kinds, which count alike whatever their numbers.

        Raises:
            MissingPackageError: scikit-learn is not installed.
        """
        linear = require("sklearn.linear_model", extra="search", purpose="a probe of emotion")
        pipeline = require("sklearn.pipeline", extra="search", purpose="a probe of emotion")
        preprocessing = require("sklearn.preprocessing", extra="search", purpose="a probe of emotion")
        self._model: Any = pipeline.make_pipeline(
            preprocessing.StandardScaler(),
            linear.LogisticRegression(C=REGULARISATION, max_iter=1000, class_weight="balanced"),
        )
        states = np.concatenate([emotional, others]).astype(np.float64)
        labels = np.repeat([1, 0], [len(emotional), len(others)])
        self._model.fit(states, labels)
        self.spread = float(np.std(self.logits(states))) or 1.0
        """Standard deviation of the logits of its examples."""

    def logits(self, states: np.ndarray) -> np.ndarray:
        """Log odds of each state ``[answers, hidden]`` being of an answer with the emotion: float64 ``[answers]``."""
        found: np.ndarray = self._model.decision_function(states.astype(np.float64))
        return found


def weighted(values: Mapping[str, float], shares: Mapping[str, float]) -> float:
    """Mean of values by emotion, with the share of each emotion as its weight."""
    return float(sum(shares[emotion] * value for emotion, value in values.items()) / sum(shares[e] for e in values))
