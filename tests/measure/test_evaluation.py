"""Whole evaluations, of a tiny random model that has SmolLM2's tokenizer: what is said is nonsense, how is not."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.checkpoints import edit_json, tree
from support.paths import ROOT, SMOLLM2_VECTORS

import emobake
from emobake.errors import ModelError

pytest.importorskip("torch")

from emobake.measure.engines import EvaluationSettings
from emobake.measure.evaluation import evaluate, evaluate_answers, evaluate_checkpoints
from emobake.measure.scorers.lexicon import Lexicon
from emobake.models.loading import Runtime
from emobake.models.sampling import Sampling

pytestmark = pytest.mark.real

QUERIES = ["What is the time?", "Name a river in Portugal.", "How are you?", "Tell me about bread."]
TOKENS = 12
ALONE = {"behaviour": False, "samples": 0}
DRAWN = EvaluationSettings(Sampling(TOKENS, 0.6, 0.9), Runtime(batch_size=3), **ALONE)


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    file = tmp_path_factory.mktemp("asked") / "queries.json"
    file.write_text(json.dumps(QUERIES))
    return str(file)


@pytest.fixture(scope="module")
def words(tiny_chat, tiny_vectors, asked):
    """The command line of an evaluation of joy and anger at -1, 0 and 2, without --out."""
    words = ["eval", "--model", tiny_chat, "--vectors", tiny_vectors, "--emotions", "joy,anger", "--strengths", -1, 0]
    words += [2, "--queries", asked, "--max-new-tokens", TOKENS, "--batch-size", 3, "--scorer", "lexicon"]
    words += ["--no-behaviour", "--samples", 0]
    return [*map(str, words)]


@pytest.fixture(scope="module")
def whole(words, tmp_path_factory):
    """An undisturbed run of that: the folder."""
    from emobake.cli.app import main

    out = tmp_path_factory.mktemp("whole") / "report"
    with pytest.raises(SystemExit) as stop:
        main([*words, "--out", str(out), "-q"])
    assert not stop.value.code
    return out


def report(folder):
    return json.loads((folder / "report.json").read_text())


def answers(folder, name):
    return json.loads((folder / "results" / name).read_text())


def test_a_whole_report(whole, tiny_chat):
    assert sorted(path.name for path in whole.iterdir()) == sorted(
        ["report.json", "report.md", "results", "dose_response.png", "dose_response.svg", "layers.png", "layers.svg"]
    )
    data = report(whole)
    assert data["model"] == "tiny-chat" and str(tiny_chat.parent) not in (whole / "report.json").read_text()
    names = [one["name"] for one in data["directions"]]
    assert names == ["joy", "anger", "random like joy", "random like anger", "prompt like joy", "prompt like anger"]
    assert [point["strength"] for point in data["directions"][0]["points"]] == [-1, 0, 2]
    assert [point["strength"] for point in data["directions"][2]["points"]] == [0, 2]
    for one in data["directions"]:
        for point in one["points"]:
            measured = point["groups"]["all"]
            assert measured["answers"] == 4 and measured["perplexity"] > 1 and 0 <= measured["topic"] <= 1
            assert (point["kl"] > 0.001) == (point["strength"] != 0)
            assert point["kl_worst"] >= point["kl"]
    assert data["directions"][4]["system_prompt"] == "Answer with joy. Let joy show in every sentence."
    assert answers(whole, "prompt/tiny-chat/1/prompt like joy.json") != answers(whole, "emotion/tiny-chat/0/joy.json")
    assert "| prompt |" in (whole / "report.md").read_text()
    assert len(answers(whole, "emotion/tiny-chat/2/joy.json")) == 4
    assert answers(whole, "emotion/tiny-chat/0/joy.json") == answers(whole, "emotion/tiny-chat/0/anger.json")
    assert "weak measure" in (whole / "report.md").read_text()


def test_norms_and_doses(whole, tiny_vectors):
    layers = report(whole)["layers"]
    joy = emobake.open_vectors(tiny_vectors).rows[3]
    assert layers["joy"]["norm"] == pytest.approx(np.linalg.norm(joy, axis=1).tolist(), rel=1e-4)
    assert layers["random like joy"]["norm"] == pytest.approx(layers["joy"]["norm"], rel=1e-4)
    assert all(x > 0 for x in layers["joy"]["of_attention_output"] + layers["joy"]["of_layer_output"])


def test_the_same_again(whole, words, cli, tmp_path):
    again = tmp_path / "again"
    ran = cli(*words, "--out", again, "--json").ok()
    assert tree(again) == tree(whole) and json.loads(ran.out) == report(whole)


def test_a_killed_evaluation_goes_on(whole, words, cli, tmp_path):
    out = tmp_path / "report"
    process = subprocess.Popen([sys.executable, "-m", "emobake", *words, "--out", str(out)])
    state = out / ".partial" / "answers-0.jsonl"
    deadline = time.monotonic() + 120
    while not state.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "report.json").exists(), "killed too late to prove anything"
    other = [*words]
    other[other.index("--max-new-tokens") + 1] = "5"
    cli(*other, "--out", out).one_line(".partial", "another sampling", "--restart")
    with state.open("a") as file:
        file.write('["joy@2/3", {"te')  # as after a power cut
    begun = state.read_text().count('"text"')
    assert begun
    cli(*words, "--out", out, "-q").ok()
    assert tree(out) == tree(whole)


def test_two_processes_give_the_report_of_one(whole, words, tmp_path):
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    launcher += ["--main_process_port", "0", "-m", "emobake"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    out = tmp_path / "report"
    command = [*launcher, *words, "--out", str(out), "-q"]
    done = subprocess.run(command, check=False, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert tree(out / "results") == tree(whole / "results")
    one, two = report(whole), report(out)
    for first, second in zip(one["directions"], two["directions"], strict=True):
        for p, q in zip(first["points"], second["points"], strict=True):
            assert q["kl"] == pytest.approx(p["kl"], rel=1e-3, abs=1e-5)
            assert q["groups"]["all"]["perplexity"] == pytest.approx(p["groups"]["all"]["perplexity"], rel=1e-3)
            assert q["groups"]["all"]["scores"] == p["groups"]["all"]["scores"]


def test_baked_checkpoints_answer_as_the_steered_model(whole, tiny_chat, tiny_vectors, asked, tmp_path):
    folders = []
    for emotion, strength in (("joy", 2.0), ("joy", -1.0), ("anger", 2.0)):
        folders.append(tmp_path / f"{emotion}{strength:g}")
        emobake.bake(tiny_chat, tiny_vectors, mix={emotion: strength}, out=folders[-1])
    out = tmp_path / "report"
    evaluate_checkpoints(folders, out, model=tiny_chat, questions=asked, scorers=["lexicon"], settings=DRAWN)
    for name in ("2/joy.json", "-1/joy.json", "0/joy.json", "2/anger.json"):
        assert answers(out, f"emotion/tiny-chat/{name}") == answers(whole, f"emotion/tiny-chat/{name}")
    baked, steered = report(out), report(whole)
    for i, point in enumerate(baked["directions"][0]["points"]):
        assert point["kl"] == pytest.approx(steered["directions"][0]["points"][i]["kl"], rel=1e-3, abs=1e-6)
    assert baked["layers"]["joy"]["norm"] == pytest.approx(steered["layers"]["joy"]["norm"], rel=1e-3)


def test_checkpoints_tell_which_queries_are_held_out(tiny_chat, tiny_vectors, asked, tmp_path):
    """The record of the bake tells; of two bakes in a row, both count."""
    vectors = emobake.find_vectors(tiny_vectors, None, model="")
    digest = hashlib.sha256(Path(asked).read_bytes()).hexdigest()
    made = replace(vectors, extraction={"queries": "q.json", "queries_sha256": digest, "seed": 0})
    emobake.bake(tiny_chat, made, mix={"joy": 1}, out=tmp_path / "once")
    emobake.bake(tmp_path / "once", vectors, mix={"fear": 1}, out=tmp_path / "twice")
    few = EvaluationSettings(Sampling(4, temperature=0), **ALONE)
    for name, held_out, said in (("once", [], "4 of the 4 queries are among"), ("twice", None, "is not known")):
        out = tmp_path / f"report-{name}"
        found = evaluate_checkpoints(
            [tmp_path / name], out, model=tiny_chat, questions=asked, scorers=["lexicon"], settings=few
        )
        assert found["questions"]["held_out"] == held_out and said in found["warnings"][0]


def test_recorded_answers_score_as_when_they_were_made(whole, tiny_chat, asked, tmp_path):
    out = tmp_path / "report"
    data = evaluate_answers(whole, out, model=tiny_chat, questions=asked, scorers=["lexicon"], settings=DRAWN)
    assert not (out / "results").exists()
    by_name = {one["name"]: one for one in report(whole)["directions"]}
    assert {one["name"] for one in data["directions"]} == set(by_name)
    for one in data["directions"]:
        for point, first in zip(one["points"], by_name[one["name"]]["points"], strict=True):
            found, wanted = point["groups"]["all"], first["groups"]["all"]
            assert found["perplexity"] == pytest.approx(wanted["perplexity"], rel=1e-3)
            assert found["scores"] == wanted["scores"] and found["collapsed"] == wanted["collapsed"]
    alone = evaluate_answers(whole, tmp_path / "alone", questions=asked, scorers=["lexicon"])
    assert alone["directions"][0]["points"][0]["groups"]["all"]["perplexity"] is None
    assert alone["layers"] == {} and "perplexity" not in (tmp_path / "alone" / "report.md").read_text()


def test_vectors_of_the_layer_output(tiny_chat, tiny_vectors, asked, tmp_path):
    """A control vector, steered while it runs and baked, says the same."""
    rows = emobake.open_vectors(tiny_vectors).rows
    file = tmp_path / "control.safetensors"
    emobake.write_set(emobake.VectorSet(("joy",), rows[3:4], site="layer_output"), file)
    common = {"questions": asked, "scorers": ["lexicon"], "settings": DRAWN}
    evaluate(tiny_chat, tmp_path / "a", vectors=file, emotions=["joy"], strengths=[1], control=False, **common)
    emobake.bake(tiny_chat, file, mix={"joy": 1}, out=tmp_path / "baked")
    evaluate_checkpoints([tmp_path / "baked"], tmp_path / "b", model=tiny_chat, **common)
    assert tree(tmp_path / "a" / "results") == tree(tmp_path / "b" / "results")
    assert "1/joy.json" in str(sorted((tmp_path / "a").rglob("*.json")))


class Failing(Lexicon):
    """A scorer that gives up in the middle."""

    name, batch_size = "failing", 1

    def __init__(self, calls):
        self.calls = calls

    def score(self, queries, answers):
        self.calls.append(answers[0])
        if len(self.calls) == 7:
            raise ModelError("failing: no more")
        return super().score(queries, answers)


def test_what_a_scorer_did_before_it_failed_is_kept(whole, tiny_chat, tiny_vectors, asked, tmp_path):
    calls = []
    out = tmp_path / "report"
    common = {"vectors": tiny_vectors, "emotions": ["joy", "anger"], "strengths": [-1, 0, 2], "questions": asked}
    common |= {"scorers": [Failing(calls)], "settings": DRAWN}
    with pytest.raises(ModelError, match="failing: no more"):
        evaluate(tiny_chat, out, **common)
    assert not (out / "report.json").exists()
    stages = {}
    data = evaluate(
        tiny_chat, out, **common, progress=lambda *begun: stages.update({begun[0]: begun[1:]}) or (lambda more: None)
    )
    assert stages["failing"][0] == 6 and all(
        done == total for name, (done, total) in stages.items() if name != "failing"
    )
    # Four answers of the base, two prompts, two directions at two strengths and two controls; one was asked again.
    assert len(calls) == 4 * 9 + 1 and data["scorers"][0]["name"] == "failing"
    assert tree(out / "results") == tree(whole / "results")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--emotions", "envy"], "no vectors for envy"),
        (["--mix", "joy=1"], "--emotions, --times and --mix"),
        (["--scale", "2"], "--emotions takes each emotion as it is"),
        (["--queries", "none.json"], "none.json: no such file of queries"),
        (["--scorer", "./nothing"], "nothing"),
        (["--answers", "."], "choose one"),
        (["--engine-python", "python3"], "--engine-python goes with --engine vllm"),
        (["--strengths", "much"], "--strengths takes numbers, such as -1 0 1 2 4; 'much' is not a number"),
        (["--strengths", "nan"], "finite numbers"),
        (["--model", "./nowhere"], "nowhere"),
    ],
)
def test_bad_input_comes_before_any_work(cli, words, tmp_path, monkeypatch, more, said):
    monkeypatch.chdir(tmp_path)
    rest = words if more[0] == "--scorer" else without(words, more[0])
    cli(*rest, *more, "--out", tmp_path / "report").one_line(said)
    assert not list(tmp_path.iterdir())


def without(words, option):
    """A command line without an option and its values."""
    if option not in words:
        return words
    start = words.index(option)
    end = next((i for i in range(start + 1, len(words)) if words[i].startswith("--")), len(words))
    return [*words[:start], *words[end:]]


def test_only_outputs_of_emobake_are_checkpoints(cli, tiny_chat, tiny_vectors, asked, tmp_path):
    emobake.bake(tiny_chat, tiny_vectors, mix={"joy": 1, "fear": 1}, out=tmp_path / "each", format="peft-each")
    words = ["--queries", asked, "--scorer", "lexicon", "--out", tmp_path / "report"]
    cli("eval", tiny_chat, *words).one_line(str(tiny_chat), "no emobake.json", "bake it first")
    cli("eval", tmp_path / "each", *words).one_line("each: holds adapters, not a checkpoint")
    assert not (tmp_path / "report").exists()


def test_out_is_not_overwritten(cli, words, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    cli(*words, "--out", tmp_path / "mine").one_line("mine: exists and holds no report")
    (tmp_path / "mine" / "report.json").write_text("{}")
    cli(*words, "--out", tmp_path / "mine").one_line("holds a report", "--overwrite")
    cli(*words, "--out", tmp_path / "no" / "where").one_line("its folder does not exist")
    cli(*words, "--out", tmp_path / "mine" / "thesis.tex").one_line("is a file")


def test_a_checkpoint_of_another_size_is_refused(cli, words, smollm2, tmp_path):
    other = [smollm2 if word == words[2] else word for word in words]
    cli(*other, "--out", tmp_path / "r").one_line("made for 3 layers x hidden size 32")
    assert not (tmp_path / "r").exists()


def test_answers_that_the_context_has_no_room_for(cli, words, tiny_chat, whole, asked, tmp_path):
    small = tmp_path / "small"
    shutil.copytree(tiny_chat, small)
    edit_json(small / "config.json", max_position_embeddings=48)
    other = [str(small) if word == words[2] else word for word in words]
    other[other.index("--max-new-tokens") + 1] = "40"
    cli(*other, "--out", tmp_path / "r").one_line("its context of 48 has no room for 40 new tokens", "--max-new-tokens")
    assert not (tmp_path / "r").exists()
    long = tmp_path / "long" / "base" / "m"
    long.mkdir(parents=True)
    (long / "0.json").write_text(json.dumps(["word " * 500] * 4))
    data = evaluate_answers(tmp_path / "long", tmp_path / "s", model=small, questions=asked, scorers=["lexicon"])
    assert data["directions"][0]["points"][0]["groups"]["all"]["perplexity"] > 1


def test_an_interrupt_keeps_what_was_done(words, tmp_path):
    out = tmp_path / "report"
    process = subprocess.Popen([sys.executable, "-m", "emobake", *words, "--out", str(out)], stderr=subprocess.PIPE)
    while not (out / ".partial" / "answers-0.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130 and b"run again to continue" in err and b"Traceback" not in err
    assert (out / ".partial" / "answers-0.jsonl").exists()


def test_a_limit_limits_everything(cli, words, tmp_path):
    ran = cli(*words, "--limit", 2, "--out", tmp_path / "r").ok()
    assert "2 of the 4 queries and 2 of the 32 everyday prompts" in " ".join(ran.err.split())
    data, text = report(tmp_path / "r"), (tmp_path / "r" / "report.md").read_text()
    assert data["questions"]["count"] == 2 and "answers to 2 everyday prompts" in data["definitions"]["kl"]
    assert "a quick look at 2 of the 4 queries" in text and "answers to 2 everyday prompts" in text
    assert data["directions"][0]["points"][0]["kl"] > 0


def test_a_model_without_a_chat_template_is_named_in_the_report(tiny_chat, tiny_vectors, asked, tmp_path):
    shutil.copytree(tiny_chat, tmp_path / "plain")
    (tmp_path / "plain" / "chat_template.jinja").unlink()
    edit_json(tmp_path / "plain" / "tokenizer_config.json", chat_template=None)
    data = evaluate(
        tmp_path / "plain",
        tmp_path / "r",
        tiny_vectors,
        emotions=["joy"],
        strengths=[1],
        questions=asked,
        limit=1,
        scorers=["lexicon"],
        control=False,
        settings=EvaluationSettings(Sampling(2, temperature=0), **ALONE),
    )
    assert any("has no chat template" in warning for warning in data["warnings"])


def test_the_prompted_baseline_by_hand(smollm2, tmp_path):
    """Its answer and its KL, computed with transformers alone."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    (tmp_path / "q.json").write_text('["What is the time?"]')
    data = evaluate(
        smollm2,
        tmp_path / "r",
        SMOLLM2_VECTORS,
        emotions=["joy"],
        strengths=[0],
        system_prompt="Be full of {emotion}!",
        questions=str(tmp_path / "q.json"),
        limit=1,
        scorers=["lexicon"],
        settings=EvaluationSettings(Sampling(8, temperature=0), **ALONE),
    )
    model, tokenizer = AutoModelForCausalLM.from_pretrained(smollm2), AutoTokenizer.from_pretrained(smollm2)

    def ids(query, system=""):
        begin = [{"role": "system", "content": system}] if system else []
        chat = [*begin, {"role": "user", "content": query}]
        text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        return tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]

    def greedy(prompt, count):
        mask = torch.ones_like(prompt)
        said = model.generate(prompt, attention_mask=mask, max_new_tokens=count, do_sample=False, pad_token_id=0)
        return said[0, prompt.shape[1] :]

    said = tokenizer.decode(greedy(ids("What is the time?", "Be full of joy!"), 8), skip_special_tokens=True)
    assert answers(tmp_path / "r", "prompt/SmolLM2-135M-Instruct/1/prompt like joy.json") == [said]
    query = json.loads((ROOT / "vectors" / "queries" / "everyday.json").read_text())[0]
    answer = greedy(ids(query), 50)
    found = []
    for prompt in (ids(query), ids(query, "Be full of joy!")):
        with torch.inference_mode():
            logits = model(torch.cat([prompt, answer[None]], 1)).logits[0, prompt.shape[1] - 1 : -1]
        found.append(logits.double().log_softmax(-1))
    kl = (found[0].exp() * (found[0] - found[1])).sum(-1).mean()
    prompt = next(one for one in data["directions"] if one["kind"] == "prompt")
    assert prompt["points"][1]["kl"] == pytest.approx(float(kl), rel=1e-4)


