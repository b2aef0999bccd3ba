#!/usr/bin/env python3
"""What each emotion does to the answers: words of emotion, on queries that nothing was extracted from.

    scripts/effect.py --model BASE --vectors SET [--strength 2] [--examples 2]

Bakes every emotion of the set on its own, lets base and baked checkpoints answer the 60 everyday queries in
vectors/queries/everyday.json greedily, and counts the words of scripts/emotion_words.json (25 per emotion) in the
answers: per 100 words, and in brackets the share of answers that have any. A crude measure: it sees words, not
meaning, and an answer that repeats itself counts its words each time.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

import emobake
from emobake.live import load
from emobake.measuring import Sampling, generate

ROOT = Path(__file__).parent.parent
QUERIES = json.loads((ROOT / "vectors" / "queries" / "everyday.json").read_text(encoding="utf-8"))
WORDS = json.loads((ROOT / "scripts" / "emotion_words.json").read_text(encoding="utf-8"))


def answers(folder: Path, queries: Sequence[str], tokens: int) -> list[str]:
    """Greedy answers, in batches."""
    live = load(str(folder))
    prompts = [live.prompt([{"role": "user", "content": query}]) for query in queries]
    texts = []
    for start in range(0, len(prompts), 20):
        batch = prompts[start : start + 20]
        found = generate(live, batch, Sampling(tokens), [str(i) for i in range(len(batch))])
        texts += [live.tokenizer.decode(answer) for answer in found.answers]
    return texts


def all_answers(
    model: Path, vectors: Path, strength: float, queries: Sequence[str], tokens: int
) -> Iterator[tuple[str, list[str]]]:
    """The base's answers, then those with each emotion of the set baked in: ``""`` or emotion, texts."""
    yield "", answers(model, queries, tokens)
    with tempfile.TemporaryDirectory() as folder:
        for emotion in emobake.open_vectors(vectors).emotions:
            out = Path(folder) / emotion
            emobake.bake(model, vectors, mix={emotion: strength}, out=out, link_mode="symlink")
            yield emotion, answers(out, queries, tokens)


def rate(texts: Sequence[str], words: Sequence[str]) -> tuple[float, float]:
    """How many of 100 words are among `words`, and which share of the answers has any of them."""
    found = [re.findall(r"[a-z]+", text.lower()) for text in texts]
    hits = [sum(word in words for word in answer) for answer in found]
    return 100 * sum(hits) / max(1, sum(map(len, found))), sum(hit > 0 for hit in hits) / len(texts)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--vectors", required=True, type=Path)
    parser.add_argument("--strength", type=float, default=2.0)
    parser.add_argument("--max-new-tokens", type=int, default=60)
    parser.add_argument("--examples", type=int, default=0, help="answers to print of each checkpoint")
    options = parser.parse_args()
    table = Table("checkpoint", *(f"{name} words" for name in WORDS))
    examples = []
    for emotion, texts in all_answers(
        options.model, options.vectors, options.strength, QUERIES, options.max_new_tokens
    ):
        name = f"{emotion} x {options.strength:g}" if emotion else "base"
        rates = [rate(texts, words) for words in WORDS.values()]
        table.add_row(name, *(f"{per_100:.2f} ({share:.0%})" for per_100, share in rates))
        pairs = list(zip(QUERIES, texts, strict=True))[: options.examples]
        examples += [f"[{name}] {query} -> {' '.join(text.split())}" for query, text in pairs]
    Console(width=120).print(table)
    print(*examples, sep="\n")


if __name__ == "__main__":
    main()
