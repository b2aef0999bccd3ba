#!/usr/bin/env python3
"""Compare vector sets of one model on held-out queries: how likely emotional answers become, and what else changes.

    scripts/compare_vectors.py --model DIR --emotion joy --set "mean, seed 0=a.safetensors" \\
        --set "trained, seed 0=b.safetensors" --skip 120 --out docs/pictures/vectors-joy

Writes OUT.json and OUT.png, and prints the figures. The queries are those of `vectors/queries/emotions.json`, in turn
one of each emotion; the first ``--skip`` are left to the extraction. The base answers each under the emotional
condition, sampled with a seed of its own; the cross entropy is that of these answers after the query alone, in nats per
token. KL is the mean over the base's greedy answers to everyday queries, as `emobake eval` measures it. In the picture
a line is a set, a point a scale; low and to the left is better. Names that are alike before the comma get one colour.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emobake import ModelName, VectorSet, open_vectors
from emobake.measure.neutral_prompts import continued, neutral_prompts
from emobake.measure.queries import ask, parse_queries
from emobake.measure.query_sets import open_queries
from emobake.models.likelihood import Pair, SteeredModel, answer_logits, batches, divergences, log_likelihoods
from emobake.models.loading import LiveModel, load
from emobake.models.sampling import Sampling, sample
from emobake.vectors.pictures import new_figure, save_figure

BATCH = 16
STYLES = ("-", "--", ":", "-.")


def emotional_answers(live: LiveModel, emotion: str, options: argparse.Namespace) -> list[Pair]:
    """The base's answers under the emotional condition, each after its query alone."""
    content, name = open_queries(None)
    asked = ask(parse_queries(content, name), content, name, every_emotion=True).of([emotion])
    chosen = asked.contrasts[options.skip : options.skip + options.count]
    sampling = Sampling(options.max_new_tokens, temperature=0.8, top_p=0.95, seed=options.seed)
    conditions = live.prompts([str(contrast.positive_prompt) for contrast in chosen])
    names = [f"held out/{contrast.number}" for contrast in chosen]
    answers = [
        answer
        for start in range(0, len(chosen), BATCH)
        for answer in sample(live, conditions[start : start + BATCH], sampling, names[start : start + BATCH])
    ]
    queries = live.prompts([contrast.query for contrast in chosen])
    return [(query, answer) for query, answer in zip(queries, answers, strict=True) if answer]


class Measure:
    """Cross entropy and KL of steered models, on the same answers for all."""

    def __init__(self, live: LiveModel, emotional: Sequence[Pair], neutral: Sequence[Pair]) -> None:
        self.live = live
        self.emotional, self.neutral = (
            [[p[i] for i in part] for part in batches(live, p)] for p in (emotional, neutral)
        )
        self.known = [answer_logits(SteeredModel(live), part) for part in self.neutral]

    def point(self, rows: np.ndarray, scale: float) -> dict[str, float]:
        """The figures of rows ``[layers, hidden]`` times `scale`."""
        steered = SteeredModel(self.live, {i: np.float32(scale) * row for i, row in enumerate(rows) if row.any()})
        likelihood = sum(sum(log_likelihoods(steered, part)) for part in self.emotional)
        tokens = sum(len(answer) for part in self.emotional for _, answer in part)
        parts = zip(self.known, self.neutral, strict=True)
        kl = np.mean([value for own, part in parts for one in divergences(own, steered, part) for value in one])
        return {"scale": scale, "cross_entropy": round(-likelihood / tokens, 4), "kl": round(float(kl), 4)}


def draw(found: dict[str, Any], out: Path) -> None:
    """Draw all sets into one picture."""
    figure = new_figure(figsize=(6.4, 4.4))
    axes = figure.subplots()
    kinds = list(dict.fromkeys(name.partition(",")[0] for name in found["sets"]))
    for name, entry in found["sets"].items():
        kind = name.partition(",")[0]
        before = [other for other in found["sets"] if other.partition(",")[0] == kind].index(name)
        xs, ys = zip(*((point["kl"], point["cross_entropy"]) for point in entry["points"]), strict=True)
        style = {"color": f"C{kinds.index(kind)}", "linestyle": STYLES[before % len(STYLES)]}
        axes.plot((0, *xs), (found["base"], *ys), marker="o", markersize=3.5, linewidth=1.5, label=name, **style)
    axes.axhline(found["base"], color="#999999", linewidth=0.8)
    axes.set(xlabel="KL from the base on neutral answers, nats per token")
    axes.set_ylabel(f"cross entropy of held-out answers with {found['emotion']}")
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, out)


def parse_sets(given: Sequence[str]) -> dict[str, VectorSet]:
    """Open the sets, ``NAME=FILE`` each."""
    return {name: open_vectors(Path(file)) for name, _, file in (entry.partition("=") for entry in given)}


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--emotion", required=True)
    parser.add_argument("--set", action="append", required=True, metavar="NAME=FILE")
    parser.add_argument("--skip", type=int, default=120, help="queries that were extracted from")
    parser.add_argument("--count", type=int, default=24, help="queries to measure on")
    parser.add_argument("--neutral", type=int, default=16, help="neutral answers, at most 32")
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument("--seed", type=int, default=1000, help="of the held-out answers")
    parser.add_argument("--scales", type=float, nargs="+", default=[0.25, 0.5, 0.75, 1.0])
    parser.add_argument("--out", type=Path, required=True, metavar="PATH", help="without suffix")
    options = parser.parse_args()
    sets = parse_sets(options.set)
    live = load(ModelName.parse(options.model))
    emotional = emotional_answers(live, options.emotion, options)
    base = SteeredModel(live)
    measure = Measure(live, emotional, continued(base, neutral_prompts(base, options.neutral), BATCH))
    start = measure.point(np.zeros((live.layers, live.hidden), np.float32), 0.0)["cross_entropy"]
    print(f"{'base':40} cross entropy {start:.3f}")
    found: dict[str, Any] = {"emotion": options.emotion, "answers": len(emotional), "base": start, "sets": {}}
    found |= {key: getattr(options, key) for key in ("skip", "neutral", "max_new_tokens", "seed")}
    for name, vectors in sets.items():
        rows = vectors.rows[vectors.emotions.index(options.emotion)]
        points = []
        for scale in options.scales:
            points.append(measure.point(rows, scale))
            print(f"{name:32} x {scale:<5g} cross entropy {points[-1]['cross_entropy']:.3f}  KL {points[-1]['kl']:.3f}")
        found["sets"][name] = {"points": points, "sha256": dict(vectors.sha256)}
    options.out.with_suffix(".json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    draw(found, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
