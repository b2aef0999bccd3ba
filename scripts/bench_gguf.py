#!/usr/bin/env python3
"""Measure a bake into a GGUF file against `cp` of the same file: wall time, and peak memory.

scripts/bench_gguf.py [--folder DIR] [--gb N] [--rounds N] [--json]

Two shapes of N GB (default 8, as an 8B model in Q8_0): a llama file in Q4_K with a vocabulary of 128,000 tokens,
whose tensors move as one piece, and the same as qwen2, which becomes a llama and whose rows of q and k are put in
another order. Weights are random bytes. Needs three times that in --folder, and better in memory: else it is the disk
that is measured. Turn by turn; `ratio` is that of the fastest of each, `median` that of the rounds, since single runs
of `cp` itself range over a factor of four.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import numpy as np
from bench import EMOBAKE, Cost, fastest, measure
from gguf import GGMLQuantizationType, GGUFWriter
from rich.console import Console
from rich.table import Table

from emobake import VectorSet
from emobake.vectors.write import write_set

HIDDEN, FF, HEADS, KV_HEADS, TOKENS = 4096, 14336, 32, 8, 128_000
Q4_K = GGMLQuantizationType.Q4_K
_BLOCK = 144 / 256


def write_model(path: Path, architecture: str, gigabytes: float) -> int:
    """Write a model of about so many gigabytes; its number of layers."""
    draw = np.random.default_rng(0)
    kv = HIDDEN * KV_HEADS // HEADS
    shapes = {"attn_q": (HIDDEN, HIDDEN), "attn_k": (kv, HIDDEN), "attn_v": (kv, HIDDEN)}
    shapes |= {"attn_output": (HIDDEN, HIDDEN), "ffn_down": (HIDDEN, FF)}
    shapes |= {"ffn_gate": (FF, HIDDEN), "ffn_up": (FF, HIDDEN)}
    layer = sum(rows * columns for rows, columns in shapes.values()) * _BLOCK
    layers = round(gigabytes * 1e9 / layer)
    writer = GGUFWriter(path, architecture)
    writer.add_block_count(layers)
    writer.add_context_length(4096)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FF)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(1e6)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"token{number}" for number in range(TOKENS)])
    writer.add_token_merges([f"tok en{number}" for number in range(2 * TOKENS)])
    one = {
        name: draw.integers(0, 256, (rows, columns * 144 // 256), np.uint8) for name, (rows, columns) in shapes.items()
    }
    for number in range(layers):
        for name, data in one.items():
            writer.add_tensor(f"blk.{number}.{name}.weight", data, raw_dtype=Q4_K)
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{number}.{name}.weight", np.ones(HIDDEN, np.float32))
        if architecture == "qwen2":
            for name, rows in (("attn_q", HIDDEN), ("attn_k", kv), ("attn_v", kv)):
                writer.add_tensor(f"blk.{number}.{name}.bias", np.zeros(rows, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return layers


def compare(base: Path, layers: int, folder: Path, rounds: int) -> dict[str, list[Cost]]:
    """Costs of `cp` and of a bake of `base`, round by round."""
    vectors, out = folder / "vectors.safetensors", folder / "out.gguf"
    rows = np.random.default_rng(0).normal(size=(1, layers, HIDDEN)).astype(np.float32)
    write_set(VectorSet(("joy",), rows), vectors, overwrite=True)
    bake = (*EMOBAKE, "--model", str(base), "--vectors", str(vectors), "--mix", "joy=1", "--out", str(out), "-q")
    commands = {"cp": ("cp", str(base), str(out)), "emobake": bake}
    costs: dict[str, list[Cost]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            out.unlink(missing_ok=True)
            costs[name].append(measure(command))
    out.unlink()
    return costs


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--gb", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        for architecture in ("llama", "qwen2"):
            base = Path(name) / f"{architecture}.gguf"
            layers = write_model(base, architecture, options.gb)
            size = base.stat().st_size / 1e9
            costs = compare(base, layers, Path(name), options.rounds)
            best = {command: fastest(runs) for command, runs in costs.items()}
            ratios = [ours.wall / theirs.wall for theirs, ours in zip(costs["cp"], costs["emobake"], strict=True)]
            found[architecture] = {
                "gb": size,
                "cp_s": best["cp"].wall,
                "emobake_s": best["emobake"].wall,
                "ratio": best["emobake"].wall / best["cp"].wall,
                "median": statistics.median(ratios),
                "peak_mb": best["emobake"].memory,
            }
            base.unlink()
    if options.json:
        print(json.dumps(found, indent=2))
        return
    table = Table()
    for column in ("", *next(iter(found.values()))):
        table.add_column(column)
    for name, row in found.items():
        table.add_row(name, *(f"{value:.2f}" for value in row.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
