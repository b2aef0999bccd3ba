#!/usr/bin/env python3
"""Measure bakes from Hub to Hub against the way over this machine, with a stand-in for the Hub.

    scripts/bench_hub.py [--folder DIR] [--rounds N] [--only-405b] [--json]

The stand-in (tests/support/hub_server.py) runs on this machine, so the time is emobake's and the stand-in's, without a
network; the bytes are those that would travel on any. The way over this machine is SmolLM2 with server-side copies
refused. The 191 shards of the size of Llama-3.1-405B are sparse files with real headers and take no disk. Wall time and
peak memory are what the kernel says of emobake's process.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from bench import EMOBAKE, ROOT, SET, Cost, fastest, measure, random_vectors, sparse_405b
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(ROOT / "tests"))
from support.hub_server import Repo, Sparse, StandInHub

BASE, TARGET = "owner/base", "me/steered"


def files_of(folder: Path) -> dict[str, bytes | Sparse]:
    """The checkpoint as the stand-in keeps it; the digests of huge shards are made up."""
    return {
        path.name: Sparse(path, hashlib.sha256(path.name.encode()).hexdigest())
        if path.stat().st_size > 2e9
        else path.read_bytes()
        for path in folder.iterdir()
    }


def over(base: Path, vectors: Path, folder: Path, rounds: int, *, copies: bool = True) -> dict[str, float]:
    """Bake `base` from Hub to Hub; what it costs, and what came of it."""
    files = files_of(base)
    costs: list[Cost] = []
    for number in range(rounds):
        with StandInHub() as hub:
            hub.repos[BASE] = Repo()
            hub.repos[BASE].put(files)
            hub.no_duplicates, hub.other_region = not copies, "" if copies else "refused"
            os.environ.update(hub.environment(folder / f"{base.name}-{copies}-{number}"), HF_TOKEN=hub.allowed)
            bake = (*EMOBAKE, "--model", BASE, "--vectors", str(vectors), "--push-to-hub", TARGET, "-q", "--times")
            costs.append(measure((*bake, *"00010")))
            new = hub.repos[TARGET].files()
            traffic, uploads = hub.traffic, len(hub.uploaded())
            measure((*bake, *"00010"))
            again = hub.traffic - traffic
            measure((*bake, *"10000"))
            other = hub.traffic - traffic - again
    cost, size = fastest(costs), sum(map(len, files.values()))
    tensors = json.loads(new["model.safetensors.index.json"])["weight_map"]
    return {
        "checkpoint_gb": size / 1e9,
        "shards_copied": sum(name.endswith(".safetensors") for name in new) - uploads,
        "biases": sum(name.endswith(".bias") for name in tensors),
        "seconds": cost.wall,
        "peak_mb": cost.memory,
        "traffic_mb": traffic / 1e6,
        "same_again_mb": again / 1e6,
        "other_weights_mb": other / 1e6,
    }


def run(folder: Path, rounds: int, only_405b: bool) -> dict[str, dict[str, float]]:
    huge, vectors = folder / "405B", folder / "vectors.safetensors"
    sparse_405b(huge)
    random_vectors(vectors, 126, 16384)
    found = {"405B, Hub to Hub": over(huge, vectors, folder, rounds)}
    if not only_405b:
        small = folder / "SmolLM2-135M-Instruct"
        subprocess.run(
            (sys.executable, str(ROOT / "scripts" / "make_smollm2.py"), str(small)), check=True, capture_output=True
        )
        found["SmolLM2, Hub to Hub"] = over(small, SET, folder, rounds)
        found["SmolLM2, over this machine"] = over(small, SET, folder, rounds, copies=False)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=None, help="where to work (default: a temporary folder)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only-405b", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        found = run(Path(name), options.rounds, options.only_405b)
    if options.json:
        print(json.dumps(found))
        return
    table = Table("", *next(iter(found.values())))
    for title, values in found.items():
        table.add_row(title, *(f"{v:,.3f}" if isinstance(v, float) else str(v) for v in values.values()))
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
