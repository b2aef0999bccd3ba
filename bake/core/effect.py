"""The effect of a bake, judged before the first byte is written: too much of it, or none in total.

All bakes of a model count together: the last one alone does not say what its biases hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..errors import InputError
from .biases import PlannedBias, norm_of
from .record import Record
from .totals import terms_of, total_recipe
from .vector_set import VectorSet

COLLAPSE = 3.0
"""Strength from which a warning is due. At strength 4 most of the paper's published answers collapse into
repetition."""
DESTROYED = 10.0
"""Strength from which a bake is refused unless it is forced."""
LOUDEST = 1e6
"""Norm of a steering row that is refused however large the set's own rows are. float16, in which many models run, holds
no number above 65,504."""


@dataclass(frozen=True)
class Effect:
    """The total effect of a model's bakes."""

    recipe: str = ""
    """The sum of all bakes in words."""
    steers: bool = True
    """False if the result behaves as the model that was never baked."""
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(cls, record: Record, biases: Sequence[PlannedBias]) -> Effect:
        """The effect that `record` and `biases` tell, without warnings of the strength."""
        undone = bool(record.history) and _is_undone(record, biases)
        steers = not undone and (bool(record.history) or any(bias.norm for bias in biases))
        warnings: tuple[str, ...] = ()
        if undone:
            warnings = (f"{_bakes(record)} add up to nothing: the result is the base again",)
        elif not any(bias.norm for bias in biases):
            warnings = ("all weights are zero: the result behaves as its base",)
        return cls(total_recipe(record), steers, warnings)


def judge_effect(
    vectors: VectorSet, rows: np.ndarray, record: Record, biases: Sequence[PlannedBias], *, force: bool
) -> Effect:
    """Judge what `biases` do, which add `rows` (float32 ``[layers, hidden]``, at the site) and have this `record`.

    Raises:
        InputError: not `force`, and the result is the base again, or is steered so strongly that it is destroyed.
    """
    effect = Effect.of(record, biases)
    if not effect.steers and not force:
        raise InputError(f"{effect.warnings[0]}; `force` writes it anyway")
    layer, strength = _strength(vectors, rows, record)
    much = f"strength {strength:.3g} at layer {layer}: the steering is that many times the set's own mean norm"
    if strength >= DESTROYED and not force:
        raise InputError(
            f"{much}, which destroys the model; use smaller weights (at {DESTROYED:g} and more, only `force` writes it)"
        )
    norms = [norm_of(row) for row in rows]
    loud = f"a norm of {max(norms):.3g} at layer {int(np.argmax(norms))} is far beyond what any layer puts out"
    if max(norms) >= LOUDEST and not force:
        raise InputError(
            f"{loud}, which destroys the model; use smaller weights, or another set (from {LOUDEST:g} on, only `force` "
            "writes it)"
        )
    warnings = [loud] if max(norms) >= LOUDEST else []
    if strength > COLLAPSE:
        warnings.append(f"{much}, far beyond a layer's usual change; at 4 most models collapse into repetition")
    return replace(effect, warnings=(*effect.warnings, *warnings))


def _bakes(record: Record) -> str:
    """All bakes in words, the first one first."""
    recipes = [each.steering.recipe for each in (*record.history, record)]
    return "the bakes " + ", then ".join(recipes)


def _is_undone(record: Record, biases: Sequence[PlannedBias]) -> bool:
    """True if the weights add up to zero, or if only bakes made these biases and every one is zero."""
    if not terms_of(record):
        return True
    made: set[tuple[str, int | None]] = {(tensor, None) for earlier in record.history for tensor in earlier.added}
    made |= {
        (bias.tensor, bias.column) for earlier in record.history for bias in earlier.biases if bias.column is not None
    }
    return all((bias.tensor, bias.column) in made and bias.is_zero for bias in biases)


def _strength(vectors: VectorSet, rows: np.ndarray, record: Record) -> tuple[int, float]:
    """The layer that is steered most, and how strongly: in units of the set's mean norm there, at weight 1.

    Earlier bakes of the same vectors count, as far as the set has them.
    """
    terms = [
        (term.weights, vectors.rows[vectors.emotions.index(term.emotion)])
        for term in (terms_of(record) if record.history else ())
        if term.emotion in vectors.emotions and record.vectors.rows.get(term.emotion) == term.digest
    ]

    def total(layer: int) -> np.ndarray:
        # One layer at a time: all of them in float64 would be the largest thing in memory.
        if not record.history:
            return np.asarray(rows[layer])
        row = np.zeros(rows.shape[1])
        for weights, own in terms:
            if layer in weights and layer < len(own):
                row += weights[layer] * own[layer].astype(np.float64)
        return row

    return strength_of(vectors, np.array([norm_of(total(layer)) for layer in range(len(rows))]))


def strength_of(vectors: VectorSet, norms: np.ndarray) -> tuple[int, float]:
    """The layer that rows of these `norms` (``[layers]``) steer most, and how strongly.

    The unit is the mean norm of the set's emotions there, at weight 1.
    """
    usual = np.zeros(len(norms))
    own_norms = np.mean([[norm_of(row) for row in emotion] for emotion in vectors.rows], axis=0)
    usual[: len(own_norms)] = own_norms[: len(norms)]
    with np.errstate(divide="ignore", invalid="ignore"):
        strength = np.nan_to_num(norms / usual, nan=0.0)
    layer = int(strength.argmax())
    return layer, float(strength[layer])
