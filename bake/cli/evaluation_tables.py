"""The summary of an evaluation on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from ..core.bounds import Bounds
from ..measure.report import Column, columns_of, plain, prompt_verdict, rows_of, verdict
from ..measure.summary import main_ones
from .terminal import spelled, styled


def show_evaluation(console: Console, data: Mapping[str, Any], out: str, bounds: Bounds | None = None) -> None:
    """Print each direction, with a row per measure and a column per strength; then best strengths, and the report."""
    for one in main_ones(data["directions"]):
        for table in _tables(console, one["name"], columns_of(data, one), rows_of(data, one)):
            console.print(table)
        for text in filter(None, (verdict(data, one), prompt_verdict(data, one))):
            console.print(styled(plain(text)))
    for line in _held(data, bounds or Bounds()):
        console.print(styled(line))
    for one in data["scorers"]:
        if one["note"]:
            console.print(styled((f"{one['name']}:", "bold yellow"), f" {one['note']}"))
    console.print(styled(f"Report: {out}"))


def _held(data: Mapping[str, Any], bounds: Bounds) -> Iterator[str]:
    """A line per direction and strength on the bounds; none if none is given."""
    for one in data.get("receipt", {}).get("directions", ()) if bounds.given else ():
        for point in (point for point in one["points"] if point["strength"]):
            beyond = spelled("; ".join(bounds.beyond(point)))
            yield f"{one['name']} at {point['strength']:g}: {f'beyond {beyond}' if beyond else 'within the bounds'}"


def _tables(
    console: Console, title: str, measures: Sequence[Column], points: Sequence[Mapping[str, Any]]
) -> Iterator[Table]:
    """The measures of a direction: one table, or several if the strengths do not fit side by side."""
    cells = [[cell(point) for point in points] for _, cell in measures]
    width = max(len(text) for row in cells for text in row) + 2
    names = [name for name, _ in measures]
    longest = max(len(word) for name in names for word in name.split())
    room = console.width - 2  # rich 13 counts the padding at both edges, which is not printed.
    # Names get the room that the strengths leave, but no word of them is broken.
    first = min(max(map(len, names)), max(longest, room - len(points) * width))
    count = max(1, (room - first) // width)
    for start in range(0, len(points), count):
        table = Table(
            title=styled(title), title_justify="left", box=None, pad_edge=False, title_style="bold", header_style="bold"
        )
        table.add_column(styled(measures[0][0]), width=first)
        for text in cells[0][start : start + count]:
            table.add_column(styled(text), justify="right", min_width=width - 2)
        for (name, _), row in zip(measures[1:], cells[1:], strict=True):
            table.add_row(styled(name), *map(styled, row[start : start + count]))
        yield table
