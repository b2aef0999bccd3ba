"""What methods read from headers and configs of any content."""

from __future__ import annotations

from typing import TypeGuard

from .method import Fields, Parts, Shape

FP8 = ("F8_E4M3", "F8_E5M2")
"""Dtypes of FP8 weights."""


def matrix(parts: Parts, name: str, *dtypes: str) -> Shape | None:
    """Shape of the part `name`; None if it is missing, no matrix, empty, or of none of `dtypes`."""
    part = parts.get(name)
    if part is None or part.dtype not in dtypes or len(part.shape) != 2 or 0 in part.shape:
        return None
    return part.shape[0], part.shape[1]


def is_one_of(value: object, numbers: tuple[int, ...]) -> TypeGuard[int]:
    """True if `value` is an integer, neither a bool nor a float, among `numbers`."""
    return type(value) is int and value in numbers


def said(fields: Fields, name: str) -> str:
    """Field `name` in lower case; empty if it is missing or no text."""
    value = fields.get(name)
    return value.lower() if isinstance(value, str) else ""


def short(value: object) -> str:
    """`value` for a message, cut to one short line."""
    text = repr(value) if isinstance(value, str | int | float | None) else f"a JSON {type(value).__name__}"
    return text if len(text) <= 40 else f"{text[:37]}..."
