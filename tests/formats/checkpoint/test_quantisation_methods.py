"""Quantisation methods: which one a config says, and what headers in its published layout tell."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emobake.core.stacks import USUAL
from emobake.core.tensors import TensorHeader
from emobake.formats.checkpoint.quantisation.method import Method, Parts, Quantiser
from emobake.formats.checkpoint.quantisation.methods import METHODS, QUANTISERS

OUT, IN = 256, 512
quick = settings(max_examples=300, derandomize=True, database=None, deadline=None)


def parts(**shapes: tuple[str, tuple[int, ...]]) -> Parts:
    """Headers of one module, by the last part of their names."""
    return {name: TensorHeader(f"m.{name}", dtype, shape, "f", 0, 0) for name, (dtype, shape) in shapes.items()}


def pick(fields: dict[str, Any]) -> Method | str:
    """The method that a config says, by its ``quant_method``; without one, as MLX's."""
    (one,) = (q for q in QUANTISERS if fields.get("quant_method", "mlx") in q.names)
    return one.pick(fields)


def ct(stored: str, /, activations: Any = None, **weights: Any) -> dict[str, Any]:
    """A config of compressed-tensors with one group."""
    group = {"targets": ["Linear"], "weights": weights, "input_activations": activations}
    return {"quant_method": "compressed-tensors", "format": stored, "config_groups": {"group_0": group}}


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True}
MODELOPT = {"quant_method": "modelopt", "quant_algo": "FP8"}
DYNAMIC = {"num_bits": 8, "dynamic": True, "strategy": "token"}
NVFP4 = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}
MIXED = ct("mixed-precision", num_bits=4) | {"config_groups": {"a": {"weights": {}}, "b": {"weights": {}}}}
SPARSE = ct("float-quantized", type="float", strategy="channel") | {"sparsity_config": {"format": "sparse-24-bitmask"}}
PUBLISHED: list[tuple[str, dict[str, Any]]] = [
    ("bitsandbytes-4bit", {"quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False}),
    ("bitsandbytes-8bit", {"quant_method": "bitsandbytes", "load_in_4bit": False, "load_in_8bit": True}),
    ("gptq", GPTQ),
    ("gptq", GPTQ | {"checkpoint_format": "gptq_v2"}),
    ("gptq", GPTQ | {"desc_act": True, "group_size": -1}),
    ("gptq-act-order", GPTQ | {"desc_act": True}),
    ("marlin", GPTQ | {"checkpoint_format": "marlin"}),
    ("marlin", GPTQ | {"is_marlin_format": True}),
    ("marlin-24", GPTQ | {"checkpoint_format": "marlin_24"}),
    ("awq", {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm", "zero_point": True}),
    ("awq", {"quant_method": "awq", "w_bit": 4, "q_group_size": 128, "version": "GEMM"}),
    ("awq-gemv", {"quant_method": "awq", "bits": 4, "version": "gemv"}),
    ("w4a16", ct("pack-quantized", num_bits=4, type="int", strategy="group", group_size=128)),
    ("w4a16-act-order", ct("pack-quantized", num_bits=4, type="int", strategy="group", actorder="group")),
    ("w4a16", ct("pack-quantized", num_bits=4, type="int", strategy="group", actorder="static")),
    ("w4a16-channel", ct("pack-quantized", num_bits=8, type="int", strategy="channel")),
    ("w4a8", ct("pack-quantized", DYNAMIC, num_bits=4, type="int", strategy="group")),
    ("w8a8", ct("int-quantized", DYNAMIC, num_bits=8, type="int", strategy="channel")),
    ("w8a8-tensor", ct("int-quantized", DYNAMIC, num_bits=8, type="int", strategy="tensor")),
    ("fp8-channel", ct("float-quantized", DYNAMIC, num_bits=8, type="float", strategy="channel")),
    ("fp8-tensor", ct("float-quantized", num_bits=8, type="float", strategy="tensor")),
    ("ct-fp8-block", ct("float-quantized", num_bits=8, type="float", strategy="block")),
    ("nvfp4", ct("nvfp4-pack-quantized", NVFP4, **NVFP4)),
    ("ct-mx", ct("mxfp4-pack-quantized", num_bits=4, type="float", strategy="group", group_size=32)),
    ("ct-mixed", MIXED),
    ("ct-sparse", SPARSE),
    ("marlin-24", ct("marlin-24", num_bits=4)),
    ("fp8-block", {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}),
    ("fp8-scale-inv", {"quant_method": "fp8", "activation_scheme": "static", "weight_block_size": None}),
    ("fp8", {"quant_method": "fp8", "activation_scheme": "static", "ignored_layers": ["lm_head"]}),
    ("fbgemm-fp8", {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}),
    ("modelopt-fp8", MODELOPT),
    ("modelopt-fp8", {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8"}} | MODELOPT),
    ("modelopt-fp8-block", MODELOPT | {"quant_algo": "fp8_pb_wo"}),
    ("modelopt-mxfp8", MODELOPT | {"quant_algo": "MXFP8"}),
    ("modelopt-nvfp4", MODELOPT | {"quant_algo": "NVFP4", "group_size": 16}),
    ("modelopt-mixed", MODELOPT | {"quant_algo": "MIXED_PRECISION", "quantized_layers": {}}),
    ("mxfp4", {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]}),
    ("torchao", {"quant_method": "torchao", "quant_type": {"default": {"_type": "Int8WeightOnlyConfig"}}}),
    ("hqq", {"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 4}}}),
    ("aqlm", {"quant_method": "aqlm", "in_group_size": 8, "num_codebooks": 1, "nbits_per_codebook": 16}),
    ("vptq", {"quant_method": "vptq", "config_for_layers": {}}),
    ("spqr", {"quant_method": "spqr", "bits": 3, "beta1": 16, "beta2": 16, "shapes": {}}),
    ("eetq", {"quant_method": "eetq", "weights": "int8"}),
    ("quark", {"quant_method": "quark", "export": {"pack_method": "reorder"}, "exclude": ["lm_head"]}),
    ("auto-round", {"quant_method": "auto-round", "bits": 4, "packing_format": "auto_round:auto_gptq"}),
    ("intel-auto-round", {"quant_method": "intel/auto-round", "bits": 4}),
    ("bitnet", {"quant_method": "bitnet", "modules_to_not_convert": None}),
    ("bitnet-autobitlinear", {"quant_method": "bitnet", "linear_class": "autobitlinear"}),
    ("exl2", {"quant_method": "exl2", "version": "0.2.0", "bits": 4.25, "head_bits": 6}),
    ("exl3", {"quant_method": "exl3", "version": "0.0.6", "bits": 4.0}),
    ("marlin", {"quant_method": "marlin"}),
    ("mlx", {"group_size": 64, "bits": 4}),
    ("mlx", {"group_size": 32, "bits": 4, "mode": "mxfp4"}),
]

WORDS = {"qweight": ("I32", (IN // 8, OUT)), "scales": ("F16", (4, OUT)), "qzeros": ("I32", (4, OUT // 8))}
TRANSPOSED = {"qweight": ("I32", (IN, OUT // 8)), "scales": ("F16", (4, OUT))}
FLOAT8 = {"weight": ("F8_E4M3", (OUT, IN)), "weight_scale": ("F32", (OUT, 1))}
PAIRS = {"weight": ("U8", (OUT, IN // 2)), "weight_scale": ("F8_E4M3", (OUT, IN // 16))}
PACKED = {"weight_packed": ("I32", (OUT, IN // 8)), "weight_scale": ("BF16", (OUT, 4)), "weight_shape": ("I64", (2,))}
LAYOUTS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("bitsandbytes-8bit", {"weight": ("I8", (OUT, IN)), "SCB": ("F32", (OUT,)), "weight_format": ("U8", ())}, {}),
    ("gptq", WORDS, {"bits": 4}),
    ("gptq", {"qweight": ("I32", (IN * 3 // 32, OUT)), "scales": ("F16", (4, OUT))}, {"bits": 3}),
    ("gptq-act-order", WORDS, {"bits": 4}),
    ("marlin", {"B": ("I32", (IN // 16, OUT * 2)), "s": ("F16", (4, OUT))}, {}),
    ("marlin-24", {"B_24": ("I32", (IN // 32, OUT * 2)), "B_meta": ("I16", (1, 1)), "s": ("F16", (4, OUT))}, {}),
    ("awq", TRANSPOSED, {"bits": 4}),
    ("awq-gemv", {"qweight": ("I32", (OUT, IN // 8)), "scales": ("F16", (OUT, 8))}, {}),
    ("w4a16", PACKED, ct("pack-quantized", num_bits=4)),
    ("w8a8", {"weight": ("I8", (OUT, IN)), "weight_scale": ("BF16", (OUT, 1))}, {}),
    ("fp8-channel", FLOAT8, {}),
    ("nvfp4", {"weight_packed": PAIRS["weight"], "weight_scale": PAIRS["weight_scale"]}, {}),
    ("fp8-block", {"weight": FLOAT8["weight"], "weight_scale_inv": ("F32", (2, 4))}, {}),
    ("fp8-scale-inv", {"weight": FLOAT8["weight"], "weight_scale_inv": ("BF16", ())}, {}),
    ("fp8", {"weight": FLOAT8["weight"], "weight_scale": ("F32", ())}, {}),
    ("fbgemm-fp8", FLOAT8, {}),
    ("modelopt-fp8", {"weight": FLOAT8["weight"], "weight_scale": ("F32", ())}, {}),
    ("modelopt-nvfp4", PAIRS | {"weight_scale_2": ("F32", ())}, {}),
    ("torchao", {"_weight_qdata": ("I8", (OUT, IN)), "_weight_scale": ("BF16", (OUT, 1))}, {}),
    ("aqlm", {"codes": ("I16", (OUT, IN // 8, 1)), "codebooks": ("F16", (1, 65536, 1, 8))}, {}),
    ("eetq", {"weight": ("I8", (IN, OUT)), "weight_scales": ("F16", (OUT,))}, {}),
    ("quark", FLOAT8, {}),
    ("quark", {"weight": ("U8", (OUT, IN // 2)), "weight_scale": ("U8", (OUT, IN // 32))}, {}),
    ("auto-round", WORDS, {"bits": 4}),
    ("auto-round", TRANSPOSED, {"bits": 4, "packing_format": "auto_round:auto_awq"}),
    ("auto-round", FLOAT8, {"bits": 8, "packing_format": "auto_round:fp8"}),
    ("bitnet", {"weight": ("U8", (OUT // 4, IN)), "weight_scale": ("BF16", (1,))}, {}),
    ("exl2", {"q_weight": ("I32", (70, OUT)), "q_invperm": ("I32", (IN,)), "q_scale_max": ("F16", (4,))}, {}),
    ("exl3", {"trellis": ("I16", (IN // 16, OUT // 16, 64)), "suh": ("F16", (IN,)), "svh": ("F16", (OUT,))}, {}),
    ("mlx", {"weight": ("U32", (OUT, IN // 8)), "scales": ("BF16", (OUT, 8))}, {"bits": 4, "group_size": 64}),
    ("mlx", {"weight": ("U32", (OUT, IN // 8)), "scales": ("U8", (OUT, 16))}, {"bits": 4, "group_size": 32}),
]
SHAPELESS: list[tuple[str, dict[str, Any]]] = [
    ("bitsandbytes-4bit", {"weight": ("U8", (OUT * IN // 2, 1))}),
    ("hqq", {"W_q": ("U8", (OUT * IN // 128, 64)), "scale": ("F16", (OUT * IN // 64, 1))}),
    ("vptq", {"indices": ("I32", (1, 32, 1024)), "weight_scale": ("BF16", (IN,)), "weight_bias": ("BF16", (IN,))}),
    ("spqr", {"dense_weights": ("I64", (8192,)), "row_offsets": ("I32", (257,)), "col_vals": ("I32", (99,))}),
    ("mxfp4", {"down_proj_blocks": ("U8", (4, OUT, 16, 16)), "down_proj_scales": ("U8", (4, OUT, 16))}),
    ("torchao", {"_weight_qdata": ("U8", (OUT, IN // 2))}),
]


def test_names_are_unique_and_every_stack_is_named():
    assert len(METHODS) == sum(len(one.methods) for one in QUANTISERS)
    names = [name for one in QUANTISERS for name in one.names]
    assert len(set(names)) == len(names)
    for method in METHODS.values():
        assert list(method.stacks) == list(USUAL), method.name
        assert all(support.status != "option" for support in method.stacks.values()), method.name


@pytest.mark.parametrize(("name", "fields"), PUBLISHED)
def test_a_published_config_says_its_method(name, fields):
    assert pick(fields) is METHODS[name]


def test_every_method_is_said_by_a_published_config():
    assert {name for name, _ in PUBLISHED} == set(METHODS)


def test_the_older_file_of_modelopt_says_its_method_alone():
    (modelopt,) = (one for one in QUANTISERS if "hf_quant_config.json" in one.files)
    older = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4", "exclude_modules": ["lm_head"]}}
    assert modelopt.pick(older) is METHODS["modelopt-nvfp4"]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"quant_method": "bitsandbytes"}, "it says neither load_in_4bit nor load_in_8bit"),
        (GPTQ | {"bits": "x"}, "its bits is 'x'"),
        (GPTQ | {"bits": True}, "its bits is True"),
        (GPTQ | {"checkpoint_format": "bitblas"}, "its checkpoint_format is 'bitblas'"),
        ({"quant_method": "awq", "bits": 8}, "its bits is 8"),
        ({"quant_method": "awq", "version": "gemv_fast"}, "its version is 'gemv_fast', which only GPU kernels read"),
        ({"quant_method": "awq", "backend": "llm-awq"}, "its version is 'llm-awq', which only GPU kernels read"),
        ({"quant_method": "compressed-tensors"}, "it has no config_groups that quantise weights"),
        (ct("mxfp6-pack-quantized"), "its format is 'mxfp6-pack-quantized'"),
        (ct("int-quantized", strategy="group"), "its weights are 'int' with the strategy 'group'"),
        ({"quant_method": "fp8", "weight_block_size": [0, {}]}, "its weight_block_size is a JSON list"),
        (MODELOPT | {"quant_algo": ["FP8"]}, "its quant_algo is ''"),
        ({"quant_method": "auto-round", "packing_format": "y" * 99}, "its packing_format is '" + "y" * 36 + "..."),
        ({"quant_method": "bitnet", "quantization_mode": "online"},
         "its quantization_mode is 'online', which rounds plain weights while the model runs"),
        ({}, "it names no quant_method, and its bits is None"),
        ({"bits": 4, "group_size": 64, "mode": "new"}, "its mode is 'new'"),
    ],
)  # fmt: skip
def test_the_reason_why_a_config_says_none_is_a_clause(fields, reason):
    assert pick(fields) == reason


@pytest.mark.parametrize(("name", "shapes", "fields"), LAYOUTS)
def test_a_published_layout_tells_its_shape(name, shapes, fields):
    method, module = METHODS[name], parts(**shapes)
    assert method.holds(module)
    assert method.shape(module, fields) == (OUT, IN)


@pytest.mark.parametrize(("name", "shapes"), SHAPELESS)
def test_a_layout_that_does_not_tell_its_shape_is_known_all_the_same(name, shapes):
    method, module = METHODS[name], parts(**shapes)
    assert method.holds(module)
    assert method.shape(module, {}) is None


def test_a_plain_module_is_none_of_them():
    plain = parts(weight=("BF16", (OUT, IN)), bias=("BF16", (OUT,)))
    assert [name for name, method in METHODS.items() if method.holds(plain)] == []


@pytest.mark.parametrize(
    ("bits", "group_size"),
    [(8, 64), (4, 32), (None, 64), (4, 0), (True, 64)],
    ids=["bits", "group", "none", "0", "bool"],
)
def test_an_mlx_module_of_other_bits_than_the_config_tells_no_shape(bits, group_size):
    module = parts(weight=("U32", (OUT, IN // 8)), scales=("BF16", (OUT, 8)))
    assert METHODS["mlx"].shape(module, {"bits": bits, "group_size": group_size}) is None


@pytest.mark.parametrize("name", ["mlx", "eetq", "exl2", "exl3"])
def test_the_bias_has_the_dtype_of_a_part_that_the_layout_has(name):
    (shapes,) = {id(s): s for n, s, _ in LAYOUTS if n == name and "U8" not in str(s)}.values()
    assert set(METHODS[name].bias_like) <= shapes.keys() | {"weight_scales"}


FIELD_NAMES = sorted(
    {key for _, fields in PUBLISHED for key in fields} | {"weights", "strategy", "type", "actorder", "format", "mode"}
)
PART_NAMES = sorted({key for _, shapes, *_ in [*LAYOUTS, *SHAPELESS] for key in shapes})
leaves = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 300), st.floats(), st.sampled_from([10**400, "", "gptq", "int", "é"])
)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(FIELD_NAMES), inner, max_size=4)
    ),
    max_leaves=12,
)
configs = st.one_of(
    st.dictionaries(st.sampled_from(FIELD_NAMES), values, max_size=6),
    st.builds(
        lambda pair, other: pair[1] | other,
        st.sampled_from(PUBLISHED),
        st.dictionaries(st.sampled_from(FIELD_NAMES), values, max_size=2),
    ),
)
dtypes = st.sampled_from(["F32", "BF16", "F16", "U8", "I8", "I16", "I32", "U32", "I64", "F8_E4M3", "BOOL", "F4", ""])
sizes = st.one_of(st.integers(0, 40), st.sampled_from([2**31, 2**59]))
headers = st.builds(
    lambda dtype, shape: TensorHeader("m.x", dtype, tuple(shape), "f", 0, 0), dtypes, st.lists(sizes, max_size=5)
)
modules = st.dictionaries(st.sampled_from(PART_NAMES), headers, max_size=5)


@quick
@given(one=st.sampled_from(QUANTISERS), fields=configs)
def test_no_config_breaks_the_choice(one: Quantiser, fields: dict[str, Any]):
    found = one.pick(fields)
    if isinstance(found, str):
        assert found and len(found) < 200 and "\n" not in found
    else:
        assert METHODS[found.name] is found


@quick
@given(module=modules, fields=configs)
def test_no_headers_break_a_method(module: Parts, fields: dict[str, Any]):
    for method in METHODS.values():
        if method.holds(module):
            shape = method.shape(module, fields)
            assert shape is None or (len(shape) == 2 and all(type(side) is int and side > 0 for side in shape))
