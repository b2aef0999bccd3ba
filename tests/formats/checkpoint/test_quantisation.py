"""Quantised checkpoints by their headers: what the plan says, and which ones are refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from support.headers import CONFIG, JOY, LAYERS

from emobake import BakePlan, Checkpoint, make_plan
from emobake.core.stacks import Support, worse
from emobake.core.steering import steering
from emobake.core.tensors import TensorHeader, WeightFile
from emobake.errors import BrokenFileError, UnsupportedModelError
from emobake.formats.adapter.plan import make_adapter_plan
from emobake.formats.checkpoint.quantisation import find_quantisation
from emobake.formats.safetensors import parse_header

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 8}
ONE = steering(None, {"joy": 1.0})
Stored = Mapping[str, tuple[str, tuple[int, ...]]]


def gptq(outputs: int, inputs: int) -> Stored:
    """The tensors of one module."""
    return {
        "qweight": ("I32", (inputs // 8, outputs)),
        "qzeros": ("I32", (1, outputs // 8 or 1)),
        "scales": ("F16", (1, outputs)),
        "g_idx": ("I32", (inputs,)),
    }


def checkpoint(
    config: Mapping[str, Any], modules: Mapping[str, Stored], files: Mapping[str, Mapping[str, Any]] | None = None
) -> Checkpoint:
    """A checkpoint without bytes, with the same modules in each layer."""
    tensors = {
        name: TensorHeader(name, dtype, shape, "model.safetensors", 0, 0)
        for layer in range(LAYERS)
        for module, parts in modules.items()
        for part, (dtype, shape) in parts.items()
        for name in (f"model.layers.{layer}.self_attn.{module}.{part}",)
    }
    weights = (WeightFile("model.safetensors", 100),)
    return Checkpoint("base", config, weights, tensors, lambda header: b"", quant_configs=files or {})


# Four outputs and 16 inputs: two query heads of 8, and one key/value head.
SIZES = {**CONFIG, "head_dim": 8, "torch_dtype": "bfloat16"}
MODULES = {"q_proj": gptq(16, 8), "k_proj": gptq(8, 8), "v_proj": gptq(8, 8), "o_proj": gptq(4, 16)}
QUANTISED = SIZES | {"quantization_config": GPTQ}


def plan_of(config: Mapping[str, Any], modules: Mapping[str, Stored] = MODULES, **more: Any):
    targets = more.pop("targets", ())
    return make_plan(checkpoint(config, modules, **more), JOY, ONE, targets=targets)


def new_tensors(plan: BakePlan, name: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Dtypes and shapes of the tensors in a file that is all new."""
    data = next(file for file in plan.files if file.name == name).data
    return {h.name: (h.dtype, h.shape) for h in parse_header(name, len(data), lambda at, size: data[at : at + size])}


def test_the_bias_takes_the_dtype_of_the_config_and_the_widths_of_the_headers():
    plan = plan_of(QUANTISED)
    found = new_tensors(plan, "model-00002-of-00002.safetensors")
    assert {name.split(".")[-2]: shape for name, (_, shape) in found.items()} == {
        "q_proj": (16,),
        "k_proj": (8,),
        "v_proj": (8,),
        "o_proj": (4,),
    }
    assert {dtype for dtype, _ in found.values()} == {"BF16"}
    with pytest.raises(BrokenFileError, match="add torch_dtype"):
        plan_of({key: value for key, value in QUANTISED.items() if key != "torch_dtype"})


def test_an_adapter_reads_the_inputs_of_a_quantised_projection():
    plan = make_adapter_plan(checkpoint(QUANTISED, MODULES), JOY, ONE)
    found = new_tensors(plan, "adapter_model.safetensors")
    assert {shape for name, (_, shape) in found.items() if name.endswith("lora_A.weight")} == {(1, 16)}


def test_a_module_that_the_method_leaves_as_it_is():
    """The bias has the dtype of its own weight; the method still says which stacks load the checkpoint."""
    plain = {name: {"weight": ("F16", (4, 16))} if name == "o_proj" else parts for name, parts in MODULES.items()}
    plan = plan_of(QUANTISED | {"quantization_config": GPTQ | {"desc_act": True}}, plain)
    assert {bias.dtype for bias in plan.biases} == {"F16"}
    assert plan.stacks["vllm"].status == "refuses"


def test_what_a_stack_does_is_the_worse_of_family_and_method():
    plan = plan_of(QUANTISED)
    assert plan.stacks["transformers"].status == plan.stacks["vllm"].status == "steered"
    assert plan.stacks["mlx"].status == "refuses"
    with pytest.raises(UnsupportedModelError, match="mlx refuses to load it"):
        plan_of(QUANTISED, targets=["mlx"])


def test_worse():
    steered, refused = Support("steered", run=True, note="a"), Support("refuses", note="b")
    unsteered = Support("unsteered")
    assert worse(steered, refused) == worse(refused, steered) == refused
    assert worse(unsteered, refused) == refused, "what does not load misleads nobody"
    assert worse(steered, unsteered) == unsteered
    assert worse(steered, Support("steered", note="c")) == Support("steered", note="a; c")
    option = Support("option", run=True, option="-x")
    assert worse(steered, option) == Support("option", run=True, option="-x", note="a")


