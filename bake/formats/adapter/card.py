"""Model cards of adapters."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

from ..._version import __version__
from ...core.plan import REPO_PLACEHOLDER, BakePlan
from ...core.text import markdown
from ..checkpoint.card import (
    CITATION,
    PAPER,
    POSITION_NOTE,
    base_link,
    card_header,
    card_text,
    licence_section,
    quoted,
    title,
)
from ..checkpoint.model import Checkpoint

_IMPORTS = "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n"


def adapter_card(plan: BakePlan, checkpoint: Checkpoint) -> str:
    """Write the card of one adapter."""
    loading = (
        f"```python\n{_IMPORTS}\n{_load_base(plan)}\n"
        f'model = PeftModel.from_pretrained(base, "{REPO_PLACEHOLDER}")\n```\n\n'
        "PEFT cannot merge it into a projection that has no bias of its own: keep it as an adapter."
    )
    return card_text(
        plan,
        checkpoint,
        metadata=card_header(plan, checkpoint, library="peft", relation="adapter"),
        kind="An adapter that steers",
        how=", as a rank-1 LoRA whose matrices are zero and whose bias is not (`lora_bias`).",
        loading=loading,
    )


def adapters_card(adapters: Mapping[str, BakePlan], checkpoint: Checkpoint) -> str:
    """Write the card beside several adapters, each in the folder that is its key."""
    first, *others = adapters
    plan = adapters[first]
    loading = [
        _IMPORTS,
        _load_base(plan),
        f'model = PeftModel.from_pretrained(base, "{REPO_PLACEHOLDER}", subfolder="{first}", adapter_name="{first}")',
        *(f'model.load_adapter("{REPO_PLACEHOLDER}", subfolder="{name}", adapter_name="{name}")' for name in others),
        f'model.set_adapter("{others[-1] if others else first}")',
    ]
    rows = [
        f"| [{markdown(name)}]({quote(name)}) | {markdown(adapter.steering.recipe)} |"
        for name, adapter in adapters.items()
    ]
    parts = [
        card_header(plan, checkpoint, library="peft", relation="adapter"),
        f"# {title(plan)}: an adapter per emotion",
        f"Adapters that steer {base_link(plan)}, one for each emotion, with the vectors of *Controllable Emotion "
        f"Generation with Emotion Vectors* ([arXiv 2502.04075]({PAPER})). Made by "
        f"[emobake](https://pypi.org/project/emobake/) {__version__}; each folder's `emobake.json` records how.",
        "\n".join(["| folder | what it adds |", "| --- | --- |", *rows]),
        "## How to load them",
        "```python\n" + "\n".join(loading) + "\n```",
        f"**Position caveat.** {POSITION_NOTE}",
        *licence_section(plan, checkpoint),
        "## Citation",
        f"```bibtex\n{CITATION}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _load_base(plan: BakePlan) -> str:
    return f"base = AutoModelForCausalLM.from_pretrained({quoted(plan.record.base.model or 'BASE')})"
