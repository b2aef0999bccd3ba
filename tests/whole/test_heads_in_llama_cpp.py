"""Checkpoints that become GGUF files with one more key/value head, by llama.cpp's own converter, against the hook.

Needs the environments of ``scripts/envs test llama.cpp``.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from support.matrix import FIELDS, HIDDEN, LAYERS, PROMPTS, TIMES, WIDE, reference
from support.paths import ENVS, TESTS
from support.stacks import interpreter
from support.tiny import write_tiny, write_vectors

import emobake
from emobake import GgufFile

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


@pytest.mark.parametrize(
    ("name", "outtype"), [("qwen3", "f32"), ("glm4", "f32"), ("hunyuan_dense", "f32"), ("qwen3", "q8_0")]
)
def test_a_checkpoint_becomes_a_steered_file(name: str, outtype: str, tmp_path: Path) -> None:
    base = write_tiny(name, tmp_path / "base", fields={**WIDE, **FIELDS.get(name, {})})
    rows = write_vectors(tmp_path / "ev", LAYERS, HIDDEN, scale=0.35)
    sums = np.float32(0.5) * rows[0] + rows[3]
    converter = tmp_path / "convert_hf_to_gguf.py"
    converter.write_text(
        CONVERTER.format(
            python=str(interpreter("llama.cpp")),
            script=str(TESTS / "support" / "convert_tiny.py"),
            converter=str(ENVS / "llama.cpp" / "llama.cpp" / "convert_hf_to_gguf.py"),
        )
    )
    out = tmp_path / "out.gguf"
    target = GgufFile(out, outtype=outtype, converter=str(converter))
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
