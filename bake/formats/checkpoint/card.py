"""Model cards: README.md, with Hub metadata in front. The record for machines is `emobake.core.record`."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from ..._version import __version__
from ...core.plan import BACKEND, PLACEHOLDER_NOTE, REPO_PLACEHOLDER, BakePlan
from ...core.record import Record, RecordedVectors
from ...core.recorded_persona import RecordedPersona
from ...core.side_files import is_licence
from ...core.sites import SITE, Site
from ...core.stacks import STACKS
from ...core.text import code, markdown
from ..front_matter import write_front_matter
from .model import Checkpoint
from .persona_card import persona_section

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

CITATION_SECTION = f"## Citation\n\n```bibtex\n{CITATION}\n```"
PAPER_VECTORS = "https://github.com/xuanfengzu/EmotionVector"
"""Address in the source of the paper's own sets."""
_PAPER_LINK = f"*Controllable Emotion Generation with Emotion Vectors* ([arXiv 2502.04075]({PAPER}))"
_QUESTION = "How was your day?"
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


_UNIT = (
    "those of `lm_head` were divided by their norms, as the base's class does when it runs; no other value was changed."
)


def model_card(plan: BakePlan, checkpoint: Checkpoint, *, serving: str = "") -> str:
    """Write the card of a steered checkpoint; `serving` says how it is served with the adapter that it carries."""
    metadata = card_header(plan, checkpoint, library="transformers", relation="finetune")
    text = (
        f"A steered copy of {base_link(plan)}: {what_was_added(plan)}, weighted **{recipe(plan)}**, are part of "
        f"the weights. No hooks and no code are needed to use it.{_adapter(plan.record)}"
    )
    loading = "\n\n".join(filter(None, (_loading(plan, checkpoint), serving)))
    return card_text(plan, checkpoint, metadata=metadata, text=text, how=_how(plan), loading=loading)


def _how(plan: BakePlan) -> str:
    """The way in which stacks come to add the bias."""
    if plan.saved_as:
        how = (
            f". The {plan.model_type} architecture has no such bias that all of these stacks add; the model is exactly "
            f"a {plan.saved_as} model with `attention_bias` and is saved as one."
        )
        if plan.rewritten:
            how += " Rows of its tensors were moved for that; "
            how += _UNIT if plan.has_unit_rows else "no value was changed."
    elif plan.route == "head":
        cost = plan.record.cost.cache
        how = (
            ", by one more key/value head, whose output is constant: its queries and keys are zero, its value is one, "
            "and a new column of `o_proj` holds the sum."
        )
        if cost > 1:
            how += f" The key/value cache and the attention's weights are {cost:.4g} times as large as the base's."
    elif plan.route == "value":
        cost = plan.record.cost.cache
        how = ", by a bias of `v_proj`, which attention passes on as it is and of which `o_proj` makes the sum."
        if cost > 1:
            how += f" Each key/value head is held {cost:.4g} times for that; the key/value cache grows as much."
    elif plan.route.startswith("flag"):
        how = f", which the config switches on ({', '.join(f'`{c.field}`' for c in plan.config_changes)})."
    else:
        how = ", on top of the bias that the base has there."
    if plan.quantised:
        how += f" The weights are quantised ({plan.quantised}) as the base's are; the biases beside them are floats."
    if plan.route.endswith(BACKEND):
        how += f" `architectures` names `{plan.architecture}`, by which vLLM runs the class of transformers."
    return how


