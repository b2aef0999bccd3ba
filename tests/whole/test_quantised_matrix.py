"""Verdicts of the matrix of quantised checkpoints: what was seen, beside what the table of methods says."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.quantised_runs import Cell, verdict

STEERED = {"layer": 0.9, "dropped": 40.0, "end": 0.2, "effect": 4.0, "unsteered": 4.1, "bound": 0.0}
CELL = Cell("gptq", "qwen2", "vllm", "steered", said="steered", is_run=True, planned="steered")


@pytest.mark.parametrize(
    ("found", "changes"),
    [
        ("steered", {}),
        ("steered", {"end": 3.9}),  # A rounded input makes much of little, but each layer is exact.
        ("unsteered", {"layer": 40.0, "end": 4.0, "unsteered": 0.0}),
        ("unsteered", {"layer": None, "end": 4.0, "unsteered": 0.01}),
        ("wrong", {"layer": 3.0}),
        ("wrong", {"layer": 1.9, "dropped": 2.0}),  # A dropped bias would be as small.
        ("wrong", {"end": 5.0, "unsteered": 4.5}),
        ("wrong", {"layer": None, "end": 3.0}),
        ("steered", {"layer": None, "end": 3.0, "bound": 3.1}),
    ],
)
def test_verdict(found: str, changes: dict[str, float | None]) -> None:
    assert verdict(STEERED | changes, 2.0) == found


@pytest.mark.parametrize(
    ("agrees", "changes"),
    [
        (True, {}),
        (False, {"found": "unsteered"}),
        (False, {"found": "wrong"}),
        (False, {"found": "no base"}),  # It is said to have run.
        (True, {"found": "no base", "is_run": False}),
        (True, {"found": "no base", "said": "refuses", "planned": "refuses"}),
        (True, {"found": "no base", "form": "gptq asymmetric"}),
        (False, {"found": "steered", "said": "refuses", "planned": "refuses"}),
        (False, {"planned": "option"}),  # The bake says something else.
        (False, {"found": "not baked"}),
        (True, {"found": "not baked", "said": "refuses", "planned": ""}),
        (True, {"said": "", "planned": ""}),
        (False, {"said": "", "planned": "", "found": "unsteered"}),
    ],
)
def test_a_cell_agrees_with_the_table(agrees: bool, changes: dict[str, object]) -> None:
    assert replace(CELL, **changes).agrees is agrees
