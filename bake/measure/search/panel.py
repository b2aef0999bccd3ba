"""Panels: everything that is measured of steered models on one part of the queries. Needs torch and transformers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from ...models.hooks import adding, reading
from ...models.likelihood import Pair, SteeredModel
from ...models.loading import LiveModel, model_failing
from ...models.sampling import Sampling, Tokens, padded, sample
from ..ledger import Ledger
from ..neutral_prompts import Reference, continued
from ..processes import Processes
from ..queries import EMOTIONAL, NEUTRAL, ask
from ..repetition import repetition
from ..scorers.base import Scorer
from ..scorers.lexicon import Lexicon
from ..summary import worst
from ..written import Written
from .emotion import Contrast, Likely, Probe, likelihoods, read_answers, weighted
from .points import Figures

LIKELIHOOD, PROBE = "likelihood", "probe"
FIRST = 3
"""Prompts on which a trial is aimed at its KL."""
CONTRAST_TOKENS = 32
"""Tokens of an answer under a condition prompt."""
_POSITIONS = 256
"""Positions whose outputs tell the directions of the neutral output."""

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Size:
    """Numbers of answers and tokens that are measured of a part."""

    tokens: int
    """Tokens of an answer."""
    neutral_tokens: int
    """Tokens of the base's answers to the prompts for KL."""
    contrasts: int
    """Contrasts for each emotion of which no replies were written: answers of the base to so many queries."""


@dataclass(frozen=True, eq=False)
class Context:
    """The base and how it runs; shared by all panels."""

    live: LiveModel
    processes: Processes
    batch_size: int
    seed: int

    def each(self, items: Sequence[T], work: Callable[[list[T]], Sequence[R]]) -> list[R]:
        """Do `work` on the items, this process's share of them; the results of all, in their order."""
        mine = list(range(len(items)))[self.processes.rank :: self.processes.size]
        found = work([items[i] for i in mine]) if mine else []
        pairs = self.processes.gather(list(zip(mine, found, strict=True)))
        return [value for _, value in sorted(pairs, key=lambda pair: pair[0])]

    def answers(
        self,
        prompts: Sequence[Tokens],
        sampling: Sampling,
        rows: Mapping[int, np.ndarray] | None = None,
        names: Sequence[str] | None = None,
    ) -> list[tuple[int, ...]]:
        """The answers of the model with `rows` added; `names` are as for `sample`, default: the numbers."""
        live = self.live
        named = list(zip(prompts, names or [str(i) for i in range(len(prompts))], strict=True))

        def work(items: list[tuple[Tokens, str]]) -> list[tuple[int, ...]]:
            found: list[tuple[int, ...]] = []
            for start in range(0, len(items), self.batch_size):
                batch = items[start : start + self.batch_size]
                with model_failing(live.name), adding(live.model, live.family, rows or {}):
                    found += sample(live, [p for p, _ in batch], sampling, [name for _, name in batch])
            return found

        return self.each(named, work)


def written_contrasts(context: Context, written: Sequence[Written], emotion: str) -> list[Contrast]:
    """The written replies with one of the paper's emotions."""
    tokens = context.live.tokenizer

    def ids(text: str) -> tuple[int, ...]:
        return tuple(tokens(text, add_special_tokens=False).input_ids)

    return [Contrast(emotion, one.query, ids(one.emotional[emotion]), ids(one.neutral)) for one in written]


def own_contrasts(
    context: Context, queries: Mapping[str, Sequence[str]], ledger: Ledger, prefix: str
) -> list[Contrast]:
    """Let the base answer the queries of each emotion under both conditions; finished ones are kept.

    The answers are drawn, because a small model's greedy ones repeat themselves, and would reward repetition.
    A query to which one of the answers is empty is left out.
    """
    asked = ask(queries, b"", "").contrasts
    todo = [one for one in asked if f"{prefix}/{one.emotion}/{one.number}" not in ledger.done]
    if todo:
        # The neutral prompt of a query is the same for all emotions.
        texts = list(dict.fromkeys(text or "" for one in todo for text in (one.positive_prompt, one.negative_prompt)))
        sampling = Sampling(CONTRAST_TOKENS, top_p=1.0, seed=context.seed)
        said = context.answers(context.live.prompts(texts), sampling, names=texts)
        by_text = dict(zip(texts, said, strict=True))
        found = {
            f"{prefix}/{one.emotion}/{one.number}": [
                by_text[one.positive_prompt or ""],
                by_text[one.negative_prompt or ""],
            ]
            for one in todo
        }
        if context.processes.is_first:
            ledger.add(found)
        ledger.done |= found
    pairs = [ledger.done[f"{prefix}/{one.emotion}/{one.number}"] for one in asked]
    return [
        Contrast(one.emotion, one.query, tuple(emotional), tuple(neutral))
        for one, (emotional, neutral) in zip(asked, pairs, strict=True)
        if emotional and neutral
    ]


