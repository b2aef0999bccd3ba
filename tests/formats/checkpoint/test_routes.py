"""Choice of the route, its changes to the config, and reasons of refusals."""

from dataclasses import replace

import pytest
from support.headers import CONFIG, HIDDEN, JOY, LAYERS, checkpoint

from emobake import BrokenFileError, InputError, UnsupportedModelError, make_plan
from emobake.core.stacks import USUAL
from emobake.core.steering import steering
from emobake.formats.checkpoint.routes import choose_route

LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 8, "rope_theta": 10000.0}
QWEN2 = {
    "model_type": "qwen2",
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_size": 8,
    "num_key_value_heads": 2,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "use_sliding_window": False,
    "max_window_layers": 28,
    "torch_dtype": "bfloat16",
}


def changed(route):
    return {c.field: (c.old, c.new) for c in route.changes}


def test_llama_by_flag_touches_one_field():
    route = choose_route(LLAMA, "m")
    assert route.name == "flag"
    assert changed(route) == {"attention_bias": (None, True)}
    assert list(route.config) == [*LLAMA, "attention_bias"]
    assert {route.stacks[name].status for name in USUAL} == {"steered"}


def test_llama_with_the_flag_on_is_an_existing_bias():
    route = choose_route({**LLAMA, "attention_bias": True}, "m")
    assert (route.name, route.changes, route.siblings) == ("existing", (), ())


def test_qwen2_becomes_llama_and_keeps_the_rest():
    route = choose_route(QWEN2, "m")
    assert route.name == "llama"
    config = dict(route.config)
    assert (config["model_type"], config["architectures"]) == ("llama", ["LlamaForCausalLM"])
    assert config["attention_bias"] is True and config["mlp_bias"] is False
    assert not {"sliding_window", "use_sliding_window", "max_window_layers"} & set(config)
    assert config["rope_theta"] == 1000000.0
    assert config["rope_parameters"] == {"rope_type": "default", "rope_theta": 1000000.0}
    assert (config["torch_dtype"], config["num_key_value_heads"]) == ("bfloat16", 2)


def test_what_qwen2_assumes_and_llama_does_not_is_written_out():
    config = {k: v for k, v in QWEN2.items() if k != "num_key_value_heads"}
    assert choose_route(config, "m").config["num_key_value_heads"] == 32


def test_a_transformers_5_config_gets_the_old_rope_spelling_as_well():
    scaled = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 5e5}
    config = {k: v for k, v in QWEN2.items() if k != "rope_theta"} | {"rope_parameters": scaled}
    result = choose_route(config, "m").config
    assert result["rope_theta"] == 5e5
    assert result["rope_scaling"] == {"rope_type": "yarn", "factor": 4.0}
    assert result["rope_parameters"] == scaled


def test_rope_per_layer_type_stays_as_it_is():
    rope = {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}
    config = {"model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"], "rope_parameters": rope}
    assert changed(choose_route(config, "m")) == {"attention_bias": (None, True)}


@pytest.mark.parametrize(
    "more",
    [{"use_sliding_window": True}, {"layer_types": ["full_attention", "sliding_attention"]}, {"hidden_act": "gelu"}],
)
def test_a_qwen2_that_is_not_a_llama_is_refused(more):
    with pytest.raises(UnsupportedModelError, match=f"qwen2 cannot be baked.*{next(iter(more))}.*`format` peft"):
        choose_route({**QWEN2, **more}, "m")


MISTRAL = {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 4096}


def test_mistral_with_a_window_needs_an_explicit_demand():
    with pytest.raises(UnsupportedModelError, match=r"sliding_window is null.*`targets` vllm,llama.cpp,mlx bakes"):
        choose_route(MISTRAL, "m")
    route = choose_route(MISTRAL, "m", ["vllm"])
    assert route.name == "flag" and route.config["model_type"] == "mistral"
    assert route.stacks["transformers"].status == "unsteered"


def test_mistral_without_a_window_is_a_llama_but_a_left_out_field_means_4096():
    assert choose_route({**MISTRAL, "sliding_window": None}, "m").name == "llama"
    with pytest.raises(UnsupportedModelError):
        choose_route({k: v for k, v in MISTRAL.items() if k != "sliding_window"}, "m")


