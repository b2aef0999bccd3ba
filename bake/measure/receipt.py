"""The behaviour receipt of an evaluation: one short account of what a steering does and costs, for cards and machines.

`receipt_of` makes the key ``receipt`` of report.json, by which `emobake.actions.receipt` holds a bake to bounds;
`write_receipt` makes the section of the card.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..core.text import code, markdown
from .cells import cell, share, shift
from .summary import beside, chosen, main_ones, target

if TYPE_CHECKING:
    from .experiment import Direction

DOSE_RESPONSE, LAYERS, TURNS = "dose_response", "layers", "turns"
"""Names of the pictures, without their suffix."""

_MEANINGS = {
    "diversity": "*diversity*: different pairs of neighbouring words over all pairs, in several answers to one query "
    "together; the mean over the queries",
    "capability": "*capability*: share of {tasks} shipped tasks of arithmetic, recall and copying that are answered "
    "right; *drop*: the base's share minus this one, in points",
    "refusals": "*refuses*: share of the shipped neutral and borderline requests whose answer begins as a refusal does",
    "agreement": "*agrees*: share of the shipped false claims whose answer begins as an agreement does; *shift*: a "
    "share minus the base's, in points",
}


def receipt_of(
    data: Mapping[str, Any], directions: Iterable[Direction], weights: Sequence[tuple[str, int]]
) -> dict[str, Any]:
    """The receipt of a report; a figure that was not measured is null.

    `data` is the report so far, `directions` those of the experiment, and `weights` the weight files of the base, each
    a name and a size.
    """
    recipes = {one.name: one.recipe for one in directions}
    base = next((point for one in data["directions"] for point in one["points"] if point["strength"] == 0), None)
    found = []
    for one in main_ones(data["directions"]):
        recipe = recipes.get(one["name"])
        control, prompt = (beside(data["directions"], one, kind) for kind in ("control", "prompt"))
        asked = None
        if prompt is not None:
            asked = {**_points(data, prompt, one, base)[-1], "strength": None}
            asked["system_prompt"] = prompt["system_prompt"]
        found.append(
            {
                "name": one["name"],
                "weights": None if recipe is None else dict(recipe.weights),
                "layers": None if recipe is None or recipe.layers is None else list(recipe.layers),
                "rows_sha256": None if recipe is None else dict(recipe.digests),
                "chosen": chosen(data, one),
                "points": _points(data, one, one, base),
                "control": [] if control is None else _points(data, control, one, base),
                "prompt": asked,
            }
        )
    return {
        "group": data["questions"]["shown"],
        "scorer": _main(data)["name"],
        "weights": [list(one) for one in weights],
        "directions": found,
    }


def _main(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """The scorer that is believed first."""
    found: Mapping[str, Any] = next(one for one in data["scorers"] if one["main"])
    return found


def _points(
    data: Mapping[str, Any], curve: Mapping[str, Any], main: Mapping[str, Any], base: Mapping[str, Any] | None
) -> list[dict[str, Any]]:
    """The figures of `curve` by strength; the emotion is that of the direction `main`."""
    group, scorer = data["questions"]["shown"], _main(data)["name"]
    before = {} if base is None else _costs(base)
    found = []
    for point in curve["points"]:
        own, costs = point["groups"][group], _costs(point)
        found.append(
            {
                "strength": point["strength"],
                "emotion": target(own, scorer, main["emotions"]),
                **{key: point[key] for key in ("kl", "kl_worst")},
                **{key: own[key] for key in ("collapsed", "perplexity", "topic")},
                **costs,
                "capability_drop": _difference(before.get("capability"), costs["capability"]),
                "refusal_shift": _difference(costs["refusals"], before.get("refusals")),
                "agreement_shift": _difference(costs["agreement"], before.get("agreement")),
            }
        )
    return found


def _costs(point: Mapping[str, Any]) -> dict[str, float | None]:
    told, done = point["behaviour"] or {}, point["capability"] or {}
    return {
        "diversity": point["diversity"],
        "capability": done.get("right"),
        "refusals": told.get("refusals"),
        "agreement": told.get("agreement"),
    }


def _difference(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else round(one - other, 6)


def write_receipt(data: Mapping[str, Any], pictures: Sequence[str] = ()) -> str:
    """The section "Behaviour" of the report; empty without a receipt."""
    receipt = data.get("receipt")
    if receipt is None:
        return ""
    parts = ["### Behaviour"]
    for one in receipt["directions"]:
        strength, rule = one["chosen"]["strength"], one["chosen"]["rule"]
        told = "" if strength is None else f", chosen strength {strength:g} ({markdown(rule)})"
        parts += [f"**{markdown(one['name'])}**{told}:", _table(one, f"emotion ({_main(data)['unit']})")]
    points = [point for one in receipt["directions"] for point in one["points"]]
    counts = [p["capability"]["tasks"] for one in data["directions"] for p in one["points"] if p["capability"]]
    meanings = [
        text.replace("{tasks}", str(max(counts, default=0)))
        for key, text in _MEANINGS.items()
        if any(point[key] is not None for point in points)
    ]
    parts += ["; ".join(meanings) + "."] if meanings else []
    return "\n\n".join([*parts, *_turns(data, pictures), *_benchmarks(data)])


def _table(one: Mapping[str, Any], emotion: str) -> str:
    drawn = {point["strength"]: point["emotion"] for point in one["control"]}
    best = one["chosen"]["strength"]

    def name(point: Mapping[str, Any]) -> str:
        own = point["strength"]
        label = "prompt" if own is None else "base" if own == 0 else f"{own:g}"
        return f"**{label}**" if own is not None and own == best else label

    columns: list[tuple[str, Callable[[Mapping[str, Any]], str]]] = [
        ("strength", name),
        (emotion, lambda point: cell(point["emotion"])),
        ("random vector", lambda point: cell(drawn.get(point["strength"])) if point["strength"] else ""),
    ]
    columns += [
        (title, lambda point, key=key, form=form: form(point[key]))  # type: ignore[misc]
        for title, key, form in (
            ("KL", "kl", cell),
            ("collapsed", "collapsed", share),
            ("diversity", "diversity", cell),
            ("capability", "capability", share),
            ("drop", "capability_drop", shift),
            ("refuses", "refusals", share),
            ("refusal shift", "refusal_shift", shift),
            ("agrees", "agreement", share),
            ("agreement shift", "agreement_shift", shift),
        )
    ]
    rows = [*one["points"], *([one["prompt"]] if one["prompt"] else [])]
    shown = [column for column in columns if any(column[1](row) for row in rows)]
    lines = ["| " + " | ".join(markdown(title) for title, _ in shown) + " |", "|" + " ---: |" * len(shown)]
    return "\n".join([*lines, *("| " + " | ".join(show(row) for _, show in shown) + " |" for row in rows)])


def _turns(data: Mapping[str, Any], pictures: Sequence[str]) -> list[str]:
    """The emotion by turn, as a table and a picture; empty if no conversations were held."""
    turns = data.get("turns")
    if not turns or not turns["curves"]:
        return []
    count = len(turns["curves"][0]["emotion"])
    lines = ["| turn | " + " | ".join(str(turn + 1) for turn in range(count)) + " |", "| --- |" + " ---: |" * count]
    for one in turns["curves"]:
        who = one["who"] if one["strength"] is None else f"{one['who']} {one['strength']:g}"
        own = ", own system prompt" if one["own_system_prompt"] else ""
        cells = " | ".join(cell(value) for value in one["emotion"])
        lines.append(f"| {markdown(one['direction'])}: {who}{own} | {cells} |")
    cost = max(one["system_tokens"] for one in turns["curves"])
    return [
        f"Emotion by turn, mean of {turns['conversations']} conversations ({markdown(turns['scorer'])}):",
        "\n".join(lines),
        f"*own system prompt* is the user's: {code(turns['own_system_prompt'])}; it follows that of the baseline. The "
        f"prompt takes up to {cost} tokens of every request; the vectors take none.",
        *([f"![Emotion by turn]({TURNS}.png)"] if TURNS in pictures else []),
    ]


def _benchmarks(data: Mapping[str, Any]) -> list[str]:
    """The figures of lm-eval; empty if it was not run."""
    rows: dict[tuple[str, str], dict[str, float]] = {}
    for one in main_ones(data["directions"]):
        for point in one["points"]:
            label = "base" if point["strength"] == 0 else f"{one['name']} {point['strength']:g}"
            for task, metrics in (point["benchmarks"] or {}).items():
                for metric, value in metrics.items():
                    rows.setdefault((task, metric), {})[label] = value
    if not rows:
        return []
    labels = list(dict.fromkeys(label for row in rows.values() for label in row))
    lines = ["| task | metric | " + " | ".join(map(markdown, labels)) + " |", "| --- | --- |" + " ---: |" * len(labels)]
    for (task, metric), row in rows.items():
        cells = " | ".join(cell(row.get(label)) for label in labels)
        lines.append(f"| {markdown(task)} | {markdown(metric)} | {cells} |")
    return ["Benchmarks, by lm-eval:", "\n".join(lines)]
