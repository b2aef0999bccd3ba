"""Model cards: README.md, with Hub metadata in front. The record for machines is `emobake.core.record`."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import quote

from ..._version import __version__
from ...core.plan import REPO_PLACEHOLDER, BakePlan
from ...core.record import RecordedVectors
from ...core.side_files import is_licence
from ...core.sites import SITE, Site
from ...core.stacks import STACKS
from ...core.text import code, markdown
from ..front_matter import write_front_matter
from .model import Checkpoint

PAPER = "https://arxiv.org/abs/2502.04075"

POSITION_NOTE = (
    "The code published with the paper adds the vectors at the last position of each forward pass only: the last "
    "prompt token and each new token. A bias acts at every position, the earlier prompt tokens included. Outputs "
    "of the two are related but not equal at the same weights."
)

CITATION = """\
@article{dong2025controllable,
  title  = {Controllable Emotion Generation with Emotion Vectors},
  author = {Dong and Jin and Yang and Lu and Yang and Liu},
  year   = {2025},
  note   = {arXiv:2502.04075}
}"""

_PROJECTIONS: dict[Site, str] = {
    "attention_output": "the attention output projection",
    "layer_output": "the MLP's last projection, which acts on the layer's output,",
}
_INHERITED: dict[str, type | tuple[type, ...]] = {
    "license": (str, list),
    "license_name": str,
    "license_link": str,
    "language": (str, list),
    "extra_gated_heading": str,
    "extra_gated_description": str,
    "extra_gated_prompt": str,
    "extra_gated_fields": dict,
    "extra_gated_button_content": str,
}
"""Metadata that the base's card hands on: its licence and its conditions of access -> types that the Hub accepts."""


def model_card(plan: BakePlan, checkpoint: Checkpoint) -> str:
    """Write the card of a steered checkpoint."""
    how = {
        "flag": f", which the config switches on ({', '.join(f'`{c.field}`' for c in plan.config_changes)}).",
        "existing": ", on top of the bias that the base has there.",
        "llama": f". The {plan.model_type} architecture has no such bias; the model is exactly a Llama with "
        "`attention_bias` and is saved as one.",
    }[plan.route]
    metadata = card_header(plan, checkpoint, library="transformers", relation="finetune")
    return card_text(plan, checkpoint, metadata=metadata, kind="A steered copy of", how=how, loading=_loading(plan))


def card_text(plan: BakePlan, checkpoint: Checkpoint, *, metadata: str, kind: str, how: str, loading: str) -> str:
    """Write a card: `metadata` in front, `how` the bias got there, and the commands for `loading` the result."""
    vectors, recipe = plan.record.vectors, markdown(plan.steering.recipe)
    earlier = " The base was itself baked before; `emobake.json` has the history." if plan.record.earlier else ""
    verb = "are" if _of_the_paper(vectors) else "is"
    parts = [
        metadata,
        f"# {title(plan)}, steered: {recipe}",
        f"{kind} {base_link(plan)}: {_what(vectors)}, weighted **{recipe}**, {verb} part of the weights. No hooks and "
        "no code are needed to use it.",
        "## How it was made",
        f"[emobake](https://pypi.org/project/emobake/) {__version__} added the weighted sum of the vectors "
        f"({_sets(vectors)}) to the bias of {_PROJECTIONS[vectors.site]} in {_where(plan)}{how}{earlier} "
        "`emobake.json` records the weights, the digests of the inputs and every bias.",
        *([f"**Position caveat.** {POSITION_NOTE}"] if _of_the_paper(vectors) else []),
        "## How to load it",
        loading,
        "## What was added",
        _norms(plan),
        *licence_section(plan, checkpoint),
        *(["## Citation", f"```bibtex\n{CITATION}\n```"] if _of_the_paper(vectors) else []),
    ]
    return "\n\n".join(parts) + "\n"


def card_header(plan: BakePlan, checkpoint: Checkpoint, *, library: str, relation: str) -> str:
    """Write the YAML block: licence, languages and gating are those of the base's card."""
    base, base_model = checkpoint.front_matter.values, plan.record.base.model
    inherited = {key: base[key] for key, kind in _INHERITED.items() if isinstance(base.get(key), kind)}
    return write_front_matter(
        base_model=base_model or None,
        base_model_relation=relation if base_model or relation == "adapter" else None,
        library_name=library,
        pipeline_tag="text-generation",
        tags=["emotion-vectors", "emobake"],
        widget=_widget(checkpoint, base.get("widget")),
        **inherited,
    )


def base_link(plan: BakePlan) -> str:
    """A link to the base."""
    base_model = plan.record.base.model
    if not base_model:
        return "a local checkpoint"
    return f"[{markdown(base_model)}](https://huggingface.co/{quote(base_model)})"