def test_a_template_without_a_place_for_a_system_prompt(tiny_chat, tiny_vectors, asked, tmp_path):
    """One that refuses it, as Gemma's does, and one that drops it: it stands before the user's message."""
    from emobake.models.loading import load
    from emobake.storage.model_name import ModelName

    user = "{% for m in messages %}{% if m.role == 'user' %}<{{ m.content }}>{% endif %}{% endfor %}"
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + user
    shutil.copytree(tiny_chat, tmp_path / "other")
    for template in (refusing, user):
        (tmp_path / "other" / "chat_template.jinja").write_text(template)
        live = load(ModelName.parse(tmp_path / "other"))
        assert not live.has_system_role
        assert live.tokenizer.decode(live.prompts(["Hi?"], "Be glad.")[0]) == "<Be glad.\n\nHi?>"
    out = tmp_path / "r"
    common = {"emotions": ["joy"], "strengths": [1], "control": False, "scorers": ["lexicon"], "limit": 1}
    few = EvaluationSettings(Sampling(2, temperature=0), **ALONE)
    data = evaluate(tmp_path / "other", out, tiny_vectors, questions=asked, settings=few, **common)
    assert any("no place for a system prompt" in warning for warning in data["warnings"])
    assert load(ModelName.parse(tiny_chat)).has_system_role


