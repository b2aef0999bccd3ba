"""`emobake chat` with a GGUF file: llama.cpp is a stand-in, whose answers are what it was asked."""

import json
import shlex
import subprocess
import sys

import gguf
import numpy as np
import pytest
from support.binding import FOLDER, take
from support.gguf_files import HIDDEN, LAYERS, control_vector, write_model
from support.running import clean_environment

import emobake
from emobake import InputError
from emobake.actions.conversation import open_conversation
from emobake.models.gguf_chat import CONTEXT
from emobake.models.sampling import Sampling

WITH_BOS = "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"


@pytest.fixture(autouse=True)
def server(monkeypatch):
    take(monkeypatch, "xllamacpp")


@pytest.fixture
def model(tmp_path):
    write_model(tmp_path / "base.gguf")
    return tmp_path / "base.gguf"


@pytest.fixture
def vectors(tmp_path):
    rows = np.random.default_rng(0).normal(0, 0.1, (1, LAYERS, HIDDEN)).astype(np.float32)
    emobake.write_set(emobake.VectorSet(("joy",), rows), tmp_path / "joy.npz")
    return tmp_path / "joy.npz"


@pytest.fixture
def joyful(model, vectors, tmp_path):
    emobake.bake(model, vectors, mix={"joy": 1.5}, out=tmp_path / "joyful.gguf")
    return tmp_path / "joyful.gguf"


def asked(text):
    """The request that the stand-in was given, which is its answer."""
    return json.loads(text)


def test_one_shot(cli, model):
    ran = cli("chat", "--model", model, "--greedy", "--system", "Be brief.", "--prompt", "Hi?").ok()
    found = asked(ran.out)
    assert found["prompt"] == ["<system>Be brief.<end><user>Hi?<end><assistant>"] and ran.err == ""
    assert (found["temperature"], found["max_tokens"], found["seed"]) == (0.0, 512, -1)
    assert found["params"]["n_ctx"] == 512, "the file's own, which is less than the most"
    more = ("--temperature", 0.5, "--top-p", 0.7, "--seed", 3, "--max-new-tokens", 9)
    found = asked(cli("chat", "--model", model, *more, "--prompt", "Hi?").ok().out)
    assert (found["temperature"], found["top_p"], found["seed"], found["max_tokens"]) == (0.5, 0.7, 3, 9)


def test_json_of_a_conversation(cli, joyful, model):
    words = ("chat", "--model", joyful, "--prompt", "A?", "--prompt", "B?", "--json")
    first, second = json.loads(cli(*words).ok().out)
    assert (first["prompt"], first["mood"]) == ("A?", "1.5 x joy") and first["tokens"] > 10
    assert asked(second["answer"])["prompt"] == [
        f"<user>A?<end><assistant>{first['answer']}<end><user>B?<end><assistant>"
    ]
    assert json.loads(cli("chat", "--model", model, "--prompt", "A?", "--json").ok().out)[0]["mood"] is None


def test_a_bos_token_of_the_template_is_given_once(tmp_path):
    write_model(tmp_path / "m.gguf", template=WITH_BOS, fields={"tokenizer.ggml.bos_token_id": 7})
    talk = open_conversation(tmp_path / "m.gguf")
    assert talk.model.prompt(talk.messages([], "Hi?")) == [7, "<user>Hi?<assistant>"]


def test_the_context_has_room_for_an_answer_besides(tmp_path):
    write_model(tmp_path / "m.gguf", fields={"llama.context_length": 10**6})
    talk = open_conversation(tmp_path / "m.gguf", sampling=Sampling(max_new_tokens=100))
    assert asked(talk.answer("Hi?").text)["params"]["n_ctx"] == CONTEXT + 100


