"""Old or new, whole: a few kills, faults, power cuts and full disks for every kind of output.

`scripts/torture` tries all moments. Each case runs in a process of its own (this file, run as a script), on a disk of
its own: its children are killed, fail in all they do, and fill the disk up.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from support.disks import Disk, alone
from support.kinds import KINDS, Place, prepare
from support.running import run_process
from support.torture import TORTURES

MOMENTS = 4


@pytest.mark.parametrize("kind", [name for name, kind in KINDS.items() if not kind.slow])
def test_old_or_new_whole(tmp_path, kind):
    ran = run_process(__file__, kind, tmp_path, env={"OPENBLAS_NUM_THREADS": "1"}, timeout=300, within=alone())
    assert ran.code == 0, ran.err
    for existing, seen in json.loads(ran.out.splitlines()[-1]).items():
        assert set(seen) == set(TORTURES) and all(sum(counted.values()) >= 4 for counted in seen.values()), seen
        states = {state for counted in seen.values() for state in counted}
        if KINDS[kind].overwrite:
            assert ("old" in states) == (existing == "overwrite"), seen


if __name__ == "__main__":
    folder = Disk.mount(Path(sys.argv[2]), pages=10_000, files=200).folder
    prepare(folder)
    place = Place(KINDS[sys.argv[1]], folder, folder / "outs")
    found = {
        name: {torture: run(place, name == "overwrite", MOMENTS) for torture, run in TORTURES.items()}
        for name in ("new", "overwrite")
    }
    sys.stdout.write("\n" + json.dumps(found) + "\n")
