"""Plans are made from plain values: no disk, no torch."""

import json
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from safetensors import deserialize
from support.headers import CONFIG, JOY, LAYERS, ROWS, checkpoint

from emobake import BrokenFileError, InputError, VectorError, VectorSet, make_plan
from emobake.core.plan import PlannedFile, Span
from emobake.core.steering import steering
from emobake.formats.checkpoint.model import Checkpoint

TYPES = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


def load(data):
    """Read by the safetensors library; its numpy module has no name for bfloat16."""
    return {
        name: np.frombuffer(view["data"], TYPES[view["dtype"]]).reshape(view["shape"])
        for name, view in deserialize(data)
    }


def files_of(plan):
    return {f.name: f for f in plan.files}


def test_one_file_becomes_two_shards_with_an_index():
    plan = make_plan(checkpoint(), JOY, steering(None, {"joy": 2.0}))
    files = files_of(plan)
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    documents = {"model.safetensors.index.json", "config.json", "emobake.json", "emobake.undo", "README.md"}
    assert set(files) == {first, second, *documents}
    assert files[first] == PlannedFile.carried(first, "model.safetensors", checkpoint().weights[0].size, weights=True)
    tensors = load(files[second].data)
    for layer in range(LAYERS):
        np.testing.assert_array_equal(tensors[f"model.layers.{layer}.self_attn.o_proj.bias"], 2 * ROWS[0, layer])
        for module, width in (("q_proj", 4), ("k_proj", 2), ("v_proj", 2)):
            np.testing.assert_array_equal(tensors[f"model.layers.{layer}.self_attn.{module}.bias"], np.zeros(width))
    assert len(tensors) == 8 == len(plan.added)
    index = json.loads(files["model.safetensors.index.json"].data)
    assert index["weight_map"]["model.layers.1.self_attn.o_proj.bias"] == second
    assert index["weight_map"]["model.layers.1.self_attn.o_proj.weight"] == first
    assert index["metadata"]["total_size"] == 8 * 8 + 2 * (4 + 4 + 2 + 2) * 4
    assert json.loads(files["config.json"].data) == {**CONFIG, "attention_bias": True}


def test_shards_are_renumbered_in_order():
    names = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    plan = make_plan(checkpoint(files=names), JOY, steering(None, {"joy": 1.0}))
    carried = {f.source: f.name for f in plan.files if f.action == "carry"}
    assert carried == {names[0]: "model-00001-of-00003.safetensors", names[1]: "model-00002-of-00003.safetensors"}
    assert "model-00003-of-00003.safetensors" in files_of(plan)


def test_an_existing_bias_is_overwritten_in_place_and_nothing_is_added():
    old = {f"model.layers.{layer}.self_attn.o_proj.bias": [1.0, 2.0, 3.0, 4.0] for layer in range(LAYERS)}
    base = checkpoint({**CONFIG, "attention_bias": True}, biases=old)
    plan = make_plan(base, JOY, steering(None, {"joy": 1.0}))
    assert (plan.route, plan.added, plan.overwritten) == ("existing", (), tuple(sorted(old)))
    file = files_of(plan)["model.safetensors"]
    assert (file.action, file.source, file.size) == ("overwrite", "model.safetensors", base.weights[0].size)
    first, second = (base.tensors[f"model.layers.{layer}.self_attn.o_proj.bias"] for layer in range(LAYERS))
    head, one, two = file.pieces
    assert head == Span("model.safetensors", 0, first.start)
    assert (len(one), len(two)) == (second.start - first.start, second.end - second.start)
    for layer, data in enumerate((one, two)):
        np.testing.assert_array_equal(np.frombuffer(data, "<f4"), ROWS[0, layer] + [1, 2, 3, 4])


@pytest.mark.parametrize(("dtype", "type_"), [("BF16", ml_dtypes.bfloat16), ("F16", np.float16), ("F32", np.float32)])
def test_the_bias_takes_the_dtype_of_its_weight(dtype, type_):
    plan = make_plan(checkpoint(dtype=dtype), JOY, steering(None, {"joy": 0.3}))
    tensor = load(files_of(plan)["model-00002-of-00002.safetensors"].data)["model.layers.1.self_attn.o_proj.bias"]
    assert tensor.dtype == type_
    np.testing.assert_array_equal(tensor, (np.float32(0.3) * ROWS[0, 1]).astype(type_))


