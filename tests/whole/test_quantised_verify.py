"""`verify --stack transformers` of quantised bases: layer by layer, on the input of the base."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.quantised_tiny import BLOCK, write_fp8, write_mxfp4
from support.running import Run
from support.tiny import LAYERS, write_tiny

import emobake
from emobake.core.check import Check
from emobake.errors import MissingPackageError, ModelError
from emobake.formats.checkpoint.quantisation.method import Method
from emobake.models.loading import Runtime, load, load_weights
from emobake.storage.model_name import ModelName

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from safetensors.torch import load_file, save_file  # noqa: E402

from emobake.models.comparison import against_hooks  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("quiet")]

METHOD = Method("stand-in", "a stand-in", lambda parts: True, lambda parts, fields: None, {})
EQUALS, DIFFERS, LOADS = "each layer equals the base's plus its row", "each layer differs from", "loads every tensor"
O_PROJ = "model.layers.{}.self_attn.o_proj.bias"


def rows_of(hidden: int, seed: int = 3) -> np.ndarray:
    """Rows that bfloat16 stores as they are: float32 ``[layers, hidden]``."""
    drawn = np.random.default_rng(seed).normal(0, 0.5, (LAYERS, hidden)).astype(np.float32)
    return torch.from_numpy(drawn).bfloat16().float().numpy()


def bake(base: Path, out: Path, rows: np.ndarray, site: Any = "attention_output", **options: Any) -> Path:
    vectors = emobake.VectorSet(("joy",), rows[None], "tiny", site=site)
    emobake.bake(base, vectors, mix={"joy": 1}, out=out, force=True, **options)
    return out


def run(base: Path, out: Path, rows: np.ndarray, site: Any = "attention_output", **options: Any) -> list[Check]:
    found = dict(enumerate(rows)) if isinstance(rows, np.ndarray) else rows
    return list(against_hooks(base, out, found, site, options.pop("is_adapter", False), 3, quantised=METHOD))


def verdicts(checks: list[Check]) -> dict[str, bool | None]:
    """The verdict by the words of `EQUALS`, `DIFFERS` and `LOADS`."""
    found = {word: [check.ok for check in checks if word in check.name] for word in (EQUALS, DIFFERS, LOADS)}
    assert all(len(oks) == 1 for oks in found.values()), checks
    return {word: oks[0] for word, oks in found.items()}


GOOD = {EQUALS: True, DIFFERS: True, LOADS: True}


@pytest.fixture(scope="module")
def fp8(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, np.ndarray]:
    """An FP8 base, its bake, and the rows."""
    folder = tmp_path_factory.mktemp("fp8")
    rows = rows_of(BLOCK)
    base = write_fp8(folder / "base")
    return base, bake(base, folder / "out", rows), rows


def changed(out: Path, copy: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of `out` in which `change` was called with the tensors of the file that holds the biases."""
    shutil.copytree(out, copy)
    for file in copy.glob("*.safetensors"):
        tensors = load_file(file)
        if O_PROJ.format(1) in tensors:
            change(tensors)
            save_file(tensors, file, metadata={"format": "pt"})
    return copy


def test_a_bake_passes(fp8: tuple[Path, Path, np.ndarray]):
    checks = run(*fp8)
    assert verdicts(checks) == GOOD, checks
    (end,) = [check for check in checks if "beside the hook at every position" in check.name]
    assert end.ok is None
    assert "no bound" in end.detail


@pytest.mark.parametrize("sign", [0, -1])
def test_one_layer_without_its_bias_or_with_the_wrong_sign_fails(
    fp8: tuple[Path, Path, np.ndarray], sign: int, tmp_path: Path
):
    base, out, rows = fp8
    checks = run(base, changed(out, tmp_path / "out", lambda tensors: tensors[O_PROJ.format(1)].mul_(sign)), rows)
    assert verdicts(checks) == {EQUALS: False, DIFFERS: False, LOADS: True}, checks
    assert all("layer 1" in check.detail for check in checks if check.ok is False), checks


def test_one_value_of_one_bias_is_enough(fp8: tuple[Path, Path, np.ndarray], tmp_path: Path):
    base, out, rows = fp8
    largest = int(np.abs(rows[1]).argmax())

    def nudge(tensors: dict[str, Any]) -> None:
        tensors[O_PROJ.format(1)][largest] *= 1.5

    checks = run(base, changed(out, tmp_path / "out", nudge), rows)
    assert verdicts(checks) == GOOD | {EQUALS: False}, checks


def test_a_layer_that_should_be_unsteered_is_compared(fp8: tuple[Path, Path, np.ndarray]):
    base, out, rows = fp8
    checks = run(base, out, {0: rows[0], 2: rows[2]})  # type: ignore[arg-type]
    assert verdicts(checks) == GOOD | {EQUALS: False}, checks


