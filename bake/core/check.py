"""One finding of a check."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Check:
    """One finding. `ok` is None for what is reported but not judged."""

    name: str
    ok: bool | None
    detail: str

    def as_dict(self) -> dict[str, Any]:
        """The finding as plain data, for ``--json``."""
        return asdict(self)