def test_a_config_in_a_file_of_its_own():
    plan = plan_of(SIZES, files={"quantize_config.json": {"bits": 4, "group_size": 8, "desc_act": True}})
    assert plan.stacks["vllm"].status == "refuses"
    found = find_quantisation({}, {"quantize_config.json": {"bits": 4}}, "m")
    assert found is not None and found.method is not None
    assert (found.file, found.method.name) == ("quantize_config.json", "gptq")


@pytest.mark.parametrize("other", [{"bits": 8}, {"group_size": 64}, {"desc_act": True}])
def test_two_configs_that_disagree(other):
    config = QUANTISED | {"quantization_config": GPTQ | {"desc_act": False}}
    with pytest.raises(BrokenFileError, match=r"quantize_config.json: says .*, and config.json .*; stacks read one"):
        plan_of(config, files={"quantize_config.json": {"bits": 4, **other}})


def test_a_nameless_file_is_of_the_tool_that_config_json_names():
    awq = {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm"}
    found = find_quantisation({"quantization_config": awq}, {"quantize_config.json": {"bits": 4}}, "m")
    assert found is not None and found.label == "AWQ"
    with pytest.raises(BrokenFileError, match=r"hf_quant_config.json: says quant_method 'modelopt', and config.json"):
        find_quantisation({"quantization_config": awq}, {"hf_quant_config.json": {"quantization": {}}}, "m")


def test_two_configs_that_agree():
    plan_of(QUANTISED, files={"quantize_config.json": {"bits": 4, "group_size": 8, "sym": True}})


def test_an_unknown_method_points_to_the_adapter():
    config = SIZES | {"quantization_config": {"quant_method": "squeeze"}}
    with pytest.raises(UnsupportedModelError, match=r"quant_method 'squeeze'; known are .*gptq.*`format` peft"):
        plan_of(config)
    plan = make_adapter_plan(checkpoint(config, MODULES), JOY, ONE)
    assert len(plan.biases) == LAYERS


def test_a_config_that_says_quantised_of_plain_weights_and_the_reverse():
    plain = {"o_proj": {"weight": ("F16", (4, 16))}}
    with pytest.raises(BrokenFileError, match=r"config.json: says GPTQ, but no tensor is quantised so"):
        plan_of(QUANTISED, plain)
    with pytest.raises(BrokenFileError, match=r"says nothing of a quantisation, but .*q_proj is quantised .*as GPTQ"):
        plan_of(SIZES)


@pytest.mark.parametrize(
    "stored",
    [{"weight": ("U8", (32, 1))}, {"weight": ("I8", (4, 16))}, {"weight": ("BF16", (32, 1))}, {"x": ("I8", (4,))}],
)
def test_a_projection_that_nothing_explains(stored):
    with pytest.raises(BrokenFileError, match=r"nothing of a quantisation"):
        plan_of(SIZES, {"o_proj": stored})
    with pytest.raises(BrokenFileError, match=r"o_proj is stored as .*not how GPTQ"):
        plan_of(QUANTISED, {"o_proj": stored, "q_proj": gptq(16, 8)})


def test_tensors_that_do_not_fit_the_config():
    with pytest.raises(BrokenFileError, match=r"o_proj has 12 outputs, and config.json says a hidden size of 4"):
        plan_of(QUANTISED, MODULES | {"o_proj": gptq(12, 16)})


@pytest.mark.parametrize("value", [7, "gptq", [1], True])
def test_a_quantisation_config_that_is_no_object(value):
    with pytest.raises(BrokenFileError, match=r"quantization_config is .*not an object"):
        plan_of(SIZES | {"quantization_config": value})


def test_a_config_in_a_file_of_its_own_is_written_into_config_json():
    """transformers reads config.json alone, and vLLM the file only when it is told to."""
    plan = plan_of(SIZES, files={"quantize_config.json": {"bits": 4, "group_size": 8}})
    config = json.loads(next(file for file in plan.files if file.name == "config.json").data)
    assert config["quantization_config"] == {"bits": 4, "group_size": 8, "quant_method": "gptq"}
    assert any(change.field == "quantization_config" for change in plan.config_changes)
    found = find_quantisation({}, {"quant_config.json": {"w_bit": 4, "q_group_size": 64, "version": "GEMM"}}, "m")
    assert found is not None
    assert found.in_config == {"bits": 4, "group_size": 64, "version": "GEMM", "quant_method": "awq"}
    both = find_quantisation({"quantization_config": found.in_config}, {"quant_config.json": found.fields}, "m")
    assert both is not None and both.in_config == {}, "the two agree"


MLX = {
    part: (dtype, shape)
    for part, dtype, shape in (
        ("weight", "U32", (4, 8)),
        ("scales", "BF16", (4, 1)),
        ("biases", "BF16", (4, 1)),
    )
}


def test_mlx_may_run_its_base_with_another_base_frequency():
    """A bias of MLX has the dtype of the scales, whatever the config says."""
    config = {**CONFIG, "quantization": {"bits": 4, "group_size": 64}, "torch_dtype": "float16"}
    modules = dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj"), MLX)
    nested = config | {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}}
    plan = plan_of(nested, modules)
    assert {bias.dtype for bias in plan.biases} == {"BF16"}
    (said,) = (warning for warning in plan.warnings if "rope_theta" in warning)
    assert "the output names 500000.0" in said and "by more than the steering" in said
    assert not any("rope_theta" in w for w in plan_of(nested | {"rope_theta": 500000.0}, modules).warnings)
