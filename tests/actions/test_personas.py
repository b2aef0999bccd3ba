"""Personas from their files to their outputs: every form, the voice in it, and the way back by the record."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support import gguf_files
from support.adapters import write_adapter
from support.checkpoints import edit_json, tree, write_checkpoint, write_vectors
from support.templates import CHATML, GEMMA, MISTRAL, PARTS

import emobake
from emobake.actions.check_persona import check_persona
from emobake.actions.personas import PersonaRun, shipped_content
from emobake.core.persona_table import persona_of
from emobake.errors import InputError, OutputError
from emobake.formats.chat_template import render_chats
from emobake.formats.persona_file import HEAD, persona_text

PROMPT = 'You\'re "it", \\ {% x %}.\nAlways \u00e9.'
WORDS = {
    "name": "tiny",
    "description": "A *tiny* one.\n\nIt has two paragraphs.",
    "license": "mit",
    "mix": {"joy": 0.5, "anger": -0.25},
    "strength": 1.5,
    "system_prompt": PROMPT,
    "sampling": {"temperature": 0.5, "top_p": 0.8, "top_k": 40, "repetition_penalty": 1.1, "max_new_tokens": 99},
    "examples": ["How was *your* day?", "And then?"],
    "receipt": {"strength": 1.5, "emotion": 3.0, "emotion_of_base": 1.0, "kl": 0.25, "command": "emobake eval"},
}
USER = {"role": "user", "content": "Hello?"}
OWN = {"role": "system", "content": "Be terse."}


def write(folder: Path, outputs: list[dict[str, object]], **fields: object) -> Path:
    """A persona's file in `folder`; a field of None is left out."""
    data = WORDS | {"base": {"path": "base"}, "vectors": "ev", "outputs": outputs} | fields
    file = folder / "persona.yaml"
    file.write_text(persona_text({name: value for name, value in data.items() if value is not None}))
    return file


@pytest.fixture
def here(tmp_path, base, vectors, monkeypatch):
    """A folder with a base that has a chat template, and its vectors."""
    monkeypatch.chdir(tmp_path)
    (base / "tokenizer_config.json").write_text('{"bos_token": "<s>", "eos_token": {"content": "</s>"}}')
    (base / "chat_template.jinja").write_text(CHATML)
    return tmp_path


@pytest.fixture
def gguf(tmp_path, monkeypatch):
    """A GGUF file with its vectors."""
    monkeypatch.chdir(tmp_path)
    gguf_files.write_model(tmp_path / "base.gguf", template=CHATML)
    write_vectors(tmp_path / "ev", layers=gguf_files.LAYERS, hidden=gguf_files.HIDDEN)
    return tmp_path


def failures(out: Path, base: Path, vectors: Path) -> list[str]:
    checks = emobake.verify(out, base=base, vectors=vectors)
    return [f"{check.name}: {check.detail}" for check in checks if check.ok is not True]


def rendered(template: str, *talk: dict[str, str]) -> str:
    (found,) = render_chats(template, {"bos_token": "<s>", "eos_token": "</s>"}, [(talk, True)])
    assert found.text is not None, found.reason
    return found.text


def test_a_folder_has_the_voice_where_stacks_look_for_it(here):
    done = emobake.bake_persona(write(here, [{"folder": "out"}], targets=["vllm", "transformers"]))
    assert [one.name for one in done.outputs] == ["out"]
    template = (here / "out" / "chat_template.jinja").read_text()
    assert template.endswith(CHATML)
    with_prompt = rendered(CHATML, {"role": "system", "content": PROMPT}, USER)
    assert rendered(template, USER) == with_prompt and PROMPT in with_prompt
    assert rendered(template, OWN, USER) == rendered(CHATML, OWN, USER)
    generation = json.loads((here / "out" / "generation_config.json").read_text())
    base = json.loads((here / "base" / "generation_config.json").read_text())
    assert generation == base | WORDS["sampling"] | {"do_sample": True}
    assert (here / "out" / "tokenizer_config.json").read_bytes() == (
        here / "base" / "tokenizer_config.json"
    ).read_bytes()
    card = (here / "out" / "README.md").read_text()
    assert "# tiny: base, steered" in card and "A \\*tiny\\* one.\n\nIt has two paragraphs." in card
    assert f"```text\n{PROMPT}\n```" in card and "- How was \\*your\\* day?" in card
    assert "content: And then?" in card.split("---")[1]
    assert "strength 1.5, emotion 3 (base: 1), KL 0.25 nats" in card and "mlx-lm takes none" in card
    assert failures(here / "out", here / "base", here / "ev") == []
    changes = {change.field for change in done.outputs[0].result.plan.voice}
    assert "chat_template.jinja system prompt" in changes and "generation_config.json top_k" in changes