QWEN3 = {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (["llama.cpp"], "llama.cpp refuses"),
        (["vllm", "llama.cpp"], "llama.cpp refuses"),
        (["mlx", "transformers"], "mlx refuses"),
    ],
)
def test_a_demanded_stack_that_no_route_serves(targets, words):
    with pytest.raises(UnsupportedModelError, match=words):
        choose_route(QWEN3, "m", targets)


def test_vllm_is_told_to_run_the_class_of_transformers():
    """Where only that adds the bias: by the class name, which needs no option."""
    route = choose_route(QWEN3, "m")
    assert route.name == "flag+backend"
    assert changed(route)["architectures"] == (["Qwen3ForCausalLM"], ["TransformersForCausalLM"])
    assert {name: support.status for name, support in route.stacks.items() if name in USUAL} == {
        "transformers": "steered",
        "vllm": "steered",
        "llama.cpp": "refuses",
        "mlx": "refuses",
    }
    assert (route.stacks["vllm"].option, route.stacks["vllm"].run) == ("", True)


@pytest.mark.parametrize("targets", [["transformers"], ["transformers", "vllm"]])
def test_that_class_is_named_only_where_vllm_matters(targets):
    assert choose_route(QWEN3, "m", targets).name == ("flag+backend" if "vllm" in targets else "flag")


GRANITEMOE = {"model_type": "granitemoe", "architectures": ["GraniteMoeForCausalLM"], "logits_scaling": 8.0}


def test_a_route_that_keeps_another_stack_is_preferred_to_that_class():
    """llama.cpp's converter does not know it."""
    assert choose_route(GRANITEMOE, "m").name == "flag"
    assert choose_route(GRANITEMOE, "m", ["llama.cpp"]).name == "flag"


def test_the_factor_of_the_logits_that_the_backend_leaves_out_is_written_for_it():
    route = choose_route(GRANITEMOE, "m", ["vllm"])
    assert changed(route)["logit_scale"] == (None, 0.125)
    assert changed(route)["architectures"][1] == ["TransformersMoEForCausalLM"]


@pytest.mark.parametrize("value", [0, -1, "8", None, True])
def test_a_factor_that_is_no_number(value):
    with pytest.raises(BrokenFileError, match=r"logits_scaling is .*, not a positive number"):
        choose_route({**GRANITEMOE, "logits_scaling": value}, "m", ["vllm"]).config  # noqa: B018 - it is computed here


def test_minicpm3_needs_a_variable_in_vllm_and_has_no_form_for_llama_cpp():
    config = {"model_type": "minicpm3", "architectures": ["MiniCPM3ForCausalLM"], "hidden_size": 2560}
    route = choose_route(config, "m")
    assert (route.name, route.config["logit_scale"]) == ("flag+backend", 0.1)
    vllm = route.stacks["vllm"]
    assert vllm.status == "steered" and "with VLLM_MLA_DISABLE=1 in its environment" in vllm.clause
    assert vllm.command("vllm serve me/m") == "VLLM_MLA_DISABLE=1 vllm serve me/m"
    with pytest.raises(UnsupportedModelError, match="no constant row"):
        choose_route(config, "m", ["llama.cpp"])


def test_a_bake_of_such_a_bake_keeps_the_class():
    baked = choose_route(QWEN3, "m").config
    route = choose_route(baked, "m")
    assert (route.name, route.changes) == ("existing+backend", ())
    assert choose_route(baked, "m", ["transformers"]).name == "existing+backend"


def test_that_class_behind_the_own_one_changes_nothing():
    """vLLM takes the first class that it knows: it would run its own, unsteered."""
    route = choose_route({**QWEN3, "architectures": ["Qwen3ForCausalLM", "TransformersForCausalLM"]}, "m")
    assert route.config["architectures"] == ["TransformersForCausalLM"]


QWEN3_SIZES = QWEN3 | {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64, "rope_theta": 1e6}


