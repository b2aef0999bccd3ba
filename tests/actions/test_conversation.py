"""Talking to a steered model: what it says is what the checkpoint says that is baked from it."""

import json
import sys

import numpy as np
import pytest
from support.checkpoints import edit_json
from support.paths import SMOLLM2_VECTORS

import emobake
from emobake import InputError, VectorError
from emobake.core.steering import steering
from emobake.core.vector_set import EMOTIONS
from emobake.vectors.write import write_set

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from support.chat_model import greedy, hooked, load, prompt  # noqa: E402

from emobake.actions.conversation import SteeredConversation, open_conversation  # noqa: E402
from emobake.models.sampling import Sampling  # noqa: E402

pytestmark = pytest.mark.real

GREEDY = Sampling(temperature=0, max_new_tokens=40)
QUESTION = "How was your day?"


@pytest.fixture(scope="module")
def tokenizer(smollm2):
    return transformers.AutoTokenizer.from_pretrained(smollm2)


@pytest.fixture
def talk(smollm2):
    return open_conversation(smollm2, SMOLLM2_VECTORS, mix={"joy": 1.5}, sampling=GREEDY)


def said(tokenizer, tokens):
    return tokenizer.decode(tokens, skip_special_tokens=True)


@pytest.mark.parametrize("mix", [{"joy": 1.5}, {"anger": 2.0, "sadness": -0.5}], ids=str)
def test_every_position_is_what_a_bake_does(smollm2, tokenizer, talk, tmp_path, mix):
    talk.steer(steering(mix=mix))
    pieces = []
    answers = [talk.answer(QUESTION, pieces.append), talk.answer("And then?", pieces.append)]
    assert "".join(pieces) == "".join(answer.text for answer in answers) and len(pieces) > 10
    talk.bake(tmp_path / "out")
    baked = load(tmp_path / "out")
    messages = []
    for question, answer in zip((QUESTION, "And then?"), answers, strict=True):
        messages.append({"role": "user", "content": question})
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt")
        with torch.inference_mode():
            out = baked.generate(**inputs, do_sample=False, temperature=None, top_p=None, top_k=None, max_new_tokens=40)
        assert answer.text == said(tokenizer, out[0, inputs["input_ids"].shape[1] :])
        messages.append({"role": "assistant", "content": answer.text})
    talk.turns = []
    assert talk.answer(QUESTION, plain=True).text != answers[0].text, "it is steered at all"


def test_the_last_position_is_what_the_published_hook_does(smollm2, tokenizer, talk):
    """Stated anew from the description of apply.py: ``output[0][:, -1:, :] += row`` in each forward pass."""
    rows = np.float32(1.5) * emobake.open_vectors(SMOLLM2_VECTORS).rows[EMOTIONS.index("joy")]
    model = load(smollm2)

    def adding(row):
        def hook(_module, _args, output):
            changed = output[0].clone()
            changed[:, -1:, :] += torch.tensor(row)
            return (changed, *output[1:])

        return hook

    inputs = prompt(tokenizer, QUESTION)
    with hooked(model, rows):
        everywhere = greedy(model, inputs)[:40]
    for layer, row in zip(model.model.layers, rows, strict=True):
        layer.self_attn.register_forward_hook(adding(row))
    with torch.inference_mode():
        out = model.generate(**inputs, do_sample=False, temperature=None, top_p=None, top_k=None, max_new_tokens=40)
    wanted = said(tokenizer, out[0, inputs["input_ids"].shape[1] :])
    talk.scope = "last"
    assert talk.answer(QUESTION).text == wanted != said(tokenizer, everywhere)
    talk.scope, talk.turns = "every", []
    assert talk.answer(QUESTION).text == said(tokenizer, everywhere)


