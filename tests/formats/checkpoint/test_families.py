"""The table of families: is it well formed, and is it true of the installed transformers?

The second half builds every class from a tiny config on the meta device, with the flag off and on, and
compares the parameters that appear with those that its table announces.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any, get_args

import pytest

from emobake.core.stacks import USUAL, Status
from emobake.errors import UnsupportedModelError
from emobake.formats.checkpoint.families import Family, families, parse_families, tables
from emobake.formats.checkpoint.routes import choose_route

TABLE = families()
BAKEABLE = [a for a in TABLE.values() if not a.refusal]
REFUSED = [a for a in TABLE.values() if a.refusal]
AS_LLAMA = [a for a in TABLE.values() if "llama" in a.forms]


def by_type(rows: list[Family]) -> Callable[[Callable], Callable]:
    return pytest.mark.parametrize("family", rows, ids=lambda a: a.model_type)


# ---- well formed -----------------------------------------------------------------------------------------


def faults(family: Family) -> list[str]:
    """Missing or wrong parts of a table of families.toml, in words."""
    native = family.always or family.flag is not None
    other = bool(family.forms) or family.head is not None or family.value is not None
    steered = any(support.status == "steered" for support in family.stacks.values())
    modules = (family.projection, *family.siblings)
    unnamed = [name for name in USUAL if name not in family.stacks]
    broken = {
        "classes: name the class in config.json's architectures": not family.classes
        or not all(re.fullmatch(r"\w+", name) for name in family.classes),
        "o_proj: a module path with {layer}, without .weight": any(
            module.count("{layer}") != 1 or module.endswith((".weight", ".bias")) for module in modules
        ),
        "siblings: the projection itself is one, or one is there twice": len({*modules}) != len(modules),
        "route: give flag, always, as_CLASS, head or value, or a refusal": not (native or other or family.refusal),
        "refusal: goes without flag, always, as_CLASS and head": bool(family.refusal) and (native or other),
        "flag: the bias is there always, so no flag is needed": family.always and family.flag is not None,
        "flag_default, siblings: go with a flag": family.flag is None
        and (family.flag_default or bool(family.siblings)),
        f"ran, read: {', '.join(unnamed)} is in neither": bool(unnamed) and not family.refusal,
        "ran, read: a status is none of " + ", ".join(get_args(Status)) + ", nor an option": any(
            support.status not in get_args(Status) for support in family.stacks.values()
        ),
        "ran, read: without flag and always no stack can add the bias": not native and not other and steered,
        "ran, read: no stack adds the bias, so the family needs a refusal": native and not steered,
    }
    return [fault for fault, found in broken.items() if found]


def test_the_table_is_not_empty():
    assert len(BAKEABLE) > 50 and len(REFUSED) > 10


@pytest.mark.parametrize("family", TABLE.values(), ids=lambda family: family.model_type)
def test_every_table_is_whole(family: Family):
    assert not faults(family)


def test_notes_say_what_else_is_known():
    noted = {name: table["notes"] for name, table in tables().items() if "notes" in table}
    noted |= {
        f"{n}, layer": t["layer_output"]["notes"] for n, t in tables().items() if "notes" in t.get("layer_output", {})
    }
    assert "gpt2" in noted and "gpt2, layer" in noted
    for name, notes in noted.items():
        family = families("layer_output" if "," in name else "attention_output")[name.partition(",")[0]]
        for stack, note in notes.items():
            assert family.stacks[stack].note == note and family.stacks[stack].status != "unsteered", name


@pytest.mark.parametrize(
    ("family", "stack", "words"),
    [
        ("granitemoe", "vllm", "UNSTEERED; and with wrong probabilities, the base's too"),
        ("gpt2", "mlx", "loads steered; only where"),
        ("phimoe", "vllm", "PhiMoEForCausalLM"),
    ],
)
def test_advice_says_what_else_changes(family: str, stack: str, words: str):
    assert words in TABLE[family].stacks[stack].clause


WHOLE = {
    "classes": ["XForCausalLM"],
    "flag": "attention_bias",
    "siblings": "qkv",
    "ran": {"transformers": "steered"},
    "read": {"vllm": "unsteered", "llama.cpp": "refuses", "mlx": "--option"},
}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"classes": []}, "classes: name the class"),
        ({"o_proj": "model.o_proj.weight"}, "o_proj: a module path with {layer}"),
        ({"siblings": ["self_attn.o_proj"]}, "siblings: the projection itself is one"),
        ({"flag": None, "siblings": []}, "route: give flag, always, as_CLASS, head or value, or a refusal"),
        ({"refusal": "no bias"}, "refusal: goes without flag"),
        ({"always": True}, "flag: the bias is there always"),
        ({"flag": None, "always": True}, "flag_default, siblings: go with a flag"),
        ({"read": {"mlx": "refuses"}}, "ran, read: vllm, llama.cpp is in neither"),
        ({"ran": {"transformers": "stered"}}, "ran, read: a status is none of steered"),
        ({"ran": {"transformers": "unsteered"}}, "ran, read: no stack adds the bias"),
    ],
)
def test_an_incomplete_table_is_told_what_it_lacks(change: dict[str, Any], said: str):
    assert not faults(parse_families({"x": WHOLE})["x"])
    table = {key: value for key, value in (WHOLE | change).items() if value is not None}
    found = faults(parse_families({"x": table})["x"])
    assert any(fault.startswith(said) for fault in found), found


@by_type(AS_LLAMA)
def test_llama_forms_are_well_formed(family: Family):
    form = family.forms["llama"]
    assert set(form.ran) <= set(USUAL)
    # The route itself writes the dimensions, the class and the bias flags.
    reserved = {"hidden_size", "num_hidden_layers", "num_attention_heads", "model_type", "attention_bias"}
    assert not reserved & (set(form.defaults) | set(form.drop))
    assert not form.stacks
    # hidden_act is hard-coded in vLLM and llama.cpp; M-RoPE exists in no Llama class.
    assert set(form.require["hidden_act"]) == {"silu", None}
    for path in ("rope_scaling.type", "rope_scaling.rope_type", "rope_parameters.rope_type"):
        assert "mrope" not in form.require[path] and None in form.require[path]
    # A tensor is made once, and of one.
    assert all(rule.how != "stacked" for rule in form.rules)
    targets = [target for rule in form.rules for target in rule.targets]
    assert len({*targets}) == len(targets)
    # What a Llama class would misread (mlx-lm reads both, vLLM the window) never stays.
    if {"sliding_window", "layer_types"} & set(form.require):
        assert {"sliding_window", "layer_types"} <= set(form.drop)


# ---- true of transformers --------------------------------------------------------------------------------

DIMS: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LATENT = {
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 4,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "num_key_value_heads": 4,
    "head_dim": 4,
}
EVERY_SECOND = ["linear_attention", "full_attention"] * 2
# Fields of one family only, or whose defaults contradict the small dimensions.
EXTRA: dict[str, dict[str, Any]] = {
    "cohere2": {"sliding_window": 8},
    "deepseek_v2": {**LATENT, "n_routed_experts": 4, "n_shared_experts": 1, "first_k_dense_replace": 1},
    "deepseek_v3": {**LATENT, "n_routed_experts": 4, "n_shared_experts": 1, "first_k_dense_replace": 1, "n_group": 2,
                    "topk_group": 1},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "first_k_dense_replace": 1, "num_experts_per_tok": 2},
    "deepseek_v32": {**LATENT, "n_routed_experts": 4, "first_k_dense_replace": 1, "n_group": 2, "topk_group": 1,
                     "index_n_heads": 2, "index_head_dim": 8, "index_topk": 4},
    "glm4_moe_lite": {**LATENT, "n_routed_experts": 4, "n_group": 1, "topk_group": 1},
    "glm_moe_dsa": {**LATENT, "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "index_n_heads": 2,
                    "index_head_dim": 8, "index_topk": 4},
    "longcat_flash": {**LATENT, "num_layers": 2},
    "gemma3n_text": {"intermediate_size": [48] * 4, "num_kv_shared_layers": 2, "activation_sparsity_pattern": [0.0] * 4,
                     "layer_types": ["sliding_attention", "full_attention"] * 2, "hidden_size_per_layer_input": 8,
                     "vocab_size_per_layer_input": 64, "laurel_rank": 4},
    "gemma4_text": {"layer_types": ["sliding_attention", "full_attention"] * 2, "hidden_size_per_layer_input": 8,
                    "vocab_size_per_layer_input": 64, "num_kv_shared_layers": 0, "global_head_dim": 8},
    "granitemoehybrid": {"layer_types": EVERY_SECOND, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8,
                         "shared_intermediate_size": 16},
    "laguna": {"layer_types": ["full_attention", "sliding_attention"] * 2, "shared_expert_intermediate_size": 16},
    "llama4_text": {"intermediate_size_mlp": 48},
    "minicpm3": LATENT,
    "nemotron_h": {"layers_block_type": ["linear_attention", "full_attention", "mlp", "full_attention"],
                   "num_hidden_layers": None},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "qwen3_5_moe_text": {"layer_types": EVERY_SECOND, "shared_expert_intermediate_size": 16},
    "qwen3_5_text": {"layer_types": EVERY_SECOND},
    "qwen3_next": {"layer_types": EVERY_SECOND, "shared_expert_intermediate_size": 16},
}  # fmt: skip
# The same classes in other shapes: a sibling may be missing, or another module take its place.
VARIANTS = {
    "deepseek_v2 without q_lora": ("deepseek_v2", {"q_lora_rank": None}),
    "deepseek_v3 without q_lora": ("deepseek_v3", {"q_lora_rank": None}),
    "falcon new decoder": ("falcon", {"new_decoder_architecture": True}),
    "gemma4_text sharing k and v": ("gemma4_text", {"num_kv_shared_layers": 2, "attention_k_eq_v": True}),
    "granitemoe": ("granitemoe", {"num_local_experts": 2}),
    "phi with qk norm": ("phi", {"qk_layernorm": True}),
    "qwen3_5_text all attention": ("qwen3_5_text", {"layer_types": ["full_attention"] * 4}),
    "opt after-norm": ("opt", {"do_layer_norm_before": False}),
}
# transformers has no class for these; their rows rest on the other stacks' source.
NOT_IN_TRANSFORMERS = {"minicpm", "internlm2", "baichuan", "Yi", "orion", "kimi_k2", "gear"}
# The refused classes in which a field does reach the projection, refused for another reason.
REFUSED_ALTHOUGH_BIASED = {"ernie4_5_moe": {"use_bias"}, "longcat_flash": {"attention_bias"}}


@pytest.fixture
def _quiet():
    """transformers' advice about tiny configs (no fused kernels, odd token ids) says nothing here."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(level)


