"""Quantised models where models run: in their own dtype, answering, measured and steered as others are.

Each test needs the package that wrote the weights.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import emobake
from emobake.models.hooks import adding
from emobake.storage.model_name import ModelName

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from safetensors.torch import load_file, save_file  # noqa: E402

from emobake.formats.checkpoint.quantisation.method import Method  # noqa: E402
from emobake.measure.answer_means import generate_means, measure_means  # noqa: E402
from emobake.models.comparison import against_hooks  # noqa: E402
from emobake.models.likelihood import SteeredModel, batches, log_likelihoods, norms  # noqa: E402
from emobake.models.loading import load  # noqa: E402
from emobake.models.sampling import Sampling  # noqa: E402

# Warnings of the packages, which are none of ours.
pytestmark = [pytest.mark.real, pytest.mark.usefixtures("quiet"), pytest.mark.filterwarnings("default")]

HIDDEN, LAYERS = 32, 3
PAIRS = [((5, 6, 7), (8, 9)), ((11,), (12, 13, 14, 15))]
ROWS = np.random.default_rng(3).normal(0, 0.5, (LAYERS, HIDDEN)).astype(np.float32)
# bitsandbytes 0.50 in 8 bits: 27 roundings were seen in one of 30 layers of SmolLM2-135M-Instruct, at most 1 in most.
METHOD = Method("stand-in", "a stand-in", lambda parts: True, lambda parts, fields: None, {}, rounding=64)


def bitsandbytes(source: Path, folder: Path) -> None:
    """Write `source` in bitsandbytes' 8 bits."""
    pytest.importorskip("bitsandbytes")
    config = transformers.BitsAndBytesConfig(load_in_8bit=True)
    transformers.AutoModelForCausalLM.from_pretrained(
        source, quantization_config=config, dtype=torch.bfloat16, device_map={"": "cpu"}
    ).save_pretrained(folder)


def w8a8(source: Path, folder: Path) -> None:
    """Write `source` as compressed-tensors' int8 weights, whose activations are rounded to int8 for each token."""
    pytest.importorskip("compressed_tensors")
    tensors = {}
    for name, value in load_file(source / "model.safetensors").items():
        if name.endswith("_proj.weight"):
            scale = (value.abs().amax(1, keepdim=True) / 127).bfloat16()
            tensors[name] = (value / scale.float()).round().clamp(-128, 127).to(torch.int8)
            tensors[f"{name}_scale"] = scale
        else:
            tensors[name] = value.bfloat16()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    common = {"num_bits": 8, "type": "int", "symmetric": True}
    group = {
        "targets": ["Linear"],
        "weights": {**common, "strategy": "channel", "dynamic": False},
        "input_activations": {**common, "strategy": "token", "dynamic": True},
    }
    fields = {"quant_method": "compressed-tensors", "format": "int-quantized", "quantization_status": "compressed"}
    config = json.loads((source / "config.json").read_text(encoding="utf-8")) | {
        "dtype": "bfloat16",
        "quantization_config": {**fields, "ignore": ["lm_head"], "config_groups": {"group_0": group}},
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


# With 4 bits, bitsandbytes 0.50 wants modules of 64 inputs on a CPU: test_quantised_stacks.py has such ones.
@pytest.fixture(params=["bitsandbytes-8bit", "w8a8"])
def base(request: pytest.FixtureRequest, tiny_chat: Path, tmp_path: Path) -> Path:
    """The tiny chat model, quantised."""
    folder = tmp_path / "base"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        shutil.copy(tiny_chat / name, folder)
    if request.param == "w8a8":
        w8a8(tiny_chat, folder)
    else:
        bitsandbytes(tiny_chat, folder)
    return folder


def test_answers_are_measured_and_steered(base: Path):
    live = load(ModelName.parse(base))
    assert live.model.dtype is torch.bfloat16
    prompts, answers = ([list(part) for part in parts] for parts in zip(*PAIRS, strict=True))
    given = measure_means(live, prompts, answers).means
    assert np.isfinite(given).all()
    assert np.abs(given).max() > 0
    said = generate_means(live, prompts, Sampling(max_new_tokens=3, temperature=0), ["0", "1"])
    assert all(len(answer) == 3 for answer in said.answers)
    with adding(live.model, live.family, dict(enumerate(ROWS))):
        steered = measure_means(live, prompts, answers).means
    # The first layer's input is the same; hooks run in turn, so the sums are those of the steered output.
    assert np.allclose((steered - given)[:, 0], ROWS[0], atol=0.1)
    assert sorted(i for batch in batches(live, PAIRS) for i in batch) == [0, 1]
    plain, other = (log_likelihoods(SteeredModel(live, rows), PAIRS) for rows in ({}, dict(enumerate(ROWS))))
    assert np.isfinite([*plain, *other]).all()
    assert plain != other
    assert all(np.isfinite(values).all() for values in norms(live, PAIRS).values())


def test_a_bake_is_verified_layer_by_layer(base: Path, tmp_path: Path):
    rows = torch.from_numpy(ROWS).bfloat16().float().numpy()
    vectors = emobake.VectorSet(("joy",), rows[None], "tiny")
    emobake.bake(base, vectors, mix={"joy": 1}, out=tmp_path / "out", force=True)

    def verdicts(added: np.ndarray) -> list[bool | None]:
        rows = dict(enumerate(added))
        checks = against_hooks(base, tmp_path / "out", rows, "attention_output", False, 2, quantised=METHOD)
        return [check.ok for check in checks]

    assert verdicts(rows) == [True, True, True, None, None]
    assert verdicts(-rows) == [True, False, False, None, None]
