"""The report of an evaluation, as Markdown that fits into a model card."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..core.text import code, markdown
from .cells import cell, share
from .receipt import DOSE_RESPONSE, LAYERS, write_receipt
from .scorers.base import TOPIC
from .summary import beside, main_ones, target

HEADING = "## Evaluation"
_EXCERPT = 280
"""Characters of an example answer."""
_EXAMPLES = 3

Column = tuple[str, Callable[[Mapping[str, Any]], str]]
"""A title, and the cell of a point."""


def write_report(data: Mapping[str, Any], examples: Sequence[Mapping[str, Any]], pictures: Sequence[str] = ()) -> str:
    """Write the report: the queries, a table per direction, examples, and the meaning of the figures.

    `data` is the result of `summarize`, `examples` that of `examples_of`; `pictures` are names without suffix.
    """
    parts = [HEADING, _asked(data)]
    parts += [f"> **Note.** {markdown(warning)}." for warning in data["warnings"]]
    parts += [f"> **{markdown(one['name'])}** {markdown(one['note'])}." for one in data["scorers"] if one["note"]]
    if DOSE_RESPONSE in pictures:
        parts.append(f"![What was measured, by strength]({DOSE_RESPONSE}.png)")
    shown, groups = data["questions"]["shown"], data["questions"]["groups"]
    others = {group: count for group, count in groups.items() if group != shown} if len(groups) > 1 else {}
    parts.append(write_receipt(data, pictures))
    for one in main_ones(data["directions"]):
        parts += [f"### {markdown(one['name'])}", _table(data, one), verdict(data, one), prompt_verdict(data, one)]
        for group, count in others.items():
            parts += [f"The {count} *{markdown(group)}* queries:", _table(data, one, group)]
    if data["layers"]:
        parts += ["### Dose by layer", _doses(data)]
        if LAYERS in pictures:
            parts.append(f"![Norm of the vectors by layer, over what the model has there]({LAYERS}.png)")
    if examples:
        parts += ["### Examples", *(_example(one) for one in examples)]
    names = [name for name in _TITLES if _measured(data, name)]
    parts += [
        "### What the figures mean",
        "\n".join(f"- **{_TITLES[name]}**: {data['definitions'][name]}." for name in names),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


_TITLES = {
    "perplexity": "perplexity",
    "topic": "topic",
    "kl": "KL",
    "kl_worst": "KL worst 5%",
    "collapsed": "collapsed",
    "unended": "unended",
    "distinct_2": "distinct-2",
}


def examples_of(
    texts: Sequence[str],
    places: Sequence[int],
    curves: Mapping[str, Sequence[tuple[str, Sequence[str]]]],
) -> list[dict[str, Any]]:
    """Examples of answers: the first queries of `places`, with the answers along each direction's curve.

    A curve is pairs of a label, the strength, and all answers.
    """
    return [
        {
            "query": texts[place],
            "answers": {name: {label: answers[place] for label, answers in curve} for name, curve in curves.items()},
        }
        for place in places[:_EXAMPLES]
    ]


def _asked(data: Mapping[str, Any]) -> str:
    questions, sampling = data["questions"], data["sampling"]
    parts = [
        f"{questions['count']} queries of {code(questions['name'])}"
        + (
            f" ({', '.join(f'{n} {markdown(group)}' for group, n in questions['groups'].items())})"
            if questions["groups"]
            else ""
        )
    ]
    if questions["shown"] != "all":
        parts[0] += (
            f"; the tables show the {questions['groups'][questions['shown']]} **{markdown(questions['shown'])}** ones"
        )
        if questions["held_out"] is not None:
            parts[0] += ", which the vectors were not made from"
    if sampling is None:
        parts.append("the answers were recorded before")
    else:
        drawn = (
            "greedy"
            if not sampling["temperature"]
            else f"temperature {sampling['temperature']}, top-p {sampling['top_p']}, seed {sampling['seed']}"
        )
        parts.append(f"answers of at most {sampling['max_new_tokens']} tokens, {drawn}, by {data['engine']}")
    if data.get("model"):
        parts.append(f"base model {code(data['model'])}")
    if data.get("vectors"):
        parts.append(f"vectors {code(data['vectors'])}")
    return "; ".join(parts) + f". Made by `emobake eval` {data['emobake']}."


def rows_of(data: Mapping[str, Any], direction: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The points of a direction's table: its own by strength, and that of the prompt beside it."""
    prompt = beside(data["directions"], direction, "prompt")
    found = [point for point in prompt["points"] if point["strength"]] if prompt else []
    return [*direction["points"], *({**point, "strength": None} for point in found)]


def strength_of(point: Mapping[str, Any]) -> str:
    """The strength of a point of `rows_of` in words."""
    return "prompt" if point["strength"] is None else f"{point['strength']:g}"


