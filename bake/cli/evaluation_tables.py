"""The summary of an evaluation on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..measure.report import columns_of, plain, verdict


def show_evaluation(console: Console, data: Mapping[str, Any], out: str) -> None:
    """Print a table per direction, the recommended strengths, and the place of the report."""
    controls = {one["like"]: one for one in data["directions"] if one["control"]}
    for one in (one for one in data["directions"] if not one["control"]):
        columns = columns_of(data, one, controls.get(one["name"]))
        table = Table(title=escape(one["name"]), title_justify="left", box=None, pad_edge=False, title_style="bold")
        for name, _ in columns:
            table.add_column(escape(name), justify="right")
        for point in one["points"]:
            table.add_row(*(escape(cell(point)) for _, cell in columns))
        console.print(table)
        console.print(escape(plain(verdict(data, one))), highlight=False)
    for one in data["scorers"]:
        if one["note"]:
            console.print(f"[bold yellow]{escape(one['name'])}:[/] {escape(one['note'])}", highlight=False)
    console.print(f"Report: {escape(out)}", highlight=False)