def test_a_comparison_is_with_a_model_that_was_never_steered(tiny_chat, tiny_vectors):
    """Its answer continues its own answers, not those of the steered model."""
    short = Sampling(temperature=0, max_new_tokens=6)
    talk = open_conversation(tiny_chat, tiny_vectors, mix={"joy": 3}, sampling=short)
    own = open_conversation(tiny_chat, tiny_vectors, sampling=short)
    questions = ["Hello?", "And then?", "Why?"]
    unsteered = [own.answer(question).text for question in questions]
    steered = [talk.answer(question).text for question in questions[:2]]
    assert steered != unsteered[:2], "a comparison that would prove nothing"
    turns, heard = list(talk.turns), []
    assert talk.behind(questions[2]) == 2
    assert talk.answer(questions[2], heard.append, plain=True).text == unsteered[2] == "".join(heard)
    assert talk.turns == turns, "the conversation stays as it is"
    assert talk.answer(None, plain=True).text == unsteered[1] and talk.behind(None) == 0
    talk.answer(questions[2])
    assert talk.behind("More?") == 1 and talk.answer(None, plain=True).text == unsteered[2]
    assert talk.behind("More?") == 0, "no question is answered twice"
    talk.turns = []
    assert talk.behind("More?") == 0 and talk.answer("Hello?", plain=True).text == unsteered[0]
    with pytest.raises(InputError, match="nothing was asked yet"):
        talk.behind(None)


def test_a_model_without_a_chat_template_is_named(cli, tiny_chat, tiny_vectors, tmp_path):
    import shutil

    folder = tmp_path / "plain"
    shutil.copytree(tiny_chat, folder)
    (folder / "chat_template.jinja").unlink()
    edit_json(folder / "tokenizer_config.json", chat_template=None)
    words = ("--vectors", tiny_vectors, "--mix", "joy=1", "--max-new-tokens", 3, "--prompt", "Hello?")
    ran = cli("chat", "--model", folder, *words).ok()
    assert f"Warning: {folder} has no chat template" in ran.err
    assert cli("chat", "--model", tiny_chat, *words).ok().err == ""
    found = ("--vectors", tiny_vectors, "--mix", "joy=1", "--target-kl", 0.05, "--limit", 1, "-q")
    assert "has no chat template" in cli("tune", "--model", folder, *found).ok().err
    made = ("--out", tmp_path / "v.safetensors", "--limit", 1, "--max-new-tokens", 2, "-q")
    assert "has no chat template" in cli("vectors", "extract", "--model", folder, *made).ok().err


def test_sampling_with_a_seed_repeats_itself(smollm2):
    talk = open_conversation(smollm2, SMOLLM2_VECTORS, (0, 0, 0, 1, 0), sampling=Sampling(max_new_tokens=20, seed=7))
    first, second = (talk.answer(QUESTION, keep=False).text for _ in range(2))
    assert first == second
    talk.sampling = Sampling(max_new_tokens=20, seed=8)
    assert talk.answer(QUESTION, keep=False).text != first


def test_a_system_prompt_and_the_history_reach_the_model(smollm2):
    talk = open_conversation(smollm2, SMOLLM2_VECTORS, sampling=GREEDY, system="You are a pirate. Only say Arr.")
    talk.answer(QUESTION)
    text = talk.live.tokenizer.decode(talk.model.prompt(talk.messages(talk.turns, "More?")))
    for words in ("You are a pirate", QUESTION, talk.turns[0][1], "More?"):
        assert words in text


def test_what_is_wrong_is_found_before_the_model_is_loaded(smollm2, tmp_path, monkeypatch):
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", None)
    other = emobake.VectorSet(("joy",), np.ones((1, 3, 5), np.float32))
    write_set(other, tmp_path / "other.npz")
    for vectors, mix, words, kind in (
        (tmp_path / "other.npz", {"joy": 1}, "3 layers", VectorError),
        (SMOLLM2_VECTORS, {"envy": 1}, "envy", VectorError),
        (tmp_path / "nowhere", {"joy": 1}, "nowhere", InputError),
        (None, {"joy": 1}, "`vectors_for`", InputError),
    ):
        with pytest.raises(kind, match=words):
            open_conversation(smollm2, vectors, mix=mix)
    with pytest.raises(InputError, match="no such folder"):
        open_conversation(tmp_path / "nothing", SMOLLM2_VECTORS)
    with pytest.raises(InputError, match="not at the layer output"):
        open_conversation(smollm2, emobake.VectorSource(SMOLLM2_VECTORS, site="layer_output"), mix={"joy": 1})


