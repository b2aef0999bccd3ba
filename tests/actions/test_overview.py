"""The overview of the ways to bake a family or a checkpoint, and ``emobake models``."""

from __future__ import annotations

import json

import pytest
from support.checkpoints import write_checkpoint
from support.gguf_files import write_model
from support.wrapper_files import write_wrapper

import emobake
from emobake.core.stacks import USUAL
from emobake.errors import InputError
from emobake.formats.checkpoint.families import families
from emobake.formats.checkpoint.wrappers import wrappers


def test_every_family_has_a_way_or_a_reason():
    found = emobake.overview()
    assert len(found) == len(families()) + sum(len(wrapper.texts) for wrapper in wrappers().values())
    for each in found:
        assert bool(each.ways) != bool(each.refusal), each.family
        assert all(set(way.stacks) >= set(USUAL) for way in each.ways)


def test_a_family_by_its_model_type():
    (own, *inside) = emobake.overview("qwen3")
    assert own.family == "qwen3" and inside[0].family == "qwen3 in internvl"
    routes = {way.route: way for way in own.ways}
    assert routes.keys() == {"flag", "flag+backend", "laguna", "head"}
    assert routes["flag"].stacks["vllm"].status == "option"
    assert routes["flag+backend"].stacks["vllm"].status == "steered"


def test_a_checkpoint_says_what_keeps_ways_closed(tmp_path):
    base = write_checkpoint(tmp_path / "base", "mistral")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"sliding_window": 4096}))
    (found,) = emobake.overview(base)
    ways = {way.route: way for way in found.ways}
    assert ways["flag"].is_open and not ways["llama"].is_open
    assert "sliding_window is null (here it is 4096)" in ways["llama"].blockers[0]


def test_a_wrapper_can_be_baked_alone(tmp_path):
    base = write_wrapper(tmp_path / "base", "mistral3")
    (found,) = emobake.overview(base)
    assert found.family == "mistral in mistral3"
    assert {(way.route, way.text_only) for way in found.ways if way.is_open} == {
        ("flag", False),
        ("llama", False),
        ("flag", True),
        ("llama", True),
    }


def test_a_file_that_gains_a_head_says_what_it_costs(tmp_path):
    write_model(tmp_path / "model.gguf", "llama")
    (found,) = emobake.overview(tmp_path / "model.gguf")
    assert [way.stacks["llama.cpp"].status for way in found.ways][:1] == ["steered"]
    assert found.ways[0].cost.is_free and not found.refusal
    assert all(way.stacks["vllm"].status == "refuses" for way in found.ways)


def test_a_file_that_the_converter_makes_is_a_way_where_llama_cpp_drops_every_form(tmp_path, cli):
    (own,) = emobake.overview("lfm2")[:1]
    assert [(way.route, way.in_gguf) for way in own.ways] == [("value", True)] and not own.refusal
    assert {stack for stack, support in own.ways[0].stacks.items() if support.status == "steered"} == {"llama.cpp"}
    ran = cli("models", "lfm2").ok()
    assert "value, as .gguf" in ran.out and "--out joyful.gguf" in ran.out and "--targets" not in ran.out
    # Where a form of the checkpoint serves llama.cpp, it is cheaper.
    assert not any(way.in_gguf for way in emobake.overview("gemma3_text")[0].ways)
    own = {"model_type": "olmo2", "architectures": ["Olmo2ForCausalLM"]}
    base = write_checkpoint(tmp_path / "base", **own)
    assert [(way.route, way.in_gguf) for way in emobake.overview(base)[0].ways] == [("flag", False), ("value", True)]


def test_unknown_names():
    with pytest.raises(InputError, match="no model_type of the table; did you mean qwen3"):
        emobake.overview("qwen3x")


def test_the_command(cli, tmp_path):
    ran = cli("models", write_checkpoint(tmp_path / "base"))
    ran.ok()
    assert "llama" in ran.out and "flag" in ran.out and "steered*" in ran.out
    (found,) = json.loads(cli("models", tmp_path / "base", "--json").out)
    assert found["family"] == "llama" and found["ways"][0]["cost"] == {"cache": 1.0, "attention_weights": 1.0}
    everything = cli("models")
    everything.ok()
    assert "No route:" in everything.out and "glm4v_text in glm4v" in everything.out
    cli("models", "zork").one_line("zork: is no folder", code=2)