def test_no_number_is_no_equal(fp8: tuple[Path, Path, np.ndarray], tmp_path: Path):
    base, out, rows = fp8
    copy = changed(out, tmp_path / "out", lambda tensors: tensors[O_PROJ.format(1)].fill_(float("nan")))
    assert verdicts(run(base, copy, rows))[EQUALS] is False


def test_the_base_itself_is_no_bake(fp8: tuple[Path, Path, np.ndarray]):
    base, _, rows = fp8
    assert verdicts(run(base, base, rows)) == {EQUALS: False, DIFFERS: False, LOADS: True}


def test_only_what_the_base_does_not_leave_over_counts(fp8: tuple[Path, Path, np.ndarray], tmp_path: Path):
    base, _, rows = fp8
    odd = {"model.layers.0.self_attn.o_proj.g_idx": torch.zeros(4)}
    spare = tmp_path / "base"
    shutil.copytree(base, spare)
    save_file(load_file(base / "model.safetensors") | odd, spare / "model.safetensors", metadata={"format": "pt"})
    baked = bake(spare, tmp_path / "out", rows)
    assert verdicts(run(spare, baked, rows)) == GOOD
    checks = run(base, baked, rows)
    assert verdicts(checks) == GOOD | {LOADS: False}, checks
    assert any("g_idx" in check.detail for check in checks if check.ok is False)


@pytest.mark.parametrize("name", ["llama2", "qwen2"])
def test_the_layer_output_is_compared_for_its_vectors(name: str, tmp_path: Path):
    base, rows = write_fp8(tmp_path / "base", name), rows_of(BLOCK)
    out = bake(base, tmp_path / "out", rows, "layer_output")
    assert verdicts(run(base, out, rows, "layer_output")) == GOOD
    none = tmp_path / "none"
    shutil.copytree(base, none)
    assert verdicts(run(base, none, rows, "layer_output")) == {EQUALS: False, DIFFERS: False, LOADS: True}


def test_mxfp4(tmp_path: Path):
    base, rows = write_mxfp4(tmp_path / "base"), rows_of(64)
    out = bake(base, tmp_path / "out", rows)
    from emobake.formats.checkpoint.check import FolderOutput
    from emobake.formats.checkpoint.open import open_folder
    from emobake.formats.output import open_output, read_record

    output = open_output(out, read_record(out))
    assert isinstance(output, FolderOutput)
    added = output.added_rows(open_folder(base))  # Its bias is there already: the sum is rounded when it is stored.
    assert verdicts(run(base, out, np.stack([added[layer] for layer in range(LAYERS)]))) == GOOD


@pytest.mark.filterwarnings("ignore:.*merging LoRA weights", "ignore:.*is_gradient_checkpointing")
def test_an_adapter_of_a_quantised_base(fp8: tuple[Path, Path, np.ndarray], tmp_path: Path):
    pytest.importorskip("peft")
    base, _, rows = fp8
    out = bake(base, tmp_path / "adapter", rows, format="peft")
    assert verdicts(run(base, out, rows, is_adapter=True)) == GOOD
    wrong = verdicts(run(base, out, -rows, is_adapter=True))
    assert wrong[EQUALS] is False
    assert wrong[DIFFERS] is False


def test_a_quantised_base_runs_in_its_own_dtype(fp8: tuple[Path, Path, np.ndarray], tmp_path: Path):
    base, _, _ = fp8
    plain = write_tiny("llama2", tmp_path / "plain", dtype="bfloat16")
    for folder, dtype in ((base, torch.bfloat16), (plain, torch.float32)):
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        model, _ = load_weights(folder, "auto" if "quantization_config" in config else torch.float32)
        assert model.dtype is dtype


def with_quantisation(folder: Path, **fields: Any) -> Path:
    write_tiny("llama2", folder)
    config = folder / "config.json"
    data = json.loads(config.read_text(encoding="utf-8")) | {"quantization_config": fields}
    config.write_text(json.dumps(data), encoding="utf-8")
    return folder


AQLM = {
    "quant_method": "aqlm",
    "in_group_size": 8,
    "out_group_size": 1,
    "num_codebooks": 1,
    "nbits_per_codebook": 16,
}


@pytest.mark.skipif(importlib.util.find_spec("aqlm") is not None, reason="aqlm is installed")
def test_a_missing_package_is_named(tmp_path: Path, cli: Run):
    base = with_quantisation(tmp_path / "base", **AQLM)
    with pytest.raises(MissingPackageError, match=r"base: does not load in transformers \(.*pip install aqlm"):
        load_weights(base, "auto")
    ran = cli("vectors", "extract", "--model", base, "--out", tmp_path / "v.safetensors")
    line = ran.one_line("pip install aqlm", code=1)
    assert "--aqlm" not in line


def test_an_unknown_quantisation_is_no_random_weights(tmp_path: Path):
    base = with_quantisation(tmp_path / "base", quant_method="modelopt", quant_algo="FP8")
    with pytest.raises(ModelError, match=r"base: does not load in transformers \(it knows no quantisation 'modelopt'"):
        load(ModelName.parse(base), Runtime(device="cpu"))
