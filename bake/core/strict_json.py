"""JSON that is read strictly and written as the Hugging Face libraries write it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..errors import BrokenFileError
from .limits import MAX_JSON_GROUPS, MAX_JSON_VALUES

_PART = 2**20
"""Bytes that are looked through at once: what a file is cut into takes fifty times its bytes."""


def parse_json(data: bytes | str, file: str) -> Any:
    """Parse JSON; `file` names it in messages.

    Raises:
        BrokenFileError: invalid JSON, nested too deep, too many values, a repeated key, or half a surrogate pair.
    """
    _refuse_many(data, file)
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


def _refuse_many(data: bytes | str, file: str) -> None:
    """Count the values before they are made: each takes a hundred times the two bytes of ``[]``."""
    raw = data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass")
    if _is_many([raw]) and _is_many(_without_texts(raw.replace(b"\\\\", b"").replace(b'\\"', b""))):
        raise BrokenFileError(
            f"{file}: holds more than {MAX_JSON_VALUES} values, or {MAX_JSON_GROUPS} lists and objects, too many for a "
            "file of its kind"
        )


def _without_texts(raw: bytes) -> Iterator[bytes]:
    """What stands outside of the texts, part by part; a text may be cut off."""
    inside = False
    for start in range(0, len(raw), _PART):
        pieces = raw[start : start + _PART].split(b'"')
        yield b"".join(pieces[inside::2])
        inside ^= len(pieces) % 2 == 0


def _is_many(parts: Iterable[bytes]) -> bool:
    groups = values = 0
    for part in parts:
        groups += part.count(b"[") + part.count(b"{")
        values += part.count(b",")
        if groups > MAX_JSON_GROUPS or groups + values > MAX_JSON_VALUES:
            return True
    return False


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key occurs twice")
    return result


def _short(error: BaseException) -> str:
    return str(error).splitlines()[0][:120] if str(error) else type(error).__name__
