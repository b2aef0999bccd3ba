"""SmolLM2 from Hub to Hub, with every byte counted, and a model of the size of Llama-3.1-405B."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.hub_server import Repo, StandInHub
from support.paths import SCRIPTS, SMOLLM2_VECTORS
from support.running import Run, run_process

pytestmark = [pytest.mark.real]

BASE, TARGET = "HuggingFaceTB/SmolLM2-135M-Instruct", "me/joyful-smollm2"


@pytest.fixture(scope="module")
def shards(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2 in several files, as transformers writes them."""
    folder = tmp_path_factory.mktemp("shards") / "SmolLM2"
    code = (
        "import sys, transformers\n"
        "model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype='float32')\n"
        "model.save_pretrained(sys.argv[2], max_shard_size='120MB')\n"
        "transformers.AutoTokenizer.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2])\n"
    )
    subprocess.run([sys.executable, "-c", code, smollm2, folder], check=True, capture_output=True)
    return folder


def test_little_travels_and_what_comes_back_is_steered(hub: StandInHub, online: Run, shards: Path, tmp_path: Path):
    hub.repos[BASE] = Repo()
    hub.repos[BASE].commit(shards)
    size = sum(p.stat().st_size for p in shards.iterdir())
    weights = len(list(shards.glob("*.safetensors")))
    ran = online("--model", BASE, "--mix", "joy=1.2", "--push-to-hub", TARGET, "--json").ok()
    done, traffic = json.loads(ran.out)["hub"], hub.traffic
    assert weights >= 4 and traffic <= 0.01 * size + 5e6
    assert [f["action"] for f in done["files"]].count("copy") == weights
    # The estimate is of contents; requests and the base64 of small files come on top.
    assert done["bytes_travelling"] < traffic < 1.4 * done["bytes_travelling"] + 3e5

    before = hub.traffic
    online("--model", BASE, "--mix", "joy=1.2", "--push-to-hub", TARGET, "-q").ok()
    again = hub.traffic - before
    online("--model", BASE, "--mix", "anger=1", "--push-to-hub", TARGET, "-q").ok()
    other = hub.traffic - before - again
    assert again < 0.3e6 and other < 1e6

    code = (
        "import sys, huggingface_hub as h\n"
        "h.snapshot_download(sys.argv[1], revision=sys.argv[2], local_dir=sys.argv[3])"
    )
    back = tmp_path / "back"
    run_process("-c", code, TARGET, done["commit"], back, env=hub.environment(tmp_path)).ok()
    checks = ("--base", shards, "--vectors", SMOLLM2_VECTORS, "--stack", "transformers", "--max-new-tokens", 12)
    ran = run_process("-m", "emobake", "verify", back, *checks, timeout=600).ok()
    assert "FAIL" not in ran.out and "equals the hook at every position" in ran.out
    assert "differs from the unsteered base" in ran.out and "byte-identical to the plan" in ran.out


def test_as_large_as_405b(tmp_path: Path):
    """Headers only; how long it takes stands in the README, from the same script."""
    command = [
        sys.executable,
        SCRIPTS / "bench_hub.py",
        "--folder",
        tmp_path,
        "--rounds",
        "1",
        "--only-405b",
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout).values()
    assert found["shards_copied"] == 191 and found["checkpoint_gb"] > 800 and found["biases"] == 4 * 126
    assert found["peak_mb"] < 300
    assert found["traffic_mb"] < 20
