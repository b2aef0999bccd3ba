"""The summary of an evaluation on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from ..measure.report import columns_of, plain, verdict
from .terminal import styled


def show_evaluation(console: Console, data: Mapping[str, Any], out: str) -> None:
    """Print a table per direction, the recommended strengths, and the place of the report."""
    controls = {one["like"]: one for one in data["directions"] if one["control"]}
    for one in (one for one in data["directions"] if not one["control"]):
        columns = columns_of(data, one, controls.get(one["name"]))
        table = Table(title=styled(one["name"]), title_justify="left", box=None, pad_edge=False, title_style="bold")
        for name, _ in columns:
            table.add_column(styled(name), justify="right")
        for point in one["points"]:
            table.add_row(*(styled(cell(point)) for _, cell in columns))
        console.print(table)
        console.print(styled(plain(verdict(data, one))))
    for one in data["scorers"]:
        if one["note"]:
            console.print(styled((f"{one['name']}:", "bold yellow"), f" {one['note']}"))
    console.print(styled(f"Report: {out}"))
