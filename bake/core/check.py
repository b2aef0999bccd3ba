"""Findings of a verification."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Check:
    """One finding."""

    name: str
    ok: bool | None
    """None for information that is reported but not judged."""
    detail: str

    def as_dict(self) -> dict[str, Any]:
        """The finding as JSON data."""
        return asdict(self)