def test_verify_sees_a_voice_that_was_changed(here):
    emobake.bake_persona(write(here, [{"folder": "out"}]))
    template = here / "out" / "chat_template.jinja"
    template.write_text(template.read_text().replace("Always", "Never"))
    edit_json(here / "out" / "generation_config.json", top_k=1)
    for given in ({"base": here / "base"}, {}):
        wrong = [check.detail for check in emobake.verify(here / "out", **given) if check.ok is False]
        assert len(wrong) == 2 and "chat_template" in wrong[0] + wrong[1] and "generation_config" in wrong[0] + wrong[1]


def test_the_steering_is_that_of_a_bake_without_a_persona(here):
    emobake.bake_persona(write(here, [{"folder": "out"}]))
    emobake.bake(here / "base", here / "ev", mix=WORDS["mix"], scale=1.5, out=here / "plain")
    ours, plain = tree(here / "out"), tree(here / "plain")
    assert {name for name in ours if ours[name] != plain[name]} == {
        "README.md",
        "chat_template.jinja",
        "emobake.json",
        "emobake.undo",
        "generation_config.json",
    }
    assert set(ours) == set(plain)
    emobake.unbake(here / "out", here / "again")
    again, base = tree(here / "again"), tree(here / "base")
    assert again == {name: base[name] for name in again}, "its voice is taken back as well"
    assert {"chat_template.jinja", "config.json", "model.safetensors", "tokenizer_config.json"} <= set(again)


def test_templates_in_every_place(here):
    base = here / "base"
    (base / "chat_template.jinja").unlink()
    edit_json(base / "tokenizer_config.json", chat_template=[{"name": "default", "template": CHATML},
                                                            {"name": "tool_use", "template": MISTRAL}])  # fmt: skip
    (base / "additional_chat_templates").mkdir()
    (base / "additional_chat_templates" / "rag.jinja").write_text(PARTS)
    done = emobake.bake_persona(write(here, [{"folder": "out"}]))
    plan = done.outputs[0].result.plan
    assert dict(plan.record.persona.templates) == {
        "additional_chat_templates/rag.jinja": "parts",
        "tokenizer_config.json#default": "text",
    }
    assert [w for w in plan.warnings if "NOT in all chat templates" in w and "tool_use has no place" in w]
    told = json.loads((here / "out" / "tokenizer_config.json").read_text())["chat_template"]
    assert PROMPT in rendered(told[0]["template"], USER) and told[1]["template"] == MISTRAL
    assert (here / "out" / "additional_chat_templates" / "rag.jinja").read_text().endswith(PARTS)
    assert failures(here / "out", base, here / "ev") == []


@pytest.mark.parametrize(("template", "word"), [(GEMMA, "no system"), (None, "no chat template")])
def test_a_prompt_without_a_place_cannot_be_missed(here, cli, template, word):
    base = here / "base"
    (base / "chat_template.jinja").unlink()
    if template is not None:
        edit_json(base / "tokenizer_config.json", chat_template=template)
    ran = cli("bake", write(here, [{"folder": "out"}])).ok()
    (line,) = [line for line in ran.err.splitlines() if "SYSTEM PROMPT" in line]
    assert line.startswith("Warning: the SYSTEM PROMPT of the persona is NOT in the output") and word in line
    card = (here / "out" / "README.md").read_text()
    assert "**not in the output**" in card
    assert failures(here / "out", base, here / "ev") == []


def test_greedy_and_a_base_without_generation_config(here):
    (here / "base" / "generation_config.json").unlink()
    edit_json(here / "base" / "config.json", eos_token_id=[2, 3], bos_token_id=1)
    emobake.bake_persona(write(here, [{"folder": "out"}], sampling={"temperature": 0}))
    found = json.loads((here / "out" / "generation_config.json").read_text())
    assert found == {"bos_token_id": 1, "eos_token_id": [2, 3], "temperature": 0.0, "do_sample": False}
    assert failures(here / "out", here / "base", here / "ev") == []
    edit_json(here / "base" / "config.json", eos_token_id=2)
    (here / "base" / "generation_config.json").write_text('{"eos_token_id": 7, "do_sample": true, "top_p": 0.5}')
    emobake.bake_persona(write(here, [{"folder": "again"}], sampling={"temperature": 0}))
    found = json.loads((here / "again" / "generation_config.json").read_text())
    assert found == {"eos_token_id": 7, "temperature": 0.0, "do_sample": False}