CONDITIONS = {"emotional_prompt": EMOTIONAL, "neutral_prompt": NEUTRAL}
"""Condition prompts of the contrasts, for records."""


@dataclass(frozen=True, eq=False)
class Gauge:
    """The measures of emotion, and the spread of each on the texts of the trials."""

    shares: Mapping[str, float]
    """Emotion to raise -> its share of the weights."""
    probes: Mapping[str, Probe]
    scorers: Sequence[Scorer]
    spreads: Mapping[str, Mapping[str, float]]
    """Measure -> emotion -> standard deviation, above 0."""

    @classmethod
    def made(
        cls, context: Context, shares: Mapping[str, float], known: Sequence[Contrast], scorers: Sequence[Scorer]
    ) -> Gauge:
        """Fit the probes and measure the spreads on the answers `known`.

        A probe tells its emotion from neutral answers, and from answers with emotions that are not raised.
        """
        live = context.live
        prompts = live.prompts([one.query for one in known])
        states = {
            side: read_answers(live, [(p, getattr(one, side)) for p, one in zip(prompts, known, strict=True)]).states
            for side in ("emotional", "neutral")
        }
        own = {e: [i for i, one in enumerate(known) if one.emotion == e] for e in shares}
        others = states["emotional"][[i for i, one in enumerate(known) if one.emotion not in shares]]
        probes = {
            e: Probe(states["emotional"][i], np.concatenate([states["neutral"][i], others])) for e, i in own.items()
        }
        likely = np.array([one.emotional for one in context.each(known, lambda x: likelihoods(SteeredModel(live), x))])
        spreads = {
            LIKELIHOOD: {e: _spread(likely[i]) for e, i in own.items()},
            PROBE: {e: probe.spread for e, probe in probes.items()},
        }
        for scorer in scorers:
            queries = [one.query for one in known] * 2
            texts = [_text(live, getattr(one, side)) for side in ("emotional", "neutral") for one in known]
            found = scorer.score(queries, texts)
            spreads[scorer.name] = {e: _spread(np.array([figures.get(e, 0.0) for figures in found])) for e in shares}
        return cls(shares, probes, scorers, spreads)

    def standardised(self, raw: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
        """Mean over the emotions, in standard deviations: measure -> value."""
        return {
            measure: weighted({e: x / self.spreads[measure][e] for e, x in values.items()}, self.shares)
            for measure, values in raw.items()
        }


class Panel:
    """One part of the queries, and what the base does there."""

    def __init__(
        self,
        context: Context,
        gauge: Gauge,
        queries: Sequence[str],
        texts: Sequence[Contrast],
        size: Size,
        *,
        lexicon: bool = False,
        top_p: float = 1.0,
    ) -> None:
        self.context, self.gauge, self.queries, self.texts = context, gauge, tuple(queries), tuple(texts)
        self.prompts = context.live.prompts(queries)
        self.sampling = Sampling(size.tokens, top_p=top_p, seed=context.seed)
        self.lexicon = Lexicon() if lexicon else None
        base = SteeredModel(context.live)
        self.pairs: list[Pair] = context.each(
            self.prompts, lambda own: continued(base, own, context.batch_size, tokens=size.neutral_tokens)
        )
        self._first = Reference.of(base, self.pairs[:FIRST])
        rest = self.pairs[FIRST:][context.processes.rank :: context.processes.size]
        self._rest = Reference.of(base, rest)
        self._zero: dict[str, float] = {}
        self._likely: list[Likely] = context.each(self.texts, lambda own: likelihoods(base, own))
        unsteered = self.measure({})
        self._zero = dict(unsteered.measures)
        self.base = replace(unsteered, measures=dict.fromkeys(self._zero, 0.0))
        """Figures of the base: no rise, no KL."""

    def first_kl(self, rows: Mapping[int, np.ndarray]) -> float:
        """Mean KL on the first few prompts."""
        return float(np.mean(self._first.divergences(SteeredModel(self.context.live, rows))))

    def measure(
        self, rows: Mapping[int, np.ndarray], lacks: Callable[[Figures], float] = lambda figures: 0.0
    ) -> Figures:
        """Measure the model with `rows` added; rises are over the base.

        KL and the likelihood come first, which need no generation. If `lacks` then says more than 0, the model does
        not answer, and these are all.
        """
        steered = SteeredModel(self.context.live, rows)
        first = self._first.divergences(steered) if rows else [0.0]
        raw = {LIKELIHOOD: self._likelihood(steered)}
        own = self._rest.divergences(steered) if rows else []
        kl = np.array([*first, *self.context.processes.gather(own)])
        begun = Figures(self._rises(raw), round(float(kl.mean()), 6), round(worst(kl), 6))
        lacking = lacks(begun)
        if lacking > 0:
            return replace(begun, shortfall=round(lacking, 6))
        more, answered = self._answers(rows)
        return replace(begun, measures=self._rises(raw | more), **answered)

    def _rises(self, raw: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
        found = self.gauge.standardised(raw)
        return {name: round(x - self._zero.get(name, 0.0), 6) for name, x in found.items()}

    def _likelihood(self, steered: SteeredModel) -> dict[str, float]:
        found = self.context.each(self.texts, lambda own: likelihoods(steered, own))
        by_emotion: dict[str, list[float]] = {}
        for text, likely, base in zip(self.texts, found, self._likely, strict=True):
            by_emotion.setdefault(text.emotion, []).append(likely.rise(base))
        return {emotion: float(np.mean(values)) for emotion, values in by_emotion.items()}

    def _answers(self, rows: Mapping[int, np.ndarray]) -> tuple[dict[str, dict[str, float]], dict[str, Any]]:
        """Raw measures of the answers, by emotion; and the figures of damage."""
        live, shares = self.context.live, self.gauge.shares
        said = self.context.answers(self.prompts, self.sampling, rows)
        texts = [_text(live, answer) for answer in said]
        pairs: list[Pair] = list(zip(self.prompts, said, strict=True))

        def read(own: list[Pair]) -> list[tuple[np.ndarray, float]]:
            found = read_answers(live, own)
            return list(zip(found.states, found.log_likelihoods, strict=True))

        seen = self.context.each(pairs, read)
        states = np.stack([state for state, _ in seen])
        raw = {PROBE: {e: float(self.gauge.probes[e].logits(states).mean()) for e in shares}}
        for scorer in self.gauge.scorers:
            raw[scorer.name] = _mean_scores(scorer, self.queries, texts, shares)
        repeated = [repetition(text) for text in texts]
        tokens = sum(map(len, said))
        figures = {
            "collapsed": float(np.mean([one.collapsed for one in repeated])),
            "distinct_2": float(np.mean([one.distinct_2 for one in repeated])),
            # No answer at all is as broken as one that never ends.
            "perplexity": math.exp(min(700.0, -sum(x for _, x in seen) / tokens)) if tokens else None,
        }
        if self.lexicon is not None:
            figures["lexicon"] = weighted(_mean_scores(self.lexicon, self.queries, texts, shares), shares)
        return raw, figures


def neutral_outputs(live: LiveModel, pairs: Sequence[Pair]) -> np.ndarray:
    """The base's values at the site over answers, spread evenly: float32 ``[positions, layers, hidden]``.

    At most 256 positions; zero in layers without the site.
    """
    import torch

    ids, attention = padded(live, [[*prompt, *answer] for prompt, answer in pairs], "right")
    places = [(i, len(p) + k) for i, (p, answer) in enumerate(pairs) for k in range(len(answer))]
    places = places[:: -(-len(places) // _POSITIONS)]
    rows, columns = (torch.tensor(one, device=ids.device) for one in zip(*places, strict=True))
    found = np.zeros((len(places), live.layers, live.hidden), np.float32)

    def see(layer: int, output: torch.Tensor) -> None:
        found[:, layer] = output[rows.to(output.device), columns.to(output.device)].float().cpu().numpy()

    with model_failing(live.name), torch.inference_mode(), reading(live.model, live.family, live.layers, see):
        live.model.base_model(input_ids=ids, attention_mask=attention, use_cache=False)
    return found


def _mean_scores(
    scorer: Scorer, queries: Sequence[str], texts: Sequence[str], emotions: Mapping[str, float]
) -> dict[str, float]:
    found = scorer.score(queries, texts)
    return {e: float(np.mean([figures.get(e, 0.0) for figures in found])) for e in emotions}


def _text(live: LiveModel, tokens: Sequence[int]) -> str:
    return str(live.tokenizer.decode(tokens, skip_special_tokens=True))


def _spread(values: np.ndarray) -> float:
    return float(np.std(values)) or 1.0
