"""JSON that is read strictly and written as the Hugging Face libraries write it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..errors import BrokenFileError


def parse_json(data: bytes | str, file: str) -> Any:
    """Parse JSON; `file` names it in messages.

    Raises:
        BrokenFileError: invalid JSON, nested too deep, a repeated key, or half a surrogate pair.
    """
    try:
        text = data if isinstance(data, str) else data.decode()
        value = json.loads(text, object_pairs_hook=_unique)
        if "\\ud" in text.lower():  # Half a surrogate pair cannot be encoded, so no later file could hold it.
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise BrokenFileError(f"{file}: not valid JSON ({_short(error)}); fetch the file again") from None
    return value


def parse_json_object(data: bytes | str, file: str) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        BrokenFileError: as `parse_json`, or not an object.
    """
    value = parse_json(data, file)
    if not isinstance(value, dict):
        raise BrokenFileError(f"{file}: holds a JSON {type(value).__name__}, not an object")
    return value


def json_bytes(value: Mapping[str, Any]) -> bytes:
    """JSON indented by two, in UTF-8, with a final newline."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key occurs twice")
    return result


def _short(error: BaseException) -> str:
    return str(error).splitlines()[0][:120] if str(error) else type(error).__name__
