"""Bake every family in every form, run it in every stack, and write what was seen: docs/matrix.json and its table.

The table of docs/models.md is made of all that was ever run with these versions; a run of some cells replaces those.
"""

from __future__ import annotations

import json
import sys
import tempfile
import traceback
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.matrix import NAMES, Cell, cells, known_stacks, quiet

from emobake.core.stacks import USUAL

ROOT = Path(__file__).parents[1]
DATA, PAGE = ROOT / "docs" / "matrix.json", ROOT / "docs" / "models.md"
BEGIN, END = "<!-- made by scripts/matrix -->", "<!-- end -->"


def _part(_context: click.Context, _option: click.Parameter, value: str | None) -> tuple[int, int]:
    """Read ``K/N``; default: all."""
    number, _, count = (value or "0/1").partition("/")
    if not (number.isdigit() and count.isdigit() and int(number) < int(count)):
        raise click.BadParameter(f"{value} is not K/N with K below N")
    return int(number), int(count)


@click.command()
@click.option("--family", "names", multiple=True, type=click.Choice(list(NAMES)), help="Only this; default: all.")
@click.option("--stack", "stacks", multiple=True, type=click.Choice(list(USUAL)), help="Only this; default: all.")
@click.option(
    "--part", callback=_part, metavar="K/N", help="Of those the K-th of N parts, counted from 0; CI takes turns."
)
@click.option("--write", is_flag=True, help="Write docs/matrix.json and the table of docs/models.md.")
def main(names: tuple[str, ...], stacks: tuple[str, ...], part: tuple[int, int], write: bool) -> None:
    """Bake every family in every form, and run it in every stack that is installed (scripts/envs all).

    A cell is steered if all log-probabilities are within 1e-4 of the hook's, or within 1.2 times the distance of the
    stack's own base. The exit code is 1 if a stack silently drops a bias, or a run shows something else than the table
    of families says.
    """
    quiet()
    strange: list[Cell] = []
    failed: list[str] = []
    for name in (names or NAMES)[part[0] :: part[1]]:
        with tempfile.TemporaryDirectory(prefix="emobake-matrix-") as space:
            try:
                found = list(cells(name, stacks or known_stacks(), Path(space)))
            except Exception:  # The others are worth a night.
                traceback.print_exc()
                failed.append(name)
                continue
        for cell in found:
            click.echo(_line(cell))
        strange += [cell for cell in found if not cell.agrees]
        if write:
            _keep(found)
    if strange:
        click.echo("\nNot as the table says:")
        for cell in strange:
            click.echo(f"{_line(cell)} {cell.error}")
    if failed:
        click.echo(f"\nNot run: {', '.join(failed)}")
    sys.exit(bool(strange or failed))


def _line(cell: Cell) -> str:
    figure = "" if cell.distance is None else f"{cell.distance:.1e} (base {cell.own or 0:.1e})"
    return f"{cell.family:18} {cell.route:20} {cell.stack:12} {cell.found:10} said {cell.said:10} {figure}"


def _keep(found: Iterable[Cell]) -> None:
    """Put cells in the place of those of the same family, form and stack."""
    kept = {_key(entry): entry for entry in (json.loads(DATA.read_text()) if DATA.exists() else [])}
    for cell in found:
        entry = {key: value for key, value in asdict(cell).items() if key not in ("error", "said")}
        kept[_key(entry)] = entry | {"version": USUAL[cell.stack].ran}
    DATA.write_text(json.dumps(sorted(kept.values(), key=_key), indent=1) + "\n")
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{table(list(kept.values()))}{END}{rest.partition(END)[2]}")


def _key(entry: dict[str, object]) -> tuple[str, str, str]:
    return str(entry["family"]), str(entry["route"]), str(entry["stack"])


def table(entries: list[dict[str, object]]) -> str:
    """The table of what was run."""
    rows: dict[tuple[str, str], dict[str, dict[str, object]]] = {}
    for entry in sorted(entries, key=_key):
        rows.setdefault((str(entry["family"]), str(entry["route"])), {})[str(entry["stack"])] = entry
    lines = [f"| model | form | {' | '.join(USUAL)} | cache |", "| --- " * (3 + len(USUAL)) + "|"]
    for (family, route), row in rows.items():
        one = next(iter(row.values()))
        cost = f"x {one['cache']:.4g}" if one["cache"] != 1 else ""
        shown = " | ".join(_shown(row.get(stack)) for stack in USUAL)
        lines.append(f"| {family} | {route} | {shown} | {cost} |")
    return "\n".join(lines) + "\n"


def _shown(entry: dict[str, object] | None) -> str:
    if entry is None:
        return "not run"
    if entry["distance"] is None:
        return {"wrong": "WRONG"}.get(str(entry["found"]), str(entry["found"]))
    word = {"steered": "", "unsteered": "UNSTEERED ", "wrong": "WRONG "}[str(entry["found"])]
    own = f" (base {entry['own']:.0e})" if entry["own"] and float(str(entry["own"])) > 1e-4 else ""
    return f"{word}{entry['distance']:.1e}{own}"


if __name__ == "__main__":
    main()
