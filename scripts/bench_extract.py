#!/usr/bin/env python3
"""Measure extraction against the plain loop that people write: one query at a time, every activation kept.

    scripts/bench_extract.py [--limit N] [--rounds N]

Both measure the same queries on SmolLM2-135M-Instruct in one process, in turn, with the same greedy answers; the
fastest round counts. Then peak memory of `emobake vectors extract` for few and for many equal queries, each in a
process of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from bench import LAUNCH
from rich.console import Console

from emobake.measure.extraction import extract
from emobake.measure.queries import Questionnaire, ask, parse_queries
from emobake.models.sampling import Sampling
from emobake.vectors.open import open_vectors

ROOT = Path(__file__).parent.parent
QUERIES = ROOT / "vectors" / "queries" / "emotions.json"
TOKENS = 48


def plain_loop(model: object, tokenizer: object, asked: Questionnaire) -> dict[str, np.ndarray]:
    """The method without batches: generate with a cache, keep what the hooks see, average at the end."""
    kept: list[list[torch.Tensor]] = [[] for _ in model.model.layers]
    handles = [
        layer.self_attn.register_forward_hook(lambda _m, _a, output, i=i: kept[i].append(output[0][0]))
        for i, layer in enumerate(model.model.layers)
    ]

    def mean(text: str) -> np.ndarray:
        for outputs in kept:
            outputs.clear()
        inputs = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        with torch.inference_mode():
            model.generate(
                **inputs, do_sample=False, temperature=None, top_p=None, top_k=None, max_new_tokens=TOKENS + 1
            )
        prompt = inputs["input_ids"].shape[1]
        return np.stack([torch.cat(outputs)[prompt:].mean(dim=0).numpy() for outputs in kept])

    found: dict[str, list[np.ndarray]] = {}
    for c in asked.contrasts:
        found.setdefault(c.emotion, []).append(mean(c.positive_prompt) - mean(c.negative_prompt))
    for handle in handles:
        handle.remove()
    return {emotion: np.mean(differences, axis=0) for emotion, differences in found.items()}


def peak(command: tuple[str, ...]) -> float:
    """Peak resident memory of a command in MB."""
    launcher = (sys.executable, "-I", "-S", "-c", LAUNCH, *command)
    *_, memory, status = subprocess.run(launcher, capture_output=True, text=True, check=True).stdout.split()[-4:]
    if status != "0":
        raise SystemExit(f"failed: {' '.join(command)}")
    return float(memory)


def speed(base: Path, asked: Questionnaire, rounds: int, console: Console) -> None:
    """Queries per second of both, and how far their vectors lie apart."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(base)
    out = base.parent / "v.safetensors"
    seconds: dict[str, list[float]] = {"extract": [], "loop": []}
    for _ in range(rounds):
        begin = time.perf_counter()
        plain = plain_loop(model, tokenizer, asked)
        seconds["loop"].append(time.perf_counter() - begin)
        begin = time.perf_counter()
        # Loads the model as well: a user waits for that, too.
        extract(base, out, asked, sampling=Sampling(TOKENS, temperature=0), overwrite=True)
        seconds["extract"].append(time.perf_counter() - begin)
    vectors, count = open_vectors(out), len(asked.contrasts)
    for what, times in seconds.items():
        console.print(f"{what:8} {count / min(times):.3f} queries/s (fastest of {rounds} rounds of {count} queries)")
    console.print(f"ratio    {min(seconds['loop']) / min(seconds['extract']):.1f}")
    same = [
        np.linalg.norm(rows - plain[emotion], axis=1) / np.linalg.norm(plain[emotion], axis=1)
        for emotion, rows in zip(vectors.emotions, vectors.rows, strict=True)
    ]
    console.print(f"largest difference of a row, relative to its norm: {np.max(same):.1e}")


def memory(base: Path, query: str, console: Console) -> None:
    """Peak memory by the number of queries."""
    program = str(Path(sys.executable).parent / "emobake")
    command = (program, "vectors", "extract", "--model", str(base), "--max-new-tokens", str(TOKENS), "-q")
    for n in (16, 64, 160):
        # One query again and again, so that every batch is like every other and only their number differs.
        queries = base.parent / f"{n}.json"
        queries.write_text(json.dumps({"joy": [query] * n}), encoding="utf-8")
        out = str(base.parent / f"{n}.safetensors")
        console.print(
            f"peak memory with {n:3} queries: {peak((*command, '--out', out, '--queries', str(queries))):.0f} MB"
        )


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=7, help="queries per emotion (default: 7, so 35 in all)")
    parser.add_argument("--rounds", type=int, default=3, help="of the speed; 0 leaves it out")
    options = parser.parse_args()
    console, content = Console(), QUERIES.read_bytes()
    asked = ask(parse_queries(content, QUERIES.name), content, QUERIES.name).limited(options.limit)
    with tempfile.TemporaryDirectory() as name:
        base = Path(name) / "SmolLM2-135M-Instruct"
        script = str(ROOT / "scripts" / "make_smollm2.py")
        subprocess.run((sys.executable, script, str(base)), check=True, capture_output=True)
        if options.rounds:
            speed(base, asked, options.rounds, console)
        memory(base, asked.contrasts[0].query, console)


if __name__ == "__main__":
    main()
