"""docs/matrix.json, which `scripts/matrix` writes, against the tables of families and wrappers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.paths import ROOT

from emobake.core.stacks import USUAL
from emobake.formats.checkpoint.families import Family, families
from emobake.formats.checkpoint.routes import ROUTES
from emobake.formats.checkpoint.wrappers import wrapped, wrappers

CELLS: list[dict[str, Any]] = json.loads((ROOT / "docs" / "matrix.json").read_text())


def family_of(cell: dict[str, Any]) -> Family:
    text, _, wrapper = cell["model_type"].partition(" in ")
    return wrapped(wrappers()[wrapper], wrappers()[wrapper].texts[text]) if wrapper else families()[text]


def said(cell: dict[str, Any]) -> str:
    name = cell["route"].removeprefix("alone: ")
    kind = next(kind for kind in ROUTES if kind.name == name)
    return kind(family_of(cell), {}).stacks[cell["stack"]].status


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: f"{cell['family']}-{cell['route']}-{cell['stack']}")
def test_every_cell_is_what_the_table_says(cell: dict[str, Any]):
    # Not to load a result is no worse than to drop its bias.
    allowed = {"option": ("unsteered", "refuses"), "unsteered": ("unsteered", "refuses")}
    assert cell["found"] in ("no base", *allowed.get(said(cell), (said(cell),)))
    assert cell["version"] == USUAL[cell["stack"]].ran


def test_no_cell_is_silently_unsteered():
    assert len(CELLS) > 100
    assert not [cell for cell in CELLS if cell["found"] == "unsteered" and said(cell) == "steered"]
