"""Kill, hinder, starve and mislead emobake in every way that is known; print the tables of docs/reliability.md."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.disks import Disk, alone
from support.hostile import HOSTILE, face, write_inputs
from support.kinds import KINDS, Place, prepare
from support.tampering import TAMPERINGS, tamper, write_outputs
from support.torture import TORTURES

PARTS = ("outputs", "hostile", "tampering")


@click.command()
@click.option("--part", "parts", multiple=True, type=click.Choice(PARTS), help="Only this part; default: all.")
@click.option("--kind", "kinds", multiple=True, type=click.Choice(list(KINDS)), help="Kind of output; default: all.")
@click.option("--moments", type=click.IntRange(2), help="Only so many moments of each run; default: all.")
def main(parts: tuple[str, ...], kinds: tuple[str, ...], moments: int | None) -> None:
    """Three parts, each with a table.

    outputs: each kind of output is written, new and over an older one, and the run is stopped at every change to the
    file system. It is killed; hindered by a full disk or an I/O error, once or from then on; the power is cut, so that
    what was not synced is lost, whole or in part; or a real disk has too few pages or files left. After each, the next
    run must find the older output or the new one, whole, and leave nothing else behind.

    hostile: models and vector sets as a stranger may make them are refused in one line, or baked rightly, within
    bounds of time and memory.

    tampering: finished outputs are changed, and `verify` must find it, with the base and alone.

    The number of moments bounds the first part: with 16, 140 to 180 runs are stopped for each row; all of them take
    hours. The other two parts take a minute and a half of computing together.
    """
    begin, broken = time.monotonic(), 0
    with tempfile.TemporaryDirectory(prefix="emobake-torture-") as folder:
        disk = Disk.mount(Path(folder) / "disk", pages=25_000, files=25_000)
        for part in parts or PARTS:
            home = disk.folder / part
            home.mkdir()
            if part == "outputs":
                broken += outputs(Path(folder), kinds or tuple(KINDS), moments)
            else:
                broken += {"hostile": hostile, "tampering": tampering}[part](home)
            shutil.rmtree(home)
            click.echo()
        disk.unmount()
    click.echo(f"{time.monotonic() - begin:.0f} s", err=True)
    sys.exit(1 if broken else 0)


def outputs(folder: Path, kinds: tuple[str, ...], moments: int | None) -> int:
    """Print a row for each kind of output, new and over an older one; the number of broken promises."""
    _row("output", *TORTURES, "older whole", "new whole", "none yet", "broken", ruled=True)
    broken = 0
    for number, name in enumerate(kinds):
        # Few files are left on a disk of its own, so that it is soon filled up.
        disk = Disk.mount(folder / str(number), pages=10_000, files=200)
        inputs = disk.folder
        prepare(inputs)
        place = Place(KINDS[name], inputs, inputs / "outs")
        for existing in (False, True):
            tried: dict[str, int] = {}
            states, failed = Counter[str](), 0
            for torture, run in TORTURES.items():
                try:
                    seen = run(place, existing, moments)
                except AssertionError as error:
                    failed += 1
                    click.echo(f"{name}: {torture}: {error}", err=True)
                    continue
                tried[torture] = sum(seen.values())
                states.update(seen)
            broken += failed
            found = (states["old"], states["new"], states.total() - states["old"] - states["new"])
            more = ", over an older one" if existing else ""
            _row(f"{name}{more}", *(tried.get(torture, "?") for torture in TORTURES), *found, failed)
        disk.unmount()
    return broken


def hostile(folder: Path) -> int:
    """Print a row for each group of hostile inputs; the number of those that were not faced rightly."""
    whole = write_inputs(folder / "whole").folder
    _row("hostile", "cases", "runs", "refused", "baked rightly", "slowest", "most memory", "broken", ruled=True)
    broken = 0
    for group, names in _groups(HOSTILE):
        outcomes, failed = [], 0
        for name in names:
            found = _try(name, lambda name=name: face(HOSTILE[name], whole, folder / "case"), folder / "case")
            failed += found is None
            outcomes += found or []
        broken += failed
        baked = sum(one.baked for one in outcomes)
        slowest, most = max(one.seconds for one in outcomes), max(one.megabytes for one in outcomes)
        counts = (len(names), len(outcomes), len(outcomes) - baked, baked)
        _row(group, *counts, f"{slowest:.1f} s", f"{most:.0f} MB", failed)
    return broken


def tampering(folder: Path) -> int:
    """Print a row for each kind of output that was tampered with; the number of tamperings not found as they should."""
    whole = write_outputs(folder / "whole")
    _row("tampering with", "cases", "found with the base", "found alone", "broken", ruled=True)
    broken, hidden = 0, dict[str, list[str]]()
    for output in dict.fromkeys(case.output for case in TAMPERINGS.values()):
        cases = {name: case for name, case in TAMPERINGS.items() if case.output == output}
        failed = 0
        for name, case in cases.items():
            found = _try(name, lambda case=case: tamper(case, whole, folder / "case"), folder / "case")
            failed += found is None
            if case.hides:
                hidden.setdefault(case.hides, []).append(name)
        alone_too = sum(not case.hides for case in cases.values())
        _row(output, len(cases), len(cases) - failed, alone_too, failed)
        broken += failed
    click.echo("\nNot found alone:\n")
    for why, names in hidden.items():
        click.echo(f"- {why}: {'; '.join(names)}")
    return broken


def _groups(cases: dict[str, object]) -> Iterator[tuple[str, list[str]]]:
    """Names of cases by what stands before their colon."""
    for group in dict.fromkeys(name.partition(":")[0] for name in cases):
        yield group, [name for name in cases if name.startswith(f"{group}:")]


def _try(name: str, run: Callable[[], object], made: Path) -> object:
    """The result of a case; None if it breaks a promise, which is told."""
    try:
        return run()
    except AssertionError as error:
        click.echo(f"{name}: {error}", err=True)
        return None
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _row(*cells: object, ruled: bool = False) -> None:
    click.echo(f"| {' | '.join(map(str, cells))} |")
    if ruled:
        click.echo(f"| --- |{' ---: |' * (len(cells) - 1)}")


if __name__ == "__main__":
    if os.environ.get("EMOBAKE_TORTURE") != "alone":
        os.environ["EMOBAKE_TORTURE"] = "alone"
        os.execvp("unshare", [*alone(), sys.executable, *sys.argv])
    main()
