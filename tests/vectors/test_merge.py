"""Several sets as one: the emotions of all, and a record that names each."""

import json
from dataclasses import replace

import numpy as np
import pytest
from support.checkpoints import write_vectors

import emobake
from emobake import InputError, VectorError, VectorSet
from emobake.core.record import Record
from emobake.vectors.find import find_vectors
from emobake.vectors.merge import merge_sets
from emobake.vectors.write import write_set

ROWS = np.random.default_rng(5).normal(size=(3, 2, 8)).astype(np.float32)


def one(name, *emotions, start=0, **more):
    return VectorSet(emotions, ROWS[start : start + len(emotions)], name=name, **more)


@pytest.fixture
def files(tmp_path):
    """happy.safetensors and sad.safetensors."""
    write_set(one("happy", "happy", source="here", license="mit"), tmp_path / "happy.safetensors")
    write_set(one("sad", "sad", "glum", start=1, source="there", license="cc0-1.0"), tmp_path / "sad.safetensors")
    return [tmp_path / "happy.safetensors", tmp_path / "sad.safetensors"]


def test_the_emotions_of_all(files):
    found = find_vectors(files)
    assert found.emotions == ("happy", "glum", "sad") and found.name == "happy.safetensors + sad.safetensors"
    np.testing.assert_array_equal(found.rows, ROWS[[0, 2, 1]])
    assert [part.license for part in found.parts] == ["mit", "cc0-1.0"] and found.license == ""
    assert set(found.sha256) == {"happy.safetensors", "sad.safetensors"}
    assert find_vectors([files[0]]).parts == ()


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (one("b", "joy"), "a and b both have vectors for joy"),
        (one("b", "fear", site="layer_output"), "act at two sites, the attention output and the layer output"),
        (one("b", "fear", base_model="me/other"), "are for two models, me/model and me/other"),
        (VectorSet(("fear",), ROWS[:1, :1], name="b"), "differ in shape, 2 layers x 8 and 1 layers x 8"),
        (VectorSet(("fear",), ROWS[:1, :, :4], name="b"), "differ in shape, 2 layers x 8 and 2 layers x 4"),
    ],
)
def test_what_does_not_go_together(other, said):
    with pytest.raises(VectorError, match=said) as caught:
        merge_sets([one("a", "joy", base_model="me/model"), other])
    assert "\n" not in str(caught.value)


def test_the_same_weights_under_two_ids_go_together():
    ids = ("HuggingFaceTB/SmolLM2-135M-Instruct", "unsloth/SmolLM2-135M-Instruct")
    sets = [one(name, name, base_model=id) for name, id in zip("ab", ids, strict=True)]
    assert merge_sets(sets).emotions == ("a", "b")


def test_files_of_one_name_keep_their_digests():
    sets = [VectorSet((name,), ROWS[:1], name="v.npz", sha256={"v.npz": name * 64}) for name in "abc"]
    assert sorted(merge_sets(sets).sha256.values()) == ["a" * 64, "b" * 64, "c" * 64]


def test_a_bake_of_two_sets(cli, base, files, tmp_path):
    words = ("--model", base, "--vectors", files[0], "--vectors", files[1], "--mix", "happy=1,sad=0.5")
    cli(*words, "--out", tmp_path / "out", "-q").ok()
    result = emobake.bake(base, files, mix={"happy": 1, "sad": 0.5}, out=tmp_path / "again")
    want = ROWS[0] + np.float32(0.5) * ROWS[1]
    assert [b.norm for b in result.plan.biases] == pytest.approx(np.linalg.norm(want, axis=1).tolist(), rel=1e-6)
    assert (tmp_path / "out" / "emobake.json").read_bytes() == (tmp_path / "again" / "emobake.json").read_bytes()
    stored = json.loads((tmp_path / "out" / "emobake.json").read_text())["vectors"]
    assert [entry["name"] for entry in stored["sets"]] == ["happy.safetensors", "sad.safetensors"]
    assert [entry["source"] for entry in stored["sets"]] == ["here", "there"]
    shown = cli("show", tmp_path / "out").ok().out
    assert "happy.safetensors" in shown and "sad.safetensors" in shown
    card = (tmp_path / "out" / "README.md").read_text()
    assert "`happy.safetensors`" in card and "`sad.safetensors`" in card
    given = ("--vectors", files[0], "--vectors", files[1])
    checks = json.loads(cli("verify", tmp_path / "out", *given, "--json").ok().out)
    assert {check["name"]: check["ok"] for check in checks}["arithmetic"] is True
    write_set(one("sad", "sad", start=0), tmp_path / "sad.safetensors", overwrite=True)
    assert cli("verify", tmp_path / "out", *given, "-q").code == 1