def parameters(model_type: str, **fields: Any) -> set[str]:
    """Names of all parameters of the causal language model built from a small config."""
    import torch
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    config_class = CONFIG_MAPPING[model_type]
    known = set(config_class().to_dict()) | set(getattr(config_class, "attribute_map", {}))
    small = {k: v for k, v in {**DIMS, **EXPERTS}.items() if k in known}
    small |= EXTRA.get(model_type, {}) | fields
    config = config_class(**{k: v for k, v in small.items() if v is not None or k in fields})
    with torch.device("meta"):
        model = getattr(transformers, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type])(config)
    return {name for name, _ in model.named_parameters()}


def biases(templates: tuple[str, ...], names: set[str]) -> set[str]:
    """``.bias`` names of those modules, in any layer, that have a weight among `names`."""
    modules = {t.format(layer=layer) for t in templates for layer in range(4)}
    return {f"{m}.bias" for m in modules if f"{m}.weight" in names}


def test_class_names():
    pytest.importorskip("torch")
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CLASSES

    for family in TABLE.values():
        if family.model_type in NOT_IN_TRANSFORMERS:
            assert family.model_type not in CLASSES
        else:
            assert CLASSES[family.model_type] in family.classes


CASES = {a.model_type: (a.model_type, {}) for a in BAKEABLE if a.model_type not in NOT_IN_TRANSFORMERS} | VARIANTS


