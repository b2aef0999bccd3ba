"""The writers of `support.quantised`: numbers near the float ones, tensors and configs as the tools write them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from safetensors import deserialize
from support.checkpoints import write_checkpoint
from support.quantised import METHODS, VARIANTS, quantise
from support.quantised.layout import FLOATS, NAMES
from support.quantised_runs import FORMS, WITHOUT_NUMBERS, interpreter
from support.stacks import interpreter as interpreter_of

from emobake.formats.checkpoint.quantisation.methods import METHODS as KNOWN

HIDDEN = 256
# Largest error of a weight, in standard deviations of the weights; of ternary ones nothing is near.
EIGHT_BITS = ("bitsandbytes-8bit", "w8a8", "w8a8-tensor", "eetq", "torchao")
FOUR_BIT_FLOATS = ("bitsandbytes-4bit", "nvfp4", "modelopt-nvfp4", "modelopt-mixed", "ct-mx", "w4a16-channel")
FLOAT8 = tuple(method for method in METHODS if "fp8" in method or method == "quark")
NEAR = {**dict.fromkeys(METHODS, 0.5), **dict.fromkeys(FLOAT8, 0.25), **dict.fromkeys(EIGHT_BITS, 0.03),
        **dict.fromkeys(FOUR_BIT_FLOATS, 1.0), "bitnet": 5.0, "bitnet-autobitlinear": 5.0}  # fmt: skip
DENSE = [form for form, (method, _) in FORMS.items() if method != "mxfp4"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("base"), "qwen2", layers=1, hidden=HIDDEN, dtype="F32")


def floats(folder: Path) -> dict[str, np.ndarray]:
    found = dict(deserialize((folder / "model.safetensors").read_bytes()))
    return {name: np.frombuffer(each["data"], np.float32).reshape(each["shape"]) for name, each in found.items()}


def is_rounded(got: np.ndarray, value: np.ndarray) -> bool:
    """True if a tensor was only rounded to another dtype."""
    return any(np.array_equal(got, value.astype(dtype).astype(np.float32)) for dtype in FLOATS.values())


def test_every_known_method_has_a_writer() -> None:
    assert set(KNOWN) <= set(METHODS)
    assert {method for method, _ in VARIANTS.values()} <= set(METHODS)


@pytest.mark.parametrize("form", [form for form in DENSE if FORMS[form][0] not in WITHOUT_NUMBERS])
def test_weights_are_near(form: str, base: Path, tmp_path: Path) -> None:
    method, options = FORMS[form]
    quantise(base, tmp_path / "out", method, plain=tmp_path / "plain", options=options)
    wanted, got = floats(base), floats(tmp_path / "plain")
    assert set(got) == set(wanted)
    limit = NEAR["fp8"] if "float8" in form else NEAR[method]
    errors = {name: float(np.abs(got[name] - value).max() / value.std()) for name, value in wanted.items()}
    assert max(errors.values()) < limit
    changed = {name for name, value in wanted.items() if not is_rounded(got[name], value)}
    assert "model.layers.0.self_attn.o_proj.weight" in changed
    assert ("lm_head.weight" in changed) == (method == "mlx")


@pytest.mark.parametrize("form", ["gptq-act-order", "exl3", "torchao float8", "spqr"])
def test_the_same_bytes_again(form: str, base: Path, tmp_path: Path) -> None:
    method, options = FORMS[form]
    one, other = (quantise(base, tmp_path / name, method, options=options) for name in ("one", "other"))
    files = {file.name: file.read_bytes() for file in one.iterdir()}
    assert files == {file.name: file.read_bytes() for file in other.iterdir()}


def test_old_files_say_nothing_in_config_json(base: Path, tmp_path: Path) -> None:
    for form, name in (
        ("gptq in quantize_config.json", "quantize_config.json"),
        ("awq in quant_config.json", "quant_config.json"),
        ("modelopt-fp8 legacy", "hf_quant_config.json"),
    ):
        method, options = FORMS[form]
        folder = quantise(base, tmp_path / name, method, options=options)
        assert "quantization_config" not in json.loads((folder / "config.json").read_text())
        assert json.loads((folder / name).read_text())


@pytest.mark.cross
def test_tensors_are_those_of_the_tools(tmp_path: Path) -> None:
    """Names, dtypes and shapes of a module, as bitsandbytes, torchao and others store it."""
    python, response = interpreter("transformers"), tmp_path / "tools.json"
    interpreter_of(python.parent.parent.name)
    script = Path(__file__).parents[1] / "support" / "stored_by_tools.py"
    subprocess.run([python, script, response], check=True, capture_output=True, timeout=600)
    weight = np.random.default_rng(0).normal(size=(128, 256)).astype(np.float32)
    for method, wanted in json.loads(response.read_text()).items():
        stored = METHODS[method]().store("model.layers.0.self_attn.o_proj", weight).parts
        got = {part: [NAMES[value.dtype.name], list(value.shape)] for part, value in stored.items()}
        for part in wanted:
            if "quant_state" in part:  # JSON with a number of any length.
                wanted[part][1] = got[part][1] = []
        assert got == wanted, method
