"""What the output says of itself: ``emobake.json`` for machines, ``README.md`` (the model card) for people."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from ..._version import __version__
from ...core.plan import BakePlan, Carry, Write, json_bytes
from ...core.record import MANIFEST, record_of
from ...core.side_files import is_licence
from ...core.stacks import describe
from ...core.vector_set import Site, VectorSet
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


def add_documents(plan: BakePlan, checkpoint: Checkpoint, vectors: VectorSet, base_model: str) -> BakePlan:
    """The plan with its manifest and model card. `base_model` is a Hub id, or empty when it is not known."""
    record = manifest(plan, checkpoint, vectors, base_model)
    card = model_card(plan, checkpoint, vectors, base_model)
    return plan.with_files(Write(MANIFEST, json_bytes(record)), Write("README.md", card.encode()))


def manifest(plan: BakePlan, checkpoint: Checkpoint, vectors: VectorSet, base_model: str) -> dict[str, Any]:
    """The record of a bake of `checkpoint`."""
    weights = [
        {"name": w.name, "size": w.size} | ({"sha256": w.sha256} if w.sha256 else {})
        for w in sorted(checkpoint.weights, key=lambda w: w.name)
    ]
    base = {"model": base_model or None, "revision": checkpoint.revision or None, "weights": weights}
    return record_of(plan, vectors, "peft" if plan.route == "adapter" else "checkpoint", base, checkpoint.manifest)


def model_card(plan: BakePlan, checkpoint: Checkpoint, vectors: VectorSet, base_model: str) -> str:
    """The text of README.md, with Hub metadata in front; licence and languages are those of the base's card."""
    base = f"[{base_model}](https://huggingface.co/{base_model})" if base_model else "a local checkpoint"
    recipe = plan.steering.recipe
    kind = "An adapter that steers" if plan.route == "adapter" else "A steered copy of"
    title = base_model.rpartition("/")[2] or plan.model_type
    earlier = (
        "" if checkpoint.manifest is None else " The base was itself baked before; `emobake.json` has the history."
    )
    verb = "are" if _of_the_paper(vectors) else "is"
    parts = [
        _metadata(plan, checkpoint, base_model),
        f"# {title}, steered: {recipe}",
        f"{kind} {base}: {_what(vectors)}, weighted **{recipe}**, {verb} part of the weights. No hooks and no code are "
        "needed to use it.",
        "## How it was made",
        f"[emobake](https://pypi.org/project/emobake/) {__version__} added the weighted sum of the vectors "
        f"(set `{vectors.name}`) to the bias of {_PROJECTIONS[vectors.site]} in {_where(plan)}{_how(plan)}{earlier} "
        "`emobake.json` records the weights, the digests of the inputs and every bias.",
        *([f"**Position caveat.** {POSITION_NOTE}"] if _of_the_paper(vectors) else []),
        "## How to load it",
        _loading(plan, base_model),
        "## What was added",
        _norms(plan),
        *_licence(plan, checkpoint),
        *(["## Citation", f"```bibtex\n{CITATION}\n```"] if _of_the_paper(vectors) else []),
    ]
    return "\n\n".join(parts) + "\n"


_PROJECTIONS: dict[Site, str] = {
    "attention_output": "the attention output projection",
    "layer_output": "the MLP's last projection, which acts on the layer's output,",
}


def _of_the_paper(vectors: VectorSet) -> bool:
    """Whether the set acts where the paper's vectors do; what acts on the layer's output was made otherwise."""
    return vectors.site == "attention_output"


def _what(vectors: VectorSet) -> str:
    if _of_the_paper(vectors):
        return (
            "the emotion vectors of *Controllable Emotion Generation with Emotion Vectors* "
            f"([arXiv 2502.04075]({PAPER}))"
        )
    return f"a steering vector of the layers' output ({vectors.source or vectors.name})"


