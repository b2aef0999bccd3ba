"""The scorers: the lexicon by hand, a judge behind a local endpoint, a classifier made on the spot."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from emobake.core.vector_set import EMOTIONS
from emobake.errors import EmobakeError, InputError
from emobake.measure.scorers.judge import Judge, parse_verdict
from emobake.measure.scorers.lexicon import Lexicon, lexicon
from emobake.measure.scorers.open import open_scorers

GOOD = {"anger": 0, "disgust": 0, "fear": 5, "joy": 90, "sadness": 0, "topic": 70}


def test_the_lexicon_by_hand():
    found = Lexicon().score(["?"] * 3, ["I am happy, so happy and full of JOY today", "", "The furious man was afraid"])
    # i am happy so and full of joy today: 9 different words
    assert found[0] == {"anger": 0, "disgust": 0, "fear": 0, "joy": pytest.approx(200 / 9), "sadness": 0}
    assert set(found[1].values()) == {0}
    assert found[2]["anger"] == found[2]["fear"] == 20 and found[2]["joy"] == 0


def test_the_lexicon_is_clean():
    words = [word for own in lexicon().values() for word in own]
    assert tuple(lexicon()) == EMOTIONS and len(words) == len(set(words)) > 300
    assert all(word.isascii() and word.isalpha() and word.islower() for word in words)


def test_it_says_what_it_is():
    assert "weak" in Lexicon.note


@pytest.mark.parametrize(
    "said",
    [
        json.dumps(GOOD),
        "```json\n" + json.dumps(GOOD, indent=1) + "\n```",
        'Well: {"joy": 1} and then ' + json.dumps(GOOD) + " I hope that helps {}",
    ],
)
def test_a_verdict_is_found(said):
    assert parse_verdict(said) == GOOD


@pytest.mark.parametrize(
    "said", ["", "joy: 90", "{}", json.dumps(GOOD | {"joy": 900}), json.dumps(GOOD | {"fear": None}), '{"joy": NaN}']
)
def test_anything_else_is_no_verdict(said):
    assert parse_verdict(said) == {}


class Endpoint:
    """A stand-in for an OpenAI-compatible endpoint: `replies` are statuses or texts, the last one for good."""

    def __init__(self, *replies):
        self.replies, self.requests = list(replies), []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append((self.path, self.headers["Authorization"], body))
                reply = outer.replies.pop(0) if len(outer.replies) > 1 else outer.replies[0]
                status = reply if isinstance(reply, int) else 200
                message = {"role": "assistant", "content": reply}
                answer = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "usage": None}
                answer["choices"] = [{"index": 0, "finish_reason": "stop", "message": message}]
                content = json.dumps(answer if status == 200 else {"error": "no"}).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def endpoint(monkeypatch):
    opened = []

    def start(*replies):
        opened.append(Endpoint(*replies))
        monkeypatch.setenv("OPENAI_BASE_URL", opened[-1].url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-of-mine")
        monkeypatch.setattr("time.sleep", lambda s: None)
        return opened[-1]

    yield start
    for one in opened:
        one.__exit__()


def test_a_judge_is_asked(endpoint):
    server = endpoint(json.dumps(GOOD))
    found = Judge("some-model").score(["How are you?", "And {you}?"], ["Happy!", "Fine {joy}"])
    assert found == [GOOD, GOOD]
    paths, keys, bodies = zip(*server.requests, strict=True)
    assert set(paths) == {"/v1/chat/completions"}
    assert set(keys) == {"Bearer sk-secret-of-mine"}
    assert all(body["model"] == "some-model" and body["temperature"] == 0 for body in bodies)
    texts = sorted(body["messages"][0]["content"] for body in bodies)
    assert "And {you}?" in texts[0] and "Fine {joy}" in texts[0] and "Happy!" in texts[1]


def test_a_judge_is_asked_again_where_it_babbles_or_fails(endpoint):
    server = endpoint("I would rather not", 503, json.dumps(GOOD))
    assert Judge("m").score(["q"], ["a"]) == [GOOD]
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("reply", "words"), [(401, "does not answer"), (503, "does not answer"), ("hm", "no scores but 'hm'")]
)
def test_a_judge_that_does_not_judge(endpoint, reply, words):
    endpoint(reply)
    with pytest.raises(EmobakeError, match=words) as caught:
        Judge("m").score(["q"], ["a"])
    assert "secret" not in str(caught.value)


def test_an_endpoint_that_is_down(endpoint, monkeypatch):
    server = endpoint(200)
    server.__exit__()
    with pytest.raises(EmobakeError, match=r"judge m at http://127.0.0.1.*run again to continue"):
        Judge("m").score(["q"], ["a"])


def test_a_judge_needs_a_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(InputError, match="OPENAI_API_KEY"):
        Judge("m")


def test_scorers_by_name():
    assert [one.name for one in open_scorers(["lexicon"])] == ["lexicon"]
    with pytest.raises(InputError, match="given twice"):
        open_scorers(["lexicon", "lexicon"])


def classifier(folder, labels, problem=None, pickled=False):
    """A tiny BERT that knows seven words."""
    import torch
    import transformers

    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "happy", "furious", "the"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    transformers.BertTokenizerFast(vocab_file=str(folder / "vocab.txt"), model_max_length=16).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
        problem_type=problem,
    )
    model = transformers.BertForSequenceClassification(config)
    model.save_pretrained(folder)
    if pickled:
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    return folder


@pytest.mark.torch
class TestClassifier:
    def test_probabilities(self, tmp_path):
        from transformers import pipeline

        labels = ["Anger", "happiness", "neutral"]
        folder = classifier(tmp_path / "c", labels)
        answers = ["the happy", "furious " * 100, ""]
        (scorer,) = open_scorers([str(folder)], device="cpu")
        found = scorer.score(["q"] * 3, answers)
        assert all(set(one) == {"anger", "joy", "neutral"} for one in found)
        assert all(sum(one.values()) == pytest.approx(1, abs=1e-5) for one in found)
        reference = pipeline("text-classification", str(folder), top_k=None, device="cpu")
        for one, other in zip(found, reference(answers, truncation=True, max_length=16), strict=True):
            by_label = {entry["label"]: entry["score"] for entry in other}
            assert [one["anger"], one["joy"], one["neutral"]] == pytest.approx([by_label[x] for x in labels], abs=1e-5)

    def test_several_labels_at_once(self, tmp_path):
        folder = classifier(tmp_path / "c", ["joy", "fear"], "multi_label_classification")
        (found,) = open_scorers([str(folder)], device="cpu")[0].score(["q"], ["happy"])
        assert sum(found.values()) != pytest.approx(1, abs=1e-3)

    def test_what_is_refused(self, tmp_path):
        with pytest.raises(InputError, match="no classifier of emotions"):
            open_scorers([str(classifier(tmp_path / "other", ["POSITIVE", "NEGATIVE"]))])
        with pytest.raises(InputError, match="safetensors"):
            open_scorers([str(classifier(tmp_path / "pickled", ["joy", "fear"], pickled=True))])
        (tmp_path / "empty").mkdir()
        with pytest.raises(InputError, match=r"empty: holds no config\.json"):
            open_scorers([str(tmp_path / "empty")])

    def test_the_default_offline_points_to_the_lexicon(self, run_cli, tmp_path):
        results = tmp_path / "results" / "base" / "m"
        results.mkdir(parents=True)
        (results / "0.json").write_text('["Hello."]')
        (tmp_path / "q.json").write_text('["Hi?"]')
        words = ("eval", "--answers", tmp_path, "--queries", tmp_path / "q.json", "--out", tmp_path / "r")
        ran = run_cli(*words, env={"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")})
        ran.one_line("SamLowe/roberta-base-go_emotions", "--scorer lexicon needs no download")
        assert not (tmp_path / "r").exists()
