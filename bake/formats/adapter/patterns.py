"""Modules that an adapter's config names, by PEFT's rules (``check_target_module_exists`` and ``get_pattern_key`` of
0.21).

Its patterns are a stranger's regular expressions: they run in a process of their own, which is stopped in time.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from ...core.limits import MAX_PATTERNS
from ...errors import BrokenFileError, OutputError

_SECONDS = 10
"""Time for all patterns of a config; those of the largest adapters take a tenth of a second."""
_ALL_LINEAR = "all-linear"

T = TypeVar("T")


def are_named(
    named: str | Sequence[str],
    names: Sequence[str],
    file: str,
    *,
    layers: Sequence[int] | None = None,
    containers: Sequence[str] = (),
) -> list[bool]:
    """Tell for each of `names` if ``target_modules`` or ``exclude_modules`` names it.

    Args:
        named: a pattern, ``all-linear`` (then every name is that of a linear module), or ends of names.
        names: modules of the model that transformers builds.
        file: the config, for messages.
        layers: ``layers_to_transform``; None: all.
        containers: ``layers_pattern``, plain names.

    Raises:
        BrokenFileError: not a pattern, or one that takes too long.
    """
    if isinstance(named, str):
        if named.lower() == _ALL_LINEAR:
            return [True] * len(names)
        return _match([("fullmatch", named)], names, file)[0]
    whole = set(named)
    return [name in whole or (_ends(name, whole) and _is_in(name, layers, containers)) for name in names]


def pick(values: Mapping[str, T], names: Sequence[str], default: T, file: str) -> list[T]:
    """The value of each of `names` in ``rank_pattern`` or ``alpha_pattern``: that of the first pattern that fits.

    Raises:
        BrokenFileError: as `are_named`.
    """
    if not values:
        return [default] * len(names)
    found = _match([("match", rf"(.*\.)?({pattern})$") for pattern in values], names, file)
    return [
        next((value for value, fits in zip(values.values(), found, strict=True) if fits[number]), default)
        for number in range(len(names))
    ]


def _ends(name: str, ends: set[str]) -> bool:
    parts = name.split(".")
    return any(".".join(parts[start:]) in ends for start in range(1, len(parts)))


def _is_in(name: str, layers: Sequence[int] | None, containers: Sequence[str]) -> bool:
    """True if the module is in one of the `layers`, by the first number in its name (behind one of `containers`)."""
    if not layers:
        return True
    behind = [rf"(?:^|.*?\.){re.escape(container)}\.(\d+)\." for container in containers] or [r".*?\.[^.]*\.(\d+)\."]
    found = next(filter(None, (re.match(pattern, name) for pattern in behind)), None)
    return found is not None and int(found[1]) in layers


def _match(patterns: Sequence[tuple[str, str]], names: Sequence[str], file: str) -> list[list[bool]]:
    """For each pattern, tell of each name if it fits."""
    if sum(len(pattern) for _, pattern in patterns) > MAX_PATTERNS:
        raise BrokenFileError(f"{file}: has patterns of more than {MAX_PATTERNS} characters")
    program = Path(__file__).with_name("match_names.py")
    try:
        done = subprocess.run(
            [sys.executable, "-I", str(program)],
            input=json.dumps([list(patterns), list(names)]).encode(),
            capture_output=True,
            timeout=_SECONDS,
            check=True,
        )
        found = json.loads(done.stdout)
    except OSError as error:
        raise OutputError(f"{file}: its patterns cannot be matched ({error.strerror}); run again") from None
    except (subprocess.SubprocessError, ValueError):
        raise BrokenFileError(f"{file}: its patterns take too long; write the modules' names in their place") from None
    for (_, pattern), fits in zip(patterns, found, strict=True):
        if fits is None:
            raise BrokenFileError(f"{file}: {pattern[:80]!r} is not a regular expression")
    return [list(fits) for fits in found]