@pytest.mark.torch
@pytest.mark.usefixtures("_quiet")
@pytest.mark.parametrize("case", CASES)
def test_flag_does_what_the_table_says(case: str):
    model_type, fields = CASES[case]
    family = TABLE[model_type]
    plain = parameters(model_type, **fields)
    o_proj = biases((family.projection,), plain)
    assert len(o_proj) >= 2, "no such module"
    assert all(biases((t,), plain) for t in family.siblings) or case in VARIANTS, "no such sibling"
    if family.always:
        assert o_proj <= plain
    elif family.flag is None:
        assert not o_proj & plain
    elif family.stacks["transformers"].status == "unsteered":
        assert not o_proj & parameters(model_type, **fields, **{family.flag: True})
    else:
        assert family.stacks["transformers"].status == "steered"
        off = parameters(model_type, **fields, **{family.flag: False})
        on = parameters(model_type, **fields, **{family.flag: True})
        assert on - off == o_proj | biases(family.siblings, plain)
        assert off < on
        assert plain == (on if family.flag_default else off)


@pytest.mark.torch
@pytest.mark.usefixtures("_quiet")
@by_type([a for a in REFUSED if a.model_type not in NOT_IN_TRANSFORMERS])
def test_refused_class_has_no_bias_to_switch_on(family: Family):
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    plain = parameters(family.model_type)
    o_proj = biases((family.projection,), plain)
    assert o_proj and not o_proj & plain
    fields = [k for k, v in CONFIG_MAPPING[family.model_type]().to_dict().items() if "bias" in k and v in (True, False)]
    reaching = [
        field for field in {*fields, "attention_bias"}
        for value in (True, False)
        if o_proj & parameters(family.model_type, **{field: value})
    ]  # fmt: skip
    assert set(reaching) == REFUSED_ALTHOUGH_BIASED.get(family.model_type, set())


