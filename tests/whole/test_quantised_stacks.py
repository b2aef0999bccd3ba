"""Quantised checkpoints in the stacks that load them: tiny ones beside the hook on their base, and SmolLM2 itself.

Needs the environments of ``scripts/envs all quantised``; a missing one fails the test.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from support.paths import ROOT, SMOLLM2_VECTORS
from support.quantised import quantise
from support.quantised_runs import ENVIRONMENTS, cells, make
from support.stacks import interpreter

import emobake
from emobake.models.stacks.launcher import run_stack

pytestmark = pytest.mark.cross

FORMS: Mapping[str, tuple[str, ...]] = {
    "transformers": ("bitsandbytes-4bit", "bitsandbytes-8bit", "gptq", "awq", "w4a16", "w8a8", "fp8-block", "mxfp4"),
    "vllm": ("gptq", "awq", "w4a16", "w8a8"),
    "llama.cpp": ("gptq", "w4a16"),
    "mlx": ("awq", "mlx"),
}
"""Forms that a user is likeliest to have; ``scripts/matrix --quantised`` runs all of them."""
QUESTIONS = json.loads((ROOT / "vectors" / "queries" / "everyday.json").read_text(encoding="utf-8"))[:8]
"""Neutral ones, and so many that one answer, in which a quantised model repeats itself, does not decide."""
NEW_TOKENS = 50
# Method -> options: SmolLM2's sides are whole groups of 64, not of 128.
SMOL: Mapping[str, Mapping[str, Any]] = {
    "gptq": {"group": 64},
    "awq": {"group": 64},
    "w8a8": {},
}


@pytest.mark.parametrize("stack", FORMS)
def test_tiny_ones_are_steered(stack: str, tmp_path: Path) -> None:
    interpreter(ENVIRONMENTS.get(stack, stack))
    pairs = [make(form, "gpt_oss" if form == "mxfp4" else "qwen2", tmp_path) for form in FORMS[stack]]
    found = list(cells(pairs, [stack], tmp_path))
    assert [cell.form for cell in found] == list(FORMS[stack])
    assert {cell.form: (cell.found, cell.error) for cell in found if cell.found != "steered"} == {}
    assert all(cell.agrees for cell in found)


def joy(texts: Iterable[str]) -> int:
    """Different words of joy in each text; the sum."""
    own = set(json.loads((ROOT / "vectors" / "lexicon.json").read_text(encoding="utf-8"))["joy"])
    return sum(len(own & set(re.findall(r"[a-z]+", text.lower()))) for text in texts)


@pytest.mark.parametrize("method", SMOL)
def test_smollm2_is_joyful_in_vllm(method: str, smollm2: Path, tmp_path: Path) -> None:
    """Real weights of 4 and 8 bits, real vectors, text: twice the joy of the base's answers, or more."""
    from transformers import AutoTokenizer

    base, baked = tmp_path / "base", tmp_path / "joyful"
    quantise(smollm2, base, method, options=SMOL[method])
    emobake.bake(base, SMOLLM2_VECTORS, (0, 0, 0, 1.2, 0), emobake.Folder(baked, link_mode="hardlink"))
    carried = baked / "model-00001-of-00002.safetensors"
    assert carried.samefile(base / "model.safetensors"), "the weights were copied"
    tokenizer = AutoTokenizer.from_pretrained(base)
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=True
        )["input_ids"]
        for question in QUESTIONS
    ]
    texts = {}
    for folder in (base, baked):
        run = run_stack(
            "vllm",
            folder,
            prompts,
            max_new_tokens=NEW_TOKENS,
            python=interpreter("vllm"),
            options={"dtype": "bfloat16"},
            timeout=900,
        )
        texts[folder] = [tokenizer.decode(list(tokens), skip_special_tokens=True) for tokens in run.tokens]
    assert joy(texts[baked]) >= 2 * max(1, joy(texts[base])), texts
