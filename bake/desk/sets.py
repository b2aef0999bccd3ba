"""Vector sets side by side: how alike their emotions are, and how reliable each vector is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.vector_set import VectorSet
from ..errors import VectorError
from ..vectors.arithmetic import Description, describe
from ..vectors.find import find_vectors


@dataclass(frozen=True, eq=False)
class SetBeside:
    """A set and its figures."""

    vectors: VectorSet
    description: Description

    @classmethod
    def of(cls, vectors: VectorSet) -> SetBeside:
        """Measure a set."""
        return cls(vectors, describe(vectors))

    def fits(self, other: SetBeside) -> bool:
        """True if both are for models of the same shape and act at the same site, so that rows can be compared."""
        one, two = self.vectors, other.vectors
        return (one.layers, one.hidden, one.site) == (two.layers, two.hidden, two.site)

    def cosines_with(self, other: SetBeside) -> np.ndarray:
        """Cosines of these emotions with those of `other`, the mean over the layers: float64 ``[own, other's]``."""
        with np.errstate(invalid="ignore", divide="ignore"):
            one, two = (
                rows / np.linalg.norm(rows, axis=2, keepdims=True)
                for rows in (self.vectors.rows.astype(np.float64), other.vectors.rows.astype(np.float64))
            )
        return np.stack([np.nanmean(np.einsum("lh,elh->el", row, two), axis=1) for row in np.nan_to_num(one)])

    def as_json(self) -> dict[str, Any]:
        """Name, origin, and the reliability of each emotion."""
        vectors = self.vectors
        return {
            "name": vectors.name,
            "base_model": vectors.base_model,
            "site": vectors.site.replace("_", " "),
            "layers": vectors.layers,
            "hidden": vectors.hidden,
            "problems": list(self.description.problems),
            "emotions": [self._emotion(i, emotion) for i, emotion in enumerate(vectors.emotions)],
        }

    def _emotion(self, i: int, emotion: str) -> dict[str, Any]:
        known, strength = self.vectors.statistics.get(emotion), self.vectors.strengths.get(emotion)
        return {
            "emotion": emotion,
            "norm": round(float(self.description.norms[i].mean()), 4),
            "queries": None if known is None else known.count,
            "split_half": None if known is None else known.split_half_cosine,
            "strength": None if strength is None else str(strength),
        }


def open_sets(first: VectorSet, further: Sequence[str]) -> list[SetBeside]:
    """The set of the desk, and `further` ones by name or path, measured.

    Raises:
        InputError: no such set. VectorError: two of them have one name.
    """
    found = [SetBeside.of(first), *(SetBeside.of(find_vectors(name)) for name in further)]
    names = [one.vectors.name for one in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise VectorError(f"{twice}: two sets to be compared have this name; rename one of the files")
    return found
