"""The seam to personas: whoever knows their file format gives the desk a `PersonaStore`; without one it shows none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from .setting import Setting


class PersonaStore(Protocol):
    """Personas in a folder, by name. Every method raises an `EmobakeError` for what fails."""

    def names(self) -> Sequence[str]:
        """Names of the personas that can be loaded."""

    def load(self, name: str) -> Setting:
        """The weights, scale, layers and scope of a persona."""

    def save(self, name: str, setting: Setting, *, overwrite: bool) -> None:
        """Write a persona with this setting, whole or not at all, within the store's own folder."""
