"""Names of models: a folder, a GGUF file, or an id on the Hub. Parsed once, at the door."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ..errors import InputError


@dataclass(frozen=True)
class ModelName:
    """A model as its user names it."""

    name: str
    """Path, or Hub id without a revision."""
    kind: Literal["folder", "gguf", "hub"]
    revision: str | None = None
    """Branch, tag or commit on the Hub; None for its main branch, and for local models."""
    base_model: str = ""
    """Hub id to record as the base when the model is local."""

    @classmethod
    def parse(
        cls, model: str | os.PathLike[str] | ModelName, *, revision: str | None = None, base_model: str = ""
    ) -> ModelName:
        """Parse ``./folder``, ``model.gguf``, ``owner/name`` or ``owner/name@revision``.

        A path that exists, or that looks like one, is local.

        Raises:
            InputError: another type; a revision of a local model, an empty one, or two different ones.
        """
        if isinstance(model, ModelName):
            return replace(model, base_model=base_model) if base_model else model
        if not isinstance(model, str | os.PathLike):
            raise InputError(f"a model is a path, a Hub id or a ModelName, not {model!r}")
        text = os.fspath(model)
        if is_gguf(text):
            _refuse_revision(text, revision, "file")
            return cls(text, "gguf", None, base_model)
        if _looks_local(text):
            _refuse_revision(text, revision, "folder")
            return cls(text, "folder", None, base_model)
        name, at, named = text.partition("@")
        if at and (not named or revision not in (None, named)):
            raise InputError(f"{text}: names no revision after the @, or another than `revision` {revision}")
        if at and _looks_local(name):
            raise InputError(f"`revision` goes with a Hub id, and {name} is a folder")
        return cls(name, "hub", named if at else revision, base_model)

    def __str__(self) -> str:
        """The name as a user would type it."""
        return self.name if self.revision is None else f"{self.name}@{self.revision}"

    @property
    def is_local(self) -> bool:
        """True if the model is on this machine."""
        return self.kind != "hub"

    @property
    def path(self) -> Path:
        """Path of a local model."""
        return Path(self.name)


def is_gguf(path: str) -> bool:
    """True if the suffix of `path` is that of a GGUF file."""
    return path.lower().endswith(".gguf")


def is_offline() -> bool:
    """True if ``HF_HUB_OFFLINE`` is set."""
    from huggingface_hub.constants import HF_HUB_OFFLINE

    return bool(HF_HUB_OFFLINE)


def _refuse_revision(name: str, revision: str | None, kind: str) -> None:
    if revision is not None:
        raise InputError(f"`revision` goes with a Hub id, and {name} is a {kind}")


def _looks_local(name: str) -> bool:
    path = Path(name)
    return (
        os.path.lexists(path)
        or path.is_absolute()
        or name.startswith((".", "~"))
        or name.count("/") > 1
        or (os.sep != "/" and os.sep in name)
    )
