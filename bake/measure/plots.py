"""The pictures of an evaluation: what happens as the strength grows, and the dose in every layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import EmobakeError, OutputError
from ..vectors.plot import COLOURS
from .report import DOSE_RESPONSE, LAYERS
from .summary import target

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def need_matplotlib() -> None:
    """See that matplotlib is there, before the work begins.

    Raises:
        EmobakeError: it is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise EmobakeError("the pictures need matplotlib; pip install 'emobake[eval]'") from None


def plot_evaluation(data: Mapping[str, Any], folder: Path) -> tuple[str, ...]:
    """Draw what was measured as PNG and SVG into `folder`; the names of the pictures, without suffix.

    Raises:
        OutputError: they cannot be written.
    """
    from matplotlib import rc_context

    pictures = [(DOSE_RESPONSE, _dose_response(data))]
    if any(found["norm"] for found in data["layers"].values()):
        pictures.append((LAYERS, _layers(data)))
    # Without these an SVG has random names and the date in it.
    with rc_context({"svg.hashsalt": "emobake"}):
        for name, figure in pictures:
            for suffix, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
                try:
                    figure.savefig(folder / f"{name}.{suffix}", dpi=130, metadata=metadata)
                except OSError as error:
                    raise OutputError(f"{folder}: cannot be written ({error.strerror})") from None
    return tuple(name for name, _ in pictures)


def _dose_response(data: Mapping[str, Any]) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogFormatter

    group = data["questions"]["shown"]
    main = next(one for one in data["scorers"] if one["main"])
    first = {one["name"]: one for one in data["directions"]}

    def emotion(one: Mapping[str, Any], point: Mapping[str, Any]) -> float | None:
        wanted = first[one["like"]]["emotions"] if one["control"] and one["like"] in first else one["emotions"]
        return target(point["groups"][group], main["name"], wanted)

    def measure(key: str) -> Any:
        return lambda _, point: point["groups"][group][key]

    panels = [
        (f"emotion: {main['name']} ({main['unit']})", emotion, "linear"),
        ("perplexity of the answers under the base", measure("perplexity"), "log"),
        ("KL from the base, nats (dotted: worst 5%)", lambda _, point: point["kl"], "linear"),
        ("share of collapsed answers", measure("collapsed"), "linear"),
        ("topic: likelier after their own query", measure("topic"), "linear"),
        ("different pairs of words (distinct-2)", measure("distinct_2"), "linear"),
    ]
    panels = [panel for panel in panels if _any(data, panel[1])]
    strengths = sorted({point["strength"] for one in data["directions"] for point in one["points"]})
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.5 * lines + 0.9), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).flatten()
    for axis, (title, value, scale) in zip(axes, panels, strict=False):
        for i, one in enumerate(data["directions"]):
            _line(axis, data, one, i, value)
            if title.startswith("KL") and not one["control"]:
                _line(axis, data, one, i, lambda _, point: point["kl_worst"], linestyle=":", label=None)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("strength")
        if len(strengths) < 9:
            axis.set_xticks(strengths)
        axis.set_yscale(scale)
        if scale == "log":  # 30, not 3 x 10^1
            axis.yaxis.set_major_formatter(LogFormatter())
            axis.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
        if "share" in title or title.startswith("topic"):
            axis.set_ylim(-0.03, 1.03)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(6, len(labels)), frameon=False, fontsize=9)
    figure.suptitle(_title(data), x=0.01, ha="left", fontsize=11)
    return figure


def _layers(data: Mapping[str, Any]) -> Figure:
    from matplotlib.figure import Figure

    panels = [("norm of the vectors at strength 1", "norm")]
    panels += [
        (title, key)
        for title, key in (
            ("over the mean norm of the attention output", "of_attention_output"),
            ("over the mean norm of the residual stream", "of_layer_output"),
        )
        if any(found.get(key) for found in data["layers"].values())
    ]
    figure = Figure(figsize=(4.8 * len(panels), 3.8), layout="constrained")
    for axis, (title, key) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for i, one in enumerate(data["directions"]):
            found = data["layers"].get(one["name"], {}).get(key)
            if found and not one["control"]:  # a control has the same norms
                values = [float("nan") if x is None else x for x in found]
                axis.plot(range(len(found)), values, color=_colour(one, i), linewidth=1.8, label=one["name"])
        axis.set(xlabel="layer", title=title)
        axis.title.set_fontsize(10)
        axis.set_ylim(bottom=0)
        axis.legend(frameon=False, fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(_title(data), x=0.01, ha="left", fontsize=11)
    return figure


def _line(axis: Axes, data: Mapping[str, Any], one: Mapping[str, Any], i: int, value: Any, **style: Any) -> None:
    found = [(point["strength"], y) for point in one["points"] if (y := value(one, point)) is not None]
    if not found:
        return
    if one["control"]:
        places = [j for j, other in enumerate(data["directions"]) if other["name"] == one["like"]]
        like = places[0] if places else i
        style = {"color": _colour(data["directions"][like], like), "linestyle": "--", "alpha": 0.55} | style
    else:
        style = {"color": _colour(one, i), "marker": "o", "markersize": 4} | style
    axis.plot(*zip(*found, strict=True), **({"label": one["name"], "linewidth": 1.8} | style))


def _any(data: Mapping[str, Any], value: Any) -> bool:
    return any(value(one, point) is not None for one in data["directions"] for point in one["points"])


def _colour(one: Mapping[str, Any], i: int) -> str:
    own = COLOURS.get(one["emotions"][0]) if len(one["emotions"]) == 1 else None
    return own or f"C{i % 10}"


def _title(data: Mapping[str, Any]) -> str:
    questions = data["questions"]
    names: Sequence[str] = [name for name in (data.get("model"), questions["name"]) if name]
    return "  ·  ".join(names) + ("" if questions["shown"] == "all" else f", {questions['shown']} queries")