def test_qwen3_is_a_laguna_for_mlx_and_vllm_only():
    route = choose_route(QWEN3_SIZES, "m", ["mlx", "vllm"])
    assert route.name == "laguna"
    assert route.stacks["transformers"].status == "wrong" and "WRONGLY" in route.stacks["transformers"].clause
    assert "WRONGLY" in route.warnings[0]
    config = route.config
    assert config["model_type"] == "laguna" and config["gating"] is False and config["qkv_bias"] is True
    assert config["layer_types"] == ["full_attention"] * 2 and config["mlp_layer_types"] == ["dense"] * 2
    assert config["rope_parameters"]["full_attention"]["rope_theta"] == 1e6
    assert choose_route(QWEN3_SIZES, "m").name == "flag+backend", "only when it is asked for"
    with pytest.raises(UnsupportedModelError, match="mlx refuses"):
        choose_route(QWEN3_SIZES | {"use_sliding_window": True}, "m", ["mlx"])


GEMMA3 = {
    "model_type": "gemma3_text",
    "architectures": ["Gemma3ForCausalLM"],
    "num_hidden_layers": 7,
    "rope_theta": 1e6,
    "rope_local_base_freq": 1e4,
}


@pytest.mark.parametrize("spelling", ["transformers 4", "transformers 5"])
def test_gemma3_is_a_gear_for_mlx_only(spelling):
    config = dict(GEMMA3)
    if spelling == "transformers 5":
        kinds = {"full_attention": "rope_theta", "sliding_attention": "rope_local_base_freq"}
        config["rope_parameters"] = {
            kind: {"rope_type": "default", "rope_theta": config.pop(field)} for kind, field in kinds.items()
        }
    route = choose_route(config, "m", ["mlx"])
    assert route.name == "gear" and route.stacks["transformers"].status == "refuses"
    new = route.config
    assert (new["rope_theta"], new["rope_local_base_freq"], new["head_dim"]) == (1e6, 1e4, 256)
    assert new["layer_types"] == [*["sliding_attention"] * 5, "full_attention", "sliding_attention"]
    assert choose_route(config, "m").name == "flag"


MIXTRAL = {
    "model_type": "mixtral",
    "architectures": ["MixtralForCausalLM"],
    "hidden_size": 64,
    "num_attention_heads": 4,
    "sliding_window": None,
}


@pytest.mark.parametrize(
    ("targets", "name", "architecture"),
    [
        ([], "granitemoe", "GraniteMoeForCausalLM"),
        (["llama.cpp", "mlx"], "granitemoe", "GraniteMoeForCausalLM"),
        (["vllm"], "granitemoe+backend", "TransformersMoEForCausalLM"),
    ],
)
def test_mixtral_is_a_granitemoe(targets, name, architecture):
    route = choose_route(MIXTRAL, "m", targets)
    assert (route.name, route.config["architectures"]) == (name, [architecture])
    assert route.config["attention_multiplier"] == 0.25


@pytest.mark.parametrize("more", [{"sliding_window": 4096}, {"head_dim": 32}])
def test_a_mixtral_that_is_no_granitemoe_is_refused(more):
    with pytest.raises(UnsupportedModelError, match=f"it is a GraniteMoe only when {next(iter(more))} is"):
        choose_route({**MIXTRAL, **more}, "m")


def test_an_unknown_target():
    with pytest.raises(InputError, match="unknown stack 'nothing'"):
        choose_route(LLAMA, "m", ["nothing"])


