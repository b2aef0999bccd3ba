"""Arguments of the library that may be of any type, because nothing checks them before."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TypeVar

from ..errors import InputError
from .spelling import did_you_mean

T = TypeVar("T")


def require_choice(argument: str, given: object, choices: Sequence[str]) -> None:
    """Refuse a word that is none of the `choices`.

    Raises:
        InputError: another word, or another type.
    """
    if given not in choices:
        like = did_you_mean(given, choices) if isinstance(given, str) else ""
        raise InputError(f"`{argument}` takes one of {', '.join(choices)}, not {given!r}{like}")


def as_list(argument: str, given: Iterable[T], example: str) -> tuple[T, ...]:
    """The items of an argument that takes a list; a text is none, although Python could take its letters.

    Raises:
        InputError: another type; the message shows the `example`.
    """
    if isinstance(given, str | os.PathLike) or not isinstance(given, Iterable):
        raise InputError(f"`{argument}` takes a list, such as {example}, not {given!r}")
    return tuple(given)
