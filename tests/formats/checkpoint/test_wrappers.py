"""Multimodal wrappers: the table, plans inside the wrapper and of the language model alone, refusals, records.

The last part builds every class of the table that the installed transformers has, and compares.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors
from support.checkpoints import NUMPY, edit_json, read_tensors, tree, vector_rows, write_json, write_vectors
from support.hub_server import Repo
from support.pushes import addressed, without_attributes
from support.running import TARGET
from support.wrapper_files import CLASSES, PREFIXES, PROCESSOR, write_wrapper

import emobake
from emobake.core.record import Record
from emobake.core.side_files import is_carried
from emobake.core.stacks import USUAL
from emobake.core.toml import shipped_tables
from emobake.errors import BrokenFileError, InputError, UnsupportedModelError
from emobake.formats.checkpoint import wrappers as module
from emobake.formats.checkpoint.families import families
from emobake.formats.checkpoint.language_model import language_model, language_model_config
from emobake.formats.checkpoint.open import open_folder
from emobake.formats.checkpoint.routes import choose_route
from emobake.formats.checkpoint.wrappers import Text, Wrapper, family_of, wrapped, wrappers

TABLE = wrappers()
CELLS = [(wrapper, text) for wrapper in TABLE.values() for text in wrapper.texts.values()]
BAKEABLE = [(w, t) for w, t in CELLS if not t.refusal]
LAYOUTS = [(w, t, prefix) for w, t in BAKEABLE for prefix in w.prefixes]
ALONE = [(w, t, prefix) for w, t in CELLS if t.like in families() for prefix in w.prefixes]
JOY = {"joy": 1.0}


def name_of(value: object) -> str:
    return value if isinstance(value, str) else getattr(value, "model_type", "")


# ---- the table ------------------------------------------------------------------------------------------------

KEYS = {"classes", "prefixes", "live_prefix", "builds_text", "nested", "texts"}
TEXT_KEYS = {"head", "in_gguf", "like", "ran", "read", "ran_as_llama", "defaults", "refusal", "alone", "notes"}


@pytest.mark.parametrize("wrapper", TABLE.values(), ids=name_of)
def test_every_table_is_whole(wrapper: Wrapper):
    table = shipped_tables("emobake.formats.checkpoint", "wrappers.toml")[wrapper.model_type]
    assert set(table) <= KEYS, "an unknown key"
    assert wrapper.classes and all(re.fullmatch(r"\w+ForConditionalGeneration", name) for name in wrapper.classes)
    assert wrapper.prefixes and all(re.fullmatch(r"(\w+\.)+", prefix) for prefix in wrapper.prefixes)
    assert len({*wrapper.prefixes}) == len(wrapper.prefixes)
    assert re.fullmatch(r"(\w+\.)+", wrapper.live_prefix)
    assert wrapper.texts, "no language model"
    # The route saves a language model as a Llama inside the wrapper, whose stacks are those of this entry.
    if wrapper.builds_text and any(
        t.like in families() and "llama" in families()[t.like].forms for t in wrapper.texts.values()
    ):
        assert "llama" in wrapper.texts


@pytest.mark.parametrize(("wrapper", "text"), CELLS, ids=name_of)
def test_every_language_model_is_whole(wrapper: Wrapper, text: Text):
    table = shipped_tables("emobake.formats.checkpoint", "wrappers.toml")[wrapper.model_type]["texts"][text.model_type]
    assert set(table) <= TEXT_KEYS, "an unknown key"
    assert set(text.stacks) == set(USUAL)
    told = {*table.get("ran", {}), *table.get("read", {})}
    steered = any(support.status == "steered" for support in text.stacks.values())
    if text.refusal:
        assert not told and not steered
    else:
        assert text.like in families() and told == set(USUAL), "ran, read: name every stack"
        form = families()[text.like].forms.get("llama")
        assert steered or (wrapper.builds_text and form is not None), "no stack adds the bias, so it needs a refusal"
        assert not text.ran_as_llama or (wrapper.builds_text and form is not None)
        assert {"num_hidden_layers", "hidden_size"} <= set(text.defaults)
    assert set(text.ran_as_llama) <= set(USUAL)
    assert not {"model_type", "architectures"} & (set(text.defaults) | set(text.alone))


def test_no_wrapper_is_a_family():
    assert not set(TABLE) & set(families())
    assert len(TABLE) > 20


# ---- inside the wrapper ---------------------------------------------------------------------------------------


def plain_modules(like: str) -> list[str]:
    """Modules of a decoder layer that gain a bias, the projection last."""
    family = families()[like]
    return [name.partition("{layer}.")[2] for name in (*family.siblings, family.projection)]


def write_case(folder: Path, wrapper: Wrapper, text: Text, prefix: str, **more: Any) -> Path:
    """A checkpoint of a cell of the table in one of its layouts."""
    config = {"architectures": list(wrapper.classes[:1]), "model_type": wrapper.model_type}
    known = next(name for name in CLASSES if (name in ("qwen2_vl", "qwen2_5_vl")) != wrapper.nested)
    modules = dict.fromkeys(
        ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", *plain_modules(text.like), "self_attn.o_proj"]
    )
    return write_wrapper(folder, known, text.model_type, prefix=prefix, config=config, modules=tuple(modules), **more)


def targets_of(wrapper: Wrapper, text: Text) -> list[str]:
    """Stacks to ask for: those that add the bias, where transformers does not."""
    family = wrapped(wrapper, text)
    if "llama" in family.forms or text.stacks["transformers"].status == "steered":
        return []
    return [name for name, support in text.stacks.items() if support.status == "steered"]


@pytest.mark.parametrize(("wrapper", "text", "prefix"), LAYOUTS, ids=name_of)
def test_every_layout_gains_biases_beside_its_projections(wrapper: Wrapper, text: Text, prefix: str, tmp_path: Path):
    base = write_case(tmp_path / "base", wrapper, text, prefix, shards=2)
    write_vectors(tmp_path / "ev")
    targets = targets_of(wrapper, text)
    plan = emobake.bake(base, tmp_path / "ev", mix=JOY, out=tmp_path / "out", targets=targets).plan
    before, after = read_tensors(base), read_tensors(tmp_path / "out")
    rows = vector_rows("joy", 2, 8)
    assert [bias.tensor for bias in plan.biases] == [f"{prefix}layers.{n}.self_attn.o_proj.bias" for n in (0, 1)]
    new = {name: tensor for name, tensor in after.items() if name not in before}
    for layer in (0, 1):
        dtype, shape, data = new.pop(f"{prefix}layers.{layer}.self_attn.o_proj.bias")
        assert (dtype, shape, data) == ("BF16", (8,), rows[layer].astype(ml_dtypes.bfloat16).tobytes())
    qwen = text.model_type.startswith("qwen2")
    zeros = set() if qwen else set(plain_modules("llama" if plan.route == "llama" else text.like)[:-1])
    assert set(new) == {f"{prefix}layers.{n}.{name}.bias" for n in (0, 1) for name in zeros}
    assert all(not any(data) for _, _, data in new.values()), "explicit zeros"
    for name, tensor in before.items():
        assert after[name] == tensor, name
    for name, content in PROCESSOR.items():
        if is_carried(name):
            assert (tmp_path / "out" / name).read_bytes() == content.encode(), name
    old, config = (json.loads((f / "config.json").read_text()) for f in (base, tmp_path / "out"))
    inner, changed = old.pop("text_config"), config.pop("text_config")
    assert config == old, "nothing outside text_config changes"
    if plan.route == "flag":
        expected = inner | {str(families()[text.like].flag): True}
        if text.model_type == "llama":
            expected["architectures"] = ["LlamaForCausalLM"]
        assert changed == expected
    else:
        assert plan.route == "llama"
        assert changed["model_type"] == "llama" and changed["attention_bias"] is True
        assert not {"sliding_window", "use_sliding_window", "max_window_layers"} & set(changed)
        kept = set(inner) - {"model_type", "sliding_window", "use_sliding_window", "max_window_layers"}
        assert {key: changed[key] for key in kept} == {key: inner[key] for key in kept}
        assert changed["rope_parameters"] == {"rope_type": "default", "rope_theta": 20000.0}
    assert plan.multimodal and {change.field.partition(".")[0] for change in plan.config_changes} == {"text_config"}
    assert not [c for c in emobake.verify(tmp_path / "out", base=base, vectors=tmp_path / "ev") if c.ok is False]


@pytest.mark.parametrize("name", ["llava", "qwen3_vl"])
def test_the_old_rope_is_written_beside_the_new_in_text_config(name: str, tmp_path: Path):
    rope = {"rope_type": "default", "rope_theta": 30000.0}
    base = write_wrapper(
        tmp_path / "base", name, inner={"rope_theta": "-", "rope_scaling": "-", "rope_parameters": rope}
    )
    write_vectors(tmp_path / "ev")
    emobake.bake(base, tmp_path / "ev", mix=JOY, out=tmp_path / "out")
    inner = json.loads((tmp_path / "out" / "config.json").read_text())["text_config"]
    assert (inner["rope_theta"], inner["rope_parameters"]) == (30000.0, rope)


def test_a_language_model_without_model_type_is_the_classs_own(tmp_path: Path):
    base = write_wrapper(tmp_path / "base", "mistral3", inner={"model_type": "-"})
    write_vectors(tmp_path / "ev")
    plan = emobake.bake(base, tmp_path / "ev", mix=JOY, dry_run=True).plan
    assert (plan.model_type, plan.route) == ("mistral in mistral3", "llama")


def test_an_existing_bias_is_added_to(tmp_path: Path):
    inner = {"attention_bias": True}
    modules = tuple(f"self_attn.{p}_proj" for p in "qkvo")
    base = write_wrapper(tmp_path / "base", "gemma3", inner=inner, biased=modules, prefix="model.language_model.")
    write_vectors(tmp_path / "ev")
    plan = emobake.bake(base, tmp_path / "ev", mix=JOY, out=tmp_path / "out").plan
    assert (plan.route, plan.added, len(plan.overwritten)) == ("existing", (), 2)
    name = "model.language_model.layers.1.self_attn.o_proj.bias"
    old, new = (np.frombuffer(read_tensors(f)[name][2], NUMPY["BF16"]) for f in (base, tmp_path / "out"))
    wanted = old.astype(np.float32) + vector_rows("joy", 2, 8)[1]
    np.testing.assert_array_equal(new, wanted.astype(ml_dtypes.bfloat16))


# ---- hybrids --------------------------------------------------------------------------------------------------


def test_rows_without_attention_are_lost_only_on_demand(tmp_path: Path, cli):
    """One layer in four has the projection in Qwen3.5, here two of four."""
    base = write_wrapper(tmp_path / "base", "qwen3_5", layers=4, attention=(1, 3))
    write_vectors(tmp_path / "ev", 4)
    bake = ("--model", base, "--vectors", tmp_path / "ev", "--mix", "joy=1", "--out", tmp_path / "out")
    line = cli(*bake).one_line("layer 0 has no o_proj", "2 of 4 layers have one", "--layers 1,3", "--force")
    assert "`" not in line and not (tmp_path / "out").exists()
    shown = json.loads(cli(*bake, "--layers", "1,3", "--json").ok().out)
    assert [entry["layer"] for entry in shown["layers"]] == [1, 3]
    assert any("only 2 of 4 layers have o_proj" in warning for warning in shown["warnings"])
    forced = tmp_path / "forced"
    ran = cli(*bake[:-1], forced, "--force").ok()
    assert "only 2 of 4 layers have o_proj: the others are not steered" in ran.err + ran.out
    assert read_tensors(forced) == read_tensors(tmp_path / "out")
    assert json.loads((forced / "emobake.json").read_text())["steered_layers"] == [1, 3]
    assert not [c for c in emobake.verify(forced, base=base, vectors=tmp_path / "ev") if c.ok is False]
    adapter = cli(*bake[:-1], tmp_path / "adapter", "--format", "peft").one_line("layer 0 has no o_proj")
    assert "--layers 1,3" in adapter


# ---- refusals -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("wrapper", "text"), [(w, t) for w, t in CELLS if t.refusal], ids=name_of)
def test_a_language_model_that_cannot_take_the_bias(wrapper: Wrapper, text: Text):
    config = {"model_type": wrapper.model_type, "architectures": list(wrapper.classes[:1])}
    config |= {"text_config": {"model_type": text.model_type}} if wrapper.nested else {}
    with pytest.raises(UnsupportedModelError) as error:
        choose_route(config, "m")
    assert text.refusal in str(error.value) and "`format` peft" in str(error.value)
    plain = families().get(text.like)
    assert ("`text_only` bakes its language model alone" in str(error.value)) == (
        plain is not None and not plain.refusal
    )


@pytest.mark.parametrize(
    ("config", "inner", "words"),
    [
        ({"model_type": "zork", "architectures": ["ZorkForConditionalGeneration"]}, {}, ("zork", "not in emobake's")),
        ({}, {"model_type": "zork"}, ("llava with the language model 'zork'", "llama, mistral, qwen2 is")),
        ({"architectures": ["Gemma3ForConditionalGeneration"]}, {}, ("Gemma3ForConditionalGeneration is not",)),
        ({"architectures": ["LlamaForCausalLM"]}, {}, ("LlamaForCausalLM is not",)),
        ({"architectures": []}, {}, ("no architectures",)),
        ({"model_type": "-"}, {}, ("no model_type",)),
        ({"model_type": ["llava"]}, {}, ("no model_type",)),
        ({"text_config": []}, {}, ("not a causal language model",)),
        ({"text_config": "llama"}, {}, ("not a causal language model",)),
        ({"text_config": None}, {}, ("not a causal language model",)),
        ({}, {"num_hidden_layers": 2**40}, ("num_hidden_layers is 1099511627776",)),
        ({}, {"num_hidden_layers": "2"}, ("num_hidden_layers is '2'",)),
        ({}, {"hidden_size": -8}, ("hidden_size is -8",)),
        ({}, {"attention_bias": "true"}, ("attention_bias is 'true', not true or false",)),
        ({}, {"num_hidden_layers": "-"}, ("32 layers",)),
    ],
)
def test_strange_configs_are_refused_in_one_line(config, inner, words, tmp_path: Path, refused):
    base = write_wrapper(tmp_path / "base", "llava", config=config, inner=inner)
    vectors = write_vectors(tmp_path / "ev")
    refused(base, vectors, *words)


def test_missing_language_model(tmp_path: Path, refused):
    base = write_wrapper(tmp_path / "base", "llava", prefix="other.model.")
    vectors = write_vectors(tmp_path / "ev")
    refused(base, vectors, "no tensor language_model.model.layers.0")
    refused(base, vectors, "no tensor language_model.model.layers.0", more=("--text-only",))


def test_text_only_where_it_does_not_fit(tmp_path: Path, refused, base: Path):
    vectors = write_vectors(tmp_path / "ev")
    refused(base, vectors, "is not a multimodal checkpoint", "--text-only", more=("--text-only",))
    # Before anything is read: neither exists.
    more = ("--text-only", "--format", "peft")
    refused("nowhere/at-all", vectors, "--text-only", "--format checkpoint", more=more)
    refused("nowhere.gguf", vectors, "nowhere.gguf", "a language model alone already", more=("--text-only",))
    zork = write_wrapper(tmp_path / "zork", config={"model_type": "zork"})
    refused(zork, vectors, "zork is not in the table of multimodal checkpoints", more=("--text-only",))
    lfm = write_wrapper(
        tmp_path / "lfm", config={"model_type": "lfm2_vl", "architectures": ["Lfm2VlForConditionalGeneration"]},
        inner={"model_type": "lfm2"},
    )  # fmt: skip
    refused(lfm, vectors, "lfm2", more=("--text-only",))


def test_a_stack_that_would_drop_the_bias(tmp_path: Path, refused):
    base = write_wrapper(tmp_path / "base", "qwen3_5")
    vectors = write_vectors(tmp_path / "ev")
    text = json.loads((base / "config.json").read_text())["text_config"]
    edit_json(base / "config.json", text_config=text | {"quantization_config": {"quant_method": "fp8"}})
    refused(base, vectors, "qwen3_5_text in qwen3_5", "UNSTEERED", "--text-only", more=("--targets", "vllm"))


# ---- alone ----------------------------------------------------------------------------------------------------


def spans(file: Path) -> Iterator[tuple[str, int, int, int]]:
    """Name, beginning and end of the data, and bytes per element of every tensor, straight from the header."""
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    assert length % 8 == 0
    for name, entry in json.loads(content[8 : 8 + length]).items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            yield name, begin, end, {"BF16": 2, "F32": 4, "F64": 8, "F16": 2}[entry["dtype"]]


@pytest.mark.parametrize(("wrapper", "text", "prefix"), ALONE, ids=name_of)
def test_the_language_model_alone(wrapper: Wrapper, text: Text, prefix: str, tmp_path: Path):
    base = write_case(tmp_path / "base", wrapper, text, prefix, shards=2)
    write_vectors(tmp_path / "ev")
    family = families()[text.like]
    if family.refusal:
        with pytest.raises(UnsupportedModelError, match=re.escape(family.refusal[:40])):
            emobake.bake(base, tmp_path / "ev", mix=JOY, dry_run=True, text_only=True)
        return
    targets = ["vllm"] if "llama" not in family.forms and family.stacks["transformers"].status == "unsteered" else []
    out = tmp_path / "out"
    plan = emobake.bake(base, tmp_path / "ev", mix=JOY, out=out, text_only=True, targets=targets).plan
    before, after = read_tensors(base), read_tensors(out)
    head = "language_model." if prefix == "language_model.model." else ""
    expected = {f"model.{name.removeprefix(prefix)}": t for name, t in before.items() if name.startswith(prefix)}
    expected["lm_head.weight"] = before[f"{head}lm_head.weight"]
    assert {name: after[name] for name in expected} == expected
    assert set(after) - set(expected) == set(plan.added)
    assert all(name.startswith("model.layers.") for name in plan.added)
    config = json.loads((out / "config.json").read_text())
    assert "text_config" not in config and "vision_config" not in config and "image_token_id" not in config
    assert config["tie_word_embeddings"] is False and config["torch_dtype"] == "bfloat16"
    plain = "llama" if plan.route == "llama" else families()[text.like].model_type
    family = families()[plain]
    backend = [family.backend.name] if plan.route.endswith("+backend") and family.backend is not None else []
    assert config["model_type"] == plain and config["architectures"] == (backend or list(family.classes[:1]))
    assert "mrope" not in json.dumps(config) or text.like == text.model_type
    assert not plan.multimodal and plan.record.text_only
    for file in sorted(out.glob("model-*.safetensors")):
        position = 0
        for _, begin, end, size in spans(file):
            assert begin == position and begin % size == 0, "no holes, aligned"
            position = end
        assert file.stat().st_size == 8 + int.from_bytes(file.read_bytes()[:8], "little") + position
        safetensors.deserialize(file.read_bytes())
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == after.keys()
    assert index["metadata"]["total_size"] == sum(len(data) for _, _, data in after.values())
    checks = emobake.verify(out, base=base, vectors=tmp_path / "ev")
    assert not [check for check in checks if check.ok is False], checks
    assert not [check for check in emobake.verify(out) if check.ok is False]


def test_files_of_images_stay_behind(tmp_path: Path):
    base = write_wrapper(tmp_path / "base")
    write_vectors(tmp_path / "ev")
    plan = emobake.bake(base, tmp_path / "ev", mix=JOY, out=tmp_path / "out", text_only=True).plan
    reasons = {entry.name: entry.reason for entry in plan.left_out}
    images = {"preprocessor_config.json", "video_preprocessor_config.json", "processor_config.json"}
    alone = {name for name, reason in reasons.items() if reason == "the output is the language model alone"}
    assert alone == {*images, "chat_template.json", "the vision part"}
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert not names & alone and {"tokenizer.json", "LICENSE", "generation_config.json"} <= names
    template = json.loads(PROCESSOR["chat_template.json"])["chat_template"]
    assert (tmp_path / "out" / "chat_template.jinja").read_text(encoding="utf-8") == template


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"chat_template.jinja": "{{ own }}"}, "{{ own }}"),
        ({"tokenizer_config.json": '{"chat_template": "{{ other }}"}'}, None),
        ({"chat_template.json": '{"chat_template": ["no text"]}'}, None),
        ({"chat_template.json": "{}"}, None),
    ],
)
def test_a_template_elsewhere_is_kept(files: dict[str, str], expected: str | None, tmp_path: Path):
    base = write_wrapper(tmp_path / "base", side_files=PROCESSOR | files)
    write_vectors(tmp_path / "ev")
    emobake.bake(base, tmp_path / "ev", mix=JOY, out=tmp_path / "out", text_only=True)
    found = tmp_path / "out" / "chat_template.jinja"
    assert (found.read_text() if found.exists() else None) == expected


@pytest.mark.parametrize("content", ["{", "[]", '{"chat_template": "\\ud800"}'])
def test_a_broken_template(content: str, tmp_path: Path, refused):
    base = write_wrapper(tmp_path / "base", side_files=PROCESSOR | {"chat_template.json": content})
    refused(base, write_vectors(tmp_path / "ev"), "chat_template.json", more=("--text-only",))
    # Inside the wrapper the file is none of a bake's business.
    emobake.bake(base, tmp_path / "ev", mix=JOY, dry_run=True)


@pytest.mark.parametrize("outer", [True, False, "-"])
@pytest.mark.parametrize("inner", [True, False, "-"])
@pytest.mark.parametrize("head", [True, False])
def test_the_head_on_disk_decides_whether_it_is_tied(outer: Any, inner: Any, head: bool, tmp_path: Path):
    fields = {"inner": {"tie_word_embeddings": inner}, "config": {"tie_word_embeddings": outer}}
    base = write_wrapper(tmp_path / "base", head=head, **fields)
    assert language_model(open_folder(base)).config["tie_word_embeddings"] is not head


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}}, {"rope_scaling": None}),
        ({"rope_scaling": {"rope_type": "default", "type": "default", "mrope_section": [1]}}, {"rope_scaling": None}),
        (
            {
                "rope_scaling": {
                    "rope_type": "yarn",
                    "factor": 4.0,
                    "mrope_section": [1, 1, 2],
                    "mrope_interleaved": True,
                }
            },
            {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
        ),
        (
            {"rope_scaling": "-", "rope_parameters": {"rope_type": "default", "rope_theta": 5.0, "mrope_section": [1]}},
            {"rope_parameters": {"rope_type": "default", "rope_theta": 5.0}},
        ),
    ],
)
def test_positions_of_images_leave_the_rope(fields, expected, tmp_path: Path):
    for name in ("qwen2_5_vl", "qwen3_vl"):
        config = language_model(open_folder(write_wrapper(tmp_path / name, name, inner=fields))).config
        assert {key: config.get(key) for key in expected} == expected


def test_fields_that_the_class_fills_in_are_written(tmp_path: Path):
    base = write_wrapper(
        tmp_path / "base",
        "qwen3_vl_moe" if "qwen3_vl_moe" in CLASSES else "qwen3_vl",
        inner=dict.fromkeys(("rope_theta", "max_position_embeddings", "rope_scaling"), "-"),
    )
    config = language_model(open_folder(base)).config
    assert (config["rope_theta"], config["max_position_embeddings"]) == (500000.0, 128000)
    moe = edit_json(base / "config.json", model_type="qwen3_vl_moe").parent
    config = json.loads((moe / "config.json").read_text())
    config["text_config"] |= {"model_type": "qwen3_vl_moe_text"}
    config["architectures"] = ["Qwen3VLMoeForConditionalGeneration"]
    write_json(moe / "config.json", config)
    alone = language_model(open_folder(moe)).config
    assert (alone["norm_topk_prob"], alone["head_dim"], alone["num_experts"]) == (True, 128, 60)


@pytest.mark.parametrize("text", ["gemma", "gemma2"])
def test_the_text_of_paligemma_alone_is_causal(text: str):
    """transformers writes the field for the tokens of an image, and vLLM's backend obeys it for text."""
    config = {
        "model_type": "paligemma",
        "architectures": ["PaliGemmaForConditionalGeneration"],
        "text_config": {"model_type": text, "use_bidirectional_attention": True},
    }
    assert language_model_config(config, "m")["use_bidirectional_attention"] is False