def test_adapters_keep_the_words_and_say_that_they_have_no_voice(here):
    outputs = [{"peft": "one"}, {"peft": "each", "each": True}]
    done = emobake.bake_persona(write(here, outputs))
    assert [path.name for path in sorted((here / "each").iterdir()) if path.is_dir()] == ["anger", "joy"]
    for one in done.outputs:
        assert any("an adapter has no place" in warning for warning in one.result.plan.warnings)
    assert "How was" in (here / "one" / "README.md").read_text()
    assert "## Persona" in (here / "each" / "README.md").read_text()
    for name in ("one", "each"):
        assert failures(here / name, here / "base", here / "ev") == []


def test_a_gguf_file_has_the_voice_in_its_metadata_and_its_modelfile(gguf):
    file = write(gguf, [{"gguf": "out.gguf", "modelfile": True}], base={"path": "base.gguf"})
    done = emobake.bake_persona(file)
    found = gguf_files.fields_of(gguf / "out.gguf")
    template = found["tokenizer.chat_template"]
    assert rendered(template, USER) == rendered(CHATML, {"role": "system", "content": PROMPT}, USER)
    assert rendered(template, OWN, USER) == rendered(CHATML, OWN, USER)
    assert found["general.sampling.top_k"] == 40
    assert np.float32(found["general.sampling.temp"]) == np.float32(0.5)
    assert np.float32(found["general.sampling.top_p"]) == np.float32(0.8)
    assert np.float32(found["general.sampling.penalty_repeat"]) == np.float32(1.1)
    text = (gguf / "out.Modelfile").read_text()
    assert f'SYSTEM """{PROMPT}"""' in text and "You are tiny" not in text
    for line in ("temperature 0.5", "top_k 40", "top_p 0.8", "repeat_penalty 1.1", "num_predict 99"):
        assert f"PARAMETER {line}\n" in text
    assert 'TEMPLATE """{{ range $i' in text
    assert any("max_new_tokens" in warning for warning in done.outputs[0].result.plan.warnings)
    assert failures(gguf / "out.gguf", gguf / "base.gguf", gguf / "ev") == []
    assert gguf_files.tensors_of(gguf / "out.gguf").keys() > gguf_files.tensors_of(gguf / "base.gguf").keys()


def test_a_modelfile_of_a_template_without_a_place_has_no_system(gguf):
    gguf_files.write_model(gguf / "base.gguf", template=GEMMA)
    file = write(gguf, [{"gguf": "out.gguf", "modelfile": True}], base={"path": "base.gguf"})
    done = emobake.bake_persona(file)
    warnings = " ".join(done.outputs[0].result.plan.warnings)
    assert "NOT in the output" in warnings and "NOT in the Modelfile" in warnings
    assert "SYSTEM" not in (gguf / "out.Modelfile").read_text()
    assert failures(gguf / "out.gguf", gguf / "base.gguf", gguf / "ev") == []


def test_sets_of_gguf_files(gguf):
    outputs = [{"gguf": "moods/tiny.gguf", "share": True}]
    emobake.bake_persona(write(gguf, outputs, base={"path": "base.gguf"}))
    first = gguf / "moods" / "tiny-00001-of-00002.gguf"
    assert failures(first, gguf / "base.gguf", gguf / "ev") == []
    (gguf / "split").mkdir()
    gguf_files.write_model(gguf / "split" / "base.gguf", split=5, template=CHATML)
    split = sorted((gguf / "split").glob("*.gguf"))[0]
    outputs = [{"gguf": "kept/tiny.gguf", "keep_split": True}]
    emobake.bake_persona(write(gguf, outputs, base={"path": f"split/{split.name}"}))
    first = sorted((gguf / "kept").glob("*.gguf"))[0]
    assert failures(first, split, gguf / "ev") == []
    assert emobake.recipe_of(first).persona.outputs[0].data == {"gguf": "tiny.gguf", "keep_split": True}


