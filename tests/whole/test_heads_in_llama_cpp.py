"""Checkpoints that become GGUF files with one more key/value head, by llama.cpp's own converter, against the hook.

Needs the environments of ``scripts/envs test llama.cpp``.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from support.matrix import FIELDS, HIDDEN, LAYERS, PROMPTS, TIMES, WIDE, reference
from support.paths import ENVS, TESTS
from support.stacks import interpreter
from support.tiny import write_tiny, write_vectors

import emobake
from emobake import GgufFile, VectorSet

pytestmark = [pytest.mark.cross, pytest.mark.usefixtures("quiet")]

VOCABULARY = WIDE["vocab_size"]
CONVERTER = """\
import json, pathlib, subprocess, sys, tempfile
folder, _, out, _, outtype = sys.argv[1:]
with tempfile.TemporaryDirectory() as space:
    request = pathlib.Path(space, "request.json")
    request.write_text(json.dumps({{folder: out}}))
    call = [{python!r}, {script!r}, {converter!r}, str(request), outtype]
    done = subprocess.run(call, check=True, stdout=-1, text=True)
failed = json.loads(done.stdout.splitlines()[-1])
sys.exit(failed.get(folder))
"""


def log_probabilities(file: Path, space: Path) -> np.ndarray:
    request, response = space / "request.json", space / "response.json"
    request.write_text(json.dumps({"files": [str(file)], "prompts": PROMPTS, "top": VOCABULARY, "threads": 1}))
    script = TESTS / "support" / "run_gguf.py"
    subprocess.run([interpreter("llama.cpp"), script, request, response], check=True, capture_output=True)
    answers = json.loads(response.read_text())[str(file)]
    return np.array([[answer["top"][str(token)] for token in range(VOCABULARY)] for answer in answers])


@pytest.fixture
def converter(tmp_path: Path) -> str:
    script = tmp_path / "convert_hf_to_gguf.py"
    script.write_text(
        CONVERTER.format(
            python=str(interpreter("llama.cpp")),
            script=str(TESTS / "support" / "convert_tiny.py"),
            converter=str(ENVS / "llama.cpp" / "llama.cpp" / "convert_hf_to_gguf.py"),
        )
    )
    return str(script)


@pytest.mark.parametrize(
    ("name", "outtype"), [("qwen3", "f32"), ("glm4", "f32"), ("hunyuan_dense", "f32"), ("qwen3", "q8_0")]
)
def test_a_checkpoint_becomes_a_steered_file(name: str, outtype: str, converter: str, tmp_path: Path) -> None:
    base = write_tiny(name, tmp_path / "base", fields={**WIDE, **FIELDS.get(name, {})})
    rows = write_vectors(tmp_path / "ev", LAYERS, HIDDEN, scale=0.35)
    sums = np.float32(0.5) * rows[0] + rows[3]
    out = tmp_path / "out.gguf"
    target = GgufFile(out, outtype=outtype, converter=converter)
    plan = emobake.bake(base, tmp_path / "ev", TIMES, target).plan
    assert plan.route == "head" and len(plan.extended) == LAYERS
    checks = emobake.verify(out, vectors=tmp_path / "ev")
    assert not [check for check in checks if check.ok is False], checks

    steered, plain = reference(base, name, dict(enumerate(sums)))
    found = log_probabilities(out, tmp_path)
    bound = 1e-4 if outtype == "f32" else 0.3
    assert np.abs(found - steered).max() < bound < np.abs(found - plain).max() / 3

    again = tmp_path / "again.gguf"
    emobake.bake(out, tmp_path / "ev", TIMES, again, scale=-1, force=True)
    assert np.abs(log_probabilities(again, tmp_path) - plain).max() < bound


@pytest.mark.parametrize("name", ["olmo2", "stablelm"])
def test_the_base_is_converted_where_llama_cpp_drops_every_form(name: str, converter: str, tmp_path: Path) -> None:
    base = write_tiny(name, tmp_path / "base", fields=WIDE)
    tensors, draw = load_file(base / "model.safetensors"), np.random.default_rng(1)
    # Rows that some values make, as extracted ones are.
    outputs = [tensors[f"model.layers.{layer}.self_attn.o_proj.weight"].astype(np.float64) for layer in range(LAYERS)]
    rows = np.array([weight @ draw.normal(0, 1, weight.shape[1]) for weight in outputs])
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True) * 4).astype(np.float32)
    vectors, out = VectorSet(("joy",), rows[None]), tmp_path / "out.gguf"
    target = GgufFile(out, outtype="f32", converter=converter)
    plan = emobake.bake(base, vectors, mix={"joy": 1}, out=target).plan
    assert plan.route == "value" and plan.stacks["llama.cpp"].run
    checks = emobake.verify(out, base=base, vectors=vectors)
    assert not [check for check in checks if check.ok is False], checks
    steered, plain = reference(base, name, dict(enumerate(rows)))
    found = log_probabilities(out, tmp_path)
    assert np.abs(found - steered).max() < 1e-4 < np.abs(found - plain).max() / 100