# ---- as Llama --------------------------------------------------------------------------------------------

ROUTE_WRITES = {"model_type", "architectures", "attention_bias", "mlp_bias", "hidden_size", "num_hidden_layers",
                "num_attention_heads"}  # fmt: skip
# One that the form accepts, and fields of it that leave the class default refused.
ACCEPTED: dict[str, dict[str, Any]] = {
    "qwen2": {},
    "mistral": {"sliding_window": None},
    "ministral": {"sliding_window": None, "layer_types": ["full_attention"] * 4, "head_dim": 8},
    "seed_oss": {},
    "cwm": {"layer_types": ["full_attention"] * 4},
    "smollm3": {"no_rope_layers": [1] * 4},
    "internlm3": {},
    "phi3": {},
    "helium": {},
    "ernie4_5": {},
    "internlm2": {},
    "baichuan": {"hidden_size": 4096},
    "Yi": {},
}
REFUSED_AS_LLAMA: list[tuple[str, dict[str, Any]]] = [
    ("qwen2", {"use_sliding_window": True}),
    ("qwen2", {"layer_types": ["full_attention", "sliding_attention"] * 2}),
    ("qwen2", {"hidden_act": "gelu"}),
    ("qwen2", {"rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}}),
    ("qwen2", {"rope_parameters": {"rope_type": "mrope", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}}),
    ("mistral", {"sliding_window": 4096}),
    ("ministral", {"layer_types": ["full_attention", "sliding_attention"] * 2}),
    ("seed_oss", {"hidden_act": "gelu"}),
    ("cwm", {"layer_types": ["full_attention", "sliding_attention"] * 2}),
    ("internlm3", {"qkv_bias": True, "bias": True}),
    ("phi3", {"sliding_window": 2047}),
    ("phi3", {"partial_rotary_factor": 0.75}),
    ("phi3", {"rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}}),
    ("phi3", {"attention_bias": True}),
    ("ernie4_5", {"use_bias": True}),
    ("internlm2", {"bias": True}),
    ("baichuan", {"vocab_size": 65000}),
    ("baichuan", {"hidden_size": 5120}),
]
SIZES = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}


def source_config(family: Family, **fields: Any) -> dict[str, Any]:
    return {"model_type": family.model_type, "architectures": [family.classes[0]], **SIZES, **fields}


def route_name(config: dict[str, Any]) -> str:
    try:
        return choose_route(config, "m").name
    except UnsupportedModelError:
        return "none"


def test_every_form_is_covered():
    assert set(ACCEPTED) == {a.model_type for a in AS_LLAMA}


@pytest.mark.parametrize(("model_type", "fields"), REFUSED_AS_LLAMA)
def test_not_a_llama(model_type: str, fields: dict[str, Any]):
    accepted = source_config(TABLE[model_type], **ACCEPTED[model_type])
    assert route_name(accepted) == "llama"
    assert route_name({**accepted, **fields}) != "llama"


@pytest.mark.parametrize("model_type", ["mistral", "ministral", "cwm", "smollm3"])
def test_a_field_left_out_means_the_class_default(model_type: str):
    """A Mistral config without sliding_window has a window of 4096: absent is not null."""
    assert route_name(source_config(TABLE[model_type])) != "llama"


IN_TRANSFORMERS = [a for a in AS_LLAMA if a.model_type not in NOT_IN_TRANSFORMERS]


@pytest.mark.torch
@by_type(IN_TRANSFORMERS)
def test_defaults_that_differ_are_listed(family: Family):
    from transformers import LlamaConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    llama, source = LlamaConfig().to_dict(), CONFIG_MAPPING[family.model_type]().to_dict()
    for name in llama.keys() & source.keys() - ROUTE_WRITES:
        # The rope fields have two spellings; the next test compares what becomes of them. A head_dim of null
        # is derived from the sizes by both classes.
        if source[name] != llama[name] and name != "rope_parameters" and (name, source[name]) != ("head_dim", None):
            assert family.forms["llama"].defaults.get(name, "absent") == source[name], name


def spelled_out(config: Any, architecture: str) -> dict[str, Any]:
    return {**config.to_dict(), "architectures": [architecture]}


def old_spelling(config: dict[str, Any]) -> dict[str, Any]:
    """The same config as transformers 4 wrote it."""
    old = {k: v for k, v in config.items() if k != "rope_parameters"}
    rope = dict(config["rope_parameters"])
    old["rope_theta"] = rope.pop("rope_theta")
    old["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    return old


@pytest.mark.torch
@pytest.mark.parametrize("spelling", ["sparse", "transformers 5", "transformers 4"])
@pytest.mark.parametrize("rope", ["default", "theta", "scaled"])
@by_type(IN_TRANSFORMERS)
def test_the_llama_config_means_the_same(family: Family, rope: str, spelling: str):
    """Every field that both classes have must come out of the re-expressed config as it went in."""
    from transformers import LlamaConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    parameters: dict[str, Any] = {"rope_type": "default", "rope_theta": 5e5}
    if rope == "scaled":
        parameters = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}
    if rope == "scaled" and parameters["rope_type"] not in family.forms["llama"].require["rope_parameters.rope_type"]:
        pytest.skip("this class has no such rope")
    if family.model_type == "cwm" and rope != "default":
        parameters["rope_theta"] = 1e6  # the only base frequency that the row accepts
    fields = ACCEPTED[family.model_type] | ({} if rope == "default" else {"rope_parameters": parameters})
    raw = source_config(family, **fields)
    config_class = CONFIG_MAPPING[family.model_type]
    source = config_class(**{k: v for k, v in raw.items() if k not in ("model_type", "architectures")})
    if spelling != "sparse":
        raw = spelled_out(source, family.classes[0])
    if spelling == "transformers 4":
        raw = old_spelling(raw)
    route = choose_route(raw, "m")
    assert route.name == "llama"
    llama = LlamaConfig(**{k: v for k, v in route.config.items() if k != "model_type"})
    expected, got = source.to_dict(), llama.to_dict()
    if expected.get("head_dim") is None:
        expected["head_dim"] = 8
    for name in expected.keys() & got.keys() - {"model_type", "architectures", "attention_bias"}:
        if name == "rope_parameters":
            # A whole head turns, whether a class says so or not.
            assert got[name].get("partial_rotary_factor", 1.0) == expected[name].get("partial_rotary_factor", 1.0) == 1
            got[name].pop("partial_rotary_factor", None)
            expected[name].pop("partial_rotary_factor", None)
        assert got[name] == expected[name], name
    assert got["attention_bias"] is True
    # What older stacks read instead of rope_parameters.
    assert route.config["rope_theta"] == expected["rope_parameters"]["rope_theta"]
    assert not {"sliding_window", "layer_types"} & route.config.keys()
