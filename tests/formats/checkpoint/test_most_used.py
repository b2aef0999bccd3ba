"""The most used open chat models of 2026, by the fields of their published configs: the table in docs/models.md."""

from __future__ import annotations

from typing import Any

import pytest
from support.paths import ROOT

from emobake.core.stacks import USUAL
from emobake.errors import UnsupportedModelError
from emobake.formats.checkpoint.language_model import language_model_config
from emobake.formats.checkpoint.routes import choose_route

PAGE = ROOT / "docs" / "models.md"
NO_WINDOW = {"sliding_window": None}


def plain(model_type: str, architecture: str, layers: int, hidden: int, heads: int, keys: int, **more: Any) -> dict:
    return {
        "model_type": model_type,
        "architectures": [architecture],
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": keys,
        **more,
    }


def wrapped(model_type: str, architecture: str, text: str, *sizes: int, **more: Any) -> dict[str, Any]:
    inner = plain(text, "", *sizes, **more)
    del inner["architectures"]
    return {"model_type": model_type, "architectures": [architecture], "text_config": inner}


MODELS: dict[str, dict[str, Any]] = {
    "Qwen3-VL": wrapped("qwen3_vl", "Qwen3VLForConditionalGeneration", "qwen3_vl_text", 36, 4096, 32, 8, head_dim=128),
    "Qwen3.6-35B-A3B": wrapped(
        "qwen3_5_moe", "Qwen3_5MoeForConditionalGeneration", "qwen3_5_moe_text", 40, 2048, 16, 2, head_dim=256
    ),
    "Qwen3.6-27B": wrapped(
        "qwen3_5", "Qwen3_5ForConditionalGeneration", "qwen3_5_text", 64, 5120, 24, 4, head_dim=256
    ),
    "Gemma 4 26B-A4B": wrapped("gemma4", "Gemma4ForConditionalGeneration", "gemma4_text", 30, 2816, 16, 8),
    "Gemma 4 31B": wrapped("gemma4", "Gemma4ForConditionalGeneration", "gemma4_text", 60, 5376, 32, 16),
    "Gemma 4 E4B": wrapped("gemma4", "Gemma4ForConditionalGeneration", "gemma4_text", 42, 2560, 8, 2),
    "Qwen3": plain("qwen3", "Qwen3ForCausalLM", 36, 4096, 32, 8, head_dim=128),
    "gpt-oss": plain("gpt_oss", "GptOssForCausalLM", 24, 2880, 64, 8, attention_bias=True),
    "Llama 3.1": plain("llama", "LlamaForCausalLM", 32, 4096, 32, 8),
    "Llama 3.2, 3.3": plain("llama", "LlamaForCausalLM", 16, 2048, 32, 8),
    "Qwen2.5": plain("qwen2", "Qwen2ForCausalLM", 28, 3584, 28, 4, use_sliding_window=False, hidden_act="silu"),
    "Gemma 3": wrapped("gemma3", "Gemma3ForConditionalGeneration", "gemma3_text", 34, 2560, 8, 4, head_dim=256),
    "Qwen3-30B-A3B": plain("qwen3_moe", "Qwen3MoeForCausalLM", 48, 2048, 32, 4, head_dim=128),
    "Qwen2.5-VL": plain(
        "qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration", 28, 3584, 28, 4, use_sliding_window=False,
        hidden_act="silu", rope_scaling={"type": "mrope", "mrope_section": [16, 24, 24]},
    ),
    "DeepSeek-V3, R1": plain("deepseek_v3", "DeepseekV3ForCausalLM", 61, 7168, 128, 128, attention_bias=False),
    "DeepSeek-V3.2": plain("deepseek_v32", "DeepseekV32ForCausalLM", 61, 7168, 128, 128, attention_bias=False),
    "Mistral Small 3.1, 3.2": wrapped(
        "mistral3", "Mistral3ForConditionalGeneration", "mistral", 40, 5120, 32, 8, head_dim=128, hidden_act="silu",
        **NO_WINDOW,
    ),
    "Ministral 3, Devstral 2": wrapped("mistral3", "Mistral3ForConditionalGeneration", "ministral3", 34, 4096, 32, 8),
    "Mistral 7B v0.3, Nemo": plain(
        "mistral", "MistralForCausalLM", 40, 5120, 32, 8, head_dim=128, hidden_act="silu", **NO_WINDOW
    ),
    "GLM-4.5 to 4.7": plain("glm4_moe", "Glm4MoeForCausalLM", 46, 4096, 96, 8, head_dim=128, attention_bias=True),
    "Kimi K2.5": wrapped("kimi_k25", "KimiK25ForConditionalGeneration", "deepseek_v3", 61, 7168, 64, 64),
    "Phi-4": plain(
        "phi3", "Phi3ForCausalLM", 40, 5120, 40, 10, hidden_act="silu", rope_scaling=None, **NO_WINDOW
    ),
    "Llama 4": wrapped("llama4", "Llama4ForConditionalGeneration", "llama4_text", 48, 5120, 40, 8, head_dim=128),
    "MiniMax-M2": plain("minimax_m2", "MiniMaxM2ForCausalLM", 62, 3072, 48, 8, head_dim=128),
    "Qwen3-Next": plain("qwen3_next", "Qwen3NextForCausalLM", 48, 2048, 16, 2, head_dim=256),
}  # fmt: skip
"""Name -> what decides in config.json."""


def way(name: str, stack: str) -> str:
    """The route for one stack, in the table's words; ``*`` if it was run there, ``no`` if there is none."""
    config = MODELS[name]
    forms = {"": config}
    if "text_config" in config or "mrope" in str(config):
        forms["alone: "] = language_model_config(config, name)
    for label, form in forms.items():
        try:
            route = choose_route(form, name, [stack])
        except UnsupportedModelError:
            continue
        return label + route.name + "*" * route.stacks[stack].run
    return "no"


@pytest.fixture(scope="module")
def table() -> dict[str, dict[str, str]]:
    return {name: {stack: way(name, stack) for stack in USUAL} for name in MODELS}


def test_most_are_served(table: dict[str, dict[str, str]]):
    served = {stack: sum(row[stack] != "no" for row in table.values()) for stack in USUAL}
    assert len(table) == 25
    assert served["transformers"] >= 20 and served["vllm"] >= 18 and served["llama.cpp"] >= 14, served


def test_the_documented_table_is_what_the_routes_say(table: dict[str, dict[str, str]]):
    lines = [f"| {name} | {' | '.join(row[stack] for stack in USUAL)} |" for name, row in table.items()]
    served = [str(sum(row[stack] != "no" for row in table.values())) for stack in USUAL]
    lines.append(f"| of 25 | {' | '.join(served)} |")
    assert "\n".join(lines) in PAGE.read_text()
