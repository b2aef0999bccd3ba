"""Stand-ins for the bindings of llama.cpp, which the modules in `bindings/` are."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "bindings"
NAMES = ("xllamacpp", "llama_cpp")


def take(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Have these stand-ins installed, and no other binding."""
    monkeypatch.syspath_prepend(str(FOLDER))
    for name in NAMES:
        if name in names:
            monkeypatch.delitem(sys.modules, name, raising=False)
        else:
            monkeypatch.setitem(sys.modules, name, None)  # An import of it fails.