def test_a_shard_of_images_alone_is_left_out(tmp_path: Path):
    base = write_wrapper(tmp_path / "base", "qwen3_vl", shards=8, layers=2)
    write_vectors(tmp_path / "ev")
    tensors = read_tensors(base)
    part = len(list(base.glob("model-*.safetensors")))
    emobake.bake(base, tmp_path / "ev", mix=JOY, out=tmp_path / "out", text_only=True)
    checkpoint = open_folder(base)
    kept = {t.file for t in checkpoint.tensors.values() if t.name.startswith(("model.", "lm_head."))}
    shards = sorted(path.name for path in (tmp_path / "out").glob("model-*.safetensors"))
    count = len(kept) + 1
    assert shards == [f"model-{n:05d}-of-{count:05d}.safetensors" for n in range(1, count + 1)]
    assert len(kept) <= part and any(name.startswith("vision_tower") for name in tensors)


# ---- records --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text_only", [False, True])
def test_the_record_comes_back(text_only: bool, tmp_path: Path):
    base = write_wrapper(tmp_path / "base", "mistral3")
    write_vectors(tmp_path / "ev")
    record = emobake.bake(base, tmp_path / "ev", mix=JOY, dry_run=True, text_only=text_only).plan.record
    data = json.loads(json.dumps(record.to_json()))
    assert Record.from_json(data, "x").to_json() == data and data.get("text_only", False) is text_only
    assert data["model_type"] == ("mistral" if text_only else "mistral in mistral3")
    for wrong in ("yes", 1, None):
        with pytest.raises(InputError, match="not a record"):
            Record.from_json(data | {"text_only": wrong}, "x")


