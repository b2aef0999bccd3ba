"""The picture of a vector set: norms, cosines, and what the emotions share, by layer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..core.vector_set import VectorSet
from .arithmetic import Description
from .pictures import COLOURS, check_picture, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LINES = 10
"""Emotions that get a line of their own."""


def plot_set(vectors: VectorSet, description: Description, out: Path) -> None:
    """Draw the set into the PNG file `out`; the same set gives the same picture.

    Raises:
        InputError: `out` is no .png. MissingPackageError: matplotlib is not installed.
        OutputError: it cannot be written.
    """
    check_picture(out, (".png",))
    figure = new_figure(figsize=(15, 4.6))
    norms, cosines, shared = figure.subplots(1, 3, width_ratios=(1.3, 1.1, 1))
    title = f"{vectors.name}  ·  {vectors.layers} layers x {vectors.hidden}  ·  {vectors.site.replace('_', ' ')}"
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    _draw_norms(norms, vectors, description)
    draw_cosines(cosines, vectors, description)
    _draw_shared(shared, vectors, description)
    save_figure(figure, out)


def _draw_norms(axes: Axes, vectors: VectorSet, description: Description) -> None:
    layers = np.arange(vectors.layers)
    for i, emotion in enumerate(vectors.emotions[:_LINES]):
        (line,) = axes.plot(layers, description.norms[i], label=emotion, color=COLOURS.get(emotion), linewidth=1.8)
        found = vectors.statistics.get(emotion)
        if found is not None:
            low, high = (description.norms[i] + sign * np.array(found.standard_error) for sign in (-1, 1))
            axes.fill_between(layers, low.clip(0), high, color=line.get_color(), alpha=0.15, linewidth=0)
    axes.set(xlabel="layer", title="norm" + (" ± standard error of the mean" if vectors.statistics else ""))
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)


def draw_cosines(axes: Axes, vectors: VectorSet, description: Description) -> None:
    """Draw the cosines between a set's emotions as a table of colours."""
    count = len(vectors.emotions)
    axes.imshow(description.cosines, vmin=-1, vmax=1, cmap="RdBu_r")
    if count <= 3 * _LINES:
        axes.set_xticks(range(count), vectors.emotions, rotation=45, ha="right", fontsize=9)
        axes.set_yticks(range(count), vectors.emotions, fontsize=9)
    if count <= _LINES:
        for (i, j), value in np.ndenumerate(description.cosines):
            if not np.isnan(value):
                colour = "white" if abs(value) > 0.7 else "black"
                axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=8, color=colour)
    axes.set_title("cosine between emotions, mean over layers")


def _draw_shared(axes: Axes, vectors: VectorSet, description: Description) -> None:
    layers = np.arange(vectors.layers)
    axes.plot(layers, description.shared, color="#444444", linewidth=1.8, label="shared part of the squared length")
    axes.plot(layers, description.layer_cosines, color="#999999", linestyle="--", label="mean cosine between emotions")
    axes.set(xlabel="layer", title="what the emotions have in common")
    axes.set_ylim(min(0.0, float(np.nanmin([0.0, *description.layer_cosines]))), 1.02)
    axes.legend(frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
