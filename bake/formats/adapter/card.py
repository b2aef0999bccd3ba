"""Model cards of adapters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import quote

from ..._version import __version__
from ...core.plan import PLACEHOLDER_NOTE, REPO_PLACEHOLDER, BakePlan
from ...core.text import markdown
from ..checkpoint.card import (
    CITATION_SECTION,
    POSITION_NOTE,
    adapter_link,
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
from ..checkpoint.persona_card import persona_section

_IMPORT = "from peft import PeftModel"


def adapter_card(plan: BakePlan, checkpoint: Checkpoint) -> str:
    """Write the card of one adapter: of vectors alone, beside another one, or of a LoRA that has them in it."""
    if plan.route == "lora":
        return _lora_card(plan, checkpoint)
    beside = plan.record.adapter
    load = [_load_base(plan), f'model = PeftModel.from_pretrained(base, "{REPO_PLACEHOLDER}")']
    note = ""
    if beside is not None:
        load = [_load_base(plan), *beside_lines(plan, beside.model or "ADAPTER", REPO_PLACEHOLDER)]
        note = f"It is used together with the adapter {adapter_link(plan.record)}, which stays as it is.\n\n"
    peft = [_IMPORT if beside is None else _import(plan)]
    loading = (
        f"{note}{_on_the_base(plan)}{PLACEHOLDER_NOTE}{python_block(checkpoint, _base(plan), load, peft)}\n\n"
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


def beside_lines(plan: BakePlan, adapter: str, out: str) -> list[str]:
    """Python that loads `adapter` and the steering one in `out` on `base`, and activates both."""
    lines = [
        f'model = {_peft_class(plan)}.from_pretrained(base, {quoted(out)}, adapter_name="steering")',
        f'model.load_adapter({quoted(adapter)}, adapter_name="other")',
    ]
    # In this order: DoRA scales what the adapters before it have made.
    both = 'set_adapter(["other", "steering"])'
    return [*lines, f"model.{both}" if _is_mixed(plan) else f"model.base_model.{both}"]


def serving_lines() -> list[str]:
    """Python that loads a baked base with the adapter in its folder `adapter`."""
    return [
        f'base = AutoModelForCausalLM.from_pretrained("{REPO_PLACEHOLDER}")',
        f'model = PeftModel.from_pretrained(base, "{REPO_PLACEHOLDER}", subfolder="adapter")',
    ]


def serving_section(commands: Sequence[str]) -> str:
    """Write how a baked base is served with the adapter in its folder `adapter`."""
    python = "\n".join(["from transformers import AutoModelForCausalLM", "", *serving_lines()])
    shell = "\n\n```sh\n" + "\n".join(commands) + "\n```" if commands else ""
    return (
        "With the adapter, in transformers, and in stacks that want the files here (`hf download`):\n\n"
        f"```python\n{_IMPORT}\n{python}\n```{shell}"
    )


def _lora_card(plan: BakePlan, checkpoint: Checkpoint) -> str:
    own = any(file.name == "tokenizer_config.json" for file in plan.files)
    load = [_load_base(plan), f'model = PeftModel.from_pretrained(base, "{REPO_PLACEHOLDER}")']
    tokenizer = REPO_PLACEHOLDER if own else _base(plan)
    return card_text(
        plan,
        checkpoint,
        metadata=card_header(plan, checkpoint, library="peft", relation="adapter"),
        text=(
            f"The LoRA {adapter_link(plan.record)} of {base_link(plan)}, steered: {what_was_added(plan)}, weighted "
            f"**{recipe(plan)}**, are part of it. Its own weights are what they were."
        ),
        how=", as the bias that PEFT adds behind its `lora_B` (`lora_bias`).",
        loading=(
            f"{_on_the_base(plan)}{PLACEHOLDER_NOTE}{python_block(checkpoint, tokenizer, load, [_IMPORT])}\n\n"
            "PEFT cannot merge it into a projection that has no bias of its own, and vLLM and llama.cpp do not load "
            "it: `emobake --format checkpoint` and `--merge` are for them."
        ),
    )


def _is_mixed(plan: BakePlan) -> bool:
    """True if the adapter beside which this one is used is no LoRA."""
    return plan.record.adapter is not None and plan.record.adapter.kind != "LORA"


def _peft_class(plan: BakePlan) -> str:
    return "PeftMixedModel" if _is_mixed(plan) else "PeftModel"


def _import(plan: BakePlan) -> str:
    return f"from peft import {_peft_class(plan)}"


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
        *persona_section(plan.record.persona),
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