def failed(out: Path, base: Path | None) -> str:
    return "; ".join(f"{c.name}: {c.detail}" for c in emobake.verify(out, base=base) if c.ok is False)


TAMPERING: dict[str, tuple[bool, dict[str, Any], str, str]] = {
    "off": (False, {"attention_bias": False}, "UNSTEERED", "UNSTEERED"),
    "as text": (False, {"attention_bias": "true"}, "UNSTEERED", "UNSTEERED"),
    "another model": (False, {"model_type": "qwen3"}, "UNSTEERED", "UNSTEERED"),
    "another rope": (False, {"rope_theta": 1.0}, "text_config: rope_theta is 1.0, not 20000.0", "config.json"),
    "off, alone": (True, {"attention_bias": False}, "UNSTEERED", "UNSTEERED"),
    "another rope, alone": (True, {"rope_theta": 1.0}, "rope_theta is 1.0, not 20000.0", "config.json"),
    "tied, alone": (True, {"tie_word_embeddings": True}, "tie_word_embeddings is true, not false", "config.json"),
}


@pytest.mark.parametrize("what", TAMPERING)
def test_verify_finds_a_changed_config(what: str, tmp_path: Path):
    text_only, change, with_base, without = TAMPERING[what]
    base, out = write_wrapper(tmp_path / "base", "llava"), tmp_path / "out"
    write_vectors(tmp_path / "ev")
    emobake.bake(base, tmp_path / "ev", mix=JOY, out=out, text_only=text_only)
    assert not failed(out, base) and not failed(out, None)
    config = json.loads((out / "config.json").read_text())
    fields = config if text_only else config["text_config"]
    fields |= change
    write_json(out / "config.json", config)
    assert with_base in failed(out, base)
    assert without in failed(out, None)


