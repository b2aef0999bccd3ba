"""Layers of a baked model compared with those of its base on the same input, on tiny models of many families."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.tiny import HIDDEN, LAYERS, VOCAB, write_tiny

import emobake
from emobake.errors import VerifyError
from emobake.formats.checkpoint.wrappers import family_of
from emobake.storage.files import read_json

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from emobake.models.loading import load_weights  # noqa: E402
from emobake.models.same_input import compare, record  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("quiet")]

# Modules that are called by position, with a residual beside, with a mask of their own, in a hybrid, latent, and two
# that are saved as another class.
FAMILIES = ["llama2", "gpt2", "bloom", "falcon", "gpt_neox", "granitemoehybrid", "minicpm3", "qwen2.5", "phi4"]
TEXTS = [np.random.default_rng(seed).integers(3, VOCAB, 9 + seed).tolist() for seed in range(2)]
ROWS = torch.from_numpy(np.random.default_rng(3).normal(0, 0.5, (LAYERS, HIDDEN)).astype(np.float32)).bfloat16()


def opened(folder: Path, site: str = "attention_output"):
    """The model in its own dtype, and its family."""
    model, _ = load_weights(folder, "auto")
    family = family_of(read_json(folder / "config.json"), site)
    assert family is not None
    return model, family


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_bake_is_the_base_plus_its_rows(name: str, dtype: str, tmp_path: Path):
    base = write_tiny(name, tmp_path / "base", dtype=dtype)
    rows = ROWS.float().numpy()
    plan = emobake.bake(
        base, emobake.VectorSet(("joy",), rows[None], "tiny"), mix={"joy": 1}, out=tmp_path / "out", force=True
    ).plan
    steered = {bias.layer for bias in plan.biases}
    model, family = opened(base)
    passes = record(model, family, TEXTS)
    before = compare(model, family, TEXTS, passes, {})
    assert {one.layer for one in before} == steered
    assert max(one.roundings for one in before) == 0
    after = compare(*opened(tmp_path / "out"), TEXTS, passes, {layer: rows[layer] for layer in steered})
    # Bloom's attention adds the residual, which rounds once more.
    assert max(one.roundings for one in after) <= (3 if name == "bloom" else 2)
    assert [one.share for one in after] == pytest.approx([1] * len(after), abs=0.02)
    without = compare(model, family, TEXTS, passes, {layer: rows[layer] for layer in steered})
    assert [one.share for one in without] == [0] * len(without)
    assert min(one.roundings for one in without) > 10


def test_models_of_other_depths_or_widths_are_refused(tmp_path: Path):
    base, family = opened(write_tiny("llama2", tmp_path / "base"))
    passes = record(base, family, TEXTS)
    shallow, _ = opened(write_tiny("llama2", tmp_path / "shallow", fields={"num_hidden_layers": 2}))
    with pytest.raises(VerifyError, match=r"layer 2 has the site in one of the two models only"):
        compare(shallow, family, TEXTS, passes, {})
    narrow, _ = opened(write_tiny("llama2", tmp_path / "narrow", fields={"hidden_size": 16, "head_dim": 4}))
    with pytest.raises(VerifyError, match=r"layer 0 takes other inputs in the two models"):
        compare(narrow, family, TEXTS, passes, {})
