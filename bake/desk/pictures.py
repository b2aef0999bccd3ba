"""Pictures on the desk, in the colours of a light or a dark page. Needs matplotlib."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from ..core.vector_set import VectorSet
from ..vectors.pictures import new_figure, picture
from ..vectors.plot import draw_cosines
from .costs import Cost

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .sets import SetBeside

Theme = Literal["light", "dark"]
_LOCK = threading.Lock()
"""matplotlib's settings are those of the whole process."""


@dataclass(frozen=True)
class _Ink:
    text: str
    line: str
    bar: str


_INKS: dict[str, _Ink] = {"light": _Ink("#1d2430", "#8a93a3", "#b3541e"), "dark": _Ink("#e8ebf0", "#7b8595", "#f0a35e")}


def dose_picture(cost: Cost, theme: Theme) -> bytes:
    """The dose by layer as a small SVG."""

    def draw(figure: Figure, ink: _Ink) -> None:
        axes = figure.subplots()
        values = [0.0 if value is None else 100 * value for value in cost.dose]
        axes.bar(range(len(values)), values, color=ink.bar, width=0.8)
        axes.set_xlabel("layer", fontsize=8)
        axes.set_ylabel("dose, %", fontsize=8)
        axes.set_ylim(0, max(1.0, *values) * 1.08)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)

    return _drawn(draw, theme, (4.6, 1.7))


def cosine_picture(sets: Sequence[SetBeside], theme: Theme) -> bytes:
    """The cosines within each set, and those of each further set with the first where both are of one model, as SVG."""
    first = sets[0]
    panels = [(one, False) for one in sets] + [(one, True) for one in sets[1:] if one.fits(first)]

    def draw(figure: Figure, ink: _Ink) -> None:
        for axes, (one, across) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
            if across:
                _draw_across(axes, first.vectors, one.vectors, one.cosines_with(first))
            else:
                draw_cosines(axes, one.vectors, one.description)
                axes.set_title(one.vectors.name, fontsize=10)

    return _drawn(draw, theme, (3.9 * len(panels), 3.9))


def _draw_across(axes: Axes, first: VectorSet, other: VectorSet, cosines: np.ndarray) -> None:
    axes.imshow(cosines, vmin=-1, vmax=1, cmap="RdBu_r")
    axes.set_xticks(range(len(first.emotions)), first.emotions, rotation=45, ha="right", fontsize=9)
    axes.set_yticks(range(len(other.emotions)), other.emotions, fontsize=9)
    if cosines.size <= 100:
        for (i, j), value in np.ndenumerate(cosines):
            if not np.isnan(value):
                colour = "white" if abs(value) > 0.7 else "black"
                axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=8, color=colour)
    axes.set_title(f"{other.name} (rows) with {first.name}", fontsize=10)


def _drawn(draw: object, theme: Theme, size: tuple[float, float]) -> bytes:
    ink = _INKS[theme]
    new_figure()  # Says what is missing, before matplotlib is imported here.
    from matplotlib import rc_context

    colours = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), ink.text)
    colours |= dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), ink.line)
    with _LOCK, rc_context(colours | {"figure.facecolor": "none", "axes.facecolor": "none"}):
        figure = new_figure(figsize=size)
        draw(figure, ink)  # type: ignore[operator]
        return picture(figure, ".svg")
