"""The cost of a mood: the divergence of a reply from the base, the dose by layer, and warnings. Needs torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..actions.receipt import measured
from ..core.biases import norm_of
from ..core.effect import COLLAPSE, strength_of
from ..core.steering import Steering, weighted_sum
from ..core.vector_set import VectorSet
from ..measure.repetition import repetition
from ..measure.summary import COLLAPSED_AT_MOST
from ..models.likelihood import SteeredModel, answer_logits, divergences, norms
from ..models.loading import model_failing

if TYPE_CHECKING:
    from ..actions.conversation import SteeredConversation, Turn

TOKENS = 256
"""Tokens of a reply that are measured: the first ones. Logits of more take too much memory with a large vocabulary."""
LOGITS = 2**30
"""Bytes of float32 logits of a conversation up to which its KL is measured."""
_EQUAL = 1 + 1e-6


@dataclass(frozen=True)
class Cost:
    """The cost of a mood in one reply."""

    kl: float | None
    """Mean KL of the steered next-token distribution from the base's over the tokens of the reply, in nats; None if the
    conversation is so long that its logits would take more than `LOGITS` bytes."""
    tokens: int
    """Tokens that were measured."""
    dose: tuple[float | None, ...]
    """By layer, the norm of the added row over the mean norm of the base's own values at the site while it reads the
    reply; None for a layer without the site."""

    @property
    def largest(self) -> tuple[int, float]:
        """The layer with the largest dose, and that dose."""
        values = [-1.0 if value is None else value for value in self.dose]
        layer = int(np.argmax(values))
        return layer, max(0.0, values[layer])


def cost_in_json(cost: Cost | None) -> dict[str, Any] | None:
    """JSON data for the page; None where nothing was measured."""
    if cost is None:
        return None
    layer, dose = cost.largest
    figures = {"kl": cost.kl if cost.kl is not None and math.isfinite(cost.kl) else None, "tokens": cost.tokens}
    return figures | {"largest": {"layer": layer, "dose": dose if math.isfinite(dose) else None}}


def cost_of(talk: SteeredConversation, before: Sequence[Turn], question: str, answer: str) -> Cost | None:
    """Measure the steering of `talk` on an `answer` that it gave after these turns; None if nothing was said.

    The answer is split into tokens anew, which may differ from those that were drawn where a text can be split in
    several ways.

    Raises:
        ModelError: the model failed, for lack of memory for example.
    """
    live = talk.live
    prompt = [int(token) for token in talk.model.prompt(talk.messages(before, question))]
    tokens = list(live.tokenizer(answer, add_special_tokens=False)["input_ids"])[:TOKENS]
    if not tokens:
        return None
    pairs = [(prompt, tokens)]
    with model_failing(live.name):
        kl: float | None = 0.0
        vocabulary = int(live.model.config.get_text_config().vocab_size)
        if talk.rows and 4 * vocabulary * (len(prompt) + len(tokens)) > LOGITS:
            kl = None
        elif talk.rows:
            known = answer_logits(SteeredModel(live), pairs)
            (found,) = divergences(known, SteeredModel(live, talk.rows, talk.scope), pairs)
            kl = float(np.mean(found))
        site = live.family.site
        usual = norms(live, pairs, (site,))[site]
    dose = [norm_of(talk.rows[layer]) / usual[layer] if layer in talk.rows else 0.0 for layer in range(live.layers)]
    return Cost(kl, len(tokens), tuple(None if np.isnan(usual[i]) else float(x) for i, x in enumerate(dose)))


def cautions(vectors: VectorSet, steering: Steering, report: Path | None = None) -> list[str]:
    """Lines on what is known of the answers at this strength: of a `report` first, else of the set's own figures.

    Raises:
        InputError: the report is none, see `emobake.actions.receipt.measured`.
    """
    if steering.is_zero:
        return []
    told = None if report is None else _by_report(report, steering)
    found = _by_set(vectors, steering) if told is None else told
    rows = weighted_sum(vectors, steering)
    chosen = [i for i, name in enumerate(vectors.emotions) if dict(steering.weights).get(name)]
    mixed = VectorSet(tuple(vectors.emotions[i] for i in chosen), vectors.rows[chosen])  # As a bake opens the set.
    layer, strength = strength_of(mixed, np.array([norm_of(row) for row in rows]))
    if strength > COLLAPSE:
        found = [
            *found,
            f"strength {strength:.3g} at layer {layer}, in units of the set's own mean norm: at 4 most models collapse "
            "into repetition",
        ]
    return found


def has_collapsed(text: str) -> bool:
    """True if a reader would call the answer broken down into repetition."""
    return repetition(text).collapsed


def _by_report(report: Path, steering: Steering) -> list[str] | None:
    known = measured(report, steering)
    if known is None:
        return None
    found, last = [], float(known.points[-1]["strength"])
    if known.strength > last * _EQUAL:
        found.append(f"{known.direction} {known.strength:.3g} is beyond {last:g}, the largest strength in {report}")
    share = known.nearest.get("collapsed")
    if isinstance(share, int | float) and share > COLLAPSED_AT_MOST:
        found.append(
            f"{share:.1%} of the answers collapsed at {known.direction} {known.nearest['strength']:g}, the strength in "
            f"{report} that is nearest to {known.strength:.3g}"
        )
    return found


def _by_set(vectors: VectorSet, steering: Steering) -> list[str]:
    known = {name: vectors.strengths[name] for name, weight in steering.weights if weight and name in vectors.strengths}
    dose = sum(abs(weight * steering.scale) / known[name].value for name, weight in steering.weights if name in known)
    if dose <= _EQUAL:
        return []
    told = "; ".join(f"{name} {strength}" for name, strength in known.items())
    return [f"{dose:.3g} times the strongest at which measured answers stayed sane: {told}"]