def test_a_set_given_twice(cli, base, tmp_path):
    folder = write_vectors(tmp_path / "ev")
    words = ("--model", base, "--mix", "joy=1", "--dry-run")
    cli(*words, "--vectors", folder, "--vectors", folder).one_line("ev and ev both have vectors for anger")
    cli(*words, "--vectors", folder, "--vectors", tmp_path / "none").one_line("none: no such vector set")
    cli(*words, "--vectors", folder, "--vectors-for", "me/x").one_line("give one")


def test_the_output_must_not_be_in_one_of_them(cli, base, tmp_path):
    folders = [write_vectors(tmp_path / name) for name in ("a", "b")]
    words = ("--model", base, "--vectors", folders[0], "--vectors", folders[1], "--mix", "joy=1", "--overwrite")
    cli(*words, "--out", folders[1]).one_line()
    assert len(list(folders[1].iterdir())) == 5


@pytest.mark.parametrize("given", [5, [5], [None], {"a": 1}, ["a", ["b"]]], ids=str)
def test_another_type(base, given):
    with pytest.raises(InputError, match="`vectors` takes a path, a name, an open set, or a list of these"):
        emobake.bake(base, given, mix={"joy": 1}, dry_run=True)


def test_no_set_at_all(base):
    with pytest.raises(InputError, match="`vectors` is an empty list"):
        emobake.bake(base, [], mix={"joy": 1}, dry_run=True)


def test_a_record_of_several_sets_is_read_back(base, files):
    record = emobake.bake(base, files, mix={"happy": 1}, dry_run=True).plan.record
    assert Record.from_json(json.loads(json.dumps(record.to_json())), "f") == record
    assert [one.name for one in record.vectors.origins] == [path.name for path in files]


def test_held_out_queries_are_those_of_no_set():
    """Queries of one set that are not known make all of them unknown."""
    from emobake.measure.evaluation import _seen
    from emobake.measure.query_sets import comparable, open_questions

    shipped = find_vectors("smollm2-135m-instruct")
    own, everyday = open_questions("emobake"), open_questions("everyday")
    renamed = emobake.VectorSet(("calm",), shipped.rows[:1], name="calm", extraction=shipped.extraction)
    known = _seen(merge_sets([shipped, renamed]), (), everyday)
    assert known.texts == {comparable(text) for text in own.texts}
    unknown = emobake.VectorSet(("calm",), shipped.rows[:1], name="calm")
    assert _seen(merge_sets([shipped, unknown]), (), everyday).texts is None


def test_queries_of_a_search_count_as_seen():
    """Those of the second set, too; the test's queries were seen by nobody."""
    from emobake.measure.evaluation import _seen
    from emobake.measure.query_sets import comparable, open_questions
    from emobake.measure.search.parts import shipped_parts

    shipped = find_vectors("smollm2-135m-instruct")
    own, everyday, parts = open_questions("emobake"), open_questions("everyday"), shipped_parts(2)
    tuned = replace(shipped, extraction={**shipped.extraction, "search_seed": "2"})
    texts = _seen(tuned, (), everyday).texts
    assert texts == {comparable(text) for text in (*own.texts, *parts.train.everyday, *parts.validation.everyday)}
    assert not texts & {comparable(text) for text in parts.test.everyday}
    blended = replace(tuned, extraction={**tuned.extraction, "blend_queries_sha256": "0" * 64})
    assert _seen(blended, (), everyday).texts is None


def test_several_sets_become_one_file(files, cli, tmp_path):
    """Settings that are the same in all are kept; the queries only if all of them are the same."""
    out = tmp_path / "all.safetensors"
    cli("vectors", "convert", *files, out).ok()
    opened, parts = emobake.open_vectors(out), [emobake.open_vectors(file) for file in files]
    assert opened.emotions == ("glum", "happy", "sad")
    assert np.array_equal(opened.rows[1], parts[0].rows[0]) and np.array_equal(opened.rows[[0, 2]], parts[1].rows)
    one = replace(parts[0], extraction={"queries": "a.json", "seed": 1, "dtype": "float32"})
    other = replace(parts[1], extraction={"queries": "a.json", "seed": 2, "dtype": "float32"})
    assert merge_sets([one, other]).extraction == {"queries": "a.json", "dtype": "float32"}
    other = replace(other, extraction={**other.extraction, "queries_sha256": "0" * 64})
    assert merge_sets([one, other]).extraction == {"dtype": "float32"}
    cli("vectors", "convert", files[0], files[0], tmp_path / "twice.safetensors").one_line("both have vectors for")
