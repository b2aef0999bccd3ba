"""Arguments of the library that may be of any type, because nothing checks them before."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TypeVar

from ..errors import InputError

T = TypeVar("T")


def as_list(argument: str, given: Iterable[T], example: str) -> tuple[T, ...]:
    """The items of an argument that takes a list; a text is none, although Python could take its letters.

    Raises:
        InputError: another type; the message shows the `example`.
    """
    if isinstance(given, str | os.PathLike) or not isinstance(given, Iterable):
        raise InputError(f"`{argument}` takes a list, such as {example}, not {given!r}")
    return tuple(given)
