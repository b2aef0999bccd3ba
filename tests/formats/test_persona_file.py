"""Files of personas: YAML and TOML within limits, and the YAML that is written."""

from __future__ import annotations

import os
import time

import pytest

from emobake.actions.personas import load_persona
from emobake.core.persona_table import persona_of
from emobake.errors import InputError
from emobake.formats.persona_file import HEAD, parse_persona, persona_text

LEAST = "name: tiny\nmix: {joy: 1}\noutputs: [{folder: out}]\n"
IN_TOML = 'name = "tiny"\nmix = {joy = 1}\n[[outputs]]\nfolder = "out"\n'
LEVELS = "\n".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 41))


def test_yaml_and_toml_say_the_same(tmp_path):
    (tmp_path / "a.yaml").write_text("\ufeff" + LEAST, encoding="utf-8")
    (tmp_path / "a.toml").write_text(IN_TOML)
    (tmp_path / "b.YML").write_text(LEAST)
    found = [load_persona(tmp_path / name) for name in ("a.yaml", "a.toml", "b.YML")]
    assert found[0] == found[1] == found[2] and found[0].folder == str(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: &a [x]\nb: *a\n", ["anchors or aliases"]),
        (f"a0: &a0 [x]\n{LEVELS}\n", ["anchors or aliases"]),
        ("<<: {name: x}\n", ["merge keys"]),
        (LEAST + "name: again\n", ["has 'name' twice (line 4)"]),
        ("name: x\nmix: {joy: 1, joy: 2}\noutputs: []\n", ["has 'joy' twice (line 2)"]),
        ("name: x\nsampling: {top_p: 1, 'top_p': 1}\n", ["has 'top_p' twice"]),
        ("name: " + "[" * 5000 + "\n", ["nested deeper|not valid YAML"]),
        ("name: x: y\n", ["not valid YAML (line 1"]),
        ("name: !!python/object/apply:os.system [id]\n", ["not valid YAML"]),
        ("name: !!binary aGk=\n", ["cannot hand on"]),
        ("mix: {joy: 0x" + "f" * 5000 + "}\n", ["cannot hand on"]),
        ("name: x\n---\nname: y\n", ["not valid YAML"]),
        ("", ["is empty"]),
        ("# nothing\n", ["is empty"]),
        ("- name\n", ["takes fields"]),
        ("name: x\0\n", ["not valid YAML"]),
        (LEAST.replace("tiny", "2024-01-31 "), []),
    ],
)
def test_hostile_yaml_is_one_line(tmp_path, text, words):
    import re

    file = tmp_path / "p.yaml"
    file.write_text(text)
    begun = time.monotonic()
    if not words:
        assert load_persona(file).name == "2024-01-31"
        return
    with pytest.raises(InputError) as raised:
        load_persona(file)
    assert time.monotonic() - begun < 20
    line = str(raised.value)
    assert line.startswith(f"{file}:") and "\n" not in line
    for word in words:
        assert any(re.search(re.escape(part), line) for part in word.split("|")), line


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ('name = "again"\n' + IN_TOML, "not valid TOML"),
        ("name = \n", "not valid TOML"),
        ("x = " + "[" * 5000, "not valid TOML"),
        (IN_TOML.replace('"tiny"', "2024-01-31"), "name is"),
        ("name = 'x'\nmix = {joy = nan}\n[[outputs]]\nfolder = 'o'\n", "mix.joy is nan"),
    ],
)
def test_hostile_toml_is_one_line(tmp_path, text, word):
    (tmp_path / "p.toml").write_text(text)
    with pytest.raises(InputError, match=r"p\.toml: ") as raised:
        load_persona(tmp_path / "p.toml")
    assert word in str(raised.value) and "\n" not in str(raised.value)


def test_files_that_are_none(tmp_path):
    for content, word in ((b"\xff\xfe", "UTF-8"), (LEAST.encode() + b"#" * 100_000, "too many")):
        (tmp_path / "p.yaml").write_bytes(content)
        with pytest.raises(InputError, match=word):
            load_persona(tmp_path / "p.yaml")
    (tmp_path / "p.txt").write_text(LEAST)
    for name, word in (
        ("p.txt", "ends in .yaml, .yml or .toml"),
        (".", "folder"),
        ("none.yaml", "no such file"),
        ("none", "no such persona"),
    ):
        with pytest.raises(InputError, match=word):
            load_persona(tmp_path / name)
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(InputError, match="not a file"):
        load_persona(tmp_path / "pipe.yaml")
    with pytest.raises(InputError, match="a persona is a file"):
        load_persona(3)


def test_written_yaml_is_read_as_it_was():
    prompt = 'Line: "one" # no comment\n  - two\n\n\tthree\\ \u00e9 \U0001f600 {% x %} & *b !c'
    data = {
        "name": "no",
        "description": "yes",
        "mix": {"joy": 1e-7, "a b": 1.0},
        "layers": "0",
        "strength": 1 / 3,
        "system_prompt": prompt,
        "examples": ["- ?", "null", "1"],
        "outputs": [{"folder": "a - b"}, {"gguf": "x.gguf", "modelfile": True}],
    }
    persona = persona_of(data, "x")
    text = persona_text(persona.data, {"": ["Made\nof\x1b[31m nothing"], "mix": ["weights"]})
    assert text.startswith(HEAD) and "# weights\nmix:" in text
    assert parse_persona(text.encode(), "x.yaml") == persona
