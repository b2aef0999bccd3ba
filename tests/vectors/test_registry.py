"""The registry says what was published, and finds a model's set by any of its names."""

import csv
import re

import pytest
from support.paths import SHARED

from emobake import ModelName, open_vectors
from emobake.core.vector_set import EMOTIONS
from emobake.vectors.fetch import is_cached, pull
from emobake.vectors.find import find_vectors, model_ids
from emobake.vectors.registry import find_by_model, find_by_name, registry


def test_every_entry_is_whole():
    names = [entry.name for entry in registry().sets] + [entry.name for entry in registry().queries]
    assert len(set(names)) == len(names)
    ids = [i.lower() for e in registry().sets if not e.by_name for i in (e.base_model, *e.same_weights)]
    assert len(set(ids)) == len(ids), "a model has one set that is used unless another one is named"
    for entry in registry().sets:
        assert bool(entry.shipped) != bool(entry.files)
        assert not entry.files or tuple(entry.files) == EMOTIONS
        for file in entry.files.values():
            assert re.fullmatch("[0-9a-f]{40}", file.commit) and re.fullmatch("[0-9a-f]{40}", file.blob)


def test_the_set_of_smollm2_tells_a_strength_for_joy_alone():
    found = find_vectors("smollm2-135m-instruct")
    assert found.strengths.keys() == {"joy"} and found.strengths["joy"].value == 1
    assert find_vectors("smollm2-135m-instruct", ["anger"]).strengths == {}


def test_the_tuned_set_of_smollm2_is_used_by_name_and_tells_a_strength_for_every_emotion():
    tuned = find_vectors("smollm2-135m-instruct-tuned")
    assert tuned.strengths.keys() == set(EMOTIONS)
    for emotion, strength in tuned.strengths.items():
        assert strength.kl < 0.5 and strength.collapsed <= 0.05, emotion
    assert find_by_model([tuned.base_model]) is find_by_name("smollm2-135m-instruct")


@pytest.mark.published
def test_the_blob_ids_are_those_that_were_listed():
    with (SHARED / "seed" / "published-files.tsv").open() as table:
        listed = {row["path"]: row["git_blob_sha1"] for row in csv.DictReader(table, delimiter="\t")}
    ours = {f.path: f.blob for entry in registry().sets for f in entry.files.values()}
    ours |= {entry.file.path: entry.file.blob for entry in registry().queries}
    assert ours == listed


def test_what_comes_along_is_what_the_registry_says():
    for entry in registry().sets:
        if entry.shipped:
            found = open_vectors(pull(entry))
            assert is_cached(entry)
            assert (found.layers, found.hidden) == (entry.layers, entry.hidden_size)
            assert (found.base_model, found.license, found.emotions) == (entry.base_model, entry.license, EMOTIONS)
            assert {s.count for s in found.statistics.values()} == (set() if entry.by_name else {48})


def test_a_model_is_found_by_every_name():
    llama = find_by_name("Llama3.1-8B-Instruct")
    assert llama is not None and (llama.layers, llama.hidden_size) == (32, 4096)
    for name in ("meta-llama/Llama-3.1-8B-Instruct", "META-LLAMA/meta-llama-3.1-8b-instruct"):
        assert find_by_model([name]) is llama
    assert find_by_model(["me/mine", "Qwen/Qwen2.5-7B-Instruct"]) is find_by_name("qwen2.5-7b-instruct")
    # The base of the chat model is another model.
    assert find_by_model(["meta-llama/Llama-3.1-8B", "Qwen/Qwen2.5-7B"]) is None
    assert find_by_name("nothing") is None


@pytest.mark.parametrize(
    ("card", "named"),
    [
        ("---\nbase_model: Qwen/Qwen2.5-7B-Instruct\n---\n# Mine", ("Qwen/Qwen2.5-7B-Instruct",)),
        ("---\nbase_model:\n- a/b\n- c/d\n---\n", ("a/b", "c/d")),
        ("---\nbase_model: [1, me/mine, null]\n---\n", ("me/mine",)),
        ("---\nbase_model: {a: b}\n---\n", ()),
        ("# no metadata", ()),
        ("---\n!!python/object/apply:os.system [true]\n---\n", ()),
    ],
)
def test_a_card_names_the_base(tmp_path, card, named):
    (tmp_path / "README.md").write_text(card)
    assert model_ids(ModelName.parse(tmp_path)) == named
    known = model_ids(ModelName.parse(tmp_path, base_model="me/mine"))
    assert known == ("me/mine", *(name for name in named if name != "me/mine"))