def adapters_card(adapters: Mapping[str, BakePlan], checkpoint: Checkpoint, base_model: str) -> str:
    """The text of README.md beside several adapters, each in the folder that is its key."""
    first, *others = adapters
    plan = adapters[first]
    loading = [
        "from peft import PeftModel",
        "from transformers import AutoModelForCausalLM",
        "",
        f'base = AutoModelForCausalLM.from_pretrained("{base_model or "BASE"}")',
        f'model = PeftModel.from_pretrained(base, "THIS_REPO", subfolder="{first}", adapter_name="{first}")',
        *(f'model.load_adapter("THIS_REPO", subfolder="{name}", adapter_name="{name}")' for name in others),
        f'model.set_adapter("{others[-1] if others else first}")',
    ]
    base = f"[{base_model}](https://huggingface.co/{base_model})" if base_model else "a local checkpoint"
    rows = [f"| [{name}]({quote(name)}) | {adapter.steering.recipe} |" for name, adapter in adapters.items()]
    parts = [
        _metadata(plan, checkpoint, base_model),
        f"# {base_model.rpartition('/')[2] or plan.model_type}: an adapter per emotion",
        f"Adapters that steer {base}, one for each emotion, with the vectors of *Controllable Emotion Generation with "
        f"Emotion Vectors* ([arXiv 2502.04075]({PAPER})). Made by [emobake](https://pypi.org/project/emobake/) "
        f"{__version__}; each folder's `emobake.json` records how.",
        "\n".join(["| folder | what it adds |", "| --- | --- |", *rows]),
        "## How to load them",
        "```python\n" + "\n".join(loading) + "\n```",
        f"**Position caveat.** {POSITION_NOTE}",
        *_licence(plan, checkpoint),
        "## Citation",
        f"```bibtex\n{CITATION}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _where(plan: BakePlan) -> str:
    steered = [bias.layer for bias in plan.layers if bias.norm]
    if len(steered) == len(plan.layers):
        return "every layer"
    return f"{len(steered)} of {len(plan.layers)} layers ({', '.join(map(str, steered)) or 'none'})"


def _how(plan: BakePlan) -> str:
    return {
        "flag": f", which the config switches on ({', '.join(f'`{c.field}`' for c in plan.config_changes)}).",
        "existing": ", on top of the bias that the base has there.",
        "llama": f". The {plan.model_type} architecture has no such bias; the model is exactly a Llama with "
        "`attention_bias` and is saved as one.",
        "adapter": ", as a rank-1 LoRA whose matrices are zero and whose bias is not (`lora_bias`).",
    }[plan.route]


def _loading(plan: BakePlan, base_model: str) -> str:
    if plan.route == "adapter":
        return (
            "```python\nfrom peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n\n"
            f'base = AutoModelForCausalLM.from_pretrained("{base_model or "BASE"}")\n'
            'model = PeftModel.from_pretrained(base, "THIS_REPO")\n```\n\n'
            "PEFT cannot merge it into a projection that has no bias of its own: keep it as an adapter."
        )
    rows = ["| stack | what it does |", "| --- | --- |"]
    for stack, support in plan.stacks.items():
        evidence = (
            ""
            if support.status == "refuses"
            else " (seen in a run)"
            if support.run
            else " (read from its source, not run)"
        )
        rows.append(f"| {stack} | {describe(support)}{evidence} |")
    commands = {
        "transformers": 'AutoModelForCausalLM.from_pretrained("THIS_REPO")',
        "vllm": "vllm serve THIS_REPO",
        "llama.cpp": "hf download THIS_REPO --local-dir model && convert_hf_to_gguf.py model --outfile model.gguf",
        "mlx": "mlx_lm.generate --model THIS_REPO --prompt Hello",
    }
    lines = []
    for stack, command in commands.items():
        support = plan.stacks[stack]
        if support.status in ("steered", "option"):
            lines.append(f"# {stack}\n{command}{' ' + support.option if support.option else ''}")
    return "\n".join(rows) + "\n\n```\n" + "\n\n".join(lines) + "\n```"


def _norms(plan: BakePlan) -> str:
    rows = [
        "Euclidean norm of the vector that each layer's bias gained:",
        "",
        "| layer | norm | |",
        "| --- | --- | --- |",
    ]
    largest = max((b.norm for b in plan.layers), default=0.0) or 1.0
    rows += [f"| {b.layer} | {b.norm:.3f} | {'█' * round(20 * b.norm / largest)} |" for b in plan.layers]
    return "\n".join(rows)


def _licence(plan: BakePlan, checkpoint: Checkpoint) -> list[str]:
    base = card_metadata(checkpoint.card)
    files = [f.name for f in plan.files if isinstance(f, Carry) and is_licence(f.name)]
    name = next((base[key] for key in ("license_name", "license") if isinstance(base.get(key), str)), "")
    if not name and not files:
        return []
    link = base.get("license_link")
    name = " ".join(name.split()).replace("`", "")
    linked = isinstance(link, str) and re.fullmatch(r"https://[\w./?=&%#~-]+", link)
    named = f"[{name}]({link})" if linked else f"`{name}`"
    text = f"The licence of the base{f', {named},' if name else ''} holds for this model as well"
    if files:
        text += f"; see {', '.join(f'[{file}]({quote(file)})' for file in files)}"
    text += "."
    if any(key.startswith("extra_gated") for key in base):
        text += " The base is given to those who accept its conditions; they stand in this card's metadata, too."
    return ["## Licence", text]


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
"""What the base's card hands on, and as what the Hub takes it: its licence, and what who asks for access is told."""


def _metadata(plan: BakePlan, checkpoint: Checkpoint, base_model: str) -> str:
    from huggingface_hub import ModelCardData

    base = card_metadata(checkpoint.card)
    inherited = {key: base[key] for key, kind in _INHERITED.items() if isinstance(base.get(key), kind)}
    data = ModelCardData(
        base_model=base_model or None,
        base_model_relation="adapter" if plan.route == "adapter" else "finetune" if base_model else None,
        library_name="peft" if plan.route == "adapter" else "transformers",
        pipeline_tag="text-generation",
        tags=["emotion-vectors", "emobake"],
        widget=_widget(checkpoint, base.get("widget")),
        **inherited,
    )
    return f"---\n{data.to_yaml()}\n---"


def _widget(checkpoint: Checkpoint, given: object) -> list[dict[str, Any]]:
    """What the Hub's page offers to try: the base's examples, else one of ours."""
    if isinstance(given, list) and given and all(_is_example(example) for example in given):
        return given
    question = "How was your day?"
    files = checkpoint.side_files
    if "chat_template" in checkpoint.tokenizer_config or any(name.startswith("chat_template") for name in files):
        return [{"messages": [{"role": "user", "content": question}]}]
    return [{"text": question}]


def _is_example(value: object) -> bool:
    return isinstance(value, dict) and (isinstance(value.get("text"), str) or isinstance(value.get("messages"), list))


def with_report(card: str, report: str, folder: str) -> str:
    """The card with a report of `emobake eval` as its section, in place of an earlier one; pictures are in `folder`."""
    report = re.sub(r"(!\[[^\]]*\]\()(?=[\w.]+\))", rf"\g<1>{folder}/", report)
    heading = re.escape(report.split("\n", 1)[0])
    card = re.sub(rf"^{heading}\n.*?(?=^## |\Z)", "", card, flags=re.MULTILINE | re.DOTALL)
    at = card.find("\n## Citation\n") + 1 or len(card)
    before, after = card[:at].rstrip("\n"), card[at:]
    return f"{before}\n\n{report.rstrip()}\n" + (f"\n{after}" if after else "")


def card_metadata(card: str) -> Mapping[str, Any]:
    """The YAML mapping in front of a model card; empty when there is none or it is not valid."""
    import yaml

    block = re.match(r"\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|$)", card, re.DOTALL)
    if block is None or len(block[1]) > 100_000:
        return {}
    try:
        value = yaml.safe_load(block[1])
    except Exception:  # a card is a stranger's text, and yaml raises more than its own errors for strange tags
        return {}
    return value if isinstance(value, dict) else {}
