"""Streaming statistics of per-layer differences, which an extraction keeps instead of the differences.

For each emotion: the sums over its even and its odd queries, and per layer the sum of squared norms. They give the
mean, the standard error of the mean and the split-half cosine. All float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..core.vector_set import Statistics
from ..errors import BrokenFileError
from ..storage.publish import write_file
from .processes import Processes


class ContrastSums:
    """Sums over contrasts; each contrast counts once."""

    def __init__(self, emotions: Sequence[str], shape: tuple[int, int]) -> None:
        self.emotions = tuple(emotions)
        self.totals = np.zeros((len(emotions), 2, *shape))
        """``[emotions, even or odd, layers, hidden]``"""
        self.squares = np.zeros((len(emotions), shape[0]))
        """Sum of squared norms, ``[emotions, layers]``"""
        self.counts = np.zeros((len(emotions), 2), np.int64)
        self.done: set[int] = set()
        """Indices of the contrasts that were counted."""
        self.skipped: set[int] = set()
        """Members of `done` without an answer; they are in no sum."""

    def add(self, index: int, emotion: str, number: int, difference: np.ndarray) -> None:
        """Count contrast `index`, the `number`-th of its emotion: float32 ``[layers, hidden]``, NaN if it has none."""
        if index in self.done:
            raise ValueError(f"contrast {index} is counted already")
        self.done.add(index)
        if np.isnan(difference).all():
            self.skipped.add(index)
            return
        e = self.emotions.index(emotion)
        difference = difference.astype(np.float64)
        self.totals[e, number % 2] += difference
        self.squares[e] += np.square(difference).sum(axis=1)
        self.counts[e, number % 2] += 1

    def count(self, emotion: str) -> int:
        """Number of contrasts in the mean."""
        return int(self.counts[self.emotions.index(emotion)].sum())

    def mean(self, emotion: str) -> np.ndarray:
        """The mean difference: float64 ``[layers, hidden]``."""
        mean: np.ndarray = self.totals[self.emotions.index(emotion)].sum(axis=0) / self.count(emotion)
        return mean

    def statistics(self, emotion: str) -> Statistics | None:
        """Precision of the mean; None below two contrasts, which say nothing of their spread.

        The standard error of layer l is ``sqrt(sum_q |d_q - mean|^2 / (n (n - 1)))``: the expected distance of the
        mean from the mean of infinitely many queries.
        """
        e, n = self.emotions.index(emotion), self.count(emotion)
        if n < 2:
            return None
        spread = self.squares[e] - n * np.square(self.mean(emotion)).sum(axis=1)
        errors = np.sqrt(np.maximum(spread, 0) / (n * (n - 1)))
        cosine = None
        if self.counts[e].all():
            even, odd = self.totals[e]
            norms = np.linalg.norm(even, axis=1) * np.linalg.norm(odd, axis=1)
            layers = norms > 0
            cosine = float(((even * odd).sum(axis=1)[layers] / norms[layers]).mean()) if layers.any() else None
        return Statistics(n, tuple(float(f"{x:.6g}") for x in errors), None if cosine is None else round(cosine, 6))

    def plus(self, other: ContrastSums) -> ContrastSums:
        """Add the sums of other contrasts."""
        both = ContrastSums(self.emotions, self.totals.shape[2:])
        both.totals, both.squares = self.totals + other.totals, self.squares + other.squares
        both.counts = self.counts + other.counts
        both.done, both.skipped = self.done | other.done, self.skipped | other.skipped
        return both

    def gathered(self, processes: Processes) -> ContrastSums:
        """Add the sums of all processes."""
        both = ContrastSums(self.emotions, self.totals.shape[2:])
        both.totals, both.squares = processes.sum(self.totals), processes.sum(self.squares)
        both.counts = processes.sum(self.counts)
        both.done, both.skipped = (set(processes.gather(sorted(own))) for own in (self.done, self.skipped))
        return both

    def save(self, file: Path) -> None:
        """Write to `file`, which always holds a whole state."""
        from safetensors.numpy import save

        state = {
            "totals": self.totals,
            "squares": self.squares,
            "counts": self.counts,
            "done": np.array(sorted(self.done), np.int64),
            "skipped": np.array(sorted(self.skipped), np.int64),
        }
        write_file(file, save(state))

    @classmethod
    def load(cls, file: Path, emotions: Sequence[str], shape: tuple[int, int]) -> ContrastSums:
        """Read a state of these emotions and ``(layers, hidden)``; empty if there is no file.

        Raises:
            BrokenFileError: the file holds something else.
        """
        sums = cls(emotions, shape)
        if not file.exists():
            return sums
        from safetensors import SafetensorError
        from safetensors.numpy import load

        expected: dict[str, Any] = {"totals": sums.totals, "squares": sums.squares, "counts": sums.counts}
        try:
            found = load(file.read_bytes())
            same = all((found[k].shape, found[k].dtype) == (v.shape, v.dtype) for k, v in expected.items())
            done, skipped = ({int(i) for i in found[k]} for k in ("done", "skipped"))
        except (OSError, SafetensorError, KeyError, ValueError, TypeError):
            same = False
        if not same or not math.isfinite(float(found["totals"].sum())):
            raise BrokenFileError(f"{file}: is not the state of this extraction; remove its folder, or `restart`")
        sums.totals, sums.squares, sums.counts = (found[k] for k in expected)
        sums.done, sums.skipped = done, skipped
        return sums