def test_verify_finds_what_became_of_files(tmp_path: Path):
    base, out = write_wrapper(tmp_path / "base", "llava"), tmp_path / "out"
    write_vectors(tmp_path / "ev")
    emobake.bake(base, tmp_path / "ev", mix=JOY, out=out, text_only=True)
    weights = next(iter(sorted(out.glob("model-*.safetensors"))))
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert weights.name in failed(out, base)
    weights.write_bytes(good)
    (out / "chat_template.jinja").write_text("{{ other }}")
    assert "chat_template.jinja" in failed(out, base) and "chat_template.jinja" in failed(out, None)
    (out / "chat_template.jinja").unlink()
    assert "chat_template.jinja" in failed(out, base)


def test_a_second_bake_adds_to_the_first(tmp_path: Path):
    base = write_wrapper(tmp_path / "base", "gemma3")
    write_vectors(tmp_path / "ev")
    emobake.bake(base, tmp_path / "ev", mix=JOY, out=tmp_path / "one")
    plan = emobake.bake(tmp_path / "one", tmp_path / "ev", mix={"fear": 2.0}, out=tmp_path / "two").plan
    assert (plan.route, plan.effect.recipe) == ("existing", "1 x joy + 2 x fear")
    assert not failed(tmp_path / "two", tmp_path / "one")
    # The language model of a baked wrapper keeps the wrapper's bake.
    plan = emobake.bake(
        tmp_path / "one", tmp_path / "ev", mix={"fear": 2.0}, out=tmp_path / "three", text_only=True
    ).plan
    assert (plan.route, plan.effect.recipe) == ("existing", "1 x joy + 2 x fear")
    assert not failed(tmp_path / "three", tmp_path / "one")
    checks = emobake.verify(tmp_path / "three", base=tmp_path / "one", vectors=tmp_path / "ev")
    assert any(check.name == "arithmetic" and check.ok for check in checks)
    assert "not a multimodal checkpoint" in failed(tmp_path / "three", tmp_path / "three")


