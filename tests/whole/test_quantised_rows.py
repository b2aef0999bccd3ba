"""Quantised weights whose rows are moved, or that gain a head: the numbers that they stand for, read back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support.quantised import VARIANTS, write_quantised
from support.quantised.reading import tensors_of, weight_of
from support.tiny import LAYERS

import emobake
from emobake.errors import InputError, UnsupportedModelError

pytest.importorskip("torch")
pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("quiet")]
HIDDEN, QUERIES, KEYS = 256, 256, 128
"""Widths of `support.quantised.SIZES`: 4 query heads of 64, and 2 key/value heads."""


def write(method: str, folder: Path, family: str) -> Path:
    name, options = VARIANTS.get(method, (method, {}))
    return write_quantised(folder, name, family, options=options)


def bake(base: Path, out: Path, rows: np.ndarray, **options: object) -> Path:
    emobake.bake(base, emobake.VectorSet(("joy",), rows[None], "tiny"), mix={"joy": 1}, out=out, **options)
    failed = [check for check in emobake.verify(out, base=base) if check.ok is False]
    assert not failed, failed
    return out


def rows_of(seed: int) -> np.ndarray:
    """Float32 ``[layers, hidden]`` that 8 bits of mantissa hold."""
    drawn = np.random.default_rng(seed).integers(-60, 60, (LAYERS, HIDDEN))
    return (drawn / 128).astype(np.float32)


@pytest.mark.parametrize("method", ["gptq", "gptq v2", "gptq-act-order", "awq", "w4a16", "mlx"])
def test_a_head_is_added(tmp_path: Path, method: str):
    base, rows = write(method, tmp_path / "base", "glm4"), rows_of(0)
    targets = ["mlx"] if method == "mlx" else []
    out = bake(base, tmp_path / "out", rows, targets=targets)
    assert json.loads((out / "emobake.json").read_text())["route"] == "head"
    old, new = tensors_of(base), tensors_of(out)
    for layer in range(LAYERS):
        above = f"model.layers.{layer}.self_attn."
        for part, width in (("q_proj", QUERIES), ("k_proj", KEYS), ("v_proj", KEYS)):
            was, now = (weight_of(tensors, above + part, method) for tensors in (old, new))
            np.testing.assert_array_equal(now[:width], was)
            assert len(now) > width
            assert not now[width:].any()
        was, now = (weight_of(tensors, above + "o_proj", method) for tensors in (old, new))
        np.testing.assert_array_equal(now[:, :QUERIES], was)
        np.testing.assert_array_equal(now[:, QUERIES], rows[layer])
        assert not now[:, QUERIES + 1 :].any()
        bias = new[above + "v_proj.bias"].astype(np.float32)
        assert bias[KEYS] == 1
        assert not bias[KEYS + 1 :].any()
    # Baked once more, the same column holds the sum.
    again = tensors_of(bake(out, tmp_path / "again", rows_of(1), targets=targets))
    for layer in range(LAYERS):
        now = weight_of(again, f"model.layers.{layer}.self_attn.o_proj", method)
        np.testing.assert_array_equal(now[:, QUERIES], rows[layer] + rows_of(1)[layer])


@pytest.mark.parametrize(
    "method",
    [
        "gptq",
        "gptq-act-order",
        "awq",
        "w4a16",
        "mlx",
        "w8a8",
        "fp8-channel",
        "fp8-tensor",
        "bitsandbytes-8bit",
        "fp8-block",
    ],
)
def test_fused_projections_are_taken_apart(tmp_path: Path, method: str):
    base = write(method, tmp_path / "base", "phi4")
    old, new = tensors_of(base), tensors_of(bake(base, tmp_path / "out", rows_of(0)))
    for layer in range(LAYERS):
        above = f"model.layers.{layer}."
        for fused, parts in (
            ("self_attn.qkv_proj", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
            ("mlp.gate_up_proj", ("mlp.gate_proj", "mlp.up_proj")),
        ):
            now = np.concatenate([weight_of(new, above + part, method) for part in parts])
            np.testing.assert_array_equal(now, weight_of(old, above + fused, method))
        for kept in ("self_attn.o_proj", "mlp.down_proj"):
            np.testing.assert_array_equal(weight_of(new, above + kept, method), weight_of(old, above + kept, method))
        assert not any(name.startswith(f"{above}self_attn.qkv_proj") for name in new)


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("w8a8", "because each of its scales serves whole rows"),
        ("fp8-channel", "because each of its scales serves whole rows"),
        ("fp8-tensor", "because one scale serves the whole module"),
        ("fp8-block", "because each of its scales serves 128 rows"),
        ("gptq asymmetric", "in a layout whose rows cannot be moved as bytes"),
        ("hqq", "in a layout whose rows cannot be moved as bytes"),
    ],
)
def test_a_head_has_no_room(tmp_path: Path, method: str, said: str):
    base = write(method, tmp_path / "base", "glm4")
    with pytest.raises(UnsupportedModelError, match=said):
        bake(base, tmp_path / "out", rows_of(0))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", ["bitsandbytes-4bit", "hqq", "exl2"])
def test_fused_projections_that_stay(tmp_path: Path, method: str):
    base = write(method, tmp_path / "base", "phi4")
    with pytest.raises(UnsupportedModelError, match=r"its weights are quantised .*cannot be laid out as a Llama's"):
        bake(base, tmp_path / "out", rows_of(0))


def test_a_config_that_names_the_fused_projection(tmp_path: Path):
    base = write("gptq", tmp_path / "base", "phi4")
    config = json.loads((base / "config.json").read_text())
    config["quantization_config"]["modules_in_block_to_quantize"] = [["self_attn.qkv_proj"], ["self_attn.o_proj"]]
    (base / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"config.json names qkv_proj, which a Llama does not have"):
        bake(base, tmp_path / "out", rows_of(0))


@pytest.mark.parametrize("mode", ["hardlink", "copy"])
def test_old_biases_are_overwritten_in_a_copy_and_a_line_says_so(tmp_path: Path, mode: str):
    """Loaders read every tensor of a file, so the old biases must not stay in one."""
    base, said = write("gptq with zero biases", tmp_path / "base", "qwen2"), list[str]()
    out = emobake.Folder(tmp_path / "out", link_mode=mode)  # type: ignore[arg-type]
    vectors = emobake.VectorSet(("joy",), rows_of(0)[None], "tiny")
    emobake.bake(base, vectors, mix={"joy": 1}, out=out, notice=said.append)
    assert len(said) == (mode == "hardlink")
    assert all("model.safetensors was copied, not linked" in line for line in said)
    old, new = tensors_of(base), tensors_of(tmp_path / "out")
    assert old.keys() == new.keys()
    for layer in range(LAYERS):
        name = f"model.layers.{layer}.self_attn.o_proj.bias"
        assert not old[name].any()
        np.testing.assert_array_equal(new[name].astype(np.float32), rows_of(0)[layer])
