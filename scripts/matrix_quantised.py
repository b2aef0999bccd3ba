"""Bake every quantisation method, run it in every stack, and write what was seen: docs/quantised.json and its table.

The table of docs/quantised.md is made of all that was ever run with these versions; a run of some cells replaces those.
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

from support.matrix import quiet
from support.quantised_runs import FAMILIES, FORMS, USUAL_FAMILIES, Cell, Pair, cells, known_stacks, make

from emobake.core.stacks import USUAL

ROOT = Path(__file__).parents[1]
DATA, PAGE = ROOT / "docs" / "quantised.json", ROOT / "docs" / "quantised.md"
BEGIN, END = "<!-- made by scripts/matrix --quantised -->", "<!-- end -->"


@click.command()
@click.option("--form", "forms", multiple=True, type=click.Choice(list(FORMS)), help="Only this; default: all.")
@click.option("--stack", "stacks", multiple=True, type=click.Choice(list(USUAL)), help="Only this; default: all.")
@click.option("--write", is_flag=True, help="Write docs/quantised.json and the table of docs/quantised.md.")
def main(forms: tuple[str, ...], stacks: tuple[str, ...], write: bool) -> None:
    """Bake every quantisation method, and run it in every stack that is installed (scripts/envs all quantised).

    A cell is steered if each output projection is within the rounding that the method's entry names of the hook on the
    quantised base, and the log-probabilities are nearer to the hook's than to the base's. The exit code is 1 if a run
    shows something else than `Method.stacks` says.
    """
    quiet()
    failed: list[str] = []
    with tempfile.TemporaryDirectory(prefix="emobake-quantised-") as name:
        space = Path(name)
        found = list(cells(list(_pairs(forms or tuple(FORMS), space, failed)), stacks or known_stacks(), space))
    strange = [cell for cell in found if not cell.agrees]
    for cell in found:
        click.echo(_line(cell))
    if write:
        _keep(found)
    if strange:
        click.echo("\nNot as the table says:")
        for cell in strange:
            click.echo(f"{_line(cell)} {cell.error}")
    if failed:
        click.echo(f"\nNot run: {', '.join(failed)}")
    sys.exit(bool(strange or failed))


def _pairs(forms: Iterable[str], space: Path, failed: list[str]) -> Iterable[Pair]:
    for form in forms:
        for family in FAMILIES.get(FORMS[form][0], USUAL_FAMILIES):
            try:
                yield make(form, family, space)
            except Exception:  # The others are worth the hour.
                traceback.print_exc()
                failed.append(f"{form} {family}")


def _line(cell: Cell) -> str:
    said = f"said {cell.said or 'nothing'}" + (", run" if cell.is_run else "")
    figure = "" if cell.end is None else f"{_layer(cell.layer)} {cell.end:.1e} of {cell.effect or 0:.1e}"
    return f"{cell.form:30} {cell.family:10} {cell.stack:12} {cell.found:10} {said:22} {figure}"


def _layer(layer: float | None) -> str:
    return "" if layer is None else f"{layer:.2f} roundings,"


def _keep(found: Iterable[Cell]) -> None:
    """Put cells in the place of those of the same form, family and stack."""
    kept = {_key(entry): entry for entry in (json.loads(DATA.read_text()) if DATA.exists() else [])}
    for cell in found:
        kept[_key(asdict(cell))] = {
            **{
                name: value
                for name, value in asdict(cell).items()
                if name not in ("error", "said", "planned", "is_run")
            },
            "version": USUAL[cell.stack].ran,
        }
    entries = sorted(kept.values(), key=_key)
    DATA.write_text(json.dumps(entries, indent=1) + "\n")
    page = PAGE.read_text() if PAGE.exists() else f"# Quantised checkpoints\n\n{BEGIN}\n{END}\n"
    before, _, rest = page.partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{table(entries)}{END}{rest.partition(END)[2]}")


def _key(entry: dict[str, object]) -> tuple[int, str, str, str]:
    form = str(entry["form"])
    return list(FORMS).index(form) if form in FORMS else len(FORMS), form, str(entry["family"]), str(entry["stack"])


def table(entries: list[dict[str, object]]) -> str:
    """The table of what was run."""
    rows: dict[tuple[str, str], dict[str, dict[str, object]]] = {}
    for entry in entries:
        rows.setdefault((str(entry["form"]), str(entry["family"])), {})[str(entry["stack"])] = entry
    lines = [f"| method | model | {' | '.join(USUAL)} | bytes read of |", "| --- " * (3 + len(USUAL)) + "|"]
    for (form, family), row in rows.items():
        one = next(iter(row.values()))
        read = f"{one['read']:,} of {one['size']:,}" if one["read"] else ""
        shown = " | ".join(_shown(row.get(stack)) for stack in USUAL)
        lines.append(f"| {form} | {family} | {shown} | {read} |")
    return "\n".join(lines) + "\n"


def _shown(entry: dict[str, object] | None) -> str:
    if entry is None:
        return "not run"
    if entry["end"] is None:
        return str(entry["found"])
    word = {"steered": "", "unsteered": "UNSTEERED ", "wrong": "WRONG "}[str(entry["found"])]
    layer = "" if entry["layer"] is None else f"{entry['layer']:.1f}; "
    return f"{word}{layer}{entry['end']:.1e} of {entry['effect']:.1f}"


if __name__ == "__main__":
    main()