def columns_of(data: Mapping[str, Any], direction: Mapping[str, Any], group: str = "") -> list[Column]:
    """The columns of a direction's table that are not empty."""
    main, group = not group, group or data["questions"]["shown"]
    emotions = direction["emotions"]
    control = beside(data["directions"], direction, "control")
    drawn = {point["strength"]: point for point in control["points"]} if control else {}
    columns: list[Column] = [("strength", strength_of)]
    wanted = emotions[0] if len(emotions) == 1 else "emotion"
    for scorer in data["scorers"]:
        name, unit = scorer["name"], scorer["unit"]
        title = wanted if len(data["scorers"]) == 1 else f"{wanted}, {name}"

        def figure(point: Mapping[str, Any], name: str = name) -> str:
            return cell(target(point["groups"][group], name, emotions))

        def random(point: Mapping[str, Any], name: str = name) -> str:
            own = drawn.get(point["strength"])
            return cell(target(own["groups"][group], name, emotions)) if own else ""

        def topic(point: Mapping[str, Any], name: str = name) -> str:
            return cell(target(point["groups"][group], name, [TOPIC]))

        columns.append((f"{title} ({unit})", figure))
        if drawn:
            columns.append((f"{title}, random vector", random))
        columns.append((f"topic, {name} ({unit})", topic))  # A judge's; for others the column is empty.
    columns += [
        (title, lambda point, key=key, form=form: form(point["groups"][group][key]))  # type: ignore[misc]
        for key, title, form in (
            ("collapsed", "collapsed", share),
            ("perplexity", "perplexity", cell),
            ("topic", "topic", share),
            ("distinct_2", "distinct-2", cell),
            ("words", "words", cell),
            ("unended", "unended", share),
        )
    ]
    if main:  # On the neutral prompts, whatever was asked.
        columns += [
            (title, lambda point, key=key: cell(point[key]))  # type: ignore[misc]
            for key, title in (("kl", "KL"), ("kl_worst", "KL worst 5%"))
        ]
    return [column for column in columns if any(column[1](point) for point in direction["points"])]


def _table(data: Mapping[str, Any], direction: Mapping[str, Any], group: str = "") -> str:
    columns = columns_of(data, direction, group)
    lines = [
        "| " + " | ".join(markdown(name) for name, _ in columns) + " |",
        "| " + " | ".join("---:" for _ in columns) + " |",
    ]
    lines += ["| " + " | ".join(show(point) for _, show in columns) + " |" for point in rows_of(data, direction)]
    return "\n".join(lines)


def verdict(data: Mapping[str, Any], direction: Mapping[str, Any]) -> str:
    """The recommended strength of a direction, in Markdown; empty if none was sought."""
    found = data["best"].get(direction["name"])
    if found is None:
        return ""
    if found["strength"] is None:
        return f"Best strength: none ({markdown(found['why'])})."
    return f"Best strength of these: **{found['strength']:g}** ({markdown(found['why'])})."


def prompt_verdict(data: Mapping[str, Any], direction: Mapping[str, Any]) -> str:
    """The prompted baseline of a direction against its best strength, in Markdown; empty if there is none."""
    prompt = beside(data["directions"], direction, "prompt")
    if prompt is None:
        return ""
    said = f"*prompt* is the base under the system prompt {code(prompt['system_prompt'] or 'that was recorded')}"
    group, scorer = data["questions"]["shown"], next(one["name"] for one in data["scorers"] if one["main"])

    def emotion(point: Mapping[str, Any]) -> float | None:
        return target(point["groups"][group], scorer, direction["emotions"])

    best = data["best"].get(direction["name"], {}).get("strength")
    own = next((point for point in direction["points"] if point["strength"] == best), None)
    asked = emotion(next(point for point in prompt["points"] if point["strength"]))
    reached = None if own is None else emotion(own)
    if asked is None or reached is None:
        return f"{said}."
    winner = "the prompt wins" if asked > reached else "the vectors win" if asked < reached else "both are equal"
    return f"{said}: {cell(asked)} against {cell(reached)} at strength {best:g}, so by the emotion {winner}."


def _doses(data: Mapping[str, Any]) -> str:
    lines = [
        "| direction | norm at strength 1 | over the attention output | over the residual stream |",
        "| --- | ---: | ---: | ---: |",
    ]
    controls = {one["name"] for one in data["directions"] if one["kind"] == "control"}
    for name, found in data["layers"].items():
        if name in controls:  # Its norms are the same.
            continue
        cells = [_range(found.get(key)) for key in ("norm", "of_attention_output", "of_layer_output")]
        lines.append(f"| {markdown(name)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n\nSmallest to largest layer; the mean norm of what the base has there is 1."


def _range(values: Sequence[float | None] | None) -> str:
    known = [x for x in values or () if x is not None]
    return f"{min(known):.3g} to {max(known):.3g}" if known else ""


def _example(example: Mapping[str, Any]) -> str:
    lines = [f"**{markdown(example['query'])}**"]
    for name, answers in example["answers"].items():
        rows = [f"| {strength} | {markdown(_excerpt(text))} |" for strength, text in answers.items()]
        lines.append("\n".join([f"| {markdown(name)} | |", "| ---: | --- |", *rows]))
    return "\n\n".join(lines)


def _excerpt(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _EXCERPT else text[:_EXCERPT].rstrip() + " ..."


def _measured(data: Mapping[str, Any], name: str) -> bool:
    points = [point for one in data["directions"] for point in one["points"]]
    return any((point.get(name) if name in point else point["groups"]["all"][name]) is not None for point in points)


def plain(text: str) -> str:
    """`text` of the report without its Markdown."""
    return html.unescape(re.sub(r"\\(.)", r"\1", text.replace("**", "")))
