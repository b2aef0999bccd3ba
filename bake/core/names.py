"""Names that strangers choose: of emotions, and of files in an output. One definition of each, for every entrance."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from pathlib import PureWindowsPath

from ..errors import InputError

EMOTION_RULE = "use letters, digits, spaces, '_', '.' and '-'"
"""Advice for a name that `is_emotion_name` refuses."""
_MAX_BYTES = 128
"""Bytes in UTF-8. A file system allows 255 for a file's name, which holds more than the emotion."""
_RESERVED = {
    *("con", "prn", "aux", "nul"),
    *(f"{port}{number}" for port in ("com", "lpt") for number in range(10)),
}
"""Names of devices, with any suffix, on Windows."""
_OURS = {"emobake.json", "readme.md"}
"""Files that lie beside the folders of a ``peft-each`` output, on file systems that ignore case."""


def emotion_name(text: str) -> str:
    """The name that a user means by `text`: lower case, composed letters (NFC), no space around it."""
    return unicodedata.normalize("NFC", text.strip().lower())


def is_emotion_name(name: str) -> bool:
    """True if `name` can name an emotion: it becomes a tensor's name, a file's or folder's name and part of `mix`.

    Letters and digits of any script, spaces, ``_``, ``-`` and ``.``; in the form of `emotion_name`. It begins with a
    letter or digit, and does not end with punctuation.
    """
    return (
        bool(name)
        and all(unicodedata.category(c)[0] in "LMN" or c in "_-. " for c in name)
        and unicodedata.category(name[0])[0] in "LN"
        and name[-1] not in "-. "
        and name == emotion_name(name)
        and len(name.encode()) <= _MAX_BYTES
        and name.partition(".")[0].strip() not in _RESERVED
        and name not in _OURS
    )


def is_plain(text: str) -> bool:
    """True if `text` has no control characters: it stays on its line, and a terminal shows it as it is."""
    return not any(unicodedata.category(c) == "Cc" for c in text)


def is_inside(path: str) -> bool:
    """True if `path`, with ``/``, names a file below the folder that it is relative to, on every system."""
    return (
        all(part not in ("", ".", "..") for part in path.split("/"))
        and "\\" not in path
        and is_plain(path)
        and not PureWindowsPath(path).drive
    )


def require_inside(paths: Iterable[str]) -> None:
    """Refuse to write files of these names, the last defence of every writer.

    Raises:
        InputError: a name leads out of the output (absolute, ``..``), or would on another system.
    """
    for path in paths:
        if not is_inside(path):
            raise InputError(f"{path[:120]!r}: cannot be the name of a file in an output; nothing was written")