def test_vectors_of_the_layer_output_act_on_whole_layers(smollm2, tmp_path):
    """The same vectors at the two sites: at the second as the hook that is written out here."""
    rows = np.random.default_rng(1).normal(0, 0.05, (1, 30, 576)).astype(np.float32)
    said = {}
    for site in ("attention_output", "layer_output"):
        write_set(emobake.VectorSet(("joy",), rows, site=site), tmp_path / f"{site}.npz")
        talk = open_conversation(smollm2, tmp_path / f"{site}.npz", mix={"joy": 1}, sampling=GREEDY)
        said[site] = talk.answer(QUESTION).text
    model = talk.live.model
    handles = [
        layer.register_forward_hook(
            lambda _m, _i, out, row=row: (out[0] + row, *out[1:]) if isinstance(out, tuple) else out + row
        )
        for layer, row in zip(model.model.layers, torch.from_numpy(rows[0]), strict=True)
    ]
    wanted = SteeredConversation(talk.live, talk.vectors, steering(mix={"joy": 0}), sampling=GREEDY)
    assert wanted.answer(QUESTION, plain=True).text == said["layer_output"] != said["attention_output"]
    for handle in handles:
        handle.remove()


def test_a_conversation_that_is_too_long_says_so_and_stays(talk):
    with pytest.raises(InputError, match="no room for an answer"):
        talk.answer("word " * 9000)
    assert talk.turns == []


# --- the command, without a terminal --------------------------------------------------------------------------


def test_one_shot_and_json(cli, smollm2):
    words = (
        "chat",
        "--model",
        smollm2,
        "--vectors",
        SMOLLM2_VECTORS,
        "--mix",
        "joy=1.5",
        "--greedy",
        "--max-new-tokens",
        12,
    )
    plain = cli(*words, "--prompt", QUESTION).ok()
    (entry,) = json.loads(cli(*words, "--prompt", QUESTION, "--json").ok().out)
    assert plain.out.strip() == entry["answer"].strip() and plain.err == ""
    assert entry["weights"] == {"joy": 1.5} and (entry["tokens"], entry["scope"]) == (12, "every")
    assert len(json.loads(cli(*words, "--prompt", "A?", "--prompt", "B?", "--json").ok().out)) == 2


def test_lines_from_a_pipe(smollm2, tmp_path):
    import subprocess

    words = [sys.executable, "-m", "emobake", "chat", "--model", smollm2, "--vectors", SMOLLM2_VECTORS, "--greedy"]
    typed = [QUESTION, "/nonsense", "/mix joy=2", "/compare Hello", "/scope last", "/scale 0.5"]
    lines = "\n".join([*typed, f"/bake {tmp_path}/out", "/quit", "never"])
    done = subprocess.run(
        [*map(str, words), "--max-new-tokens", "8"],
        input=lines,
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0
    assert "/nonsense: no such command" in done.stderr
    assert "unsteered" in done.stdout and "2 x joy" in done.stdout and "0.5 x (2 x joy)" in done.stdout
    assert "a bake acts at every position" in done.stderr and "never" not in done.stdout
    record = json.loads((tmp_path / "out" / "emobake.json").read_text())
    assert (record["weights"], record["scale"]) == ({"joy": 2.0}, 0.5)


def test_wrong_use_is_one_line(cli, smollm2):
    words = ("chat", "--model", smollm2)
    cli(*words, "--vectors", SMOLLM2_VECTORS, "--json").one_line("--prompt")
    cli(*words, "--vectors", SMOLLM2_VECTORS, "--mix", "envy=1", "--prompt", "A?").one_line("envy")
    cli(*words, "--vectors", SMOLLM2_VECTORS, "--times", 1, 0, 0, 0, 0, "--mix", "joy=1", "--prompt", "A?").one_line(
        "--times"
    )
    cli(*words, "--prompt", "A?").one_line("--vectors-for")
    cli("chat", "--model", "./nothing", "--prompt", "A?").one_line("nothing", "no such folder")
