"""Baked multimodal models against hooks on the unsteered wrapper: in it, alone, with an image, as an adapter."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.tiny import write_vectors

import emobake

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
from support import wrappers  # noqa: E402
from support.tiny_runs import assert_same, hooked, hooked_logits, logits  # noqa: E402
from support.wrappers import HIDDEN, LAYERS, OWN_TEXT, WRAPPERS, attention_of, image_of, rows_of  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("quiet")]

TIMES = (0.5, 0, 0, -1.0, 0.25)
IN_PLACE = [name for name in WRAPPERS if name not in OWN_TEXT]

Made = Callable[[str], tuple[Path, Path, np.ndarray]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """``made(name)`` writes a base once: its folder, that of a set, and the sum that `TIMES` makes of it."""
    folder = tmp_path_factory.mktemp("wrappers")
    rows = write_vectors(folder / "ev", LAYERS, HIDDEN)
    sums = np.float32(0.5) * rows[0] - rows[3] + np.float32(0.25) * rows[4]

    def make(name: str) -> tuple[Path, Path, np.ndarray]:
        if not (folder / name).exists():
            wrappers.write(name, folder / name)
        return folder / name, folder / "ev", sums

    return make


def bake(name: str, made: Made, out: Path, **options: Any) -> Path:
    """Bake `name`; of a hybrid the layers that have attention."""
    base, vectors, _ = made(name)
    layers = ",".join(map(str, WRAPPERS[name].attention))
    emobake.bake(model=base, vectors=vectors, times=TIMES, out=out, layers=layers, **options)
    return out


def loaded(folder: Path) -> Any:
    """The model, once it is sure that every tensor of its files found its place."""
    model, info = wrappers.load(folder)
    assert not any(info.values()), info
    return model


@pytest.mark.parametrize("name", IN_PLACE)
def test_baked_in_the_wrapper_equals_hooked(name: str, made: Made, tmp_path: Path):
    base_folder, _, sums = made(name)
    base = loaded(base_folder)
    plain = logits(base)
    expected = hooked_logits(base, attention_of(name), rows_of(name, sums))
    out = bake(name, made, tmp_path / "out")
    config = json.loads((out / "config.json").read_text())
    assert (config["text_config"]["model_type"] == "llama") == (
        WRAPPERS[name].as_llama or WRAPPERS[name].text == "llama"
    )
    assert_same(logits(loaded(out)), expected, plain)


@pytest.mark.parametrize("name", [name for name, tiny in WRAPPERS.items() if tiny.alone])
def test_the_language_model_alone_equals_hooked(name: str, made: Made, tmp_path: Path):
    base_folder, _, sums = made(name)
    base = loaded(base_folder)
    plain = logits(base)
    expected = hooked_logits(base, attention_of(name), rows_of(name, sums))
    out = bake(name, made, tmp_path / "out", text_only=True)
    model = loaded(out)
    assert type(model).__name__ == WRAPPERS[name].alone
    assert_same(logits(model), expected, plain)


@pytest.mark.parametrize("name", ["gemma3", "llava_mistral", "qwen3_vl"])
def test_an_image_before_and_after(name: str, made: Made, tmp_path: Path):
    """The vision part gives the same bits; what is said about the image is steered as by the hook."""
    base_folder, _, sums = made(name)
    base, ids = loaded(base_folder), torch.randint(3, 100, (2, 12), generator=torch.Generator().manual_seed(1))
    inputs = image_of(name, ids)
    sees = {key: inputs[key] for key in ("pixel_values", "image_grid_thw") if key in inputs}

    def answer(model: Any, **changed: Any) -> np.ndarray:
        with torch.inference_mode():
            return model(**inputs | changed).logits.numpy()

    def features(model: Any) -> list[Any]:
        with torch.inference_mode():
            found = model.get_image_features(**sees)
        found = getattr(found, "pooler_output", found)
        return list(found)

    plain = answer(base)
    assert np.abs(answer(base, pixel_values=inputs["pixel_values"] + 1) - plain).max() > 0.1, (
        "the image does not matter"
    )
    with hooked(base, attention_of(name), rows_of(name, sums)):
        expected = answer(base)
    baked = loaded(bake(name, made, tmp_path / "out"))
    assert_same(answer(baked), expected, plain)
    for before, after in zip(features(base), features(baked), strict=True):
        assert torch.equal(before, after)


@pytest.mark.parametrize("name", ["gemma3", "llava_mistral", "smolvlm", "qwen2_5_vl", "qwen3_5"])
@pytest.mark.filterwarnings("ignore:.*merging LoRA weights")
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")
def test_an_adapter_equals_the_hook(name: str, made: Made, tmp_path: Path):
    """Where the class has no bias, too: PEFT names the modules that transformers builds."""
    peft = pytest.importorskip("peft")
    base_folder, _, sums = made(name)
    base = loaded(base_folder)
    plain = logits(base)
    expected = hooked_logits(base, attention_of(name), rows_of(name, sums))
    out = bake(name, made, tmp_path / "out", format="peft")
    adapted = peft.PeftModel.from_pretrained(base, out)
    assert_same(logits(adapted), expected, plain)


@pytest.mark.parametrize("text_only", [False, True])
def test_verify_runs_both_forms(text_only: bool, made: Made, tmp_path: Path):
    base, vectors, _ = made("gemma3")
    out = bake("gemma3", made, tmp_path / "out", text_only=text_only)
    checks = emobake.verify(out, base=base, vectors=vectors, stack=["transformers"], max_new_tokens=4)
    assert not [check for check in checks if check.ok is False], checks
    assert any("equals the hook" in check.name for check in checks)
