"""Personas of the desk as files: saved, loaded, baked by the command line, and never outside of the folder."""

import pytest
from support.checkpoints import tree

import emobake
from emobake import InputError
from emobake.actions.bake import bake
from emobake.actions.personas import load_persona
from emobake.core.strengths import Strength
from emobake.desk.order import Bench, Order
from emobake.desk.persona_folder import PersonaFolder
from emobake.desk.setting import Setting
from emobake.storage.model_name import ModelName
from emobake.vectors.find import VectorSource

SETTING = Setting({"joy": 0.5, "anger": -0.25, "fear": 0.0}, 1.5, "0-1")


@pytest.fixture
def store(base, vectors, tmp_path):
    bench = Bench(ModelName.parse(base, base_model="me/base"), VectorSource(str(vectors)), str(tmp_path / "outs"))
    return PersonaFolder(bench, emobake.open_vectors(vectors))


def test_there_and_back(store):
    assert store.names() == []
    store.save("sunny", SETTING, overwrite=False)
    assert store.names() == ["sunny"]
    assert store.load("sunny") == Setting({"joy": 0.5, "anger": -0.25}, 1.5, "0-1")
    with pytest.raises(InputError, match=r"sunny.yaml: exists"):
        store.save("sunny", SETTING, overwrite=False)


def test_the_file_bakes_what_the_desk_bakes(store, cli, tmp_path):
    store.save("sunny", SETTING, overwrite=False)
    bake(store.bench.model, **Order(SETTING, "folder", "desk").arguments(store.bench))
    cli("bake", tmp_path / "outs" / "sunny.yaml").ok()
    desk, own = (tree(tmp_path / "outs" / name) for name in ("desk", "sunny"))
    weights = [name for name in desk if name.endswith(".safetensors")]
    assert weights and all(own[name] == desk[name] for name in weights)


def test_what_a_file_says_beside_the_mood_is_kept(store, tmp_path):
    file = tmp_path / "outs" / "kind.yaml"
    file.parent.mkdir()
    file.write_text("name: kind\nsystem_prompt: Be kind.\nmix: {joy: 1}\nlayers: 0-1\noutputs: [{folder: kind}]\n")
    store.save("kind", Setting({"fear": 2.0}), overwrite=True)
    persona = load_persona(file)
    assert persona.system_prompt == "Be kind." and dict(persona.mix) == {"fear": 2.0} and persona.layers is None


def test_strengths(store, tmp_path):
    file = tmp_path / "outs" / "one.yaml"
    file.parent.mkdir()
    file.write_text("mix: {joy: 2}\nstrength: auto\noutputs: [{folder: x}]\n")
    with pytest.raises(InputError, match="tells no measured strength for joy"):
        store.load("one")
    known = PersonaFolder(
        store.bench, emobake.VectorSet(("joy",), store.vectors.rows[:1], strengths={"joy": Strength(0.8, "x")})
    )
    assert known.load("one").scale == pytest.approx(0.4)
    file.write_text("mix: {joy: 2}\nstrength: {kl: 0.3}\noutputs: [{folder: x}]\n")
    with pytest.raises(InputError, match="budget of KL"):
        store.load("one")


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".x", "a\\b", "a\nb", "/etc/x"])
def test_names_stay_in_the_folder(store, tmp_path, name):
    with pytest.raises(InputError):
        store.save(name, SETTING, overwrite=True)
    with pytest.raises(InputError):
        store.load(name)
    assert not (tmp_path / "x.yaml").exists()


def test_what_cannot_be_kept(store, tmp_path):
    with pytest.raises(InputError, match="every position"):
        store.save("x", Setting({"joy": 1.0}, scope="last"), overwrite=False)
    with pytest.raises(InputError, match="move a slider"):
        store.save("x", Setting(), overwrite=False)
    with pytest.raises(InputError, match="no persona of this name"):
        store.load("nobody")
    assert not (tmp_path / "outs").exists()


def test_shipped_personas_are_those_of_the_model(store, vectors, tmp_path):
    bench = Bench(ModelName.parse("HuggingFaceTB/SmolLM2-135M-Instruct"), VectorSource(), str(tmp_path))
    found = PersonaFolder(bench, emobake.find_vectors("smollm2-135m-instruct"))
    names = [name for name in found.names() if name in emobake.shipped_personas()]
    assert len(names) >= 3 and found.load(names[0]).mix and "grumpy" not in names
    tuned = PersonaFolder(bench, emobake.find_vectors("smollm2-135m-instruct-tuned"))
    assert tuned.names() == ["grumpy"] and tuned.load("grumpy").scale == 0.75


def test_a_persona_of_another_set_is_another_mood(store, tmp_path):
    """Its weights would act on other rows: it is neither loaded nor written over."""
    store.save("mine", SETTING, overwrite=False)
    assert store.load("mine").scale == 1.5, "by a path relative to the file"
    file = tmp_path / "outs" / "other.yaml"
    content = "mix: {joy: 1}\nvectors: other.safetensors\noutputs: [{folder: x}]\n"
    file.write_text(content)
    for refused in (lambda: store.load("other"), lambda: store.save("other", SETTING, overwrite=True)):
        with pytest.raises(InputError, match=r"other: is made for other.safetensors, and the sliders are of"):
            refused()
    assert file.read_text() == content