LM_EVAL = """
import json, sys
from pathlib import Path
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
model = given["--model_args"].partition("=")[2].partition(",")[0]
assert Path(model, "config.json").is_file() and given["--tasks"] == "arc_easy" and given["--limit"] == "1"
baked = Path(model, "emobake.json").exists()
out = Path(given["--output_path"], "model")
out.mkdir(parents=True)
found = {"alias": "arc_easy", "acc,none": 0.25 if baked else 0.5, "acc_stderr,none": "N/A"}
(out / "results_2026.json").write_text(json.dumps({"results": {"arc_easy": found}}))
"""


def test_a_receipt_with_turns_samples_and_benchmarks(cli, tiny_chat, tiny_vectors, asked, tmp_path, monkeypatch):
    """All of it on a tiny model; then a bake is held to it. lm-eval is a stand-in here."""
    package = tmp_path / "stand-in" / "lm_eval"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text(LM_EVAL)
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setitem(sys.modules, "lm_eval", types.ModuleType("lm_eval"))  # Forgotten after the test.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(package.parent), os.environ.get("PYTHONPATH", "")]))
    out = tmp_path / "r"
    words = ["eval", "--model", tiny_chat, "--vectors", tiny_vectors, "--mix", "joy=1", "--strengths", 1, 2]
    words += ["--queries", asked, "--limit", 1, "--max-new-tokens", 6, "--scorer", "lexicon", "--samples", 2]
    words += ["--turns", 2, "--lm-eval", "arc_easy", "--max-kl", 0, "--out", out]
    ran = cli(*words).ok()
    assert "joy at 1: beyond --max-kl 0" in " ".join(ran.out.split())
    data, text = report(out), (out / "report.md").read_text()
    receipt = data["receipt"]
    (joy,) = receipt["directions"]
    rows = emobake.open_vectors(tiny_vectors).rows
    assert joy["weights"] == {"joy": 1.0} and joy["rows_sha256"]["joy"] == hashlib.sha256(rows[3].tobytes()).hexdigest()
    zero, one, _ = joy["points"]
    assert (
        zero["capability_drop"] == zero["refusal_shift"] == zero["agreement_shift"] == 0 and 0 < one["diversity"] <= 1
    )
    assert one["kl"] == data["directions"][0]["points"][1]["kl"] and joy["prompt"]["kl"] > 0 and joy["control"]
    assert data["directions"][0]["points"][0]["capability"]["tasks"] == 3  # one of each kind
    curves = data["turns"]["curves"]
    assert {(c["who"], c["own_system_prompt"]) for c in curves} == {
        (who, own) for who in ("base", "vectors", "prompt") for own in (False, True)
    }
    assert all(len(c["emotion"]) == 2 for c in curves)
    assert {c["system_tokens"] > 0 for c in curves if c["who"] == "prompt"} == {True}
    chosen = joy["chosen"]["strength"]
    points = {p["strength"]: p["benchmarks"] for p in data["directions"][0]["points"]}
    assert points[0] == {"arc_easy": {"acc": 0.5}} and points[chosen] == {"arc_easy": {"acc": 0.25}}
    assert "### Behaviour" in text and "| acc | 0.5 | 0.25 |" in text and "](turns.png)" in text
    assert (out / "turns.svg").exists()
    bake = ["--model", tiny_chat, "--vectors", tiny_vectors, "--mix", "joy=2", "--report", out]
    cli(*bake, "--max-kl", 0, "--out", tmp_path / "no").one_line("beyond --max-kl 0")
    cli(*bake, "--max-kl", 99, "--max-collapse", 1, "--max-capability-drop", 1, "--out", tmp_path / "yes").ok()


