"""A baked base with a LoRA on top of it, in vLLM and llama.cpp: the tokens of transformers with hooks and PEFT."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.paths import SMOLLM2_VECTORS, TESTS
from support.stacks import Tokens, greedy, interpreter

import emobake

pytestmark = [pytest.mark.cross, pytest.mark.filterwarnings("ignore")]

NEW_TOKENS = 24
TEXTS = ("How was your day?", "Tell me about the sea.")
RANK = 8


@dataclass
class Case:
    """A baked SmolLM2 with a LoRA, prompts, and the greedy tokens of the hook and PEFT on the base."""

    out: Path
    prompts: list[list[int]]
    tokens: Tokens
    plain: Tokens
    """Without the LoRA."""


@pytest.fixture(scope="module")
def case(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Bake it."""
    import peft
    import torch
    from support.tiny_runs import hooked, load
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("lora")
    model, _ = load(smollm2)
    config = peft.LoraConfig(
        r=RANK, lora_alpha=16, target_modules=["q_proj", "v_proj", "o_proj", "down_proj"], task_type="CAUSAL_LM"
    )
    adapted = peft.get_peft_model(model, config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    adapted.save_pretrained(folder / "adapter")
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=True
        )["input_ids"]
        for text in TEXTS
    ]
    out = folder / "out"
    emobake.bake(folder / "adapter", SMOLLM2_VECTORS, mix={"joy": 1.2}, base=smollm2, out=out, format="checkpoint")
    vectors = emobake.open_vectors(SMOLLM2_VECTORS)
    rows = np.float32(1.2) * vectors.rows[vectors.emotions.index("joy")]
    adapted.eval()
    o_proj = "model.layers.{layer}.self_attn.o_proj"
    with hooked(model, o_proj, dict(enumerate(rows))):
        tokens = greedy(model, prompts, NEW_TOKENS)
        with adapted.disable_adapter():
            plain = greedy(model, prompts, NEW_TOKENS)
    assert tokens != plain
    return Case(out, prompts, tokens, plain)


def run(stack: str, script: str, folder: Path, request: dict[str, Any]) -> dict[str, Tokens]:
    """Run a script of the support in the environment of `stack`."""
    asked, answer = folder / "request.json", folder / "response.json"
    asked.write_text(json.dumps(request))
    done = subprocess.run(
        [interpreter(stack), TESTS / "support" / script, asked, answer], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {name: [tuple(t) for t in tokens] for name, tokens in json.loads(answer.read_text()).items()}


def test_in_vllm(case: Case, tmp_path: Path):
    request = {"checkpoint": str(case.out), "adapter": str(case.out / "adapter"), "rank": RANK}
    request |= {"prompts": case.prompts, "max_new_tokens": NEW_TOKENS}
    found = run("vllm", "run_vllm_lora.py", tmp_path, request)
    assert found == {"with": case.tokens, "without": case.plain}


def test_in_llama_cpp(case: Case, tmp_path: Path):
    python, gguf, lora = interpreter("llama.cpp"), tmp_path / "model.gguf", tmp_path / "lora.gguf"
    script = python.parents[1] / "llama.cpp" / "convert_lora_to_gguf.py"
    for command in (
        [python, script.with_name("convert_hf_to_gguf.py"), case.out, "--outfile", gguf, "--outtype", "f32"],
        [python, script, case.out / "adapter", "--base", case.out, "--outfile", lora, "--outtype", "f32"],
    ):
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
    request = {"gguf": str(gguf), "lora": str(lora), "prompts": case.prompts, "max_new_tokens": NEW_TOKENS}
    found = run("llama.cpp", "run_llama_cpp_lora.py", tmp_path, request)
    assert found == {"with": case.tokens, "without": case.plain}
