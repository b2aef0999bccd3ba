"""Biases of a bake: the row that each layer gains, the tensor that holds it, its rounding and its digest.

Every output form uses this module. A form only says where its biases are stored (`Home`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..errors import BrokenFileError, InputError, VectorError
from .steering import Steering, weighted_sum
from .tensors import FLOATS, encode
from .vector_set import ModelShape, VectorSet, fitted


@dataclass(frozen=True, eq=False)
class Home:
    """The tensor that stores one layer's bias."""

    layer: int
    tensor: str
    dtype: str
    """One of `emobake.core.tensors.FLOATS`."""
    width: int
    """Outputs of the projection."""
    existing: np.ndarray | None = None
    """float32 ``[width]`` as stored in the base; None for a new tensor."""


@dataclass(frozen=True)
class PlannedBias:
    """The bias of one layer as it will be stored."""

    layer: int
    tensor: str
    dtype: str
    norm: float
    """Euclidean norm of w_l, the row that this bake adds."""
    sha256: str
    """Digest of the stored bytes."""
    is_new: bool
    """True if the base lacks the tensor."""
    data: bytes = field(repr=False)


def steering_rows(
    vectors: VectorSet,
    steering: Steering,
    model: ModelShape,
    *,
    branch_scale: float = 1.0,
    force: bool = False,
) -> np.ndarray:
    """Compute the row that each layer's bias gains: float32 ``[layers, hidden]``.

    `branch_scale` is the factor between the projection and the site; the sums are divided by it.

    Raises:
        VectorError: the set does not fit `model`, or the weights do not fit the set.
        InputError: all rows are zero and not `force`.
    """
    rows = weighted_sum(fitted(vectors, model), steering)
    if not rows.any() and not force:
        raise InputError("all weights are zero: the result would behave as its base; `force` writes it anyway")
    return np.asarray(rows / np.float32(branch_scale))


def landing(
    model: str, projection: str, homes: Sequence[Home], rows: np.ndarray, steering: Steering, *, force: bool
) -> Steering:
    """The weights with the layers whose rows land; `model` and `projection` are names in messages.

    In hybrids only some layers have attention. Rows of the others are lost, which `force` allows.

    Raises:
        InputError: not `force`, and a row that is not zero has no home; names the layers to choose from.
    """
    layers = sorted({home.layer for home in homes})
    homeless = [layer for layer in range(len(rows)) if rows[layer].any() and layer not in layers]
    if not homeless:
        return steering
    if not force:
        choice = (
            f"{len(layers)} of {len(rows)} layers have one; `layers` {','.join(map(str, layers))} steers those, and "
            "`force` does too, with a warning"
            if homes
            else "no layer has one"
        )
        raise InputError(f"{model}: layer {homeless[0]} has no {projection}, so its vector cannot land; {choice}")
    chosen = layers if steering.layers is None else [layer for layer in steering.layers if layer in layers]
    return replace(steering, layers=tuple(chosen))


def hybrid_warnings(projection: str, homes: Sequence[Home], layers: int) -> Iterable[str]:
    """Warn of a hybrid of `layers` layers, of which only some have the `projection`."""
    if len(homes) < layers:
        yield f"only {len(homes)} of {layers} layers have {projection}: the others are not steered"


def plan_biases(model: str, homes: Sequence[Home], rows: np.ndarray) -> tuple[PlannedBias, ...]:
    """Add each row of float32 `rows` to the bias at its home; `model` is a name in messages.

    Raises:
        BrokenFileError: a projection has another width than the rows.
        VectorError: a sum is too large for its dtype.
    """
    return tuple(plan_bias(model, home, rows[home.layer]) for home in homes)


def plan_bias(model: str, home: Home, row: np.ndarray) -> PlannedBias:
    """Add a float32 `row` to the bias at `home`, and round the sum once to the home's dtype.

    Raises:
        BrokenFileError: the projection has another width than the row.
        VectorError: the sum is too large for the dtype.
    """
    if home.width != len(row):
        module = home.tensor.removesuffix(".bias")
        raise BrokenFileError(f"{model}: {module} has {home.width} outputs, the hidden size is {len(row)}")
    total = row if home.existing is None else home.existing + row
    data = encode(total, home.dtype)
    if not np.isfinite(np.frombuffer(data, FLOATS[home.dtype]).astype(np.float32)).all():
        raise VectorError(
            f"{model}: the bias of layer {home.layer} reaches {np.abs(total).max():.3g}, too large for {home.dtype}; "
            "use smaller weights"
        )
    digest = hashlib.sha256(data).hexdigest()
    return PlannedBias(home.layer, home.tensor, home.dtype, norm_of(row), digest, home.existing is None, data)


def norm_of(row: np.ndarray) -> float:
    """Euclidean norm of a float32 row, computed in float64."""
    return float(np.linalg.norm(row.astype(np.float64)))


def origin_warnings(vectors: VectorSet, base_model: str) -> Iterable[str]:
    """Warn when the set names another base model than `base_model`."""
    if vectors.base_model and base_model and vectors.base_model != base_model:
        yield f"{vectors.name} was made from {vectors.base_model}, not from {base_model}"
