"""The commands on personas: what they print, what they write, and their one line when something is wrong."""

from __future__ import annotations

import json
import re

import pytest
from support.checkpoints import write_vectors
from support.templates import CHATML

from emobake.actions.personas import load_persona
from emobake.core.persona_table import FIELDS, OUTPUTS, SECTIONS, persona_schema
from emobake.formats.persona_file import parse_persona

TEXT = """\
name: tiny
base: {path: base}
vectors: ev
mix: {joy: 1}
system_prompt: Be kind.
outputs:
  - folder: out
  - peft: adapter
"""


@pytest.fixture
def file(tmp_path, base, vectors, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (base / "chat_template.jinja").write_text(CHATML)
    (base / "tokenizer_config.json").write_text("{}")
    (tmp_path / "tiny.yaml").write_text(TEXT)
    return tmp_path / "tiny.yaml"


def test_init_writes_an_example_that_is_well_formed(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = cli("persona", "init").ok()
    text = (tmp_path / "persona.yaml").read_text()
    assert "Wrote persona.yaml" in ran.out and "emobake bake persona.yaml --dry-run" in ran.out
    assert text.startswith("# yaml-language-server: $schema=https://raw.githubusercontent.com/emobake/emobake/main/")
    checked = cli("persona", "check", "persona.yaml").ok()
    assert "persona is well-formed" in checked.out and "smollm2-135m-instruct (anger, disgust" in checked.out
    assert "folder persona" in checked.out
    cli("persona", "init").one_line("persona.yaml", "exists already", "--overwrite")
    cli("persona", "init", "--overwrite").ok()
    cli("persona", "init", "x.toml").one_line("YAML")
    cli("persona", "init", "y.yaml", "--like", "suny").one_line("no such persona", "sunny")
    cli("persona", "init", "y.yaml", "--model", "./none").one_line("no such folder")


def test_every_line_of_the_example_is_one_of_a_persona(cli, tmp_path):
    """The lines that are commented out, too."""
    cli("persona", "init", tmp_path / "p.yaml").ok()
    text = (tmp_path / "p.yaml").read_text()
    fields = {*FIELDS.fields, *SECTIONS["sampling"][0].fields, *(o for _, each in OUTPUTS.values() for o in each)}
    names = "|".join(sorted({*fields, *(f"- {kind}" for kind in OUTPUTS)}))
    whole = re.sub(rf"^# ((?:  )?(?:{names}):)", r"\1", text, flags=re.MULTILINE)
    whole = re.sub(r"^# (- (?:gguf|peft|push):)", r"  \1", whole, flags=re.MULTILINE)
    whole = re.sub(r"^#   (outtype|modelfile|private):", r"    \1:", whole, flags=re.MULTILINE)
    whole = re.sub(r"^(- |  (?=outtype|modelfile|private))", r"  \1", whole, flags=re.MULTILINE)
    whole = re.sub(r"^(top_k|repetition_penalty|max_new_tokens):", r"  \1:", whole, flags=re.MULTILINE)
    whole = whole.replace("strength: 1.0\n", "")
    persona = parse_persona(whole.encode(), "p.yaml")
    assert [one.kind for one in persona.outputs] == ["folder", "gguf", "peft", "push"]
    assert persona.strength.kl == 0.3 and persona.layers == "8-27" and persona.targets == ("transformers", "vllm")
    assert len(persona.sampling.given) == 5


def test_init_with_a_model_or_a_shipped_persona(cli, tmp_path, base, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cli("persona", "init", "sub/a.yaml", "--model", "base").ok()
    persona = load_persona("sub/a.yaml")
    assert persona.base.path == "../base" and persona.vectors == ("./vectors.safetensors",)
    cli("persona", "init", "b.yml", "--model", "Qwen/Qwen2.5-7B-Instruct@main").ok()
    persona = load_persona("b.yml")
    assert (persona.base.id, persona.base.revision, persona.vectors) == (
        "Qwen/Qwen2.5-7B-Instruct",
        "main",
        ("qwen2.5-7b-instruct",),
    )
    cli("persona", "init", "c.yaml", "--like", "sunny").ok()
    assert load_persona("c.yaml") == load_persona("sunny")
    cli("persona", "init", "d.yaml", "--like", "sunny", "--model", "base").one_line("--model", "--like")


def test_bake_makes_everything_and_sums_it_up(cli, file):
    ran = cli("bake", "tiny.yaml", "--dry-run").ok()
    assert ran.out.count("Planned: 1 x joy") == 2 and not (file.parent / "out").exists()
    ran = cli("bake", "tiny.yaml").ok()
    assert ran.out.startswith("folder out\nBaked: 1 x joy") and "\n\npeft adapter\nBaked: 1 x joy" in ran.out
    assert "chat_template.jinja system prompt: absent -> Be kind." in ran.out
    assert "emobake verify out --base base" in ran.out
    assert ran.err.count("an adapter has no place") == 1
    cli("bake", "tiny.yaml").one_line("output folder out", "exists already", "--overwrite")
    told = json.loads(cli("bake", "tiny.yaml", "--overwrite", "--json", "--out", "there").ok().out)
    assert [one["place"] for one in told["outputs"]] == ["there/out", "there/adapter"]
    assert (
        told["persona"] == "tiny"
        and told["outputs"][0]["voice"]["chat_template.jinja system prompt"]["new"] == "Be kind."
    )
    assert cli("bake", "tiny.yaml", "--out", "q", "-q").ok().out == ""
    shown = cli("show", "out").ok().out
    assert "persona" in shown and "tiny" in shown


def test_options_that_a_persona_says_itself_are_refused(cli, file):
    for options in (("--mix", "joy=2"), ("--scale", "2"), ("--auto",), ("--targets", "vllm"), ("--push-to-hub", "a/b")):
        cli("bake", "tiny.yaml", *options).one_line(options[0], "does not go with a persona", "tiny.yaml")
    cli("bake", "tiny.yaml", "--revision", "x").one_line("--revision goes with --model")
    cli("bake", "none.yaml").one_line("none.yaml", "no such file", "persona init")
    cli("bake", "suny").one_line("no such persona", "did you mean sunny?")
    cli("bake").one_line("--model")


def test_model_and_vectors_of_the_user_take_the_place_of_the_personas(cli, file):
    write_vectors(file.parent / "others", size=2.0)
    file.write_text(TEXT.replace("base: {path: base}\n", "base: {id: owner/tiny}\n").replace("ev", "./none"))
    cli("bake", "tiny.yaml").one_line("")
    cli("bake", "tiny.yaml", "--model", "base", "--vectors", "others", "-q").ok()
    record = json.loads((file.parent / "out" / "emobake.json").read_text())
    assert record["base"]["model"] == "owner/tiny" and record["vectors"]["name"] == "others"


def test_commands_after_options_of_a_bake_are_refused_as_before(cli, file):
    cli("--model", "base", "chat").one_line("--model base", "stands in front of the command chat")
    cli("--mix", "joy=1", "verify", "out").one_line("stands in front of the command verify")
    cli("-q", "persona", "list").one_line("stands in front of the command persona")


def test_show_check_and_list(cli, file):
    shown = cli("persona", "show", "tiny.yaml").ok().out
    for words in ("tiny", "joy 1", "Be kind.", "folder out", "peft adapter"):
        assert words in shown
    assert json.loads(cli("persona", "show", "tiny.yaml", "--json").ok().out)["mix"] == {"joy": 1.0}
    receipt = cli("persona", "show", "sunny").ok().out
    assert "kl: 0.442" in receipt and "emobake eval" in receipt
    checked = json.loads(cli("persona", "check", "tiny.yaml", "--json").ok().out)
    assert checked["outputs"] == ["folder out", "peft adapter"] and checked["recipe"] == "1 x joy"
    listed = cli("persona", "list").ok().out
    for name in ("sunny", "mellow", "wistful", "grumpy", "cheerful-qwen", "fiery-llama", "blue-minicpm"):
        assert name in listed
    assert len(json.loads(cli("persona", "list", "--json").ok().out)) == 7
    assert json.loads(cli("persona", "schema").ok().out) == persona_schema()
    file.write_text(TEXT + "strenght: 1\n")
    for command in ("check", "show"):
        cli("persona", command, "tiny.yaml").one_line("tiny.yaml: strenght is no field", "did you mean strength?")
    cli("bake", "tiny.yaml").one_line("strenght")


def test_show_recipe_is_a_file_that_bakes(cli, file):
    cli("bake", "tiny.yaml", "-q").ok()
    ran = cli("show", "out", "--recipe").ok()
    persona = parse_persona(ran.out.encode(), "r.yaml")
    assert persona.system_prompt == "Be kind." and persona.outputs[0].data == {"folder": "out"}
    assert "--model BASE" in ran.err and "--vectors SET" in ran.err
    (file.parent / "r.yaml").write_text(ran.out)
    cli("bake", "r.yaml", "--model", "base", "--vectors", "ev", "--out", "again", "-q").ok()
    names = [path.name for path in (file.parent / "out").iterdir()]
    for name in names:
        assert (file.parent / "again" / "out" / name).read_bytes() == (file.parent / "out" / name).read_bytes(), name
    cli("show", "out", "--recipe", "--json").one_line("--recipe and --json")
    cli("show", "base", "--recipe").one_line("not an output of emobake")


def test_text_of_a_record_stays_on_its_line(cli, file):
    cli("bake", "tiny.yaml", "-q").ok()
    record = file.parent / "out" / "emobake.json"
    data = json.loads(record.read_text())
    data["vectors"]["name"] = "x\nname: evil\x1b[31m"
    record.write_text(json.dumps(data))
    ran = cli("show", "out", "--recipe").ok()
    assert "\x1b" not in ran.out and "\nname: evil" not in ran.out
    data["persona"]["system_prompt"] = "x\0"
    record.write_text(json.dumps(data))
    cli("show", "out", "--recipe").one_line("is not a record")
