#!/usr/bin/env python3
"""What each emotion does to the answers: words of emotion, on queries that nothing was extracted from.

    scripts/effect.py --model BASE --vectors SET [--strength 2] [--examples 2]

Bakes every emotion of the set on its own, lets base and baked checkpoints answer the 60 everyday queries in
vectors/queries/everyday.json greedily, and counts the words of scripts/emotion_words.json (25 per emotion) in the
answers: per 100 words, and in brackets the share of answers that have any. A crude measure: it sees words, not meaning.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

import emobake
from emobake.live import load
from emobake.measuring import Sampling, generate

ROOT = Path(__file__).parent.parent
QUERIES = ROOT / "vectors" / "queries" / "everyday.json"
WORDS = json.loads((ROOT / "scripts" / "emotion_words.json").read_text(encoding="utf-8"))


def answers(folder: Path, queries: list[str], tokens: int) -> list[str]:
    """Greedy answers of plain transformers, in batches."""
    live = load(str(folder))
    prompts = [live.prompt([{"role": "user", "content": query}]) for query in queries]
    texts = []
    for start in range(0, len(prompts), 20):
        batch = prompts[start : start + 20]
        found = generate(live, batch, Sampling(tokens), [str(i) for i in range(len(batch))])
        texts += [live.tokenizer.decode(answer) for answer in found.answers]
    return texts


def rate(texts: list[str], words: list[str]) -> str:
    """How many of 100 words are among `words`, and which share of the answers has any of them."""
    found = [re.findall(r"[a-z]+", text.lower()) for text in texts]
    hits = [sum(word in words for word in answer) for answer in found]
    answers = sum(hit > 0 for hit in hits) / len(texts)
    return f"{100 * sum(hits) / max(1, sum(map(len, found))):.2f} ({answers:.0%})"


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--vectors", required=True, type=Path)
    parser.add_argument("--strength", type=float, default=2.0)
    parser.add_argument("--max-new-tokens", type=int, default=60)
    parser.add_argument("--examples", type=int, default=0, help="answers to print of each checkpoint")
    options = parser.parse_args()
    queries = json.loads(QUERIES.read_text(encoding="utf-8"))
    emotions = emobake.open_vectors(options.vectors).emotions
    table = Table("checkpoint", *(f"{name} words" for name in WORDS))
    examples = []
    with tempfile.TemporaryDirectory() as folder:
        for emotion in (None, *emotions):
            out, name = options.model, "base"
            if emotion is not None:
                out, name = Path(folder) / emotion, f"{emotion} x {options.strength:g}"
                emobake.bake(
                    options.model, options.vectors, mix={emotion: options.strength}, out=out, link_mode="symlink"
                )
            texts = answers(out, queries, options.max_new_tokens)
            table.add_row(name, *(rate(texts, words) for words in WORDS.values()))
            examples += [f"[{name}] {q} -> {' '.join(t.split())}" for q, t in zip(queries, texts, strict=True)][
                : options.examples
            ]
    Console(width=120).print(table)
    print(*examples, sep="\n")


if __name__ == "__main__":
    main()
