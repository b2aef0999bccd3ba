"""`tune`: the scale of a steering that meets a budget, or that comes closest to the published way of steering.

The published code adds the vectors at the last position of each forward pass; a bias adds them at every position, the
prompt's too, which is not the same at the same strength. Needs torch, transformers and scipy.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ..core.steering import steering, weighted_sum
from ..errors import EmobakeError, InputError, OutputError
from ..models.likelihood import Side, answer_logits, batches, divergences
from ..models.loading import model_failing
from ..models.steered import open_steered
from .neutral_prompts import continued, neutral_prompts
from .plots import need_matplotlib

MAX_SCALE = 8.0
_FIRST = 0.125
_STEP = 0.005
"""How closely the scale is found."""

Match = Literal["last"]
Progress = Callable[[float, float], None]
"""Told of every scale that was tried, and the KL there."""


@dataclass(frozen=True)
class Tuned:
    """A scale, and how it was found."""

    scale: float
    kl: float
    """Mean KL per token at that scale, in nats: from the base for a budget, from last-position steering for a match."""
    kl_at_one: float
    """The same at scale 1."""
    reference: float | None
    """For a match, the mean KL of last-position steering from the base: how far it goes at all."""
    curve: tuple[tuple[float, float], ...]
    """Every scale that was tried, ascending, and its KL."""


def tune(
    model: str | os.PathLike[str],
    vectors: str | os.PathLike[str] | None = None,
    times: Iterable[float] | None = None,
    *,
    mix: Mapping[str, float] | None = None,
    layers: str | None = None,
    target_kl: float | None = None,
    match: Match | None = None,
    max_scale: float = MAX_SCALE,
    revision: str | None = None,
    base_model: str = "",
    vectors_for: str = "",
    site: str = "",
    batch_size: int = 16,
    dtype: str = "auto",
    device: str = "auto",
    device_map: str | None = None,
    progress: Progress = lambda scale, kl: None,
) -> Tuned:
    """Find the scale for `emobake.bake` by a search between 0 and `max_scale`; arguments as there.

    With `target_kl`, the smallest one found at which the mean KL of the steered next-token distribution from the
    base's reaches so many nats, over the base's own greedy answers of 50 tokens to 32 everyday prompts (Brent's
    method). With `match` ``last``, the one at which steering at every position comes closest to steering at scale 1 at
    the last position of each forward pass, by the mean KL over the answers that the latter gives.

    Raises:
        InputError: (exit code 2) bad input.
        EmobakeError: (exit code 1) the budget is not reached, or the model does not run.
    """
    try:
        from scipy.optimize import brentq, minimize_scalar
    except ImportError as error:
        raise EmobakeError(f"tuning needs scipy ({error}); pip install 'emobake[eval]'") from None
    if (target_kl is None) == (match is None):
        raise InputError("say what to tune for: --target-kl X, or --match last")
    if not 0 < max_scale < np.inf or (target_kl is not None and not 0 < target_kl < np.inf):
        raise InputError("--target-kl and --max-scale take numbers above 0")
    weights = steering(None if times is None else tuple(times), mix, layers=layers)
    if weights.is_zero:
        raise InputError("all weights are zero, there is nothing to tune; set some with --times or --mix")
    live, found = open_steered(
        model,
        vectors,
        accept=lambda found: weighted_sum(found, weights),
        revision=revision,
        base_model=base_model,
        vectors_for=vectors_for,
        site=site,
        dtype=dtype,
        device=device,
        device_map=device_map,
    )
    rows = weighted_sum(found, weights)

    def side(scale: float) -> Side:
        return Side(live, {i: np.float32(scale) * row for i, row in enumerate(rows) if row.any()})

    last = Side(live, side(1.0).rows, "last")
    aim = Side(live) if match is None else last
    pairs = continued(aim, neutral_prompts(aim), batch_size)
    parts = [[pairs[i] for i in batch] for batch in batches(live, pairs)]
    with model_failing(live.name):
        known = [answer_logits(aim, part) for part in parts]
    tried: dict[float, float] = {}

    def mean(other: Side) -> float:
        with model_failing(live.name):
            values = [
                x for own, part in zip(known, parts, strict=True) for one in divergences(own, other, part) for x in one
            ]
        return float(np.mean(values))

    def kl(scale: float) -> float:
        scale = float(scale)
        if scale not in tried:
            tried[scale] = mean(side(scale))
            progress(scale, tried[scale])
        return tried[scale]

    at_one = kl(1.0)
    if target_kl is not None:
        low, high = 0.0, min(_FIRST, max_scale)
        while kl(high) < target_kl:
            if high >= max_scale:
                raise EmobakeError(
                    f"{live.name}: at scale {high:g} the KL is {kl(high):.3g} and not {target_kl:g}; raise --max-scale"
                )
            low, high = high, min(2 * high, max_scale)
        # At 0 the model is the base: nothing to compute.
        tried.setdefault(0.0, 0.0)
        best = float(brentq(lambda scale: kl(scale) - target_kl, low, high, xtol=_STEP))
    else:
        best = float(minimize_scalar(kl, bounds=(0.0, max_scale), method="bounded", options={"xatol": _STEP}).x)
        best = min(tried, key=lambda scale: tried[scale]) if kl(best) > min(tried.values()) else best
    best = round(best, 3)
    reached = kl(best)
    return Tuned(best, reached, at_one, None if match is None else mean(Side(live)), tuple(sorted(tried.items())))


def check_picture(out: Path) -> None:
    """See, before the search, that a picture can be drawn.

    Raises:
        InputError: `out` is neither .png nor .svg. EmobakeError: matplotlib is missing.
    """
    if out.suffix.lower() not in (".png", ".svg"):
        raise InputError(f"{out}: give --plot a name that ends in .png or .svg")
    need_matplotlib()


def plot_curve(tuned: Tuned, out: Path, *, target_kl: float | None) -> None:
    """Draw KL by scale into a PNG or SVG file.

    Raises:
        OutputError: it cannot be written; and as `check_picture`.
    """
    check_picture(out)
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 3.8), layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*tuned.curve, strict=True), marker="o", markersize=4, color="#2f6fb0", linewidth=1.6)
    axes.axvline(tuned.scale, color="#c8321e", linewidth=1, label=f"scale {tuned.scale:g}: {tuned.kl:.3g} nats")
    if target_kl is not None:
        axes.axhline(target_kl, color="#999999", linestyle="--", linewidth=1, label=f"budget: {target_kl:g} nats")
    axes.set(xlabel="scale", ylabel="mean KL, nats per token")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    try:
        with rc_context({"svg.hashsalt": "emobake"}):
            metadata = {"Software": None} if out.suffix.lower() == ".png" else {"Date": None, "Creator": None}
            figure.savefig(out, dpi=130, metadata=metadata)
    except OSError as error:
        raise OutputError(f"{out}: cannot be written ({error.strerror})") from None
