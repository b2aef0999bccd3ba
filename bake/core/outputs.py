"""Outputs on this disk: the place, and the way of writing."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from ..errors import InputError
from .arguments import require_choice

LinkMode = Literal["auto", "reflink", "copy", "link", "hardlink", "symlink"]
LINK_MODES: tuple[LinkMode, ...] = get_args(LinkMode)
Share = Literal["keep", "move"]
SHARES: tuple[Share, ...] = get_args(Share)
OUTTYPES = ("auto", "f32", "f16", "bf16", "q8_0")
"""Weight types of llama.cpp's converter; ``auto`` keeps 16 bits."""


@dataclass(frozen=True)
class Folder:
    """A folder for a checkpoint or for adapters."""

    path: str | os.PathLike[str]
    link_mode: LinkMode = "auto"
    """Way of carrying weight files over; `emobake.storage.copying.carry` describes the modes."""
    overwrite: bool = False
    """Replace an earlier output of emobake, once the new one is complete."""

    @property
    def target(self) -> Path:
        """Absolute path; links are not followed."""
        return _absolute(self.path)


@dataclass(frozen=True)
class GgufFile:
    """A GGUF file of llama.cpp."""

    path: str | os.PathLike[str]
    overwrite: bool = False
    """Replace an earlier output of emobake, once the new one is complete."""
    modelfile: bool = False
    """Write an Ollama Modelfile beside it."""
    keep_split: bool = False
    """Write a set of files if the base is a set."""
    share: Share | None = None
    """Write a set whose second file holds what moods of the base have in common, and is shared by all in the folder.

    ``move`` removes the base. GGUF files only."""
    outtype: str | None = None
    """Weight type of llama.cpp's converter, one of `OUTTYPES`; None means ``auto``. Checkpoints only."""
    converter: str = ""
    """The converter; default: the one beside this interpreter, or on PATH. Checkpoints only."""

    @property
    def target(self) -> Path:
        """Absolute path; links are not followed."""
        return _absolute(self.path)


def parse_output(out: str | os.PathLike[str] | Folder | GgufFile | None) -> Folder | GgufFile | None:
    """Parse the argument `out`: a name that ends in ``.gguf`` is a `GgufFile`, another one a `Folder`.

    Raises:
        InputError: another type, or an unknown link mode.
    """
    if isinstance(out, Folder):
        require_choice("link_mode", out.link_mode, LINK_MODES)
    if out is None or isinstance(out, Folder | GgufFile):
        return out
    if not isinstance(out, str | os.PathLike):
        raise InputError(f"`out` takes a path, a Folder or a GgufFile, not {out!r}")
    return GgufFile(out) if os.fspath(out).lower().endswith(".gguf") else Folder(out)


def _absolute(path: str | os.PathLike[str]) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 - Path.resolve() would follow links