def round_trip(out: Path, base: Path, vectors: Path, folder: Path) -> emobake.Recipe:
    """Bake the recipe of `out` anew, and compare the bytes."""
    recipe = emobake.recipe_of(out)
    file = folder / "recipe.yaml"
    file.write_text(recipe.text)
    assert emobake.load_persona(file) == recipe.persona
    shutil.rmtree(folder / "again", ignore_errors=True)
    emobake.bake_persona(file, out=folder / "again", model=base, vectors=vectors)
    if out.is_dir():
        assert tree(folder / "again" / out.name) == tree(out)
    else:
        for path in (folder / "again").iterdir():
            assert path.read_bytes() == (out.parent / path.name).read_bytes(), path
    return recipe


def test_the_recipe_of_every_output_makes_it_again(here):
    outputs = [
        {"folder": "out", "hash_files": True},
        {"folder": "mlx", "targets": ["mlx"]},
        {"peft": "one"},
        {"peft": "each", "each": True},
    ]
    file = write(
        here, outputs, targets=["vllm", "transformers"], layers="0-1", base={"path": "base", "id": "owner/base"}
    )
    emobake.bake_persona(file)
    for output in outputs:
        name = str(output.get("folder") or output["peft"])
        recipe = round_trip(here / name, here / "base", here / "ev", here)
        kept = recipe.persona.data
        for field in ("name", "description", "license", "system_prompt", "sampling", "examples", "receipt", "mix"):
            assert kept[field] == WORDS[field], field
        assert kept["base"] == {"id": "owner/base"} and kept["layers"] == "0-1" and kept["strength"] == 1.5
        assert recipe.text.startswith(HEAD) and "emobake bake FILE --vectors SET" in recipe.text


def test_the_recipe_of_gguf_files(gguf):
    outputs = [{"gguf": "out.gguf", "modelfile": True}, {"gguf": "moods/tiny.gguf", "share": True}]
    emobake.bake_persona(write(gguf, outputs, base={"path": "base.gguf", "id": "owner/base"}))
    for out in ("out.gguf", "moods/tiny-00001-of-00002.gguf"):
        recipe = round_trip(gguf / out, gguf / "base.gguf", gguf / "ev", gguf)
        assert recipe.persona.data["base"] == {"id": "owner/base", "path": "base.gguf"}


def test_the_recipe_of_outputs_without_a_persona(here, gguf):
    checkpoint = write_checkpoint(here / "plain")
    rows = write_vectors(here / "rows")
    emobake.bake(checkpoint, rows, times=(0, 0, 0.25, 1, 0), layers="1", out=here / "joy out", hash_files=True)
    recipe = round_trip(here / "joy out", checkpoint, rows, here)
    assert not recipe.persona.name and recipe.persona.base is None and not recipe.persona.system_prompt
    assert recipe.persona.data["layers"] == "1" and recipe.persona.data["outputs"][0]["hash_files"] is True
    assert any("--model BASE" in remark for remark in recipe.remarks)
    emobake.bake(checkpoint, rows, times=(1, 0, 0, 1, 0), format="peft-each", out=here / "each")
    round_trip(here / "each", checkpoint, rows, here)
    emobake.bake(gguf / "base.gguf", here / "ev", mix={"joy": 1}, out=emobake.GgufFile(here / "x.gguf", modelfile=True))
    round_trip(here / "x.gguf", gguf / "base.gguf", here / "ev", here)
    emobake.bake(here / "joy out", rows, mix={"joy": 1}, out=here / "twice")
    assert "itself baked before" in round_trip(here / "twice", here / "joy out", rows, here).text


def test_everything_is_checked_before_the_first_output(here):
    (here / "taken").mkdir()
    (here / "taken" / "mine.txt").write_text("mine")
    before = set(here.rglob("*"))
    for second, fields, words in (
        ({"folder": "taken"}, {}, ["output folder taken", "exists already"]),
        ({"peft": "x", "each": True}, {"mix": {"joy": 1, "glee": 1}}, ["glee"]),
        ({"folder": "b", "text_only": True}, {}, ["multimodal"]),
        ({"gguf": "x.gguf", "model": "none.gguf"}, {}, ["none.gguf", "no such file"]),
        ({"folder": "base/in"}, {}, ["lies within the input"]),
    ):
        file = write(here, [{"folder": "a"}, second], **fields)
        with pytest.raises(InputError) as raised:
            emobake.bake_persona(file)
        for word in words:
            assert word in str(raised.value), raised.value
        file.unlink()
        assert set(here.rglob("*")) == before, "something was written"


