"""The pictures of an evaluation: its measures by strength, the dose by layer, and the curve of a search."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..vectors.pictures import COLOURS, check_picture, new_figure, save_figure
from .receipt import DOSE_RESPONSE, LAYERS, TURNS
from .summary import target

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .tuning import Tuned


Value = Callable[[Mapping[str, Any], Mapping[str, Any]], float | None]
"""Figure of a direction's point; None if it was not measured."""
Panel = tuple[str, Value, str]
"""Title, figure and scale of the axis."""


def plot_evaluation(data: Mapping[str, Any]) -> dict[str, Figure]:
    """Draw the measures; returns figures by name, without suffix."""
    figures = {DOSE_RESPONSE: _dose_response(data)}
    if any(found["norm"] for found in data["layers"].values()):
        figures[LAYERS] = _layers(data)
    if data.get("turns"):
        figures[TURNS] = _turns(data)
    return figures


def plot_curve(tuned: Tuned, out: Path, *, target_kl: float | None) -> None:
    """Draw KL by scale into a PNG or SVG file.

    Raises:
        InputError: another suffix. MissingPackageError: matplotlib is not installed. OutputError: it cannot be written.
    """
    check_picture(out)
    figure = new_figure(figsize=(5.6, 3.8))
    axes = figure.subplots()
    axes.plot(*zip(*tuned.curve, strict=True), marker="o", markersize=4, color="#2f6fb0", linewidth=1.6)
    axes.axvline(tuned.scale, color="#c8321e", linewidth=1, label=f"scale {tuned.scale:g}: {tuned.kl:.3g} nats")
    if target_kl is not None:
        axes.axhline(target_kl, color="#999999", linestyle="--", linewidth=1, label=f"budget: {target_kl:g} nats")
    axes.set(xlabel="scale", ylabel="mean KL, nats per token")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, out)


def _dose_response(data: Mapping[str, Any]) -> Figure:
    panels = _panels(data)
    strengths = sorted({point["strength"] for one in data["directions"] for point in one["points"]})
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure = new_figure(figsize=(4.6 * columns, 3.5 * lines + 0.9))
    axes = figure.subplots(lines, columns, squeeze=False).flatten()
    for axis, panel in zip(axes, panels, strict=False):
        _draw_panel(axis, data, panel)
        if len(strengths) < 9:
            axis.set_xticks(strengths)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(6, len(labels)), frameon=False, fontsize=9)
    figure.suptitle(_title(data), x=0.01, ha="left", fontsize=11)
    return figure


def _panels(data: Mapping[str, Any]) -> list[Panel]:
    """The measures that have any figure."""
    group = data["questions"]["shown"]
    main = next(one for one in data["scorers"] if one["main"])
    first = {one["name"]: one for one in data["directions"]}

    def emotion(one: Mapping[str, Any], point: Mapping[str, Any]) -> float | None:
        wanted = first[one["like"]]["emotions"] if one["like"] in first else one["emotions"]
        return target(point["groups"][group], main["name"], wanted)

    def measure(key: str) -> Value:
        return lambda _, point: point["groups"][group][key]

    panels: list[Panel] = [
        (f"emotion: {main['name']} ({main['unit']})", emotion, "linear"),
        ("perplexity of the answers under the base", measure("perplexity"), "log"),
        ("KL from the base, nats (dotted: worst 5%)", lambda _, point: point["kl"], "linear"),
        ("share of collapsed answers", measure("collapsed"), "linear"),
        ("topic: likelier after their own query", measure("topic"), "linear"),
        ("different pairs of words (distinct-2)", measure("distinct_2"), "linear"),
    ]
    return [panel for panel in panels if _any(data, panel[1])]


def _draw_panel(axis: Axes, data: Mapping[str, Any], panel: Panel) -> None:
    from matplotlib.ticker import LogFormatter

    title, value, scale = panel
    for i, one in enumerate(data["directions"]):
        _line(axis, data, one, i, value)
        if title.startswith("KL") and one["kind"] not in ("control", "prompt"):
            _line(axis, data, one, i, lambda _, point: point["kl_worst"], linestyle=":", label=None)
    axis.set_title(title, fontsize=10)
    axis.set_xlabel("strength")
    axis.set_yscale(scale)
    if scale == "log":  # 30, not 3 x 10^1
        axis.yaxis.set_major_formatter(LogFormatter())
        axis.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
    if "share" in title or title.startswith("topic"):
        axis.set_ylim(-0.03, 1.03)
    axis.spines[["top", "right"]].set_visible(False)


def _layers(data: Mapping[str, Any]) -> Figure:
    panels = [("norm of the vectors at strength 1", "norm")]
    panels += [
        (title, key)
        for title, key in (
            ("over the mean norm of the attention output", "of_attention_output"),
            ("over the mean norm of the residual stream", "of_layer_output"),
        )
        if any(found.get(key) for found in data["layers"].values())
    ]
    figure = new_figure(figsize=(4.8 * len(panels), 3.8))
    for axis, (title, key) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for i, one in enumerate(data["directions"]):
            found = data["layers"].get(one["name"], {}).get(key)
            if found and not one["control"]:  # A control has the same norms.
                values = [float("nan") if x is None else x for x in found]
                axis.plot(range(len(found)), values, color=_colour(one, i), linewidth=1.8, label=one["name"])
        axis.set(xlabel="layer", title=title)
        axis.title.set_fontsize(10)
        axis.set_ylim(bottom=0)
        axis.legend(frameon=False, fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(_title(data), x=0.01, ha="left", fontsize=11)
    return figure


def _turns(data: Mapping[str, Any]) -> Figure:
    """The emotion by turn, a panel for each direction; dashed where the user's own system prompt stands."""
    curves = data["turns"]["curves"]
    names = list(dict.fromkeys(one["direction"] for one in curves))
    colours = {"base": "#777777", "prompt": "#7a4fb5", "vectors": "#c8321e"}
    figure = new_figure(figsize=(4.8 * len(names), 3.8))
    for axis, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for one in (one for one in curves if one["direction"] == name):
            values = [float("nan") if x is None else x for x in one["emotion"]]
            own = one["own_system_prompt"]
            axis.plot(
                range(1, len(values) + 1),
                values,
                color=colours[one["who"]],
                linestyle="--" if own else "-",
                marker="o",
                markersize=4,
                linewidth=1.6,
                label=f"{one['who']}{', own system prompt' if own else ''}",
            )
        axis.set(xlabel="turn", title=name)
        axis.title.set_fontsize(10)
        axis.legend(frameon=False, fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(_title(data), x=0.01, ha="left", fontsize=11)
    return figure


def _line(axis: Axes, data: Mapping[str, Any], one: Mapping[str, Any], i: int, value: Any, **style: Any) -> None:
    found = [(point["strength"], y) for point in one["points"] if (y := value(one, point)) is not None]
    if not found:
        return
    if one["like"]:
        places = [j for j, other in enumerate(data["directions"]) if other["name"] == one["like"]]
        like = places[0] if places else i
        style = {"color": _colour(data["directions"][like], like), "linestyle": "--", "alpha": 0.55} | style
    if one["kind"] == "prompt":  # A level, not a curve: a prompt has no strength.
        axis.axhline(found[-1][1], label=one["name"], linewidth=1.4, **(style | {"linestyle": "-."}))
        return
    if not one["like"]:
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
