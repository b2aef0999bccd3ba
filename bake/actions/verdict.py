"""The rules by which constant rows of a model are judged: its own, or baked in, and by which vectors.

1. Rows that are all zero, or not there, are ``none``.
2. Rows of which a known set explains `KNOWN` or more are ``known``.
3. A bias that the architecture always has, or that stands beside others that are alive, is ``own``; but where a known
   set explains `ALONG` or more of it, it is ``known``: baked in on top of the model's own.
4. All others are ``unknown``: baked in, by vectors that are not known.

Signs of a bake against rule 3 are biases in a file of their own, the same row in all layers, and a class that ignores
them: no training leaves these.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from ..core.constant_rows import ConstantRows
from ..core.totals import layer_ranges
from ..vectors.nearest import Fit

Kind = Literal["none", "own", "unknown", "known"]
"""Verdicts, the weakest first."""
KNOWN = 0.9
"""Share of the rows' squared length that a known mix must explain, for rows that are nothing else. Rounding to 16 bits
leaves 0.9999 and more; of a random row the paper's five emotions explain some ten-thousandths."""
ALONG = 0.25
"""The same for rows on top of a model's own bias: a cosine of 0.5 over all layers, which chance does not make of
thousands of numbers."""
_EXACT = 0.98
"""Share from which on a mix counts as the whole of the rows."""
_SITES = {"attention_output": "attention output", "layer_output": "MLP output"}
_HOW = {
    "bias": "a bias of the projection",
    "head": "the column behind a key/value head of constant output",
    "value": "a bias of the values, of which the projection makes the rows",
}


@dataclass(frozen=True, eq=False)
class Finding:
    """The rows of one kind, the known emotions nearest to them, and the verdict."""

    rows: ConstantRows
    fits: tuple[Fit, ...]
    """One for each set that fits the model, the one that explains most first."""
    kind: Kind
    text: str
    """The verdict in words."""
    reasons: tuple[str, ...]
    """Reasons of the verdict, one clause each."""

    @property
    def place(self) -> str:
        """The site in words."""
        return _SITES[self.rows.site]


def judge(rows: ConstantRows, fits: Sequence[Fit]) -> Finding:
    """Judge rows by the rules of this module."""
    ordered = tuple(sorted(fits, key=lambda each: -max(each.explained, 0.999 * each.explained_apart)))
    kind, text = _verdict(rows, ordered[0] if ordered else None)
    return Finding(rows, ordered, kind, text, tuple(_reasons(rows, kind)))


def overall(findings: Sequence[Finding]) -> tuple[Kind, str]:
    """The verdict on the whole model: the strongest one; of two that are as strong, both with their places."""
    order: tuple[Kind, ...] = ("known", "unknown", "own")
    kind: Kind = next((kind for kind in order if any(each.kind == kind for each in findings)), "none")
    if kind == "none":
        zeros = sum(len(each.rows.rows) for each in findings)
        return kind, f"no bias: {zeros} are stored, and all of them are zero" if zeros else "no bias"
    same = [each for each in findings if each.kind == kind]
    if len(same) == 1 and same[0].rows.site == "attention_output":
        return kind, same[0].text
    return kind, "; ".join(f"{each.place}: {each.text}" for each in same)


def recipe(found: Fit, rows: ConstantRows) -> str:
    """The mix in words: ``joy about 1.2, of SET``; with the layers, if only some of the model's have rows."""
    if found.explained >= _EXACT or found.explained_apart < _EXACT:
        terms = [f"{emotion} about {weight:.3g}" for emotion, weight in found.terms]
    else:
        terms = [
            f"{emotion} {low:.3g} to {high:.3g} by layer" if f"{low:.3g}" != f"{high:.3g}" else f"{emotion} {low:.3g}"
            for emotion, (low, high) in found.ranges.items()
        ]
    acting = [row.layer for row in rows.acting]
    some = len(acting) < rows.layers
    where = f" in layer{'s' * (len(acting) > 1)} {layer_ranges(acting)}" if some else ""
    return f"{' and '.join(terms)}{where}, of {found.name}"


def _verdict(rows: ConstantRows, best: Fit | None) -> tuple[Kind, str]:
    if not rows.acting:
        return "none", f"no bias: all {len(rows.rows)} are zero"
    share = 0.0 if best is None else max(best.explained, best.explained_apart)
    own = is_own(rows)
    if best is not None and (share >= _EXACT or (share >= KNOWN and not own)):
        return "known", f"looks baked in: {recipe(best, rows)}"
    if best is not None and own and best.explained >= ALONG:
        return "known", f"looks baked in, on top of a bias of the model's own: {recipe(best, rows)}"
    if own:
        return "own", "a bias of the model's own"
    if not rows.is_read:
        return "unknown", "looks baked in, by vectors that were not read"
    return "unknown", "looks baked in, by vectors that are not known"


def is_own(rows: ConstantRows) -> bool:
    """True if the bias is the model's own, as far as can be told without known vectors."""
    if rows.own == "always":
        return True
    if rows.how == "head" or rows.ignored or rows.is_apart or rows.is_the_same:
        return False
    return rows.beside == "alive"


def _reasons(rows: ConstantRows, kind: Kind) -> Iterator[str]:
    if kind == "none":
        return
    yield _origin(rows)
    if rows.how != "head":
        yield _neighbours(rows)
    if rows.is_apart:
        yield "the biases lie apart from all other tensors, as a bake writes them"
    if rows.is_the_same:
        yield "all layers have the same row, which no training leaves"
    if is_own(rows):
        if rows.own == "flag":
            yield "nothing tells a bias of the model's own from vectors that are not known"
        yield "the base's bias is part of the rows, and cannot be subtracted without the base"


def _origin(rows: ConstantRows) -> str:
    """Biases that the architecture has by itself."""
    if rows.how == "head":
        return "no training makes a head whose output is the same at every position"
    if rows.ignored:
        return f"the model's own class ignores it: {rows.ignored}"
    if rows.own == "always":
        return f"{rows.family} has such a bias by itself"
    if rows.own == "unknown":
        return f"it is not known whether {rows.family} has such a bias by itself"
    return f"{rows.family} has such a bias only {f'by {rows.flag}' if rows.flag else 'where a file holds one'}"


def _neighbours(rows: ConstantRows) -> str:
    named = ", ".join(rows.named)
    if rows.beside == "absent":
        return "no other projection of these layers has a bias"
    if rows.beside == "zero":
        return f"the biases of {named} are zeros, as a bake writes them"
    return f"{named} {'has a bias' if len(rows.named) == 1 else 'have biases'}, too"


def what_it_is(rows: ConstantRows) -> str:
    """The form in which the rows are stored, in words."""
    return _HOW[rows.how]
