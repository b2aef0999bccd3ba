"""Attention heads that make a constant row: the geometry, what it costs, and the bias of the values.

Two forms need no bias on the output projection, only one on the values, which softmax passes on as it is: its weights
sum to one, at every position.

- **One more key/value head** whose rows in q, k and v are zero, with a bias of 1 in the first channel of the values.
  All its scores are equal and all its values are the same, so its output is exactly (1, 0, 0, ...); the first column of
  its query heads in the output projection is then a constant. Rotary embeddings, norms of each head, windows and caps
  of the scores leave zeros and equal scores as they are.
- **A bias b of the values** with ``A b = w``, where A sums the output projection's columns over the query heads that
  share a key/value head. Where A has too small a rank, each key/value head is repeated.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from .tensors import ROUNDING

MAX_RESIDUAL = 1e-3
"""Largest ``|A b - w|`` of a solved bias, in units of ``|w|``: the size of the rounding of w to 16 bits."""
MAX_GAIN = 8.0
"""Largest size of a solved bias beside usual values, see `Solved.gain`. A cache of 8 bits rounds to 1 part in 256 of
its largest value, so up to here the row itself is kept to 8 / 256, 3%, and the model's own values beside it. SmolLM2's
own vectors are at 0.7 to 1.6, because an extracted row lies in the range of the output projection; random rows are at
13 to 645 there."""


@dataclass(frozen=True)
class Heads:
    """The attention heads of one layer."""

    queries: int
    keys: int
    """Key/value heads; they divide the query heads."""
    key_size: int
    """Channels of a query and of a key."""
    value_size: int
    """Channels of a value."""

    @property
    def group(self) -> int:
        """Query heads that share a key/value head."""
        return self.queries // self.keys

    def grown(self, added: int) -> Heads:
        """The heads with `added` more key/value heads, and their query heads."""
        return Heads(self.queries + added * self.group, self.keys + added, self.key_size, self.value_size)


@dataclass(frozen=True)
class Cost:
    """Factors by which a result needs more than its base."""

    cache: float = 1.0
    """Of the key/value cache."""
    attention: float = 1.0
    """Of the weights of the q, k, v and output projections."""

    @property
    def is_free(self) -> bool:
        """True if nothing is needed."""
        return self.cache == self.attention == 1


FREE = Cost()


def heads_to_add(heads: Heads, *, tensor_parallel: int = 1, multiple: int = 1) -> int:
    """The smallest number of key/value heads to add, at least one.

    Args:
        heads: the heads of a layer.
        tensor_parallel: devices that share the heads. Their number must divide the query heads, and divide the
            key/value heads or be a multiple of them (each is then held by several devices).
        multiple: the new columns of the output projection are a multiple of this; of a quantisation's blocks.

    Raises:
        InputError: there is no such number.
    """
    for added in range(1, tensor_parallel * multiple + 1):
        if added * heads.group * heads.value_size % multiple == 0 and is_shared(heads.grown(added), tensor_parallel):
            return added
    raise InputError(
        f"`tensor_parallel` {tensor_parallel}: no number of heads more than {heads.queries} and {heads.keys} "
        f"key/value heads can be shared by {tensor_parallel} devices"
    )


def is_shared(heads: Heads, devices: int) -> bool:
    """True if `devices` can share the heads, as `heads_to_add` says."""
    return heads.queries % devices == 0 and (heads.keys % devices == 0 or devices % heads.keys == 0)


def cost_of_heads(heads: Heads, added: int) -> Cost:
    """The cost of `added` more key/value heads: all of the attention's matrices grow alike."""
    factor = (heads.keys + added) / heads.keys
    return Cost(factor, factor)


def cost_of_copies(heads: Heads, copies: int) -> Cost:
    """The cost of holding each key/value head `copies` times: only k and v grow."""
    shared = heads.queries * (heads.key_size + heads.value_size)
    own = heads.keys * (heads.key_size + heads.value_size)
    return Cost(float(copies), (shared + copies * own) / (shared + own))


def copies_to_try(heads: Heads) -> Iterator[int]:
    """Numbers of copies of each key/value head, the cheapest first: the divisors of the group."""
    return (copies for copies in range(1, heads.group + 1) if heads.group % copies == 0)


