"""A baked checkpoint in every stack generates what transformers generates with a hook on the base.

The hook, the sum of the vectors and the naive bake are written out here and not imported from emobake. Needs
the environments of ``scripts/envs all`` (in ``.envs/``, or in the folder $EMOBAKE_ENVS) and the published
vectors (in ``../shared``, or in the folder $EMOBAKE_SHARED); a missing one fails the test.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.paths import SCRIPTS
from support.stacks import Tokens, greedy, interpreter, published_vectors
from support.tiny import EMOTIONS, randomise, write_vectors

from emobake.models.stacks.launcher import run_stack

pytestmark = pytest.mark.cross

NEW_TOKENS = 60
LOGIT_TOLERANCE = 1e-3

# Two questions at which the model stays fluent under both mixtures, and at which every greedy choice is clear
# (see `test_reference_is_clear`): then a stack that rounds differently still has to agree.
QUESTIONS = ("How was your day?", "How do you feel about growing old?")
MIXTURES = {"joy": (0.0, 0.0, 0.0, 2.0, 0.0), "mix": (0.5, 0.0, 0.0, 1.5, -0.5)}

TINY_PROMPTS = [[1, 2, 3, 4, 5], [9, 8, 7, 60, 200, 31]]
TINY_NEW_TOKENS = 12
TINY_TIMES = (0.0, 0.0, 0.0, 1.0, 0.0)

# Stack, environment that has it, and how its version begins.
STACKS = {
    "vllm": ("vllm", "vllm", "0.32."),
    "llama.cpp": ("llama.cpp", "llama.cpp", "xllamacpp "),
    "mlx": ("mlx", "mlx", "0.32."),
    "transformers-4": ("transformers", "llama.cpp", "4.57."),
}


def weighted_rows(folder: Path, prefix: str, times: tuple[float, ...]) -> dict[int, np.ndarray]:
    """w_l for every layer, straight from the JSON files."""
    sets = {e: json.loads((folder / f"{prefix}_{e}.json").read_text()) for e in EMOTIONS}
    return {
        int(layer): sum(t * np.asarray(sets[e][layer][0]) for e, t in zip(EMOTIONS, times, strict=True))
        for layer in sets["joy"]
    }


@contextlib.contextmanager
def hooks(model: Any, rows: dict[int, np.ndarray]) -> Iterator[None]:
    """Add w_l to the attention output of each layer, at every position."""
    import torch

    def adds(row: np.ndarray) -> Any:
        vector = torch.from_numpy(row.astype(np.float32))
        return lambda _module, _inputs, output: (output[0] + vector, *output[1:])

    handles = [model.model.layers[i].self_attn.register_forward_hook(adds(row)) for i, row in rows.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def load(folder: Path) -> Any:
    """A checkpoint in float32, every tensor of which has found its place."""
    import torch
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(info.values()), info
    return model.eval()


def logits(model: Any, prompts: list[list[int]], tokens: Tokens) -> list[np.ndarray]:
    """Logits at every position of each prompt with its continuation."""
    import torch

    with torch.inference_mode():
        return [
            model(torch.tensor([[*prompt, *after]])).logits[0].numpy()
            for prompt, after in zip(prompts, tokens, strict=True)
        ]


@dataclass
class Smol:
    """SmolLM2 unsteered: where it is, the model, the prompts and what it says."""

    folder: Path
    model: Any
    prompts: list[list[int]]
    tokens: Tokens


@dataclass
class Case:
    """One mixture baked into SmolLM2, and what the hook gives on the base."""

    baked: Path
    tokens: Tokens
    logits: list[np.ndarray]


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for checkpoints of half a gigabyte each, which pytest would otherwise keep for three runs."""
    folder = tmp_path_factory.mktemp("cross")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def smol(space: Path) -> Smol:
    folder = space / "smollm2"
    script = SCRIPTS / "make_smollm2.py"
    made = subprocess.run(
        [sys.executable, str(script), str(folder)],
        capture_output=True,
        text=True,
        check=False,
        # A subprocess does not see pytest's warning filter, and must not be stopped by an inherited one.
        env={k: v for k, v in os.environ.items() if k != "PYTHONWARNINGS"},
    )
    assert made.returncode == 0, made.stderr[-2000:]
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=True
        )["input_ids"]
        for question in QUESTIONS
    ]
    model = load(folder)
    return Smol(folder, model, prompts, greedy(model, prompts, NEW_TOKENS))


@pytest.fixture(scope="module", params=MIXTURES)
def case(request: pytest.FixtureRequest, smol: Smol, space: Path) -> Iterator[Case]:
    import emobake

    times, baked = MIXTURES[request.param], space / request.param
    emobake.bake(model=smol.folder, vectors=published_vectors(), times=times, out=baked)
    with hooks(smol.model, weighted_rows(published_vectors(), "Llama", times)):
        tokens = greedy(smol.model, smol.prompts, NEW_TOKENS)
        reference = logits(smol.model, smol.prompts, tokens)
    yield Case(baked, tokens, reference)
    shutil.rmtree(baked)


