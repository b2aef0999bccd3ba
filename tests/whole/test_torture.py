"""Old or new, whole; hostile inputs; tampering: a short form of `scripts/torture`, which tries all moments.

Each test runs in a process of its own (this file, run as a script), on a disk of its own: its children are killed, fail
in all they do, and fill the disk up.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.disks import Disk, alone
from support.hostile import HOSTILE, face, write_inputs
from support.kinds import KINDS, Place, prepare
from support.running import run_process
from support.tampering import TAMPERINGS, tamper, write_outputs
from support.torture import TORTURES

MOMENTS = 4


def drive(name: str, *arguments: object) -> Any:
    """Run one of the functions below in its process."""
    ran = run_process(__file__, name, *arguments, env={"OPENBLAS_NUM_THREADS": "1"}, timeout=300, within=alone())
    assert ran.code == 0, ran.err
    return json.loads(ran.out.splitlines()[-1])


def drive_kind(folder: Path, kind: str) -> dict[str, Any]:
    prepare(folder)
    place = Place(KINDS[kind], folder, folder / "outs")
    return {
        name: {torture: run(place, name == "overwrite", MOMENTS) for torture, run in TORTURES.items()}
        for name in ("new", "overwrite")
    }


def _broken(folder: Path, cases: dict[str, Callable[[Path], object]]) -> dict[str, Any]:
    broken = {}
    for name, run in cases.items():
        try:
            run(folder / "case")
        except AssertionError as error:
            broken[name] = str(error)
        shutil.rmtree(folder / "case")
    return {"cases": len(cases), "broken": broken}


def drive_hostile(folder: Path) -> dict[str, Any]:
    whole = write_inputs(folder / "whole").folder
    cases = {name: case for name, case in HOSTILE.items() if not case.slow}
    return _broken(folder, {name: lambda to, case=case: face(case, whole, to) for name, case in cases.items()})


def drive_tampering(folder: Path) -> dict[str, Any]:
    whole = write_outputs(folder / "whole")
    return _broken(folder, {name: lambda to, case=case: tamper(case, whole, to) for name, case in TAMPERINGS.items()})


@pytest.mark.parametrize("kind", [name for name, kind in KINDS.items() if not kind.slow])
def test_old_or_new_whole(tmp_path, kind):
    for existing, seen in drive("kind", tmp_path, kind).items():
        assert set(seen) == set(TORTURES) and all(sum(counted.values()) >= 4 for counted in seen.values()), seen
        states = {state for counted in seen.values() for state in counted}
        if KINDS[kind].overwrite:
            assert ("old" in states) == (existing == "overwrite"), seen


def test_hostile_inputs_are_refused_in_a_line_or_baked_rightly(tmp_path):
    done = drive("hostile", tmp_path)
    assert not done["broken"] and done["cases"] > 100


def test_tampering_is_found(tmp_path):
    done = drive("tampering", tmp_path)
    assert not done["broken"] and done["cases"] > 100


if __name__ == "__main__":
    disk = Disk.mount(Path(sys.argv[2]), pages=25_000, files=2500 if sys.argv[1] != "kind" else 200)
    found = globals()[f"drive_{sys.argv[1]}"](disk.folder, *sys.argv[3:])
    sys.stdout.write("\n" + json.dumps(found) + "\n")