# ---- the command line and the Hub -----------------------------------------------------------------------------


def test_the_summary(tmp_path: Path, cli):
    base = write_wrapper(tmp_path / "base", "llava")
    vectors = write_vectors(tmp_path / "ev")
    ran = cli("--model", base, "--vectors", vectors, "--mix", "joy=1", "--out", tmp_path / "in").ok()
    assert "llama in llava" in ran.out and "text_config.attention_bias: absent -> true" in ran.out
    ran = cli("--model", base, "--vectors", vectors, "--mix", "joy=1", "--out", tmp_path / "out", "--text-only").ok()
    assert "GGUF" not in ran.out and "1 weight file in part" in ran.out
    assert "the output is the language model alone" in ran.out
    assert "(llama)" in ran.out


def test_a_gguf_file_has_no_vision_part(tmp_path: Path, cli):
    script = tmp_path / "convert_hf_to_gguf.py"
    script.write_text("")
    base, vectors = write_wrapper(tmp_path / "base", "llava"), write_vectors(tmp_path / "ev")
    bake = ("--model", base, "--vectors", vectors, "--mix", "joy=1", "--out", tmp_path / "o.gguf", "--dry-run")
    warnings = json.loads(cli(*bake, "--converter", script, "--json").ok().out)["warnings"]
    assert any("mmproj" in warning and "images" in warning for warning in warnings)
    warnings = json.loads(cli(*bake, "--converter", script, "--json", "--text-only").ok().out)["warnings"]
    assert not any("mmproj" in warning for warning in warnings)


