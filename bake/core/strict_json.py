"""Strict JSON: a repeated key, or nesting without end, is an error."""

from __future__ import annotations

import json
from typing import Any

from ..errors import BrokenFileError


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name stands twice")
    return result


def parse_json(data: bytes | str, file: str) -> Any:
    """Parse JSON from a file named `file`; a repeated key is an error, not a silent choice.

    Raises:
        BrokenFileError: not JSON, nested too deep, or a repeated key.

    """
    try:
        text = data if isinstance(data, str) else data.decode()
        value = json.loads(text, object_pairs_hook=_unique)
        if "\\ud" in text.lower():  # half a surrogate pair cannot be written into any file, here or later
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise BrokenFileError(f"{file}: not valid JSON ({_short(error)}); fetch the file again") from None
    return value


def parse_json_object(data: bytes | str, file: str) -> dict[str, Any]:
    """Parse a JSON object, as `parse_json`.

    Raises:
        BrokenFileError: as `parse_json`, or not an object.

    """
    value = parse_json(data, file)
    if not isinstance(value, dict):
        raise BrokenFileError(f"{file}: holds a JSON {type(value).__name__}, not an object")
    return value


def _short(error: BaseException) -> str:
    return str(error).splitlines()[0][:120] if str(error) else type(error).__name__