def test_a_failure_on_the_way_tells_what_is_complete(here, monkeypatch):
    file = write(here, [{"folder": "a"}, {"folder": "b"}, {"folder": "c"}])
    real = emobake.bake

    def bake(*given, out=None, dry_run=False, **more):
        if not dry_run and Path(out.path).name == "b":
            raise OutputError("`out` b: the disk is full; nothing was kept")
        return real(*given, out=out, dry_run=dry_run, **more)

    monkeypatch.setattr("emobake.actions.bake_persona.bake", bake)
    with pytest.raises(OutputError, match=r"output folder b: .*disk is full.*\. complete: a$"):
        emobake.bake_persona(file)
    assert (here / "a" / "emobake.json").is_file() and not (here / "b").exists() and not (here / "c").exists()


def test_overwrite_and_out(here):
    file = write(here, [{"folder": "a"}])
    emobake.bake_persona(file, out=here / "there")
    assert not (here / "a").exists() and (here / "there" / "a" / "config.json").is_file()
    with pytest.raises(InputError, match="exists already"):
        emobake.bake_persona(file, out=here / "there")
    write(here, [{"folder": "a"}], system_prompt="Another one.")
    emobake.bake_persona(file, out=here / "there", overwrite=True)
    assert "Another one." in (here / "there" / "a" / "chat_template.jinja").read_text()


def test_a_persona_without_a_base_takes_the_users(here):
    file = write(here, [{"folder": "a"}], base=None)
    with pytest.raises(InputError, match="names no base"):
        emobake.bake_persona(file, dry_run=True)
    done = emobake.bake_persona(file, model=here / "base", dry_run=True)
    assert done.outputs[0].result.out is None and not (here / "a").exists()


def test_a_budget_of_kl_is_searched_for_when_it_is_baked(here, monkeypatch):
    from emobake.measure import bake_persona as module
    from emobake.measure.tuning import Tuned

    asked, told = [], []

    def tune(model, vectors, **given):
        asked.append((str(model), given["target_kl"], given["mix"], given["limit"], given["layers"]))
        return Tuned(0.75, 0.3, 0.5, None, ((0.75, 0.3),), 4)

    monkeypatch.setattr(module, "tune", tune)
    file = write(here, [{"folder": "a"}], strength={"kl": 0.3, "limit": 4})
    emobake.bake_persona(file, dry_run=True, chosen=told.append)
    assert not asked and "searched for when it is baked" in told[0]
    done = emobake.bake_persona(file, chosen=told.append)
    assert asked == [("base", 0.3, {"joy": 0.5, "anger": -0.25}, 4, None)]
    assert done.tuned.scale == 0.75 and emobake.read_record(here / "a").steering.scale == 0.75
    assert "strength 0.75: KL 0.3000 nats on 4 prompts" in told[-1]
    assert emobake.recipe_of(here / "a").persona.strength.scale == 0.75


@pytest.mark.torch
def test_a_budget_of_kl_on_a_live_model(tiny_chat, tiny_vectors, tmp_path, quiet):
    data = {"name": "t", "base": {"path": str(tiny_chat)}, "vectors": str(tiny_vectors), "mix": {"joy": 1}}
    data |= {"strength": {"kl": 0.02, "limit": 2}, "outputs": [{"folder": "out"}], "system_prompt": "Be kind."}
    (tmp_path / "p.yaml").write_text(persona_text(data))
    done = emobake.bake_persona(tmp_path / "p.yaml")
    assert done.tuned.kl == pytest.approx(0.02, rel=0.2)
    assert emobake.read_record(tmp_path / "out").steering.scale == done.tuned.scale
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    text = tokenizer.apply_chat_template([USER], tokenize=False)
    assert "<|im_start|>system\nBe kind.<|im_end|>" in text
    assert "Be terse." in tokenizer.apply_chat_template([OWN, USER], tokenize=False)
    config = transformers.GenerationConfig.from_pretrained(tmp_path / "out")
    assert config.eos_token_id is not None


