"""The keys ``ran``, ``read`` and ``notes`` of the tables: what each usual stack does with a bias."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...core.stacks import USUAL, Support


def parse_support(table: Mapping[str, Any]) -> dict[str, Support]:
    """Parse the keys ``ran``, ``read`` and ``notes``: the treatment of the bias by each stack."""
    found = {
        stack: replace(
            Support("option", ran, value) if value.startswith("--") else Support(value, ran),
            note=table.get("notes", {}).get(stack, ""),
        )
        for ran, cells in ((True, table.get("ran", {})), (False, table.get("read", {})))
        for stack, value in cells.items()
    }
    return {stack: found[stack] for stack in USUAL if stack in found}
