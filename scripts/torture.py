"""Kill, hinder and cut the power of runs at every change to the file system; print the table of docs/reliability.md."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.torture import KINDS, TORTURES, Place, prepare


@click.command()
@click.option("--kind", "kinds", multiple=True, type=click.Choice(list(KINDS)), help="Kind of output; default: all.")
@click.option("--moments", type=click.IntRange(2), help="Only so many moments of each run; default: all.")
def main(kinds: tuple[str, ...], moments: int | None) -> None:
    """Write each kind of output, new and over an older one, and stop the run at every change to the file system.

    A run is killed; hindered by a full disk or an I/O error, once or from then on; or the power is cut, so that what
    was not synced is lost, whole or in part. After each, the next run must find the older output or the new one, whole,
    and leave nothing else behind.
    """
    click.echo("| output | kills | faults | power cuts | older whole | new whole | none yet | broken |")
    click.echo("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    begin, broken = time.monotonic(), 0
    with tempfile.TemporaryDirectory(prefix="emobake-torture-") as folder:
        inputs = Path(folder)
        prepare(inputs)
        for name in kinds or KINDS:
            place = Place(KINDS[name], inputs, inputs / "outs")
            for existing in (False, True):
                tried: dict[str, int] = {}
                states = {"old": 0, "new": 0, "absent": 0}
                failed = 0
                for torture, run in TORTURES.items():
                    try:
                        seen = run(place, existing, moments)
                    except AssertionError as error:
                        failed += 1
                        click.echo(f"{name}: {torture}: {error}", err=True)
                        continue
                    tried[torture] = sum(seen.values())
                    for state, count in seen.items():
                        states[state if state in states else "absent"] += count
                broken += failed
                cells = [f"{name}{', over an older one' if existing else ''}"]
                cells += [str(tried.get(torture, "?")) for torture in TORTURES]
                cells += [str(states[state]) for state in ("old", "new", "absent")]
                click.echo(f"| {' | '.join([*cells, str(failed)])} |")
    click.echo(f"\n{time.monotonic() - begin:.0f} s", err=True)
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
