"""Figures as cells of a table; an empty cell for what was not measured."""

from __future__ import annotations


def cell(value: float | None) -> str:
    """A number with three digits, or whole from 100 on."""
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def share(value: float | None) -> str:
    """A share in percent."""
    return "" if value is None else f"{value:.1%}"


def shift(value: float | None) -> str:
    """A difference of two shares, in percentage points."""
    return "" if value is None else f"{100 * value:+.1f}"
