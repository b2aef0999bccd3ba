"""The fields of a persona: what each takes, what it says of anything else, and the schema for editors."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import pytest
from support.paths import ROOT

from emobake.core.outputs import Folder, GgufFile
from emobake.core.persona import Persona, PersonaOutput, PersonaStrength, SamplingDefaults
from emobake.core.persona_table import FIELDS, OUTPUTS, SECTIONS, persona_of, persona_schema
from emobake.core.record import Record
from emobake.core.recorded_persona import RecordedPersona
from emobake.errors import InputError

LEAST = {"name": "tiny", "mix": {"joy": 1}, "outputs": [{"folder": "out"}]}
FULL = {
    "name": "tiny",
    "description": "A tiny one.\n\nWith two paragraphs.",
    "license": "mit",
    "base": {"id": "owner/base", "revision": "main"},
    "vectors": ["./ev", "owner/set"],
    "site": "attention_output",
    "mix": {"joy": 0.5, "anger": -0.25},
    "layers": "0-1,3",
    "strength": {"kl": 0.3, "limit": 8},
    "targets": ["vllm"],
    "tensor_parallel": 2,
    "force": True,
    "system_prompt": "Be kind.\n\tAlways.",
    "sampling": {
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 40,
        "repetition_penalty": 1.1,
        "max_new_tokens": 256,
    },
    "examples": ["How was your day?"],
    "outputs": [
        {"folder": "out", "link_mode": "hardlink", "text_only": True, "hash_files": True, "targets": ["mlx"]},
        {"gguf": "out.gguf", "outtype": "q8_0", "modelfile": True},
        {"gguf": "moods/out.gguf", "model": "base.gguf", "share": True},
        {"peft": "adapter", "each": True},
        {"push": "me/tiny@dev", "format": "peft", "private": True, "create_pr": True, "commit_message": "New"},
    ],
    "receipt": {"strength": 1.0, "emotion": 2.0, "emotion_of_base": 1.0, "kl": 0.4, "collapsed": 0.0}
    | {"command": "emobake eval", "source": "here", "note": "Of the steering."},
}
WRONG = {
    "name": [None, "", "two\nlines", "x" * 97, 3, False, ["a"], "bell\a"],
    "description": [1, "", {}],
    "license": [1, "a\nb"],
    "base": [
        "owner/base",
        {},
        {"id": "a b"},
        {"revision": "x"},
        {"path": 1},
        {"idd": "x"},
        {"path": "a", "revision": "b"},
    ],
    "adapter": [{"merge": True}, {"id": "a/b", "merge": "yes"}, []],
    "vectors": [[], 1, [1], {"a": 1}, ["x"] * 33],
    "vectors_for": ["a b", ["a/b"]],
    "site": ["output", 1],
    "mix": [{}, [], "joy=1", {"joy": "1"}, {"joy": True}, {"joy": float("inf")}, {"Joy": 1, "joy": 2}, {"-": 1}],
    "layers": ["8-", -1, "5-2", [0, 1], 1.5, "a", "9" * 6000],
    "strength": ["atuo", None, {"kl": 0}, {"kl": "x"}, {}, {"kl": 1, "limit": 33}, float("nan"), 10**400, True, 1e7],
    "targets": [["vlm"], "vllm", [], [1]],
    "tensor_parallel": [0, 1.0, "2", 5000],
    "force": ["yes", 1],
    "system_prompt": ["", 1, "x" * 20_001, "nul\0"],
    "sampling": [
        {"temprature": 1},
        {"temperature": -1},
        {"top_p": 0},
        {"top_p": 1.5},
        {"top_k": 0},
        {"top_k": 1.5},
        {"repetition_penalty": 0},
        {"max_new_tokens": "many"},
        {"temperature": 0, "top_p": 0.5},
        [],
        1,
    ],
    "examples": [[], "What?", ["a"] * 11, ["a\nb"]],
    "outputs": [
        [],
        {},
        [{}],
        ["out"],
        [{"foldr": "x"}],
        [{"folder": "x", "gguf": "x.gguf"}],
        [{"folder": "/tmp/x"}],
        [{"folder": "../x"}],
        [{"folder": "a/../b"}],
        [{"folder": "x.gguf"}],
        [{"gguf": "x"}],
        [{"folder": "~/x"}],
        [{"folder": "x", "outtype": "f16"}],
        [{"gguf": "x.gguf", "outtype": "q4"}],
        [{"push": "a b"}],
        [{"folder": "a"}, {"peft": "A"}],
        [{"folder": "a"}, {"peft": "a/b"}],
        [{"peft": "a/b"}, {"folder": "a"}],
        [{"gguf": "x.gguf", "share": True}],
        [{"gguf": "x.gguf", "keep_split": True}],
        [{"gguf": "x.gguf", "model": "y.gguf", "outtype": "f16"}],
        [{"gguf": "x.gguf", "model": "y.gguf", "share": True, "keep_split": True}],
        [{"gguf": "x.gguf", "model": "y.bin"}],
        [{"folder": "C:\\x"}],
        [{"folder": "."}],
        [{"folder": "x", "converter": "rm"}],
    ],
    "receipt": [{"kl": -1}, {"collapsed": 2}, {"strenght": 1}, {"command": 1}],
}


def error(data: object) -> str:
    with pytest.raises(InputError) as raised:
        persona_of(data, "persona.yaml")
    line = str(raised.value)
    assert line.startswith("persona.yaml:") and "\n" not in line and len(line) < 900
    return line


def test_the_least_persona_and_the_fullest():
    least = persona_of(LEAST, "x.yaml")
    assert least == Persona((("joy", 1.0),), (PersonaOutput("folder", "out"),), "tiny")
    full = persona_of(FULL, "x.yaml")
    assert full.data == FULL and set(FULL) == set(FIELDS.fields) - {"adapter", "vectors_for"}
    assert full.strength == PersonaStrength(kl=0.3, limit=8)
    assert persona_of(full.data, "y.yaml") == full and persona_of(least.data, "y.yaml") == least
    adapted = {**LEAST, "adapter": {"id": "owner/lora", "merge": True}}
    assert persona_of(adapted, "x.yaml").data["adapter"] == {"id": "owner/lora", "merge": True}
    assert persona_of({**LEAST, "vectors": "ev", "layers": 3}, "x.yaml").data["vectors"] == ["ev"]
    assert persona_of({**LEAST, "strength": 0, "sampling": {"temperature": 0}}, "x.yaml").data["strength"] == 0
    assert persona_of({**LEAST, "sampling": {"temperature": 0}}, "x.yaml").data["sampling"] == {"temperature": 0.0}
    assert persona_of({**LEAST, "strength": "auto"}, "x.yaml").strength.auto


@pytest.mark.parametrize(("field", "value"), [(name, value) for name in WRONG for value in WRONG[name]])
def test_every_wrong_value_is_one_line_that_names_the_field(field, value):
    line = error({**LEAST, field: value})
    assert field in line, line
    assert any(word in line for word in (" takes ", "; ", " goes with ")), line


def test_every_field_is_tried():
    assert set(WRONG) == set(FIELDS.fields)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"nmae": "x"}, ("nmae is no field", "did you mean name?")),
        ({1: "x"}, ("1 is no field",)),
        ({"strength": "atuo"}, ('strength is "atuo"', "a number", "auto", "kl: 0.3", "did you mean auto?")),
        ({"sampling": {"top_p": 1.5}}, ("sampling.top_p is 1.5", "above 0, at most 1")),
        ({"sampling": {"temprature": 1}}, ("sampling.temprature", "sampling takes temperature", "mean temperature?")),
        ({"targets": ["vlm"]}, ('targets[0] is "vlm"', "did you mean vllm?")),
        ({"outputs": [{"foldr": "x"}]}, ("outputs[0] names no place", "folder, gguf, peft, push", "mean folder?")),
        ({"outputs": [{"gguf": "x.gguf", "outtyp": "f16"}]}, ("outputs[0].outtyp", "did you mean outtype?")),
        ({"outputs": [{"folder": "x", "link_mode": "hard"}]}, ("outputs[0].link_mode", "did you mean hardlink?")),
        ({"name": False}, ("name is false", "in quotes")),
        ({"mix": {"joy": "1e0"}}, ('mix.joy is "1e0"', "without quotes")),
        ({"base": {"path": "x.gguf"}}, ("outputs[0].folder", "base.path is a GGUF file")),
        ({"vectors": "a", "vectors_for": "b/c"}, ("vectors and vectors_for",)),
        ({"adapter": {"id": "a/b"}, "strength": {"kl": 1}}, ("strength.kl", "without the adapter")),
        (
            {"base": {"path": "x.gguf"}, "outputs": [{"gguf": "y.gguf"}], "strength": {"kl": 1}},
            ("strength.kl", "checkpoint"),
        ),
        (
            {"system_prompt": 'Say "hi"', "outputs": [{"gguf": "y.gguf", "modelfile": True}]},
            ("outputs[0].modelfile", "system_prompt", "quote at its end"),
        ),
    ],
)
def test_the_line_says_what_is_allowed(change, words):
    line = error({**LEAST, **change})
    for word in words:
        assert word in line, line


def test_what_is_no_persona_at_all():
    for data in ([], "text", 3, None):
        assert "takes fields" in error(data)
    assert "mix is missing" in error({"name": "x", "outputs": [{"folder": "x"}]})
    assert "outputs is missing" in error({"name": "x", "mix": {"joy": 1}})
    deep: object = "x"
    for _ in range(2000):
        deep = [deep]
    assert "name is" in error({**LEAST, "name": deep})


def test_the_table_and_the_classes_have_the_same_fields():
    """`folder` is the place of the file."""
    assert {one.name for one in fields(Persona)} - {"folder"} == set(FIELDS.fields)
    for section, made in SECTIONS.values():
        assert [one.name for one in fields(made)] == list(section.fields)
    assert {one.name for one in fields(PersonaStrength)} - {"scale", "auto"} == {"kl", "limit"}


def test_options_of_outputs_are_those_of_a_bake():
    import inspect

    from emobake.actions.bake import bake
    from emobake.storage.hub.target import HubTarget

    known = {*inspect.signature(bake).parameters, "each"}
    for made in (Folder, GgufFile, HubTarget):
        known |= {one.name for one in fields(made)}
    assert {name for _, options in OUTPUTS.values() for name in options} <= known


def test_the_shipped_schema_is_that_of_the_table():
    """Write it anew by `emobake persona schema > vectors/persona.schema.json`."""
    shipped = json.loads((ROOT / "vectors" / "persona.schema.json").read_text(encoding="utf-8"))
    assert shipped == persona_schema()
    assert set(shipped["properties"]) == {one.name for one in fields(Persona)} - {"folder"}
    assert set(shipped["required"]) == {"mix", "outputs"}
    kinds = shipped["properties"]["outputs"]["items"]["oneOf"]
    assert [kind["required"] for kind in kinds] == [["folder"], ["gguf"], ["peft"], ["push"]]
    assert all(each["description"] for each in shipped["properties"].values())


def test_a_record_keeps_the_words_and_gives_them_back():
    full = persona_of(FULL, "x.yaml")
    for output in full.outputs:
        kept = replace(RecordedPersona.of(full, output), templates={"chat_template.jinja": "text"})
        record = Record("checkpoint", persona=kept)
        data = json.loads(json.dumps(record.to_json()))
        assert Record.from_json(data, "x").persona == kept
        text = json.dumps(data["persona"])
        assert "base.gguf" not in text and "hardlink" not in text and "me/tiny" not in text
    assert "persona" not in Record("checkpoint").to_json()


@pytest.mark.parametrize(
    "change",
    [
        {"name": 1},
        {"sampling": {"top_p": 7}},
        {"templates": {"../x": "text"}},
        {"templates": {"x": "program"}},
        {"output": {"kind": "exe"}},
        {"output": {"kind": "gguf", "outtype": "q1"}},
        {"more": 1},
    ],
)
def test_a_record_of_a_hostile_persona_is_none(change):
    data = Record("checkpoint", persona=RecordedPersona("x")).to_json()
    data["persona"] |= change
    with pytest.raises(InputError, match="is not a record"):
        Record.from_json(data, "x")


def test_sampling_that_is_given():
    assert SamplingDefaults(temperature=0.0, top_k=3).given == {"temperature": 0.0, "top_k": 3}
    assert not SamplingDefaults().given