def card_text(plan: BakePlan, checkpoint: Checkpoint, *, metadata: str, text: str, how: str, loading: str) -> str:
    """Write a card: `metadata` in front, `text` on a steered result, `how` the bias got there, and its `loading`."""
    record, effect = plan.record, plan.effect
    if not effect.steers:
        text = f"{_sentence(effect.warnings[0])} It is {base_link(plan)} with biases that change nothing."
    place = "output" if plan.route in ("head", "value") else "bias"
    heading = f"steered: {recipe(plan)}" if effect.steers else "not steered"
    name = "" if record.persona is None else record.persona.name
    named = f"{markdown(name)}: " if name else ""
    parts = [
        metadata,
        f"# {named}{title(plan, checkpoint)}, {heading}",
        text,
        *persona_section(record.persona),
        "## How it was made",
        f"[emobake](https://pypi.org/project/emobake/) {__version__} added the weighted sum of the vectors "
        f"({_sets(record.vectors)}) to the {place} of {_PROJECTIONS[record.vectors.site]} in {_where(plan)}{how} "
        f"`emobake.json` records the weights, the digests of the inputs and every bias.{_method(record.vectors)}",
        *_history(plan),
        *([f"**Position caveat.** {POSITION_NOTE}"] if by_the_papers_method(record.vectors) else []),
        "## How to load it",
        loading,
        "## What was added",
        _norms(plan),
        *licence_section(plan, checkpoint),
        *([CITATION_SECTION] if by_the_papers_method(record.vectors) else []),
    ]
    return "\n\n".join(parts) + "\n"


def recipe(plan: BakePlan) -> str:
    """The sum of all bakes in words, some of which may be a stranger's."""
    return markdown(plan.effect.recipe)


def what_was_added(plan: BakePlan) -> str:
    """The vectors in words: the paper's, or those of another set, with the source that the set names."""
    vectors = plan.record.vectors
    if by_the_papers_method(vectors) and PAPER_VECTORS in vectors.source:
        return f"the emotion vectors of {_PAPER_LINK}"
    acting = "" if by_the_papers_method(vectors) else " of the layers' output"
    source = f" ({markdown(vectors.source)})" if vectors.source else ""
    return f"vectors{acting} of the {_sets(vectors)}{source}"


def by_the_papers_method(vectors: RecordedVectors) -> bool:
    """True if the set acts where the paper adds its vectors; sets of the layer output are used in other ways."""
    return vectors.site == SITE


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
        widget=_widget(checkpoint, base.get("widget"), plan.record.persona),
        **inherited,
    )


def base_link(plan: BakePlan) -> str:
    """A link to the base."""
    base_model = plan.record.base.model
    if not base_model:
        return "a local checkpoint"
    return f"[{markdown(base_model)}](https://huggingface.co/{quote(base_model)})"


def title(plan: BakePlan, checkpoint: Checkpoint) -> str:
    """The base's short name: of its Hub id, else of its folder, else its model type."""
    folder = "" if checkpoint.folder is None else os.path.basename(os.path.abspath(checkpoint.folder))  # noqa: PTH100, PTH119 - no links
    # A folder may be called anything; this becomes a heading.
    usable = folder if re.fullmatch(r"[\w][\w .+-]{0,95}", folder) else ""
    return markdown(plan.record.base.model.rpartition("/")[2] or usable or plan.model_type)


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


def _adapter(record: Record) -> str:
    """A sentence on the adapter that goes with a checkpoint; empty without one."""
    if record.adapter is None:
        return ""
    if record.adapter.how == "merged":
        return f" The adapter {adapter_link(record)} was merged into the base first."
    return f" The adapter {adapter_link(record)} was trained on the same base; its weights lie in `adapter`, unchanged."


def adapter_link(record: Record) -> str:
    """A link to the adapter that was given as the model."""
    model = "" if record.adapter is None else record.adapter.model
    return f"[{markdown(model)}](https://huggingface.co/{quote(model)})" if model else "(a local one)"


def _method(vectors: RecordedVectors) -> str:
    """A sentence on the method, for vectors that are not the paper's own."""
    if not by_the_papers_method(vectors) or PAPER_VECTORS in vectors.source:
        return ""
    return f" Vectors are added there by the method of {_PAPER_LINK}."


def _history(plan: BakePlan) -> list[str]:
    """The bakes of a model that was baked more than once, the first one first."""
    records = (*plan.record.history, plan.record)
    if len(records) == 1:
        return []
    # Those of the base's record are a stranger's text.
    bakes = [
        f"{number}. {markdown(each.steering.recipe)} ({_sets(each.vectors)})" for number, each in enumerate(records, 1)
    ]
    return [
        f"The base was itself baked before, so that all bakes together are **{recipe(plan)}**:\n\n" + "\n".join(bakes)
    ]


