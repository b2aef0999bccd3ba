"""A vector set in words: tables on the terminal, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.vector_set import VectorSet
from ..vectors.arithmetic import Description
from .terminal import show_indented, spelled, styled

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

COLUMNS = 10
"""Emotions in a table at most; the JSON has all."""


def show_set(console: Console, vectors: VectorSet, description: Description) -> None:
    """Print what the set is, norms per layer, cosines, statistics, and problems."""
    console.print(styled((vectors.name, "bold"), f"  {vectors.layers} layers x {vectors.hidden}"))
    facts = {
        "acts at": vectors.site.replace("_", " "),
        "made from": vectors.base_model or "a model that it does not name",
        "source": vectors.source,
        "licence": vectors.license or "none recorded",
    } | {key.replace("_", " "): str(value) for key, value in vectors.extraction.items()}
    for key, value in facts.items():
        if value:
            show_indented(console, (f"{key}:", "dim"), f" {value}")
    shown = _fitting(console, vectors)
    if len(shown) < len(vectors.emotions):
        console.print(f"The first {len(shown)} of {len(vectors.emotions)} emotions; --json has all.")
    table = _table("Norms", ["layer", *shown, "shared"])
    for layer in range(vectors.layers):
        shared = description.shared[layer]
        share = "" if np.isnan(shared) else f"{shared:.0%}"
        table.add_row(str(layer), *(f"{x:.3f}" for x in description.norms[: len(shown), layer]), share)
    console.print(table)
    show_statistics(console, vectors, description)
    for problem in description.problems:
        console.print(styled(("Problem:", "bold yellow"), f" {spelled(problem)}"))
    for line in description.advice:
        console.print(styled(("Note:", "bold"), f" {spelled(line)}"))


def show_statistics(console: Console, vectors: VectorSet, description: Description) -> None:
    """Print how certain each vector is, and the cosines between emotions."""
    shown = _fitting(console, vectors)
    if vectors.statistics:
        table = _table(
            "Statistics", ["emotion", "queries", "split-half cosine", "standard error / norm", "best layers"]
        )
        for i, emotion in enumerate(shown):
            found = vectors.statistics.get(emotion)
            if found is None:
                table.add_row(styled(emotion), "", "", "", "")
                continue
            norms, errors = description.norms[i], np.array(found.standard_error)
            ratio = f"{(errors[norms > 0] / norms[norms > 0]).mean():.2f}" if norms.any() else ""
            cosine = "" if found.split_half_cosine is None else f"{found.split_half_cosine:.3f}"
            table.add_row(styled(emotion), str(found.count), cosine, ratio, _best(description.separation[i]))
        console.print(table)
    if len(shown) > 1:
        table = _table("Cosines", ["", *shown])
        for i, emotion in enumerate(shown):
            table.add_row(styled(emotion), *(_cosine(x) for x in description.cosines[i, : len(shown)]))
        console.print(table)


def _best(separation: np.ndarray) -> str:
    """The three layers that separate best, the best first."""
    return ", ".join(str(layer) for layer in np.argsort(-separation, kind="stable")[:3] if separation[layer] > 0)


def _fitting(console: Console, vectors: VectorSet) -> tuple[str, ...]:
    """The first emotions, as many as have room side by side; at least one."""
    # Two columns between all; the first column has names too, and the last one is "shared".
    room = console.width - max(len("layer"), *map(len, vectors.emotions[:COLUMNS])) - len("  shared")
    widths = accumulate(max(len(emotion), len("100.000")) + 2 for emotion in vectors.emotions[:COLUMNS])
    return vectors.emotions[: max(1, sum(width <= room for width in widths))]


def _cosine(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.2f}"


def _table(title: str, columns: Sequence[str]) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold", title_style="bold")
    for i, column in enumerate(columns):
        table.add_column(styled(column), justify="left" if i == 0 else "right")
    return table


def as_dict(vectors: VectorSet, description: Description) -> dict[str, Any]:
    """The same as JSON data; NaN becomes null."""
    return {
        "name": vectors.name,
        "emotions": list(vectors.emotions),
        "layers": vectors.layers,
        "hidden_size": vectors.hidden,
        "site": vectors.site,
        "base_model": vectors.base_model,
        "source": vectors.source,
        "license": vectors.license,
        "norms": {e: _numbers(row) for e, row in zip(vectors.emotions, description.norms, strict=True)},
        "cosines": {
            e: dict(zip(vectors.emotions, _numbers(row), strict=True))
            for e, row in zip(vectors.emotions, description.cosines, strict=True)
        },
        "layer_cosines": _numbers(description.layer_cosines),
        "shared": _numbers(description.shared),
        "separation": {e: _numbers(row) for e, row in zip(vectors.emotions, description.separation, strict=True)},
        "statistics": {emotion: asdict(found) for emotion, found in vectors.statistics.items()},
        "extraction": dict(vectors.extraction),
        "problems": list(map(spelled, description.problems)),
        "advice": list(map(spelled, description.advice)),
    }


def _numbers(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else round(float(value), 6) for value in values]
