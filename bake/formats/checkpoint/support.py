"""The keys ``ran``, ``read`` and ``notes`` of the tables: what each stack does with a bias."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...core.stacks import STACKS, Support


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
    defaults = {name: Support(stack.default) for name, stack in STACKS.items() if stack.default is not None}
    return {stack: support for stack in STACKS if (support := found.get(stack) or defaults.get(stack))}