def title(plan: BakePlan) -> str:
    """The base's short name, in Markdown."""
    return markdown(plan.record.base.model.rpartition("/")[2] or plan.model_type)


def quoted(name: str) -> str:
    """A string of Python, for the code of a card."""
    return json.dumps(name, ensure_ascii=not name.isprintable())


def licence_section(plan: BakePlan, checkpoint: Checkpoint) -> list[str]:
    """Heading and text on the base's licence; empty if none is known."""
    base = checkpoint.front_matter.values
    files = [file.name for file in plan.files if file.action == "carry" and is_licence(file.name)]
    name = next((base[key] for key in ("license_name", "license") if isinstance(base.get(key), str)), "")
    if not name and not files:
        return []
    link = base.get("license_link")
    linked = isinstance(link, str) and re.fullmatch(r"https://[\w./?=&%#~-]+", link)
    named = f"[{markdown(name)}]({link})" if linked else code(name)
    text = f"The licence of the base{f', {named},' if name else ''} holds for this model as well"
    if files:
        text += f"; see {', '.join(f'[{markdown(file)}]({quote(file)})' for file in files)}"
    text += "."
    if any(key.startswith("extra_gated") for key in base):
        text += " The base is given to those who accept its conditions; they stand in this card's metadata, too."
    return ["## Licence", text]


def with_report(card: str, report: str, folder: str) -> str:
    """Put a report of `emobake eval` into the card, in place of an earlier one; its pictures are in `folder`."""
    report = re.sub(r"(!\[[^\]]*\]\()(?=[\w.]+\))", rf"\g<1>{folder}/", report)
    heading = re.escape(report.split("\n", 1)[0])
    card = re.sub(rf"^{heading}\n.*?(?=^## |\Z)", "", card, flags=re.MULTILINE | re.DOTALL)
    at = card.find("\n## Citation\n") + 1 or len(card)
    before, after = card[:at].rstrip("\n"), card[at:]
    return f"{before}\n\n{report.rstrip()}\n" + (f"\n{after}" if after else "")


def _of_the_paper(vectors: RecordedVectors) -> bool:
    """True if the set acts where the paper's vectors do; sets of the layer output are made in other ways."""
    return vectors.site == SITE


def _what(vectors: RecordedVectors) -> str:
    if _of_the_paper(vectors):
        return (
            "the emotion vectors of *Controllable Emotion Generation with Emotion Vectors* "
            f"([arXiv 2502.04075]({PAPER}))"
        )
    return f"a steering vector of the layers' output ({markdown(vectors.source or vectors.name)})"


def _sets(vectors: RecordedVectors) -> str:
    names = ", ".join(code(one.name) for one in vectors.origins)
    return f"set{'s' * (len(vectors.origins) > 1)} {names}"


def _where(plan: BakePlan) -> str:
    steered = [bias.layer for bias in plan.biases if bias.norm]
    if len(steered) == len(plan.biases):
        return "every layer"
    return f"{len(steered)} of {len(plan.biases)} layers ({', '.join(map(str, steered)) or 'none'})"


def _loading(plan: BakePlan) -> str:
    rows = ["| stack | what it does |", "| --- | --- |"]
    lines = []
    for stack, support in plan.stacks.items():
        evidence = f" ({support.evidence})" if support.evidence else ""
        rows.append(f"| {stack} | {support.clause}{evidence} |")
        if support.status in ("steered", "option"):
            command = STACKS[stack].card.format(model=REPO_PLACEHOLDER)
            lines.append(f"# {stack}\n{command}{' ' + support.option if support.option else ''}")
    return "\n".join(rows) + "\n\n```\n" + "\n\n".join(lines) + "\n```"


def _norms(plan: BakePlan) -> str:
    rows = [
        "Euclidean norm of the vector that each layer's bias gained:",
        "",
        "| layer | norm | |",
        "| --- | --- | --- |",
    ]
    largest = max((b.norm for b in plan.biases), default=0.0) or 1.0
    rows += [f"| {b.layer} | {b.norm:.3f} | {'█' * round(20 * b.norm / largest)} |" for b in plan.biases]
    return "\n".join(rows)


def _widget(checkpoint: Checkpoint, given: object) -> list[dict[str, Any]]:
    """Examples for the Hub's page: the base's, else one of ours."""
    if isinstance(given, list) and given and all(_is_example(example) for example in given):
        return given
    question = "How was your day?"
    files = checkpoint.side_files
    if "chat_template" in checkpoint.tokenizer_config or any(name.startswith("chat_template") for name in files):
        return [{"messages": [{"role": "user", "content": question}]}]
    return [{"text": question}]


def _is_example(value: object) -> bool:
    return isinstance(value, dict) and (isinstance(value.get("text"), str) or isinstance(value.get("messages"), list))
