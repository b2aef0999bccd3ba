"""Every error that emobake raises, with its exit code.

    EmobakeError                  1  a run failed
    ├── OutputError               1  the output could not be written (disk full, no permission ...)
    ├── VerifyError               1  a finished bake could not be checked
    ├── HubError                  1  the Hub, another host or the network failed
    ├── ModelError                1  a model did not load or did not run
    ├── MissingPackageError       1  an optional package is not installed
    └── InputError                2  the request cannot be carried out; nothing was written
        ├── BrokenFileError       2  a file is not what it claims to be
        ├── VectorError           2  a vector set is broken or does not fit the model
        │   └── NoVectorsError    2  no vector set is known for the model
        ├── UnsupportedModelError 2  no route puts the bias where stock stacks add it
        └── UnplannedError        2  a dry run cannot plan what a converter has yet to make

Each message is one line: what is wrong, in which file, what to do. A name in backticks is an argument of the call
that failed, such as `overwrite`; `spell_arguments` writes it as the caller typed it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable

_ARGUMENT = re.compile(r"`([a-z][a-z_]*)`")
_SECRETS = {"HF_TOKEN": "(token)", "HUGGING_FACE_HUB_TOKEN": "(token)", "OPENAI_API_KEY": "(key)"}
"""Environment variables whose values are never shown -> the word in their place."""


_ADDRESSES = ("OPENAI_BASE_URL", "HF_ENDPOINT", "EMOBAKE_RAW_ENDPOINT")
"""Environment variables of addresses that may hold a password, with characters that no address may have."""


def without_secrets(text: str) -> str:
    """`text` without passwords and queries in addresses, and without tokens and keys."""
    for name in _ADDRESSES:
        user, at, _ = os.environ.get(name, "").partition("://")[2].rpartition("@")
        text = text.replace(user + at, "") if at else text
    text = re.sub(r"\b([a-z][a-z0-9+.-]*://)[^\s/]*@", r"\1", text, flags=re.IGNORECASE)
    text = re.sub(r"\b(https?://[^\s?]*)\?[^\s)\]}>,;'\"]*", r"\1", text, flags=re.IGNORECASE)
    for name, word in _SECRETS.items():
        value = os.environ.get(name, "")
        if len(value) > 3:  # A shorter one is none, and may occur in any word.
            text = text.replace(value, word)
    return re.sub(r"\bsk-[\w-]{8,}", "(key)", re.sub(r"\bhf_[A-Za-z0-9]{8,}", "(token)", text))


class EmobakeError(Exception):
    """Base class of the errors above; a message never shows a password, a token or a key."""

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(without_secrets(message))


class OutputError(EmobakeError):
    """The output could not be written; partial output was removed."""


class VerifyError(EmobakeError):
    """A finished bake could not be checked."""


class HubError(EmobakeError):
    """The Hub, another host or the network failed; another try may succeed."""


class ModelError(EmobakeError):
    """A model did not load or did not run."""


class MissingPackageError(EmobakeError):
    """An optional package, or a stack, is not installed."""


class InputError(EmobakeError):
    """The request cannot be carried out as given; nothing was written."""

    exit_code = 2


class BrokenFileError(InputError):
    """A file is truncated, malformed or contradicts another one."""


class VectorError(InputError):
    """A vector set is malformed, or was made for another model."""


class NoVectorsError(VectorError):
    """No vector set is known for a model; `model` is its name as the user gave it."""

    def __init__(self, message: str, model: str) -> None:
        super().__init__(message)
        self.model = model


class UnsupportedModelError(InputError):
    """No route serves this architecture, or the requested stacks."""


class UnplannedError(InputError):
    """A dry run cannot plan the output, because llama.cpp's converter has not made its base yet."""


def spell_arguments(text: str, spell: Callable[[str], str]) -> str:
    """Replace each argument name in backticks by `spell(name)`: ``--overwrite`` in a shell, ``/mix`` in a chat."""
    return _ARGUMENT.sub(lambda match: spell(match[1]), text)
