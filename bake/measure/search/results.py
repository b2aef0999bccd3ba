"""The result of a search, and its files: a vector set, the trials as JSON, and pictures of the front."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.strict_json import json_bytes
from ...core.vector_set import VectorSet
from ...errors import InputError
from ...storage.publish import write_all
from ...vectors.pictures import COLOURS, SUFFIXES, new_figure, picture
from ...vectors.write import write_set
from ..ledger import writing
from .points import PLAIN, SECOND, Figures, Point, sane_front, violations

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SECOND_COLOUR = "#2a8c8c"


@dataclass(frozen=True, eq=False)
class Searched:
    """A finished search."""

    vectors: VectorSet
    """The tuned rows, as a set of one emotion."""
    best: Point
    """The chosen point, as it was measured on the validation queries."""
    points: tuple[Point, ...]
    """All trials, in their order."""
    base: Figures
    """The base on the queries of the trials."""
    validated: tuple[Point, ...]
    """The points that were measured on the validation queries."""
    validation_base: Figures
    rule: str
    """The rule that chose the point."""
    test: Mapping[str, Any]
    """Figures on the test queries: the base, strengths of the plain and of the tuned rows, of a second set's rows if
    there is one, and the comparison of the first two."""
    record: Mapping[str, Any]
    """Model, vectors, weights, versions and seed."""

    def to_json(self) -> dict[str, Any]:
        """Content of ``<name>.search.json``."""
        return {
            **self.record,
            "rule": self.rule,
            "chosen": self.best.to_json(),
            "test": dict(self.test),
            "front": [point.name for point in sane_front(self.points, self.base)],
            "base": self.base.to_json(),
            "trials": [point.to_json() for point in self.points],
            "validation_base": self.validation_base.to_json(),
            "validation": [point.to_json() for point in self.validated],
        }


def check_target(out: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """Refuse, before any work, a file that cannot be written.

    Raises:
        InputError: another suffix, something is there, or no folder to write in.
        MissingPackageError: matplotlib, for the pictures, is not installed.
    """
    target = Path(out)
    if target.suffix != ".safetensors":
        raise InputError(f"{target}: give `out` a name that ends in .safetensors")
    for file in (target, *_beside(target)):
        if file.exists() and not overwrite:
            raise InputError(f"{file}: exists; choose another `out`, or `overwrite`")
    if not target.absolute().parent.is_dir():
        raise InputError(f"{target}: its folder does not exist; make it first")
    new_figure()
    return target


def write_searched(result: Searched, target: Path, *, overwrite: bool) -> Searched:
    """Write all files, the set last; returns the result with the search in the set's record.

    Raises:
        OutputError: the disk refused.
    """
    record = {
        **result.record,
        "rule": result.rule,
        "shape": asdict(result.best.shape),
        "validation": result.best.figures.to_json(),
        "test": {key: value for key, value in result.test.items() if key != "queries"},
    }
    vectors = replace(result.vectors, extraction={**result.vectors.extraction, "search": record})
    result = replace(result, vectors=vectors)
    drawn = plot_search(result)
    data, *pictures = _beside(target)
    files = {data.name: json_bytes(result.to_json())}
    files |= {file.name: picture(drawn, suffix) for file, suffix in zip(pictures, SUFFIXES, strict=True)}
    with writing(target):
        write_all(data, files, overwrite=overwrite)
    write_set(vectors, target, overwrite=overwrite)
    return result


def plot_search(result: Searched) -> Figure:
    """Draw emotion over KL: the trials, their front and the plain strengths; beside it what the test found."""
    figure = new_figure(figsize=(11.5, 5.6))
    axes, tested = figure.subplots(1, 2)
    plain, second = (
        sorted((p for p in result.points if p.name.startswith(start)), key=lambda p: p.figures.kl)
        for start in (PLAIN, SECOND)
    )
    others = [point for point in result.points if point not in (*plain, *second)]
    (emotion,) = result.vectors.emotions
    colour = COLOURS.get(emotion, "#2f6fb0")
    sane = sane_front(result.points, result.base)
    broken = [p for p in others if max(violations(p.figures, result.base).values()) > 0]
    for points, fill, label in (
        ([p for p in others if p not in broken], colour, "trial"),
        (broken, "none", "trial that repeats itself, or was stopped"),
    ):
        axes.scatter(*_places(points), s=22, facecolors=fill, edgecolors=colour, linewidths=0.8, label=label)
    axes.plot(*_places(sane), color=colour, linewidth=1.6, label="front")
    axes.plot(*_places(plain), color="#777777", marker="s", markersize=4, linewidth=1.2, label="plain strengths")
    if second:
        label = f"{result.record['blend']}, as it is"
        axes.plot(*_places(second), color=_SECOND_COLOUR, marker="^", markersize=5, linestyle=" ", label=label)
        measured = sorted((one["kl"], one["emotion"]) for one in result.test["second"])
        tested.plot(*zip(*measured, strict=True), color=_SECOND_COLOUR, marker="^", linewidth=1.6, label=label)
    best = [point for point in result.points if point.name == result.best.name]
    axes.scatter(*_places(best), marker="*", s=170, color="#222222", label="chosen", zorder=3)
    budget = float(result.record["budget_kl"])
    for rows, line, marker, label in (
        ("plain", "#777777", "s", "plain strengths"),
        ("tuned", colour, "*", "tuned rows, times 0.25 to 1"),
    ):
        found = [(0.0, 0.0), *sorted((one["kl"], one["emotion"]) for one in result.test[rows])]
        tested.plot(*zip(*found, strict=True), color=line, marker=marker, linewidth=1.6, label=label)
    for own, title in (
        (axes, f"{len(result.points)} trials"),
        (tested, f"{len(result.test['queries'])} test queries that no trial has seen"),
    ):
        own.axvline(budget, color="#999999", linestyle="--", linewidth=1, label=f"budget: {budget:g} nats")
        own.set(xlabel="mean KL from the base, nats per token", ylabel=f"rise of {emotion}, standard deviations")
        own.set_title(title, fontsize=10)
        own.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2, scatterpoints=1)
        own.spines[["top", "right"]].set_visible(False)
    return figure


def _places(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [point.figures.kl for point in points], [point.figures.emotion for point in points]


def _beside(target: Path) -> tuple[Path, ...]:
    """The JSON file and the pictures beside the set."""
    return tuple(target.with_name(f"{target.stem}.search{suffix}") for suffix in (".json", *SUFFIXES))
