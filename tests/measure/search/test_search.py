"""Whole searches on the tiny model: what is written, what goes on after a stop, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
from support.checkpoints import tree

pytest.importorskip("torch")
pytest.importorskip("optuna")
pytest.importorskip("sklearn")

import emobake
from emobake.core.vector_set import VectorSet
from emobake.errors import InputError, ModelError
from emobake.measure.query_sets import EVERYDAY, open_questions
from emobake.measure.search.parts import split
from emobake.measure.search.points import Figures
from emobake.measure.search.search import SearchSettings, search
from emobake.measure.search.trials import STRENGTHS
from emobake.measure.written import FOR_VECTORS, written_replies
from emobake.models.loading import Runtime

pytestmark = pytest.mark.real

SETTINGS = SearchSettings(budget_kl=0.2, trials=8, runtime=Runtime(batch_size=64))


@pytest.fixture(scope="module", autouse=True)
def small():
    """Few queries and short answers. A random model repeats itself from the start, so the bounds on that are lifted."""
    from emobake.measure.search import panel, points, search
    from emobake.measure.search.panel import Size

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(points, "COLLAPSED_AT_MOST", 1.0)
        patch.setattr(points, "DISTINCT_LOSS", 1.0)
        patch.setattr(search, "SearchBounds", lambda kl: points.SearchBounds(kl, collapsed=1.0, perplexity=1e9))
        patch.setattr(search, "VALIDATED", 2)
        texts = open_questions(EVERYDAY).texts[:20]
        patch.setattr(search, "shipped_parts", lambda seed: split(texts, written_replies()[FOR_VECTORS:][:12], seed))
        patch.setattr(search, "TRIAL", Size(6, 6, 2))
        patch.setattr(search, "VALIDATION", Size(8, 8, 2))
        patch.setattr(search, "TEST", Size(8, 8, 2))
        patch.setattr(panel, "CONTRAST_TOKENS", 6)
        yield


@pytest.fixture(scope="module")
def whole(tiny_chat, tiny_vectors, tmp_path_factory):
    """A search and its folder."""
    out = tmp_path_factory.mktemp("whole") / "joy.safetensors"
    told = []
    done = search(tiny_chat, out, tiny_vectors, mix={"joy": 1}, settings=SETTINGS, tried=told.append)
    assert [point.name for point in told] == [point.name for point in done.points]
    return done, out


def test_what_is_written(whole):
    done, out = whole
    assert sorted(path.name for path in out.parent.iterdir()) == [
        "joy.safetensors",
        "joy.search.json",
        "joy.search.png",
        "joy.search.svg",
    ]
    data = json.loads(out.with_name("joy.search.json").read_text())
    assert data == json.loads(json.dumps(done.to_json()))
    assert [one["name"] for one in data["trials"][: len(STRENGTHS)]] == [f"plain {x:g}" for x in STRENGTHS]
    assert len(data["trials"]) == 8 and data["seed"] == 0 and "0.2 nats" in data["rule"]
    assert str(out.parent) not in out.with_name("joy.search.json").read_text(), "no local path"


def test_the_set_is_ordinary(whole):
    done, out = whole
    opened = emobake.open_vectors(out)
    assert opened.emotions == ("joy",) and opened.rows.shape == (1, 3, 32)
    assert np.array_equal(opened.rows, done.vectors.rows) and opened.rows.any()
    kept = opened.extraction["search"]
    assert kept["shape"]["scale"] == done.best.shape.scale and kept["seed"] == 0 and "comparison" in kept["test"]
    assert opened.queries["search_seed"] == "0"
    told = opened.strengths["joy"]
    best = done.test["comparison"]["best_tuned"]
    (tested,) = (one for one in done.test["tuned"] if f"tuned {one['strength']:g}" == best)
    assert (told.value, told.kl, told.collapsed) == (tested["strength"], tested["kl"], tested["collapsed"])
    for left_out in done.best.shape.left_out:
        assert not opened.rows[0, left_out].any()


def test_the_set_baked_is_the_hook(whole, tiny_chat, tmp_path):
    _, out = whole
    emobake.bake(tiny_chat, out, mix={"joy": 1}, out=tmp_path / "baked")
    checks = emobake.verify(tmp_path / "baked", base=tiny_chat, stack=["transformers"], max_new_tokens=8)
    found = {check.name: check.ok for check in checks}
    assert any("equals the hook" in name for name in found) and all(ok is not False for ok in found.values())


def test_figures_hang_together(whole):
    done, _ = whole
    plain = [point for point in done.points if point.name.startswith("plain")]
    assert (np.diff([point.figures.kl for point in plain]) > 0).all(), "more of the same is further from the base"
    assert done.base.kl == 0 and done.base.emotion == 0
    for point in done.points:
        assert point.figures.kl_worst >= point.figures.kl > 0
        assert set(point.figures.measures) >= {"likelihood"}
    assert done.best.figures.kl <= 0.2
    assert done.best.name in {point.name for point in done.validated}
    test = done.test
    assert len(test["plain"]) == len(STRENGTHS) and len(test["queries"]) == 12
    assert [one["strength"] for one in test["tuned"]] == [0.25, 0.5, 0.75, 1]
    assert (np.diff([one["kl"] for one in test["tuned"]]) > 0).all()
    assert test["tuned"][-1]["lexicon"] is not None and done.points[0].figures.lexicon is None, "kept for the test"


def test_a_trial_aims_at_its_kl(whole):
    done, _ = whole
    ratios = [p.figures.kl / p.params["kl"] for p in done.points[len(STRENGTHS) :]]
    assert all(0.4 < ratio < 2.5 for ratio in ratios)


def test_a_killed_search_goes_on(whole, tiny_chat, tiny_vectors, tmp_path):
    _, first = whole
    out = tmp_path / "joy.safetensors"

    class Stop(Exception):
        pass

    def stop(point):
        if point.name == "6":
            raise Stop

    with pytest.raises(Stop):
        search(tiny_chat, out, tiny_vectors, mix={"joy": 1}, settings=SETTINGS, tried=stop)
    assert not out.exists()
    with pytest.raises(InputError, match="another seed"):
        search(tiny_chat, out, tiny_vectors, mix={"joy": 1}, settings=replace(SETTINGS, seed=1))
    announced = []
    search(
        tiny_chat,
        out,
        tiny_vectors,
        mix={"joy": 1},
        settings=SETTINGS,
        progress=lambda task, finished, total: announced.append((task, finished, total)) or (lambda amount: None),
    )
    assert announced[0] == ("trials", 7, 8)
    assert tree(out.parent) == tree(first.parent)


def test_several_emotions_and_a_scorer_of_ones_own(tiny_chat, tiny_vectors, tmp_path):
    class Length:
        name, unit, note, rank, batch_size = "length", "signs", "", 1, 8

        def score(self, queries, answers):
            assert len(queries) == len(answers)
            return [{"joy": float(len(answer))} for answer in answers]

    out, mix = tmp_path / "mixed.safetensors", {"joy": 1, "anger": 0.5, "fear": -0.5}
    settings = replace(SETTINGS, trials=5)
    done = search(tiny_chat, out, tiny_vectors, mix=mix, settings=settings, scorers=[Length()])
    assert set(done.points[0].figures.measures) == {"likelihood", "probe", "length"}
    assert done.record["scorers"] == ["length"] and done.record["mix"]["fear"] == -0.5
    assert emobake.open_vectors(out).emotions == ("joy-anger",)


def test_rows_of_a_second_set_are_blended_in(cli, tiny_chat, tiny_vectors, tmp_path):
    """Its own rows come first; the record tells the set, and a search goes on with the same second set only."""
    second = VectorSet(("joy",), np.random.default_rng(3).standard_normal((1, 3, 32)).astype(np.float32), "second")
    settings = replace(SETTINGS, trials=9)
    done = search(tiny_chat, tmp_path / "a.safetensors", tiny_vectors, mix={"joy": 1}, blend=second, settings=settings)
    assert [point.shape.blend for point in done.points[:8]] == [0.0] * 5 + [1.0] * 3
    assert [point.name for point in done.points[5:]] == ["second 0.4", "second 0.7", "second 1", "8"]
    assert [one["strength"] for one in done.test["second"]] == [point.shape.scale for point in done.points[5:8]]
    assert [point.params["kl"] for point in done.points[5:8]] == pytest.approx([0.08, 0.14, 0.2])
    assert 0 < done.points[8].shape.blend < 1 and done.record["blend"] == "second"
    assert done.vectors.queries["blend_queries"] == "second", "nothing is known of its queries"
    narrow = VectorSet(("joy",), np.ones((1, 3, 16), np.float32), "narrow")
    with pytest.raises(InputError, match="hidden size 16"):
        search(tiny_chat, tmp_path / "b.safetensors", tiny_vectors, mix={"joy": 1}, blend=narrow)
    words = ("tune", "--model", tiny_chat, "--vectors", tiny_vectors, "--mix", "anger=1", "--search")
    emobake.write_set(second, tmp_path / "second.safetensors")
    ran = cli(*words, "--blend", tmp_path / "second.safetensors", "--out", tmp_path / "b.safetensors")
    ran.one_line("no vectors for anger")


def test_nothing_within_the_bounds(tiny_chat, tiny_vectors, tmp_path, monkeypatch):
    from emobake.measure.search import search as module

    monkeypatch.setattr(module, "chosen", lambda points, base, bounds: None)
    out = tmp_path / "a.safetensors"
    with pytest.raises(ModelError, match="none of 5 trials keeps to the bounds"):
        search(tiny_chat, out, tiny_vectors, mix={"joy": 1}, settings=replace(SETTINGS, trials=5))
    assert not out.exists() and (tmp_path / "a.safetensors.partial").is_dir(), "finished trials are kept"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"mix": {"joy": -1}}, "no weight is above 0"),
        ({"scorers": ["lexicon"]}, "kept for the test"),
        ({"out": "a.npz"}, "ends in .safetensors"),
        ({"out": "none/a.safetensors"}, "folder does not exist"),
        ({"layers": "9"}, "names layer 9"),
    ],
)
def test_bad_input(tiny_chat, tiny_vectors, tmp_path, more, said):
    given = {"mix": {"joy": 1}, **more}
    with pytest.raises(InputError, match=said):
        search(tiny_chat, tmp_path / given.pop("out", "a.safetensors"), tiny_vectors, **given)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("settings", [{"budget_kl": 0}, {"trials": 4}, {"seed": -1}])
def test_bad_settings(settings):
    with pytest.raises(InputError, match=next(iter(settings))):
        SearchSettings(**settings)


def test_on_the_command_line(cli, whole, tiny_chat, tiny_vectors, tmp_path):
    done, first = whole
    words = ("tune", "--model", tiny_chat, "--vectors", tiny_vectors, "--mix", "joy=1", "--search")
    words += ("--budget-kl", 0.2, "--trials", 8, "--batch-size", 64, "--out", tmp_path / "joy.safetensors")
    ran = cli(*words).ok()
    assert tree(tmp_path) == tree(first.parent)
    assert "12 test queries" in ran.out and "Wrote" in ran.out and ran.err.count("emotion") == 8
    cli(*words).one_line("exists", "--overwrite")
    assert f"{done.test['tuned'][-1]['kl']:.3f}" in ran.out


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--search",), "give --out"),
        (("--search", "--out", "a.safetensors", "--target-kl", 1), "--target-kl does not go with --search"),
        (("--search", "--out", "a.safetensors", "--scale", 2), "leave --scale out"),
        (("--target-kl", 1, "--trials", 60), "--trials goes with --search"),
        (("--target-kl", 1, "--scorer", "x"), "--scorer goes with --search"),
        (("--search", "--out", "a.txt"), "ends in .safetensors"),
        (("--search", "--out", "a.safetensors", "--scorer", "lexicon"), "--scorer lexicon"),
    ],
)
def test_options_that_do_not_go_together(cli, tiny_chat, tiny_vectors, tmp_path, monkeypatch, more, said):
    monkeypatch.chdir(tmp_path)
    words = ("tune", "--model", tiny_chat, "--vectors", tiny_vectors, "--mix", "joy=1")
    cli(*words, *more).one_line(said)
    assert not list(tmp_path.iterdir())


def test_figures_that_were_not_measured_are_kept_as_such():
    stopped = Figures({"likelihood": 0.5}, 0.1, 0.4)
    assert Figures.from_json(json.loads(json.dumps(stopped.to_json()))) == stopped
