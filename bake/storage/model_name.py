"""Which checkpoint a user means: a folder here, or an id on the Hub; and the ids that its vectors go by."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from ..errors import InputError


def split_revision(model: str | os.PathLike[str], revision: str | None) -> tuple[str, str | None]:
    """The model and its revision, which a Hub id may carry after an ``@``.

    Raises:
        InputError: no revision after the ``@``, or another than `revision`.
    """
    name, at, named = os.fspath(model).partition("@")
    if not at or is_local(model, None):
        return os.fspath(model), revision
    if not named or revision not in (None, named):
        raise InputError(f"{model}: names no revision after the @, or another than --revision {revision}")
    return name, named


def is_local(model: str | os.PathLike[str], revision: str | None) -> bool:
    """Whether `model` is meant as a folder, not as an id on the Hub.

    Raises:
        InputError: it is a folder, and a `revision` is asked for.
    """
    path = Path(model)
    looks_local = (
        os.path.lexists(path) or path.is_absolute() or str(model).startswith((".", "~")) or str(model).count("/") > 1
    )
    if looks_local or (os.sep != "/" and os.sep in str(model)):
        if revision is not None:
            raise InputError(f"--revision goes with a Hub id, and {model} is a folder")
        return True
    return False


def is_offline() -> bool:
    """Whether ``HF_HUB_OFFLINE`` is set."""
    from huggingface_hub.constants import HF_HUB_OFFLINE

    return bool(HF_HUB_OFFLINE)


def locate(
    model: str | os.PathLike[str], revision: str | None, check: Callable[[Mapping[str, object]], object]
) -> tuple[Path, tuple[str, ...]]:
    """The folder of a checkpoint: itself, or the Hub cache's snapshot of an id once `check` passed its config.

    With it come the names of all files of the Hub repository, the ones that were not fetched included.

    Raises:
        InputError: neither a folder nor an id; see `emobake.hub.download` for the Hub's refusals.

    """
    if is_local(model, revision):
        return Path(model), ()
    from .hub.download import download

    return download(str(model), revision, check)


def is_gguf(path: str) -> bool:
    """Whether the user means a GGUF file, by its suffix."""
    return path.lower().endswith(".gguf")
