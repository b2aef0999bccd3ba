"""A session at the desk, without a web server: two moods of one model, what they cost, and bakes of what was heard."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from support.binding import take
from support.gguf_files import write_model

import emobake
from emobake import InputError, VectorError
from emobake.actions.conversation import open_conversation
from emobake.desk.order import Bench
from emobake.desk.session import DeskSession
from emobake.desk.setting import Setting, Settings
from emobake.models.sampling import Sampling
from emobake.storage.model_name import ModelName
from emobake.vectors.find import VectorSource

pytest.importorskip("torch")

SHORT = Sampling(temperature=0, max_new_tokens=6)
LOUD, SAD = Setting({"joy": 3.0}), Setting({"sadness": 3.0})


@pytest.fixture(scope="module")
def talk(tiny_chat, tiny_vectors):
    return open_conversation(tiny_chat, tiny_vectors, mix={"joy": 3}, sampling=SHORT)


@pytest.fixture
def desk(talk, tiny_chat, tiny_vectors, tmp_path):
    talk.sampling = SHORT
    return DeskSession(talk, Bench(ModelName.parse(tiny_chat), VectorSource(str(tiny_vectors)), str(tmp_path)))


def events(reply, kind=None):
    found = list(reply)
    assert reply.wait(10)
    return [one for one in found if kind is None or one["type"] == kind]


def said(reply):
    return {one["side"]: one["said"]["text"] for one in events(reply, "said")}


def own_answers(tiny_chat, tiny_vectors, questions, mix=None):
    talk = open_conversation(tiny_chat, tiny_vectors, mix=mix, sampling=SHORT)
    return [talk.answer(question).text for question in questions]


pytestmark = pytest.mark.real


def test_an_answer_and_the_unsteered_one_beside_it(desk, tiny_chat, tiny_vectors):
    found = events(desk.ask(" Hello? "))
    assert [one["type"] for one in found if one["type"] != "piece"] == [
        "question", "said", "said", "measuring", "cost"
    ]  # fmt: skip
    assert found[0] == {"type": "question", "question": "Hello?", "sides": ["a", "unsteered"]}
    texts = {one["side"]: one["said"]["text"] for one in found if one["type"] == "said"}
    for side, text in texts.items():
        assert "".join(one["text"] for one in found if one["type"] == "piece" and one["side"] == side) == text
    assert texts == {
        "a": own_answers(tiny_chat, tiny_vectors, ["Hello?"], {"joy": 3})[0],
        "unsteered": own_answers(tiny_chat, tiny_vectors, ["Hello?"])[0],
    }
    assert texts["a"] != texts["unsteered"]
    (exchange,) = desk.exchanges
    assert exchange.said["a"].recipe == "3 x joy" and exchange.cost.kl > 0
    assert len(exchange.cost.dose) == 3 and min(exchange.cost.dose) > 0 and not desk.is_answering


def test_the_same_history_beside_or_its_own(desk, tiny_chat, tiny_vectors):
    questions = ["Hello?", "And then?", "Why?"]
    first = said(desk.ask(questions[0]))
    same = said(desk.ask(questions[1]))["unsteered"]
    plain = open_conversation(tiny_chat, tiny_vectors, sampling=SHORT)
    plain.turns = [(questions[0], first["a"])]
    assert plain.answer(questions[1]).text == same
    desk.set(replace(desk.settings, history="own"))
    assert said(desk.ask(questions[2]))["unsteered"] == own_answers(tiny_chat, tiny_vectors, questions)[2]
    desk.set(replace(desk.settings, beside="b", b=SAD))
    assert said(desk.ask(None))["b"] == own_answers(tiny_chat, tiny_vectors, questions, {"sadness": 3})[2]
    assert len(desk.exchanges) == 3, "the last question was answered again"


def test_two_moods_and_none(desk, tiny_chat, tiny_vectors):
    desk.set(Settings(a=LOUD, b=SAD, beside="b"))
    assert said(desk.ask("Hello?"))["b"] == own_answers(tiny_chat, tiny_vectors, ["Hello?"], {"sadness": 3})[0]
    desk.set(replace(desk.settings, beside="off"))
    assert set(said(desk.ask("Hello?"))) == {"a"}


def test_both_sides_draw_the_same_numbers(desk):
    desk.set_sampling(Sampling(max_new_tokens=6, temperature=5.0, seed=None), "")
    desk.set(Settings(beside="b"))
    texts = [said(desk.ask("Hello?")) for _ in range(2)]
    assert texts[0]["a"] == texts[0]["b"] and texts[1]["a"] == texts[1]["b"]
    assert texts[0] != texts[1], "anew each time"
    desk.set(Settings(beside="unsteered"))
    assert set(said(desk.ask("Hello?"))) == {"a"}, "mood A is unsteered: the same answer twice"


def test_a_wrong_setting_changes_nothing(desk):
    before = desk.settings
    for setting, words in (
        (Setting({"envy": 1.0}), "envy"),
        (Setting({"joy": 1.0}, layers="99"), "layer 99"),
        (Setting({"joy": float("inf")}), "finite"),
        (Setting({"joy": 1.0}, layers="first"), "layers"),
    ):
        for side in ("a", "b"):
            with pytest.raises(InputError, match=words):
                desk.set(replace(before, **{side: setting}))
    assert desk.settings == before


def test_one_answer_at_a_time_and_stopping(desk):
    desk.set_sampling(Sampling(temperature=0, max_new_tokens=2000), "")
    reply = desk.ask("Hello?")
    iterator = iter(reply)
    assert next(iterator)["type"] == "question"
    for second in (lambda: desk.ask("Again?"), desk.reset):
        with pytest.raises(InputError, match="an answer is being generated"):
            second()
    next(iterator)
    desk.stop()
    rest = list(iterator)
    assert [one["type"] for one in rest if one["type"] != "piece"] == ["said"], "no second side, no measuring"
    assert rest[-1]["said"]["interrupted"] and desk.exchanges[0].said["a"].interrupted
    assert not desk.is_answering
    desk.stop()  # Nothing to stop.


def test_wrong_questions(desk, monkeypatch):
    for question, words in (("  ", "write a question"), ("x" * 30_000, "too many"), (None, "nothing was asked")):
        with pytest.raises(InputError, match=words):
            desk.ask(question)
    monkeypatch.setattr(desk.steered.live.model.config, "max_position_embeddings", 30)
    (error,) = events(desk.ask("word " * 30), "error")
    assert "no room for an answer" in error["error"] and desk.exchanges == () and not desk.is_answering


def test_a_failing_model_is_an_event(desk, monkeypatch):
    monkeypatch.setattr(desk.steered.live.model, "generate", lambda **_: 1 / 0)
    (error,) = events(desk.ask("Hello?"), "error")
    assert "the model failed" in error["error"] and desk.exchanges == () and not desk.is_answering


def test_chat_commands(desk):
    assert desk.command("/mix joy=1,anger=-0.5")[0] == "weights   1 x joy + -0.5 x anger"
    desk.command("/layers 0-1")
    desk.command("/scope last")
    desk.command("/scale 2")
    assert desk.settings.a == Setting({"joy": 1.0, "anger": -0.5}, 2.0, "0,1", "last")
    desk.command("/layers")
    assert desk.settings.a.layers == ""
    said(desk.ask("Hello?"))
    assert any("1 answered" in line for line in desk.command("/show"))
    assert "forgotten" in desk.command("/reset")[0] and desk.exchanges == ()
    with pytest.raises(InputError, match="/bake: no such command here"):
        desk.command("/bake out")
    with pytest.raises(InputError, match="did you mean /scale"):
        desk.command("/scal 2")


def test_what_the_page_bakes_says_what_was_heard(desk, tiny_vectors, tmp_path):
    desk.set(Settings(a=Setting({"joy": 1.5}, 2.0, "0,2"), beside="off"))
    heard = said(desk.ask("Hello?"))["a"]
    planned = desk.plan("a", "folder", "loud", overwrite=False, private=None)
    desk.baker.start(planned.key)
    desk.baker._thread.join()
    assert desk.baker.job.state == "done", desk.baker.job
    baked = open_conversation(tmp_path / "loud", tiny_vectors, sampling=SHORT)
    assert baked.answer("Hello?").text == heard


def test_the_cost_is_that_of_the_hook(desk):
    """Stated anew: KL of next-token distributions at each token of the answer, with and without rows added."""
    import torch

    text = said(desk.ask("Hello?"))["a"]
    live, rows = desk.steered.live, desk.steered.vectors.rows[3] * np.float32(3)
    prompt = live.prompt([{"role": "user", "content": "Hello?"}])
    answer = live.tokenizer(text, add_special_tokens=False)["input_ids"]
    ids, seen = torch.tensor([prompt + answer]), {}

    def logits(added):
        def hook(layer):
            def call(_module, _args, output):
                seen[layer] = output[0][0, len(prompt) :].norm(dim=-1).mean().item()
                return (output[0] + torch.tensor(added[layer]), *output[1:])

            return call

        handles = [block.self_attn.register_forward_hook(hook(i)) for i, block in enumerate(live.model.model.layers)]
        with torch.inference_mode():
            found = live.model(ids).logits[0, len(prompt) - 1 : -1].double().log_softmax(-1)
        for handle in handles:
            handle.remove()
        return found

    base = logits(np.zeros_like(rows))
    usual = dict(seen)
    kl = (base.exp() * (base - logits(rows))).sum(-1).mean().item()
    cost = desk.exchanges[0].cost
    assert cost.kl == pytest.approx(kl, rel=1e-4) and cost.tokens == len(answer)
    assert cost.dose == pytest.approx([np.linalg.norm(rows[i]) / usual[i] for i in range(3)], rel=1e-4)


def test_a_conversation_whose_logits_are_too_many_has_a_dose_only(desk, monkeypatch):
    monkeypatch.setattr("emobake.desk.costs.LOGITS", 2**20)
    (event,) = events(desk.ask("Hello?"), "cost")
    assert event["cost"]["kl"] is None and event["cost"]["largest"]["dose"] > 0


def test_pictures_of_doses_and_sets(desk, tiny_vectors, tmp_path):
    pytest.importorskip("matplotlib")
    from emobake.desk.pictures import cosine_picture, dose_picture
    from emobake.desk.sets import open_sets

    said(desk.ask("Hello?"))
    for theme, ink in (("light", "#1d2430"), ("dark", "#e8ebf0")):
        picture = dose_picture(desk.exchanges[0].cost, theme)
        assert picture.startswith(b"<?xml") and ink.encode() in picture
    vectors = desk.steered.vectors
    other = emobake.VectorSet(("joy", "envy"), vectors.rows[[3, 0]], name="other")
    emobake.write_set(other, tmp_path / "other.safetensors")
    narrow = emobake.VectorSet(("joy",), np.ones((1, 2, 8), np.float32))
    emobake.write_set(narrow, tmp_path / "narrow.safetensors")
    sets = open_sets(vectors, [str(tmp_path / "other.safetensors"), str(tmp_path / "narrow.safetensors")])
    assert sets[1].fits(sets[0]) and not sets[2].fits(sets[0])
    across = sets[1].cosines_with(sets[0])
    assert across.shape == (2, 5) and across[0, 3] == pytest.approx(1) and across[1, 0] == pytest.approx(1)
    assert cosine_picture(sets, "dark").count(b"<svg") == 1
    with pytest.raises(VectorError, match="two sets"):
        open_sets(vectors, [str(tmp_path / "other.safetensors")] * 2)


def test_a_report_that_vanishes_is_said(talk, tiny_chat, tmp_path):
    bench = Bench(ModelName.parse(tiny_chat), VectorSource(), str(tmp_path))
    with pytest.raises(InputError, match=r"report\.json"):
        DeskSession(talk, bench, report=tmp_path)
    points = [{"strength": 1, "collapsed": 0.5}]
    one = {"name": "joy", "weights": {"joy": 1}, "layers": None, "points": points}
    (tmp_path / "report.json").write_text(json.dumps({"receipt": {"directions": [one]}}))
    desk = DeskSession(talk, bench, report=tmp_path)
    assert "50.0% of the answers collapsed" in desk.cautions["a"][1] and desk.cautions["b"] == []
    (tmp_path / "report.json").unlink()
    desk.set(replace(desk.settings, a=SAD))
    assert "has no report.json" in desk.cautions["a"][0]


class Memory:
    """A store of personas that keeps them in memory."""

    def __init__(self):
        self.kept = {}

    def names(self):
        return sorted(self.kept)

    def load(self, name):
        if name not in self.kept:
            raise InputError(f"{name}: no such persona")
        return self.kept[name]

    def save(self, name, setting, *, overwrite):
        self.kept[name] = setting


def test_personas_go_through_the_seam(desk):
    with pytest.raises(InputError, match="keeps no personas"):
        desk.load_persona("sunny")
    desk.personas = Memory()
    desk.save_persona("sunny", overwrite=False)
    desk.set(Settings(a=SAD))
    assert desk.load_persona("sunny") == desk.settings.a and desk.recipes["a"] == "3 x joy"
    desk.personas.kept["odd"] = Setting({"envy": 1.0})
    with pytest.raises(InputError, match="envy"):
        desk.load_persona("odd")
    assert desk.recipes["a"] == "3 x joy"


def test_changes_are_told(desk):
    known = desk.revision
    desk.set(Settings(a=SAD))
    assert desk.revision > known
    known = desk.revision
    said(desk.ask("Hello?"))
    assert desk.revision > known
    desk.close()
    assert desk.is_closing


def test_a_gguf_file_is_for_listening(tmp_path, monkeypatch):
    take(monkeypatch, "xllamacpp")
    write_model(tmp_path / "m.gguf")
    talk = open_conversation(tmp_path / "m.gguf", sampling=SHORT)
    desk = DeskSession(talk, Bench(ModelName.parse(tmp_path / "m.gguf"), VectorSource(), str(tmp_path)))
    assert desk.steered is None and desk.cautions == {} and desk.settings.beside == "off"
    found = events(desk.ask("Hi?"))
    assert [one["type"] for one in found if one["type"] != "piece"] == ["question", "said"]
    assert "<user>Hi?" in desk.exchanges[0].said["a"].text and desk.exchanges[0].cost is None
    for wish in (
        lambda: desk.set(Settings(a=LOUD)),
        lambda: desk.plan("a", "folder", "out", overwrite=False, private=None),
        lambda: desk.command("/mix joy=2"),
    ):
        with pytest.raises(InputError, match=re.escape("emobake --model")):
            wish()
    assert "history   1" in desk.command("/show")[-1]
