"""Families whose output projection takes no bias in llama.cpp, baked from GGUF to GGUF: against hooks in transformers.

Needs the environments of ``scripts/envs test llama.cpp``; see `test_cross_stack`.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.gguf_families import FAMILIES, HIDDEN, hooked_log_probabilities, output_projections, write_family
from support.gguf_files import VOCAB, Kind
from support.paths import TESTS
from support.stacks import interpreter

import emobake
from emobake.actions.verify import verify

pytestmark = pytest.mark.cross

DRAW = np.random.default_rng(7)
PROMPTS = [DRAW.integers(0, VOCAB - 1, size=n).tolist() for n in (7, 19, 40, 5, 12, 25, 31, 9)]
HEAD = ("qwen3", "qwen3moe", "gemma", "gemma2", "gemma3", "glm4", "glm4moe", "smollm3", "ernie4_5", "hunyuan-dense")
VALUE = ("stablelm", "qwen2moe", "olmo2", "cohere2", "exaone4", "lfm2")
ROUTES = dict.fromkeys(HEAD, "head") | dict.fromkeys(VALUE, "value") | {"phi3": "llama"}


def log_probabilities(files: list[Path], folder: Path) -> list[np.ndarray]:
    """Of llama.cpp after each prompt, ``[prompts, vocabulary]`` for each file."""
    request, response = folder / "request.json", folder / "response.json"
    # One thread: tiny models gain nothing from more, and wait for them where the machine has other work.
    asked = {"files": [str(file) for file in files], "prompts": PROMPTS, "top": VOCAB, "threads": 1}
    request.write_text(json.dumps(asked))
    call = [str(interpreter("llama.cpp")), str(TESTS / "support" / "run_gguf.py"), str(request), str(response)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(response.read_text())
    return [np.array([[one["top"][str(t)] for t in range(VOCAB)] for one in found[str(file)]]) for file in files]


def rows_for(model: Any, route: str) -> np.ndarray:
    """Rows for each layer with attention: random ones, or those that some values make, as extracted rows are."""
    rows = np.zeros((len(model.model.layers), HIDDEN), np.float32)
    for layer, weight in output_projections(model).items():
        rows[layer] = DRAW.normal(0, 0.3, HIDDEN)
        if route == "value":
            made = weight @ DRAW.normal(0, 1, weight.shape[1])
            rows[layer] = made * (np.linalg.norm(rows[layer]) / np.linalg.norm(made))
    return rows


def divergence(wanted: np.ndarray, found: np.ndarray) -> float:
    return float((np.exp(wanted) * (wanted - found)).sum(axis=-1).mean())


def baked(
    folder: Path, name: str, kind: Kind, route: str = "", **config: Any
) -> tuple[list[np.ndarray], emobake.BakePlan]:
    """Log-probabilities of the unsteered model in float32 and in llama.cpp, and of the steered one in both."""
    model = write_family(folder / "base.gguf", name, kind, **config)
    # llama.cpp rounds activations to 8 bits beside quantised weights: the steering must stand out from that.
    rows = rows_for(model, route or ROUTES[name]) * np.float32(1 if kind == Kind.F32 else 3)
    vectors = emobake.VectorSet(("joy",), rows[None])
    plan = emobake.bake(folder / "base.gguf", vectors, mix={"joy": 1}, out=folder / "joy.gguf").plan
    checks = verify(folder / "joy.gguf", base=folder / "base.gguf")
    assert not [check for check in checks if check.ok is False], checks
    base, joy = log_probabilities([folder / "base.gguf", folder / "joy.gguf"], folder)
    hooked = [hooked_log_probabilities(model, PROMPTS, each) for each in (None, rows)]
    return [hooked[0], base, hooked[1], joy], plan


@pytest.mark.parametrize("name", sorted(ROUTES))
def test_a_baked_file_is_the_hooked_model(tmp_path, name):
    (plain, base, hooked, joy), plan = baked(tmp_path, name, Kind.F32)
    assert plan.route == ROUTES[name] and plan.stacks["llama.cpp"].run
    own, gap, moved = (float(np.abs(a - b).max()) for a, b in ((base, plain), (joy, hooked), (hooked, plain)))
    # ggml computes Gemma's activation by a table of 16-bit floats.
    assert own <= (3e-3 if name.startswith("gemma") else 1e-4)
    assert gap <= max(1e-4, 1.5 * own) and moved > 100 * gap, (own, gap, moved)


def test_a_scale_of_the_scores_by_the_number_of_heads_is_kept(tmp_path):
    """Gemma 3 27B is known by its 62 blocks, and its scores are scaled by hidden size / heads."""
    layers = ["sliding_attention"] * 5 + ["full_attention"]
    config = {"num_hidden_layers": 62, "query_pre_attn_scalar": HIDDEN // 8, "layer_types": (layers * 11)[:62]}
    (plain, base, hooked, joy), _ = baked(tmp_path, "gemma3", Kind.F32, **config)
    own, gap, moved = (float(np.abs(a - b).max()) for a, b in ((base, plain), (joy, hooked), (hooked, plain)))
    assert gap <= 2 * own and moved > 50 * gap, (own, gap, moved)


def test_gemma_2_with_such_a_scale_has_a_bias_of_the_values(tmp_path):
    """Gemma 2 27B, by its 46 blocks: another head would change its scores."""
    config = {"num_hidden_layers": 46, "query_pre_attn_scalar": HIDDEN // 8}
    config["layer_types"] = ["sliding_attention", "full_attention"] * 23
    (plain, base, hooked, joy), plan = baked(tmp_path, "gemma2", Kind.F32, route="value", **config)
    own, gap, moved = (float(np.abs(a - b).max()) for a, b in ((base, plain), (joy, hooked), (hooked, plain)))
    assert plan.route == "value" and gap <= 2 * own and moved > 50 * gap, (own, gap, moved)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_K", "Q6_K"])
@pytest.mark.parametrize("name", ["qwen3", "gemma3", "glm4"])
def test_a_quantised_file_is_no_further_from_its_hook_than_its_base_from_itself(tmp_path, name, kind):
    (plain, base, hooked, joy), _ = baked(tmp_path, name, Kind[kind])
    own, gap, moved = divergence(plain, base), divergence(hooked, joy), divergence(hooked, plain)
    assert 0 < gap <= 1.5 * own and moved > 10 * gap, (own, gap, moved)


@pytest.mark.parametrize(
    "kind", ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q5_K", "IQ4_NL", "IQ4_XS"]
)
def test_every_type_in_which_a_column_can_be_written(tmp_path, kind):
    (plain, base, hooked, joy), _ = baked(tmp_path, "qwen3", Kind[kind])
    own, gap, moved = divergence(plain, base), divergence(hooked, joy), divergence(hooked, plain)
    assert gap <= 1.5 * own and moved > 10 * gap, (own, gap, moved)


@pytest.mark.parametrize("name", ["stablelm", "phi3"])
def test_quantised_files_by_the_other_routes(tmp_path, name):
    (plain, base, hooked, joy), _ = baked(tmp_path, name, Kind.Q8_0)
    own, gap, moved = divergence(plain, base), divergence(hooked, joy), divergence(hooked, plain)
    assert gap <= 1.5 * own and moved > 10 * gap, (own, gap, moved)


def test_every_family_that_was_run_is_run_here():
    from emobake.formats.gguf.architectures import gguf_architectures

    table = gguf_architectures()
    ran = {name for name, row in table.items() if "ran" in (row.head, row.value)} - {"llama"}
    assert ran == {FAMILIES[name].architecture for name in (*HEAD, *VALUE)}