def test_reference_is_clear(smol: Smol, case: Case) -> None:
    """Steering changes both answers, and no greedy choice is so close that equal tokens would be luck."""
    for prompt, plain, steered, rows in zip(smol.prompts, smol.tokens, case.tokens, case.logits, strict=True):
        assert plain != steered
        assert len(steered) > 20
        two = np.sort(rows[len(prompt) - 1 :], axis=-1)[:, -2:]
        assert (two[:, 1] - two[:, 0]).min() > 10 * LOGIT_TOLERANCE


def test_transformers(smol: Smol, case: Case) -> None:
    model = load(case.baked)
    assert greedy(model, smol.prompts, NEW_TOKENS) == case.tokens
    for ours, reference in zip(logits(model, smol.prompts, case.tokens), case.logits, strict=True):
        assert np.abs(ours - reference).max() <= LOGIT_TOLERANCE


@pytest.mark.parametrize("name", STACKS)
def test_other_stacks(name: str, smol: Smol, case: Case) -> None:
    """All 60 tokens of both answers, mlx-lm's too: its float32 arithmetic on a CPU proved close enough."""
    stack, environment, version = STACKS[name]
    result = run_stack(
        stack, case.baked, smol.prompts, max_new_tokens=NEW_TOKENS, python=interpreter(environment), timeout=600
    )
    assert result.version.startswith(version)
    assert list(result.tokens) == case.tokens


@dataclass
class Tiny:
    """A tiny random model of a family without the bias, its steered form and what both should say."""

    folder: Path
    baked: Path
    rows: dict[int, np.ndarray]
    plain: Tokens
    steered: Tokens


@pytest.fixture(scope="module")
def tiny(space: Path) -> Any:
    """A function that builds and bakes a family, once."""

    @cache
    def build(model_type: str) -> Tiny:
        from transformers import AutoConfig, AutoModelForCausalLM

        import emobake

        config = AutoConfig.for_model(
            model_type,
            vocab_size=256,
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=512,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
        )
        model = AutoModelForCausalLM.from_config(config).eval()
        randomise(model, 0)
        folder, baked, vectors = (space / f"{model_type}{part}" for part in ("", "-baked", "-ev"))
        model.save_pretrained(folder)
        write_vectors(vectors, 4, 128, scale=2.0)
        emobake.bake(model=folder, vectors=vectors, times=TINY_TIMES, out=baked)
        rows = weighted_rows(vectors, "Tiny", TINY_TIMES)
        plain = greedy(model, TINY_PROMPTS, TINY_NEW_TOKENS)
        with hooks(model, rows):
            steered = greedy(model, TINY_PROMPTS, TINY_NEW_TOKENS)
        assert all(a != b for a, b in zip(plain, steered, strict=True))
        return Tiny(folder, baked, rows, plain, steered)

    return build


def bake_naively(model: Tiny, out: Path) -> Path:
    """Add the bias tensors and nothing else, as one would who trusts that the file is what counts."""
    from safetensors.numpy import load_file, save_file

    shutil.copytree(model.folder, out)
    weights = load_file(out / "model.safetensors")
    weights |= {f"model.layers.{i}.self_attn.o_proj.bias": r.astype(np.float32) for i, r in model.rows.items()}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    return out


def tiny_tokens(stack: str, folder: Path, model_impl: str | None = None) -> Tokens:
    """Generate from a tiny model in a stack; transformers runs in the interpreter of the tests."""
    python = None if stack == "transformers" else interpreter(stack)
    options = {} if model_impl is None else {"model_impl": model_impl}
    result = run_stack(
        stack, folder, TINY_PROMPTS, max_new_tokens=TINY_NEW_TOKENS, python=python, options=options, timeout=600
    )
    return list(result.tokens)


@pytest.mark.parametrize("stack", ["transformers", "vllm"])
def test_naive_qwen2_is_silently_unsteered(stack: str, tiny: Any, tmp_path: Path) -> None:
    """The trap that a bake must keep its user out of: a load without a complaint, and no steering."""
    model = tiny("qwen2")
    assert tiny_tokens(stack, bake_naively(model, tmp_path / "naive")) == model.plain


@pytest.mark.parametrize("stack", ["transformers", "vllm"])
def test_qwen2_as_llama_is_steered(stack: str, tiny: Any) -> None:
    model = tiny("qwen2")
    assert json.loads((model.baked / "config.json").read_text())["model_type"] == "llama"
    assert tiny_tokens(stack, model.baked) == model.steered


@pytest.mark.parametrize(
    ("by_backend", "model_impl", "is_steered"),
    [(True, None, True), (False, None, False), (False, "transformers", True)],
)
def test_qwen3_in_vllm_needs_transformers_class(
    by_backend: bool, model_impl: str | None, is_steered: bool, tiny: Any, tmp_path: Path
) -> None:
    """`architectures` names it, or ``--model-impl transformers`` does; vLLM's own class drops the bias."""
    model = tiny("qwen3")
    folder = shutil.copytree(model.baked, tmp_path / "baked")
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["TransformersForCausalLM"]
    if not by_backend:
        (folder / "config.json").write_text(json.dumps(config | {"architectures": ["Qwen3ForCausalLM"]}))
    assert tiny_tokens("vllm", folder, model_impl) == (model.steered if is_steered else model.plain)