def test_a_further_stack_as_a_target():
    assert choose_route(LLAMA, "m", ["openvino", "sglang"]).name == "flag"
    with pytest.raises(UnsupportedModelError, match=r"serves every stack of `targets`: candle would load UNSTEERED"):
        choose_route(LLAMA, "m", ["candle", "openvino"])
    with pytest.raises(UnsupportedModelError, match=r"koboldcpp refuses .* a \.gguf, which KoboldCpp loads steered"):
        choose_route(LLAMA, "m", ["koboldcpp"])
    with pytest.raises(UnsupportedModelError, match=r"UNSTEERED\. .* a \.gguf, which mistral\.rs loads steered$"):
        choose_route(LLAMA, "m", ["mistral.rs"])


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "not a causal language model"),
        ({"model_type": "t5", "architectures": ["T5ForX"], "is_encoder_decoder": True}, "encoder-decoder"),
        ({"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]}, "not the causal language model"),
        ({"model_type": "gemma3", "architectures": ["Gemma3ForX"], "text_config": {}}, "Gemma3ForX is not"),
        ({"model_type": "zork_vl", "architectures": ["ZorkForX"], "text_config": {}}, "multimodal"),
        ({"model_type": "zork", "architectures": ["ZorkForCausalLM"]}, "not in emobake's table"),
        ({"model_type": "minimax_m2", "architectures": ["MiniMaxM2ForCausalLM"]}, "minimax_m2 cannot be baked"),
        ({"model_type": "kimi_k2", "architectures": ["DeepseekV3ForCausalLM"]}, "`targets` mlx bakes"),
        ({**LLAMA, "architectures": ["Qwen2ForCausalLM", "LlamaForCausalLM"]}, "Qwen2ForCausalLM is not the causal"),
        ({**LLAMA, "architectures": ["LlamaForCausalLM", "Qwen2ForCausalLM"]}, "Qwen2ForCausalLM is not the causal"),
    ],
)
def test_refusals(config, words):
    with pytest.raises(UnsupportedModelError, match=words):
        choose_route(config, "m")


@pytest.mark.parametrize(
    "config", [{}, {"model_type": 3}, {"model_type": "llama"}, {"model_type": "llama", "architectures": [1]}]
)
def test_configs_that_do_not_say_what_they_are(config):
    with pytest.raises(BrokenFileError, match=r"config.json"):
        choose_route(config, "m")


@pytest.mark.parametrize("value", ["false", "true", [0], 0, 1, {}])
def test_a_flag_that_is_neither_true_nor_false(value):
    with pytest.raises(BrokenFileError, match=r"attention_bias is .*, not true or false"):
        choose_route({**LLAMA, "attention_bias": value}, "m")


def test_the_checkpoints_own_code_is_not_referred_to():
    assert "auto_map" not in choose_route({**LLAMA, "auto_map": {"AutoModel": "x--y"}}, "m").config


SEED_OSS = CONFIG | {"model_type": "seed_oss", "architectures": ["SeedOssForCausalLM"]}
O_PROJ = [f"model.layers.{layer}.self_attn.o_proj.bias" for layer in range(LAYERS)]
RECIPE = steering(None, {"joy": 1.0})


def test_a_llama_by_another_name_keeps_the_bias_that_it_has():
    """Once refused as "a bake that never worked", although attention_out_bias is on."""
    base = checkpoint(SEED_OSS | {"attention_out_bias": True}, biases=dict.fromkeys(O_PROJ, [1.0] * HIDDEN))
    plan = make_plan(base, JOY, RECIPE)
    assert (plan.route, list(plan.overwritten)) == ("llama", O_PROJ)
    assert "attention_out_bias" not in {change.field for change in plan.config_changes if change.new is not None}


def test_a_bias_that_the_config_promises_is_there():
    with pytest.raises(BrokenFileError, match=r"says that model\.layers\.0\.self_attn\.o_proj has a bias, but no file"):
        make_plan(checkpoint(SEED_OSS | {"attention_out_bias": True}), JOY, RECIPE)


@pytest.mark.parametrize("site", ["attention_output", "layer_output"])
@pytest.mark.parametrize("config", [SEED_OSS, CONFIG | QWEN2 | {"hidden_size": HIDDEN}], ids=["seed_oss", "qwen2"])
def test_a_bias_that_the_base_ignores_is_not_switched_on(config, site):
    """With vectors of the layer output, too: a Llama that gains them has all biases of attention."""
    base = checkpoint(config, biases={O_PROJ[0]: [1.0] * HIDDEN})
    tensors = dict(base.tensors)
    for layer in range(LAYERS):
        old = tensors[f"model.layers.{layer}.self_attn.o_proj.weight"]
        tensors[f"model.layers.{layer}.mlp.down_proj.weight"] = replace(
            old, name=f"model.layers.{layer}.mlp.down_proj.weight", shape=(HIDDEN, HIDDEN)
        )
    with pytest.raises(BrokenFileError, match=r"o_proj\.bias, which the base's class ignores"):
        make_plan(replace(base, tensors=tensors), replace(JOY, site=site), RECIPE)
