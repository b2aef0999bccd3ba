"""TOML: a part of Python from 3.11 on, and a package of its own before."""

from __future__ import annotations

import pkgutil
import sys
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def parse_toml(text: str) -> dict[str, Any]:
    """Parse a TOML document. Raises ``ValueError`` for text that is none."""
    tables: dict[str, Any] = tomllib.loads(text)
    return tables


def shipped_tables(package: str, name: str) -> dict[str, Any]:
    """Read the TOML file `name` that is shipped in `package`."""
    # Unlike importlib.resources, pkgutil imports next to nothing, and every command reads the table of stacks.
    data = pkgutil.get_data(package, name)
    assert data is not None
    return parse_toml(data.decode("utf-8"))