def test_layers_without_attention_cannot_take_a_vector():
    base = checkpoint()
    kept = {name: h for name, h in base.tensors.items() if ".0." not in name}
    hybrid = Checkpoint("base", CONFIG, base.weights, kept, base.read)
    with pytest.raises(InputError, match=r"layer 0 has no o_proj.*`layers` 1"):
        make_plan(hybrid, VectorSet(("joy",), ROWS + 1, "ev"), steering(None, {"joy": 1.0}))
    plan = make_plan(hybrid, VectorSet(("joy",), ROWS + 1, "ev"), steering(None, {"joy": 1.0}, layers="1"))
    assert [b.layer for b in plan.biases] == [1]


def test_a_bias_that_the_config_switches_off_must_not_come_to_life():
    name = "model.layers.0.self_attn.o_proj.bias"
    with pytest.raises(BrokenFileError, match=f"{name}, which the base's class ignores"):
        make_plan(checkpoint(biases={name: [0, 0, 1, 0]}), JOY, steering(None, {"joy": 1.0}))
    plan = make_plan(checkpoint(biases={name: [0, 0, 0, 0]}), JOY, steering(None, {"joy": 1.0}))
    assert plan.overwritten == (name,)


@pytest.mark.parametrize(
    ("rows", "words"),
    [(np.ones((1, 3, 4)), "3 layers x hidden size 4"), (np.ones((1, 2, 8)), "2 layers x hidden size 8")],
)
def test_a_set_for_another_model(rows, words):
    with pytest.raises(VectorError, match=f"{words}, but base has 2 layers x 4"):
        make_plan(checkpoint(), VectorSet(("joy",), rows.astype(np.float32), "ev"), steering(None, {"joy": 1.0}))


def test_a_bias_too_large_for_its_dtype():
    with pytest.raises(VectorError, match="too large for F16"):
        make_plan(checkpoint(dtype="F16"), JOY, steering(None, {"joy": 1e6}))


def test_zero_weights_need_force():
    with pytest.raises(InputError, match="`force` writes it"):
        make_plan(checkpoint(), JOY, steering(None, {"joy": 0.0}))
    plan = make_plan(checkpoint(), JOY, steering(None, {"joy": 0.0}), force=True)
    assert any("behaves as its base" in warning for warning in plan.warnings) and not plan.effect.steers


def test_a_strength_beyond_use_is_a_warning_that_names_it():
    assert any("strength 4 at" in w for w in make_plan(checkpoint(), JOY, steering(None, {"joy": 4.0})).warnings)
    assert not make_plan(checkpoint(), JOY, steering(None, {"joy": 1.0})).warnings


def test_side_files_and_duplicates():
    side = {
        "tokenizer.json": 5,
        "LICENSE": 3,
        "pytorch_model.bin": 9,
        "original/": 0,
        "modeling_x.py": 2,
        "README.md": 1,
    }
    plan = make_plan(checkpoint(side_files=side), JOY, steering(None, {"joy": 1.0}))
    assert {f.name for f in plan.files if f.action == "carry" and not f.weights} == {"tokenizer.json", "LICENSE"}
    assert {f.name: f.reason for f in plan.left_out} == {
        "pytorch_model.bin": "unsteered duplicate of the weights",
        "original/": "unsteered duplicate of the weights",
        "modeling_x.py": "code of the checkpoint, never run",
    }


def test_plans_of_equal_inputs_are_equal():
    plans = [make_plan(checkpoint(), JOY, steering(None, {"joy": 1.0})) for _ in range(2)]
    assert plans[0].files == plans[1].files
    assert plans[0].biases == plans[1].biases
    assert plans[0].record == plans[1].record


def test_planning_loads_nothing_heavy_and_opens_no_socket():
    code = (
        "import sys, emobake.formats.checkpoint.plan; "
        "print([m for m in ('torch', 'transformers', 'huggingface_hub', 'gguf', 'socket') if m in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