def test_from_hub_to_hub(over, online, hub, vectors: Path, tmp_path: Path):
    base = write_wrapper(tmp_path / "wrapper", "qwen3_vl", shards=3)
    hub.repos["owner/seeing"] = Repo()
    hub.repos["owner/seeing"].commit(base)
    shown = json.loads(over("--json", model="owner/seeing").ok().out)
    actions = {f["name"]: f["action"] for f in shown["hub"]["files"]}
    assert [actions[f"model-0000{n}-of-00004.safetensors"] for n in (1, 2, 3)] == ["copy"] * 3
    assert len(hub.uploaded()) == 1, "the bias shard, and not a weight"
    online("--model", "owner/seeing", "--vectors", vectors, "--mix", "joy=1", "--out", tmp_path / "out", "-q").ok()
    assert without_attributes(hub.repos[TARGET]) == addressed(tree(tmp_path / "out"), TARGET)
    assert "FAIL" not in online("verify", TARGET, "--base", "owner/seeing", "--vectors", vectors).ok().out


def test_the_language_model_from_hub_to_hub(over, online, hub, vectors: Path, tmp_path: Path):
    base = write_wrapper(tmp_path / "wrapper", "qwen2_5_vl", shards=3)
    hub.repos["owner/seeing"] = Repo()
    hub.repos["owner/seeing"].commit(base)
    over("--text-only", model="owner/seeing").ok()
    bake = ("--model", "owner/seeing", "--vectors", vectors, "--mix", "joy=1", "--text-only", "-q")
    online(*bake, "--out", tmp_path / "out").ok()
    assert without_attributes(hub.repos[TARGET]) == addressed(tree(tmp_path / "out"), TARGET)
    files = hub.repos[TARGET].files()
    assert not any(name.endswith("preprocessor_config.json") for name in files) and "chat_template.jinja" in files
    assert "FAIL" not in online("verify", TARGET, "--base", "owner/seeing", "--vectors", vectors).ok().out


