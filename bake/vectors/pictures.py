"""Pictures: one way to make and save a figure, and the colours of emotions. Needs matplotlib."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.packages import require
from ..errors import InputError, OutputError
from ..storage.publish import write_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {"anger": "#c8321e", "disgust": "#5c8a2a", "fear": "#6a4c9c", "joy": "#e8a200", "sadness": "#2f6fb0"}
"""Colours of the paper's emotions."""
_METADATA: dict[str, dict[str, Any]] = {".png": {"Software": None}, ".svg": {"Date": None, "Creator": None}}
"""Suffix -> metadata without date and version, so that the same figure gives the same bytes."""


SUFFIXES = tuple(_METADATA)
"""Suffixes of pictures."""


def check_picture(out: Path, suffixes: Sequence[str] = SUFFIXES, *, argument: str = "plot") -> None:
    """Check, before any work, that a picture can be drawn into `out`.

    Raises:
        InputError: another suffix. MissingPackageError: matplotlib is not installed.
    """
    if out.suffix.lower() not in suffixes:
        raise InputError(f"{out}: give `{argument}` a name that ends in {' or '.join(suffixes)}")
    new_figure()


def new_figure(**options: Any) -> Figure:
    """Make a figure without pyplot: no window, no state, nothing to close.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    figure: Figure = require("matplotlib.figure", extra="plot", purpose="pictures").Figure(
        layout="constrained", **options
    )
    return figure


def picture(figure: Figure, suffix: str) -> bytes:
    """Draw a figure as ``.png`` or ``.svg``; the same figure gives the same bytes."""
    from matplotlib import rc_context
    from matplotlib.text import Text

    content = io.BytesIO()
    # A name with two dollars is a name, and no formula, which may be wrong.
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    # Without a salt, an SVG has random names in it.
    with rc_context({"svg.hashsalt": "emobake", "text.parse_math": False}):
        figure.savefig(content, format=suffix[1:], dpi=130, metadata=_METADATA[suffix])
    return content.getvalue()


def save_figure(figure: Figure, out: Path) -> None:
    """Save a figure as PNG or SVG, whole.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        write_file(out, picture(figure, out.suffix.lower()))
    except OSError as error:
        raise OutputError(f"{out}: cannot be written ({error.strerror})") from None
