#!/usr/bin/env python3
"""Measure a further mood of a GGUF file, which shares its weights with the first, against `cp` of the file.

scripts/bench_moods.py [--folder DIR] [--gb N] [--rounds N] [--json]

A llama file of N GB (default 8, as an 8B model in Q8_0) in Q4_K with a vocabulary of 128,000 tokens and random weights,
as in `scripts/bench gguf`. The first mood writes the shared file, the second finds it; `cp` copies the base. Turn by
turn; `ratio` is that of the fastest of each. `written_mb` is what a mood has of its own on the disk. Needs three times
the size in --folder.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from bench import EMOBAKE, Cost, fastest, measure
from bench_gguf import HIDDEN, write_model
from rich.console import Console
from rich.table import Table

from emobake import VectorSet
from emobake.vectors.write import write_set


def compare(base: Path, layers: int, folder: Path, rounds: int) -> dict[str, list[Cost]]:
    """Costs of `cp`, of the first mood and of a further one, round by round; the moods of the last round stay."""
    vectors, copy, moods = folder / "vectors.safetensors", folder / "copy.gguf", folder / "moods"
    rows = np.random.default_rng(0).normal(size=(2, layers, HIDDEN)).astype(np.float32)
    write_set(VectorSet(("anger", "joy"), rows), vectors, overwrite=True)
    model = ("--model", str(base), "--vectors", str(vectors))
    bake = (*EMOBAKE, *model, "--share", "-q", "--out")
    more = [word for weight in range(1, 6) for word in ("--mix", f"joy=0.{weight}")]
    commands = {
        "first mood": (*bake, str(moods / "joy.gguf"), "--mix", "joy=1"),
        "further mood": (*bake, str(moods / "anger.gguf"), "--mix", "anger=1"),
        "five more by one command": (*EMOBAKE, "moods", str(moods), *model, *more, "-q"),
        "cp": ("cp", str(base), str(copy)),
    }
    costs: dict[str, list[Cost]] = {name: [] for name in commands}
    for _ in range(rounds):
        for old in moods.glob("*"):
            old.unlink()
        for name, command in commands.items():
            costs[name].append(measure(command))
        copy.unlink()
    return costs


def size_of(folder: Path, *patterns: str) -> int:
    """Bytes of files, links not followed."""
    return sum(file.lstat().st_size for pattern in patterns for file in folder.glob(pattern))


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--gb", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        base = folder / "base.gguf"
        layers = write_model(base, "llama", options.gb)
        costs = compare(base, layers, folder, options.rounds)
        moods = {
            "cp": base.stat().st_size,
            "first mood": size_of(folder, "moods/base.shared.gguf", "moods/joy-0000*"),
            "further mood": size_of(folder, "moods/anger-*"),
            "five more by one command": size_of(folder, "moods/joy-0.*"),
        }
    best = {command: fastest(runs) for command, runs in costs.items()}
    found = {
        command: {
            "wall_s": best[command].wall,
            "ratio": best[command].wall / best["cp"].wall,
            "cpu_s": best[command].cpu,
            "peak_mb": best[command].memory,
            "written_mb": size / 1e6,
        }
        for command, size in moods.items()
    }
    if options.json:
        print(json.dumps(found, indent=2))
        return
    table = Table()
    for column in ("", *found["cp"]):
        table.add_column(column)
    for command, row in found.items():
        table.add_row(command, *(f"{value:.3f}" for value in row.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
