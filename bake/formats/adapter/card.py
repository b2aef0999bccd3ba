"""Model cards of adapters."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

from ..._version import __version__
from ...core.plan import PLACEHOLDER_NOTE, REPO_PLACEHOLDER, BakePlan
from ...core.text import markdown
from ..checkpoint.card import (
    CITATION_SECTION,
    POSITION_NOTE,
    base_link,
    by_the_papers_method,
    card_header,
    card_text,
    licence_section,
    python_block,
    quoted,
    recipe,
    title,
    what_was_added,
)
from ..checkpoint.model import Checkpoint

_IMPORT = "from peft import PeftModel"


def adapter_card(plan: BakePlan, checkpoint: Checkpoint) -> str:
    """Write the card of one adapter."""
    load = [_load_base(plan), f'model = PeftModel.from_pretrained(base, "{REPO_PLACEHOLDER}")']
    loading = (
        f"{_on_the_base(plan)}{PLACEHOLDER_NOTE}{python_block(checkpoint, _base(plan), load, [_IMPORT])}\n\n"
        "PEFT cannot merge it into a projection that has no bias of its own: keep it as an adapter."
    )
    text = (
        f"An adapter that steers {base_link(plan)}: {what_was_added(plan)}, weighted **{recipe(plan)}**, are the "
        "bias that PEFT adds while the base runs. The base's weights are not in it, and stay as they are."
    )
    return card_text(
        plan,
        checkpoint,
        metadata=card_header(plan, checkpoint, library="peft", relation="adapter"),
        text=text,
        how=", as a rank-1 LoRA whose matrices are zero and whose bias is not (`lora_bias`).",
        loading=loading,
    )


def adapters_card(adapters: Mapping[str, BakePlan], checkpoint: Checkpoint) -> str:
    """Write the card beside several adapters, each in the folder that is its key."""
    first, *others = adapters
    plan = adapters[first]
    loading = [
        _IMPORT,
        "from transformers import AutoModelForCausalLM",
        "",
        _load_base(plan),
        f'model = PeftModel.from_pretrained(base, "{REPO_PLACEHOLDER}", subfolder="{first}", adapter_name="{first}")',
        *(f'model.load_adapter("{REPO_PLACEHOLDER}", subfolder="{name}", adapter_name="{name}")' for name in others),
        f'model.set_adapter("{others[-1] if others else first}")',
    ]
    rows = [f"| [{markdown(name)}]({quote(name)}) | {recipe(adapter)} |" for name, adapter in adapters.items()]
    papers = by_the_papers_method(plan.record.vectors)
    parts = [
        card_header(plan, checkpoint, library="peft", relation="adapter"),
        f"# {title(plan, checkpoint)}: an adapter per emotion",
        f"Adapters that steer {base_link(plan)}, one for each emotion, with {what_was_added(plan)}. Made by "
        f"[emobake](https://pypi.org/project/emobake/) {__version__}; each folder's `emobake.json` records how.",
        "\n".join(["| folder | what it adds |", "| --- | --- |", *rows]),
        "## How to load them",
        f"{_on_the_base(plan)}{PLACEHOLDER_NOTE}```python\n" + "\n".join(loading) + "\n```",
        *([f"**Position caveat.** {POSITION_NOTE}"] if papers else []),
        *licence_section(plan, checkpoint),
        *([CITATION_SECTION] if papers else []),
    ]
    return "\n\n".join(parts) + "\n"


def _base(plan: BakePlan) -> str:
    return plan.record.base.model or "BASE"


def _load_base(plan: BakePlan) -> str:
    return f"base = AutoModelForCausalLM.from_pretrained({quoted(_base(plan))})"


def _on_the_base(plan: BakePlan) -> str:
    """A paragraph for an adapter that names no base."""
    if plan.record.base.model:
        return ""
    return (
        "The adapter was made from a local checkpoint and names no base model: put the path or the Hub id of that "
        "checkpoint in place of `BASE`. The option `emobake --base-model ID` writes it into the adapter and this card."
        "\n\n"
    )