def test_benchmarks_that_cannot_run(cli, words, tmp_path, monkeypatch):
    more = ["--out", tmp_path / "r", "--lm-eval"]
    cli(*words, *more, "no task").one_line("--lm-eval takes names of tasks")
    cli(*words, *more, "arc_easy").one_line("benchmarks: needs lm_eval", "emobake[lm-eval]", code=1)
    assert not (tmp_path / "r").exists()


def test_conversations_by_hand(smollm2, tmp_path):
    """Two turns under both system prompts, computed with transformers alone."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from emobake.measure.turns import OWN, scripts

    (tmp_path / "q.json").write_text('["What is the time?"]')
    settings = EvaluationSettings(Sampling(6, temperature=0), turns=2, **ALONE)
    common = {
        "questions": str(tmp_path / "q.json"),
        "limit": 1,
        "control": False,
        "system_prompt": "Be full of {emotion}!",
    }
    seen = []

    class Seeing(Lexicon):
        def score(self, queries, answers):
            seen.extend(zip(queries, answers, strict=True))
            return super().score(queries, answers)

    common |= {"emotions": ["joy"], "strengths": [1], "scorers": [Seeing()], "settings": settings}
    evaluate(smollm2, tmp_path / "r", SMOLLM2_VECTORS, **common)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(smollm2), AutoTokenizer.from_pretrained(smollm2)
    chat = [{"role": "system", "content": f"Be full of joy!\n\n{OWN}"}]
    for message in scripts(2)[0]:
        chat.append({"role": "user", "content": message})
        text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            said = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False)
        answer = tokenizer.decode(said[0, ids.shape[1] :], skip_special_tokens=True)
        assert (message, answer) in seen
        chat.append({"role": "assistant", "content": answer})


def test_the_summary_on_the_terminal(cli, words, tmp_path):
    ran = cli(*words, "--out", tmp_path / "r", "--no-control").ok()
    assert "joy (words per 100, weak)" in ran.out and "random" not in ran.out and "weak measure" in ran.out
    assert "Warning" in ran.err and "not known" in ran.err
    assert not (tmp_path / "r" / "results" / "control").exists()