def _sets(vectors: RecordedVectors) -> str:
    names = ", ".join(code(one.name) for one in vectors.origins)
    return f"set{'s' * (len(vectors.origins) > 1)} {names}"


def _sentence(text: str) -> str:
    return f"{markdown(text[:1].upper() + text[1:])}."


def _where(plan: BakePlan) -> str:
    steered = [bias.layer for bias in plan.biases if bias.norm]
    if len(steered) == len(plan.biases):
        return "every layer"
    return f"{len(steered)} of {len(plan.biases)} layers ({', '.join(map(str, steered)) or 'none'})"


def _loading(plan: BakePlan, checkpoint: Checkpoint) -> str:
    rows = ["| stack | what it does |", "| --- | --- |"]
    rows += [f"| {STACKS[stack].label} | {plan.behaviour(stack)} |" for stack in plan.shown]
    served = {name: support for name, support in plan.shown.items() if support.status in ("steered", "option")}
    blocks = ["\n".join([*rows, *(f"\n{_sentence(each)}" for each in plan.beware)])]
    if "transformers" in served:
        model = f'model = AutoModelForCausalLM.from_pretrained("{REPO_PLACEHOLDER}")'
        blocks.append(python_block(checkpoint, REPO_PLACEHOLDER, [model]))
    commands = [
        f"# {stack}\n{found.command(STACKS[stack].card.format(model=REPO_PLACEHOLDER))}"
        for stack, found in served.items()
        if STACKS[stack].card
    ]
    if commands:
        blocks.append("```sh\n" + "\n\n".join(commands) + "\n```")
    return blocks[0] + "\n\n" + PLACEHOLDER_NOTE + "\n\n".join(blocks[1:])


def python_block(checkpoint: Checkpoint, tokenizer: str, model: Sequence[str], imports: Sequence[str] = ()) -> str:
    """Write Python that loads a model by the lines `model`, and the `tokenizer`, and lets it answer."""
    ask = f'inputs = tokenizer("{_QUESTION}", return_tensors="pt")'
    if _has_chat_template(checkpoint):
        ask = (
            f'messages = [{{"role": "user", "content": "{_QUESTION}"}}]\n'
            "inputs = tokenizer.apply_chat_template(\n"
            '    messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"\n'
            ")"
        )
    lines = [
        *imports,
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f"tokenizer = AutoTokenizer.from_pretrained({quoted(tokenizer)})",
        *model,
        ask,
        "output = model.generate(**inputs, max_new_tokens=60)",
        'print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))',
    ]
    return "```python\n" + "\n".join(lines) + "\n```"


def _norms(plan: BakePlan) -> str:
    rows = [
        f"Euclidean norm of the vector that each layer's bias gained{' by this bake' if plan.record.earlier else ''}:",
        "",
        "| layer | norm | |",
        "| --- | --- | --- |",
    ]
    largest = max((b.norm for b in plan.biases), default=0.0) or 1.0
    rows += [f"| {b.layer} | {b.norm:.3f} | {'█' * round(20 * b.norm / largest)} |" for b in plan.biases]
    return "\n".join(rows)


def _widget(checkpoint: Checkpoint, given: object, persona: RecordedPersona | None) -> list[dict[str, Any]]:
    """Examples for the Hub's page: the persona's, else the base's, else one of ours."""
    if persona is not None and persona.examples:
        return [_asked(checkpoint, question) for question in persona.examples]
    if isinstance(given, list) and given and all(_is_example(example) for example in given):
        return given
    return [_asked(checkpoint, _QUESTION)]


def _asked(checkpoint: Checkpoint, question: str) -> dict[str, Any]:
    if _has_chat_template(checkpoint):
        return {"messages": [{"role": "user", "content": question}]}
    return {"text": question}


def _has_chat_template(checkpoint: Checkpoint) -> bool:
    files = checkpoint.side_files
    return "chat_template" in checkpoint.tokenizer_config or any(name.startswith("chat_template") for name in files)


def _is_example(value: object) -> bool:
    return isinstance(value, dict) and (isinstance(value.get("text"), str) or isinstance(value.get("messages"), list))