# ---- true of transformers -------------------------------------------------------------------------------------

NOT_BUILT = {"gemma3n": "needs the package timm", "llava_onevision.llama": "", "internvl.llama": ""}
"""Cells that no test builds; those without a reason have a class that another cell tests."""


def cell(wrapper: Wrapper, text: Text) -> str:
    return f"{wrapper.model_type}.{text.model_type}"


@pytest.mark.torch
def test_every_cell_has_a_model_that_is_run():
    pytest.importorskip("transformers")
    from support.wrappers import WRAPPERS

    run = {f"{tiny.model_type}.{tiny.text}" for tiny in WRAPPERS.values()}
    missing = {cell(w, t) for w, t in BAKEABLE} - run - set(NOT_BUILT) - {f"{n}.{n}_text" for n in NOT_BUILT}
    assert missing <= {"mistral3.llama", "mistral3.ministral3", "llava_next.llama"}


@pytest.mark.torch
@pytest.mark.parametrize("wrapper", TABLE.values(), ids=name_of)
def test_class_names_and_the_language_model_by_default(wrapper: Wrapper):
    transformers = pytest.importorskip("transformers")
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as NAMES

    assert NAMES[wrapper.model_type] in wrapper.classes
    assert hasattr(transformers, NAMES[wrapper.model_type])
    assert CONFIG_MAPPING[wrapper.model_type]().text_config.model_type == next(iter(wrapper.texts))