def test_auto_takes_the_strength_of_the_set(here):
    from emobake.core.strengths import Strength
    from emobake.vectors.open import open_vectors

    known = replace(open_vectors(here / "ev"), strengths={"joy": Strength(0.5, "emobake eval")})
    emobake.write_set(known, here / "known.safetensors")
    file = write(here, [{"folder": "a"}, {"peft": "b"}], strength="auto", mix={"joy": 2}, vectors="known.safetensors")
    told: list[str] = []
    emobake.bake_persona(file, chosen=told.append)
    assert emobake.read_record(here / "a").steering.scale == 0.25 and len(told) == 1
    assert check_persona(emobake.load_persona(file)).strength == "0.25, by the measured strengths"
    file = write(here, [{"folder": "c"}], strength="auto", mix={"anger": 1}, vectors="known.safetensors")
    for run in (lambda: emobake.bake_persona(file), lambda: check_persona(emobake.load_persona(file))):
        with pytest.raises(InputError, match="no measured strength for anger"):
            run()


def test_check_resolves_sets_and_emotions(here):
    checked = check_persona(emobake.load_persona(write(here, [{"folder": "a"}, {"push": "me/tiny", "private": True}])))
    assert checked.sets == "ev (anger, disgust, fear, joy, sadness)" or "anger" in checked.sets
    assert checked.outputs == ("folder a", "push me/tiny (private)") and checked.base == "base"
    for fields, word in (
        ({"mix": {"joyy": 1}}, "did you mean joy?"),
        ({"vectors": "./none"}, "no such vector set"),
        ({"vectors": "qwen2.5-7b-instrct"}, "did you mean qwen2.5-7b-instruct?"),
        ({"vectors": None, "vectors_for": "owner/none"}, "no set is published"),
        ({"base": {"path": "none"}}, "no such folder"),
        ({"base": {"path": "ev"}}, "no config.json"),
        ({"base": {"path": "none.gguf"}}, "base.path is a GGUF file"),
    ):
        with pytest.raises(InputError) as raised:
            check_persona(emobake.load_persona(write(here, [{"folder": "a"}], **fields)))
        assert word in str(raised.value)
    left = check_persona(emobake.load_persona(write(here, [{"folder": "a"}], vectors=["ev", "owner/set"])))
    assert left.open and "owner/set is fetched" in left.open[0]


def test_shipped_personas_are_well_formed():
    names = emobake.shipped_personas()
    assert len(names) == 7
    models = []
    for name in names:
        persona = emobake.load_persona(name)
        assert persona.name == name and persona.description and persona.examples and persona.system_prompt
        assert persona.receipt is not None and shipped_content(name).decode().startswith(HEAD)
        assert check_persona(persona, PersonaRun()).open == ()
        assert persona_of(persona.data, "again") == persona
        models.append(persona.base.id)
        measured = persona.receipt.command or persona.receipt.source
        assert measured or "Not run here" in persona.receipt.note
    assert models.count("HuggingFaceTB/SmolLM2-135M-Instruct") == 4


def test_an_adapter_of_a_persona(here):
    write_adapter(here / "lora", here / "base")
    outputs = [{"folder": "served"}, {"peft": "steered"}]
    done = emobake.bake_persona(write(here, outputs, adapter={"path": "lora"}))
    uses = [one.result.plan.record.adapter.how for one in done.outputs]
    assert uses[0] == "served" and uses[1] in ("steered", "beside")
    with pytest.raises(InputError, match="local adapter"):
        emobake.recipe_of(here / "served")


@pytest.mark.real
def test_a_shipped_persona_of_smollm2(smollm2, tmp_path):
    import transformers

    sunny = emobake.load_persona("sunny")
    linked = replace(sunny, outputs=(replace(sunny.outputs[0], options={"link_mode": "hardlink"}),))
    emobake.bake_persona(linked, model=smollm2, out=tmp_path)
    assert failures(tmp_path / "sunny", smollm2, "smollm2-135m-instruct") == []
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "sunny")
    text = tokenizer.apply_chat_template([USER], tokenize=False, add_generation_prompt=True)
    assert text.startswith(f"<|im_start|>system\n{sunny.system_prompt}<|im_end|>\n<|im_start|>user\nHello?")
    config = transformers.GenerationConfig.from_pretrained(tmp_path / "sunny")
    assert (config.do_sample, config.temperature, config.top_p, config.max_new_tokens) == (True, 0.6, 0.9, 256)
