"""The picture of a vector set: norms, cosines, and what the emotions share, by layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..core.vector_set import VectorSet
from ..errors import EmobakeError, InputError, OutputError
from .arithmetic import Description

_LINES = 10
"""Emotions that get a line of their own."""
COLOURS = {"anger": "#c8321e", "disgust": "#5c8a2a", "fear": "#6a4c9c", "joy": "#e8a200", "sadness": "#2f6fb0"}
"""Of the paper's emotions in every picture."""


def plot_set(vectors: VectorSet, description: Description, out: Path) -> None:
    """Draw the set into the PNG file `out`; the same set gives the same picture.

    Raises:
        InputError: `out` is no .png.
        EmobakeError: matplotlib is not installed.
        OutputError: it cannot be written.
    """
    if out.suffix.lower() != ".png":
        raise InputError(f"{out}: give --plot a name that ends in .png")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise EmobakeError("--plot needs matplotlib; pip install 'emobake[plot]'") from None

    # Without pyplot: no window, no state, nothing to close.
    figure = Figure(figsize=(15, 4.6), layout="constrained")
    norms, cosines, shared = figure.subplots(1, 3, width_ratios=(1.3, 1.1, 1))
    title = f"{vectors.name}  ·  {vectors.layers} layers x {vectors.hidden}  ·  {vectors.site.replace('_', ' ')}"
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    layers = np.arange(vectors.layers)
    for i, emotion in enumerate(vectors.emotions[:_LINES]):
        (line,) = norms.plot(layers, description.norms[i], label=emotion, color=COLOURS.get(emotion), linewidth=1.8)
        found = vectors.statistics.get(emotion)
        if found is not None:
            low, high = (description.norms[i] + sign * np.array(found.standard_error) for sign in (-1, 1))
            norms.fill_between(layers, low.clip(0), high, color=line.get_color(), alpha=0.15, linewidth=0)
    norms.set(xlabel="layer", title="norm" + (" ± standard error of the mean" if vectors.statistics else ""))
    norms.set_ylim(bottom=0)
    norms.legend(frameon=False, fontsize=9)

    count = len(vectors.emotions)
    cosines.imshow(description.cosines, vmin=-1, vmax=1, cmap="RdBu_r")
    if count <= 3 * _LINES:
        cosines.set_xticks(range(count), vectors.emotions, rotation=45, ha="right", fontsize=9)
        cosines.set_yticks(range(count), vectors.emotions, fontsize=9)
    if count <= _LINES:
        for i in range(count):
            for j in range(count):
                value = description.cosines[i, j]
                if not np.isnan(value):
                    colour = "white" if abs(value) > 0.7 else "black"
                    cosines.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=8, color=colour)
    cosines.set_title("cosine between emotions, mean over layers")

    shared.plot(layers, description.shared, color="#444444", linewidth=1.8, label="shared part of the squared length")
    shared.plot(
        layers, description.layer_cosines, color="#999999", linestyle="--", label="mean cosine between emotions"
    )
    shared.set(xlabel="layer", title="what the emotions have in common")
    shared.set_ylim(min(0.0, float(np.nanmin([0.0, *description.layer_cosines]))), 1.02)
    shared.legend(frameon=False, fontsize=9)
    for axes in (norms, shared):
        axes.spines[["top", "right"]].set_visible(False)
    try:
        figure.savefig(out, format="png", dpi=130, metadata={"Software": None})
    except OSError as error:
        raise OutputError(f"{out}: cannot be written ({error.strerror})") from None