# What decides by the tensors, and what a Llama route drops or an attribute of another name holds.
_DECIDED = {"model_type", "architectures", "transformers_version", "tie_word_embeddings", "rope_parameters", "dtype"}
_WINDOWS = {"use_sliding_window", "sliding_window", "max_window_layers", "layer_types"}
# PaliGemma sets both in its own language model, for the part of a prompt that it sees at once.
_PREFIX = {"use_bidirectional_attention", "num_image_tokens"}


@pytest.mark.torch
@pytest.mark.parametrize(("wrapper", "text"), [c for c in CELLS if c[1].like in families()], ids=name_of)
def test_defaults_that_differ_are_listed(wrapper: Wrapper, text: Text):
    """A field that config.json leaves out means what the wrapper's class says, not what the plain one does."""
    pytest.importorskip("transformers")
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    inside = CONFIG_MAPPING[wrapper.model_type](text_config={"model_type": text.model_type}).text_config
    plain = CONFIG_MAPPING[families()[text.like].model_type]()
    names = getattr(plain, "attribute_map", {})
    ours, theirs = inside.to_dict(), plain.to_dict()
    own = {getattr(inside, "attribute_map", {}).get(key, key): value for key, value in text.defaults.items()}
    for key, value in own.items():
        if key != "rope_theta":
            assert ours[key] == value, key
    rope = ours.get("rope_parameters") or {}
    assert "rope_theta" not in own or rope["rope_theta"] == own["rope_theta"]
    if rope != (theirs.get("rope_parameters") or {}):
        assert "rope_theta" in own, rope
    written = {names.get(key, key) for key in (*text.defaults, *text.alone)} | set(own)
    for key in (ours.keys() | theirs.keys()) - _DECIDED - _WINDOWS - _PREFIX - written:
        if key in ours or theirs[key] not in (None, False):
            assert ours.get(key) == theirs.get(key), key


@pytest.mark.torch
@pytest.mark.usefixtures("quiet")
def test_flag_and_names_do_what_the_table_says():
    """On the meta device: where the modules are, and which parameters appear with the flag."""
    torch = pytest.importorskip("torch")
    from support.wrappers import WRAPPERS, build

    def parameters(name: str, **inner: Any) -> set[str]:
        with torch.device("meta"):
            return {parameter for parameter, _ in build(name, **inner).named_parameters()}

    for name, tiny in WRAPPERS.items():
        wrapper = TABLE[tiny.model_type]
        text, family = wrapper.texts[tiny.text], wrapped(wrapper, wrapper.texts[tiny.text])
        off, on = parameters(name), parameters(name, attention_bias=True)
        o_proj = {f"{family.live(family.projection).format(layer=layer)}.bias" for layer in tiny.attention}
        assert {bias.replace(".bias", ".weight") for bias in o_proj} <= off, name
        obeyed = text.stacks["transformers"].status == "steered"
        siblings = {
            f"{family.live(template).format(layer=layer)}.bias" for template in family.siblings for layer in range(4)
        }
        vision = {parameter for parameter in on - off if not parameter.startswith(wrapper.live_prefix)}
        assert not vision, f"{name}: the field reaches the vision part"
        assert (o_proj <= on) == obeyed and not o_proj & off, name
        if obeyed:
            assert on - off <= o_proj | siblings, name
        else:
            assert not o_proj & on, name


@pytest.mark.parametrize("config", [{}, {"text_config": 1}, {"model_type": "llava"}, {"model_type": [1]}])
def test_what_is_no_wrapper(config: dict[str, Any]):
    assert module.wrapper_of(config) is None
    assert family_of({"model_type": "zork", "text_config": {}}) is None


def test_prefixes_of_the_writer_are_in_the_table():
    assert all(PREFIXES[name] in TABLE[name].prefixes for name in CLASSES)
    assert all(CLASSES[name] in TABLE[name].classes for name in CLASSES)
    assert replace(TABLE["llava"], nested=False) != TABLE["llava"]
    assert issubclass(BrokenFileError, InputError)