def copies_by(cost: Cost, group: int) -> int:
    """The number of copies that a recorded `cost` tells, where `group` query heads share a key/value head.

    Raises:
        InputError: no such heads have this cost.
    """
    for copies in copies_to_try(Heads(group, 1, 1, 1)):
        if copies == cost.cache:
            return copies
    raise InputError(
        f"the record's cost, {cost.cache:g} times the cache, is that of no number of copies of the heads; bake again"
    )


def constant_head(bias: np.ndarray, value_size: int, constant: float) -> int | None:
    """Number of the key/value head whose values are always `constant` and zeros, as those behind it are zeros.

    None if a bias of the values, ``[keys * value_size]``, makes no such head. The first head is never one.
    """
    alive = np.flatnonzero(bias)
    head, within = divmod(int(alive[-1]), value_size) if len(alive) else (0, 0)
    return head if head and not within and bias[alive[-1]] == constant else None


def value_matrix(output: np.ndarray, heads: Heads, copies: int = 1) -> np.ndarray:
    """The matrix A that turns a bias of the values into a row of the attention's output.

    Args:
        output: the output projection's weight, ``[hidden, queries * value_size]``.
        heads: the heads of the layer.
        copies: times that each key/value head is repeated.

    Returns:
        float64 ``[hidden, keys * copies * value_size]``.
    """
    hidden, keys = len(output), heads.keys * copies
    blocks = output.reshape(hidden, keys, heads.queries // keys, heads.value_size)
    return np.asarray(blocks.sum(axis=2, dtype=np.float64).reshape(hidden, -1))


def copied(values: np.ndarray, value_size: int, width: int) -> np.ndarray:
    """A bias of the values, with each key/value head's part as often as makes it `width` elements."""
    return np.repeat(values.reshape(-1, value_size), width // len(values), axis=0).reshape(-1)


def misses(matrix: np.ndarray, stored: np.ndarray, gained: np.ndarray, row: np.ndarray, dtype: str) -> bool:
    """True if a bias of the values does not make the float32 `row` by the `matrix` of `value_matrix`.

    It may be as far away as a solution may be, and as the rounding of what is `stored` (of which `gained` is new) in
    its `dtype` makes it, if the errors of the elements do not depend on each other.
    """
    made = matrix @ gained.astype(np.float64)
    rounding = float(np.linalg.norm(matrix * (ROUNDING[dtype] * np.abs(stored.astype(np.float64)))))
    return bool(np.linalg.norm(made - row) > 2 * MAX_RESIDUAL * float(np.linalg.norm(row)) + rounding + 1e-30)


@dataclass(frozen=True, eq=False)
class Solved:
    """A bias of the values that makes a row."""

    bias: np.ndarray
    """float32 ``[keys * copies * value_size]``; the smallest one."""
    residual: float
    """``|A b - w| / |w|`` of the bias as it is stored; 0 for a row of zeros."""
    gain: float
    """Size of the bias beside values that usually give an output of the size of the row: ``|b| s / |w|``, where s is
    the root mean square of the singular values of A. About 1 where A is well conditioned."""

    @property
    def fault(self) -> str:
        """The reason why it must not be used, as a clause; empty if there is none."""
        if self.residual > MAX_RESIDUAL:
            return f"the best one misses the row by {self.residual:.1%} of its size"
        if self.gain > MAX_GAIN:
            return (
                f"it would be {self.gain:.0f} times as large as values usually are, and {MAX_GAIN:g} are the most that "
                "caches of 16 and 8 bits can hold beside them"
            )
        return ""


def solve_value_bias(matrix: np.ndarray, row: np.ndarray) -> Solved:
    """Solve ``A b = w`` in float64 by singular values, with the smallest b; round it to float32.

    Args:
        matrix: A of `value_matrix`.
        row: w, float32 ``[hidden]``.
    """
    wanted = row.astype(np.float64)
    size = float(np.linalg.norm(wanted))
    if size == 0:
        return Solved(np.zeros(matrix.shape[1], np.float32), 0.0, 0.0)
    solution = np.linalg.lstsq(matrix, wanted, rcond=None)[0]
    bias = solution.astype(np.float32)
    spread = float(np.linalg.norm(matrix)) / min(matrix.shape) ** 0.5
    return Solved(
        bias,
        float(np.linalg.norm(matrix @ bias.astype(np.float64) - wanted)) / size,
        float(np.linalg.norm(solution)) * spread / size,
    )
