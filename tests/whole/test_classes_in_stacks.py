"""Checkpoints that are saved as another class, or that name vLLM's transformers backend, in the stacks themselves.

The reference is transformers with a hook on the unbaked base, in float32. Of vLLM all log-probabilities after a prompt
are compared, because a wrong factor of the logits leaves greedy tokens as they are. Needs the environments of
``scripts/envs all``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.matrix import FIELDS, HIDDEN, LAYERS, PROMPTS, TOLERANCE, WIDE
from support.paths import TESTS
from support.stacks import Tokens, greedy, interpreter
from support.tiny import FAMILIES, write_tiny, write_vectors

import emobake
from emobake.formats.checkpoint.families import families
from emobake.models.stacks.launcher import run_stack

pytestmark = pytest.mark.cross

NEW_TOKENS = 12
TIMES = (0.0, 0.0, 0.0, 1.0, 0.0)
OTHER_FIELDS = {
    "minicpm3": FIELDS["minicpm3"],
    "gemma": {"num_key_value_heads": 4},
    "helium": {"num_key_value_heads": 4},
}
# Name -> family, what the bake is for, and the model_type that comes out.
FORMS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "phi4": ("phi4", (), "llama"),
    "helium": ("helium", (), "llama"),
    "ernie4_5": ("ernie4_5", (), "llama"),
    "mixtral": ("mixtral", (), "granitemoe"),
    "mixtral for vllm": ("mixtral", ("vllm",), "granitemoe"),
    "qwen3 for vllm and mlx": ("qwen3", ("vllm", "mlx"), "laguna"),
    "gemma3 for mlx": ("gemma3", ("mlx",), "gear"),
    **{
        f"{name} by the backend": (name, ("vllm",), FAMILIES[name].model_type)
        for name in ("qwen3", "gemma", "cohere", "cohere2", "minicpm3", "qwen3_moe", "olmoe", "granitemoe")
    },
}
# After a model without experts, vLLM needs another process for those that have some, and for a variable.
VLLM = {
    "dense": ("phi4", "helium", "ernie4_5", "qwen3 for vllm and mlx", "qwen3 by the backend", "gemma by the backend",
              "cohere by the backend", "cohere2 by the backend"),
    "experts": ("mixtral for vllm", "qwen3_moe by the backend", "olmoe by the backend", "granitemoe by the backend"),
    "latent": ("minicpm3 by the backend",),
}  # fmt: skip
MLX = ("phi4", "helium", "ernie4_5", "mixtral", "qwen3 for vllm and mlx", "gemma3 for mlx")


@dataclass(frozen=True)
class Baked:
    """An output, and what transformers says with the hook on its base, and without."""

    folder: Path
    tokens: Tokens
    steered: np.ndarray
    plain: np.ndarray


@pytest.fixture(scope="module")
def baked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A function that makes one of `FORMS`, once."""
    space = tmp_path_factory.mktemp("classes")

    @cache
    def make(form: str) -> Baked:
        from support.tiny_runs import load

        name, targets, model_type = FORMS[form]
        folder = space / form.replace(" ", "-")
        base = write_tiny(name, folder / "base", fields={**WIDE, **OTHER_FIELDS.get(name, {})})
        rows = write_vectors(folder / "ev", LAYERS, HIDDEN, scale=0.35)[3]
        result = emobake.bake(base, folder / "ev", times=TIMES, out=folder / "out", targets=targets)
        assert json.loads((folder / "out" / "config.json").read_text())["model_type"] == model_type
        assert all(result.plan.stacks[stack].status == "steered" for stack in targets)
        model, _ = load(base)
        plain = log_probabilities(model)
        attention = families()[FAMILIES[name].model_type].projection.rpartition(".")[0]
        for layer, row in enumerate(rows):
            model.get_submodule(attention.format(layer=layer)).register_forward_hook(adding(row))
        return Baked(folder / "out", greedy(model, PROMPTS, NEW_TOKENS), log_probabilities(model), plain)

    yield make
    shutil.rmtree(space)


def adding(row: np.ndarray) -> Any:
    """A hook that adds `row` to the output of an attention module."""
    import torch

    vector = torch.from_numpy(row)
    return lambda _module, _inputs, output: (output[0] + vector, *output[1:])


def log_probabilities(model: Any) -> np.ndarray:
    """Of every token after each prompt: ``[prompts, vocabulary]``."""
    import torch

    with torch.no_grad():
        rows = [model(torch.tensor([prompt])).logits[0, -1].double().log_softmax(-1) for prompt in PROMPTS]
    return torch.stack(rows).numpy()


@pytest.mark.parametrize("group", VLLM)
def test_vllm_gives_the_probabilities_of_the_hook(group: str, baked: Any, tmp_path: Path) -> None:
    made = {form: baked(form) for form in VLLM[group]}
    request, response = tmp_path / "request.json", tmp_path / "response.json"
    request.write_text(json.dumps({"checkpoints": [str(b.folder) for b in made.values()], "prompts": PROMPTS}))
    environment = os.environ | ({"VLLM_MLA_DISABLE": "1"} if group == "latent" else {})
    script = TESTS / "support" / "vllm_logprobs.py"
    subprocess.run([interpreter("vllm"), script, request, response], check=True, env=environment, timeout=3000)
    found = json.loads(response.read_text())
    for form, one in made.items():
        got = np.asarray(found[str(one.folder)])
        assert np.abs(got - one.steered).max() < TOLERANCE, form
        assert np.abs(got - one.plain).max() > 1000 * TOLERANCE, form


def test_vllm_says_so_where_the_variable_is_missing(baked: Any, tmp_path: Path) -> None:
    """Never unsteered: MiniCPM3 without VLLM_MLA_DISABLE stops at the first request."""
    folder = baked("minicpm3 by the backend").folder
    request, response = tmp_path / "request.json", tmp_path / "response.json"
    request.write_text(json.dumps({"checkpoints": [str(folder)], "prompts": PROMPTS}))
    script = TESTS / "support" / "vllm_logprobs.py"
    subprocess.run([interpreter("vllm"), script, request, response], check=True, timeout=3000)
    assert "Error" in json.loads(response.read_text())[str(folder)]


@pytest.mark.parametrize("form", MLX)
def test_mlx_generates_what_the_hook_does(form: str, baked: Any) -> None:
    one = baked(form)
    result = run_stack("mlx", one.folder, PROMPTS, max_new_tokens=NEW_TOKENS, python=interpreter("mlx"), timeout=600)
    assert list(result.tokens) == one.tokens


def test_a_laguna_in_transformers_is_wrong_as_the_summary_says(baked: Any) -> None:
    from support.tiny_runs import load

    one = baked("qwen3 for vllm and mlx")
    model, info = load(one.folder)
    assert any("g_proj" in name for name in info["missing_keys"])
    assert np.abs(log_probabilities(model) - one.steered).max() > 1000 * TOLERANCE