def test_lines_from_a_pipe(joyful, tmp_path):
    lines = "Hi?\n/show\n/mix joy=2,fear=1\n/times 0 0 0 2 0\n/scale 2\n/scope last\n/compare\n/bake my out.gguf\n"
    lines += "/times 1 two\n/dance\n/help\n/reset\n/show\n/quit\nnever"
    words = [sys.executable, "-m", "emobake", "chat", "--model", "joyful.gguf"]
    env = clean_environment()
    env["PYTHONPATH"] = f"{FOLDER}:{env.get('PYTHONPATH', '')}"
    done = subprocess.run(
        words, input=lines, check=False, capture_output=True, text=True, timeout=60, env=env, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert asked(done.stdout.splitlines()[0])["prompt"] == ["<user>Hi?<end><assistant>"]
    assert "joyful.gguf (llama, 2 layers, mostly F32, in llama.cpp of xllamacpp 0.stand-in)" in done.stdout
    assert "mood      1.5 x joy, baked" in done.stdout and "history   1 answered questions" in done.stdout
    assert "The conversation is forgotten" in done.stdout and "history   0 answered questions" in done.stdout
    assert "/reset" in done.stdout and "/bake OUT" not in done.stdout and "never" not in done.stdout
    said = [line.partition("run: emobake ")[2] for line in done.stderr.splitlines()]
    assert said == [
        "--model base.gguf --mix joy=2,fear=1 --out steered.gguf",
        "--model base.gguf --mix joy=2 --out steered.gguf",
        "--model base.gguf --mix joy=2 --out steered.gguf",
        "--model base.gguf --mix joy=1 --out steered.gguf",
        "--model base.gguf --mix joy=1 --out steered.gguf",
        "--model base.gguf --mix joy=1 --out 'my out.gguf'",
        "",
        "",
    ]
    assert "these are not five numbers" in done.stderr and "/dance: no such command" in done.stderr


def test_the_named_command_bakes(cli, model, vectors, tmp_path, monkeypatch):
    """The line that refuses a mood names the bake that makes it."""
    monkeypatch.chdir(tmp_path)
    words = ("--vectors", vectors, "--mix", "joy=1.5", "--scale", 2, "--layers", "0-1", "--prompt", "Hi?")
    line = cli("chat", "--model", model, *words).one_line("the mood of a GGUF file is baked into it")
    cli(*shlex.split(line.partition("run: emobake ")[2])).ok()
    record = emobake.read_record("steered.gguf")
    assert (dict(record.steering.weights), record.steering.layers) == ({"joy": 3.0}, (0, 1))


def test_a_file_that_was_baked_twice(cli, joyful, vectors, tmp_path):
    """The mood is the sum, and another one is baked into the first base."""
    emobake.bake(joyful, vectors, mix={"joy": 0.5}, out=tmp_path / "twice.gguf")
    words = ("chat", "--model", tmp_path / "twice.gguf", "--prompt", "Hi?")
    assert json.loads(cli(*words, "--json").ok().out)[0]["mood"] == "2 x joy"
    cli(*words, "--mix", "joy=1").one_line("run: emobake --model base.gguf --mix joy=1 --out")


def test_a_record_that_cannot_be_read_is_one_line(cli, tmp_path):
    write_model(tmp_path / "m.gguf", fields={"emobake.record": '{"format": "gguf"}'})
    cli("chat", "--model", tmp_path / "m.gguf", "--prompt", "Hi?").one_line("m.gguf (emobake.record): is not a record")


@pytest.mark.parametrize(
    "words",
    [
        ("--mix", "joy=1"),
        ("--times", 0, 0, 0, 1, 0),
        ("--scale", 2),
        ("--layers", "1"),
        ("--scope", "last"),
        ("--vectors", "smollm2-135m-instruct"),
        ("--vectors-for", "Qwen/Qwen2.5-7B-Instruct"),
        ("--site", "layer_output"),
    ],
    ids=str,
)
def test_a_wish_for_a_mood_is_refused(cli, joyful, words):
    line = cli("chat", "--model", joyful, *words, "--prompt", "Hi?").one_line("run: emobake --model base.gguf ")
    assert words[0] in line or words[0] in ("--times", "--scale", "--scope")


@pytest.mark.parametrize("words", [("--dtype", "float16"), ("--device", "cpu"), ("--device-map", "auto")], ids=str)
def test_what_is_for_checkpoints_is_refused(cli, model, words):
    cli("chat", "--model", model, *words, "--prompt", "Hi?").one_line("--dtype, --device and --device-map")


def test_no_files_but_language_models(cli, model, tmp_path):
    projector = gguf.GGUFWriter(tmp_path / "mmproj.gguf", "clip")
    projector.add_tensor("v.weight", np.zeros((32, 32), np.float32))
    projector.write_header_to_file()
    projector.write_kv_data_to_file()
    projector.write_tensors_to_file()
    projector.close()
    control_vector(tmp_path / "control.gguf", {1: np.zeros(HIDDEN)})
    (tmp_path / "cut.gguf").write_bytes(model.read_bytes()[:5000])
    (tmp_path / "none.gguf").write_bytes(b"once upon a time there was a model")
    write_model(tmp_path / "set.gguf", split=10)
    write_model(tmp_path / "strange.gguf", "strange")
    for name, words, code in (
        ("mmproj.gguf", ["is an mmproj file"], 2),
        ("control.gguf", ["controlvector.context_length is None"], 2),
        ("cut.gguf", ["ends within its header"], 2),
        ("none.gguf", ["does not begin with GGUF"], 2),
        ("nowhere.gguf", ["no such file"], 2),
        ("set-00002-of-00003.gguf", ["give the first, set-00001-of-00003.gguf"], 2),
        ("strange.gguf", ["does not load in llama.cpp"], 1),
    ):
        cli("chat", "--model", tmp_path / name, "--prompt", "Hi?").one_line(*words, code=code)
    first = tmp_path / "set-00001-of-00003.gguf"
    assert asked(cli("chat", "--model", first, "--prompt", "Hi?").ok().out)["params"]["model"] == str(first)


def test_a_template_that_fails_and_one_that_is_missing(cli, tmp_path):
    write_model(tmp_path / "fails.gguf", template="{{ raise_exception('no system prompt') }}")
    cli("chat", "--model", tmp_path / "fails.gguf", "--prompt", "Hi?").one_line(
        "its chat template fails (no system prompt)"
    )
    write_model(tmp_path / "plain.gguf", template="")
    ran = cli("chat", "--model", tmp_path / "plain.gguf", "--prompt", "Hi?", "--system", "Be brief.").ok()
    assert "Warning:" in ran.err and "has no chat template" in ran.err
    assert asked(ran.out)["prompt"] == ["Be brief.\n\nHi?\n\n"]


def test_an_answer_can_be_stopped(model):
    talk, heard = open_conversation(model), []

    def stop(piece):
        heard.append(piece)
        if len(heard) == 3:
            raise KeyboardInterrupt

    answer = talk.answer("endless", stop)
    assert answer.interrupted and not answer.ended and answer.text == "".join(heard)
    assert sys.modules["xllamacpp"].stopped.wait(10)
    assert talk.turns == [("endless", answer.text)]
    with pytest.raises(InputError, match="no room for an answer"):
        talk.answer("overlong")
    assert len(talk.turns) == 1


def test_neither_torch_nor_transformers_is_imported(joyful):
    code = (
        "import sys\n"
        "from emobake.cli.app import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: print(sorted({'torch', 'transformers'} & set(sys.modules)), file=sys.stderr)"
    )
    env = clean_environment()
    env["PYTHONPATH"] = f"{FOLDER}:{env.get('PYTHONPATH', '')}"
    words = [sys.executable, "-c", code, "chat", "--model", str(joyful), "--prompt", "Hi?"]
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=60, env=env)
    assert (done.returncode, done.stderr) == (0, "[]\n")
