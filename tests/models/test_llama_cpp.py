"""The bindings of llama.cpp: the same steps of an answer from both, by stand-ins."""

import json
import sys

import pytest
from support.binding import take

from emobake import InputError, MissingPackageError, ModelError
from emobake.models.llama_cpp import open_llama_cpp
from emobake.models.sampling import Sampling

GREEDY = Sampling(max_new_tokens=10_000, temperature=0)


@pytest.fixture
def server(monkeypatch, tmp_path):
    take(monkeypatch, "xllamacpp")
    return open_llama_cpp(tmp_path / "x.gguf", "x.gguf", 64)


@pytest.fixture
def library(monkeypatch, tmp_path):
    take(monkeypatch, "llama_cpp")
    return open_llama_cpp(tmp_path / "x.gguf", "x.gguf", 512)


def test_a_server_is_asked_for_what_transformers_would_do(server, tmp_path):
    sampling = Sampling(max_new_tokens=9, temperature=0.7, top_p=0.8, seed=2**32 + 4)
    steps = list(server.steps([1, "Hi"], sampling))
    asked = json.loads("".join(step.text for step in steps))
    assert (asked["prompt"], asked["max_tokens"], asked["seed"]) == ([1, "Hi"], 9, 5)
    assert (asked["temperature"], asked["top_p"], asked["samplers"]) == (0.7, 0.8, ["temperature", "top_p"])
    assert [step.ended for step in steps] == [False] * (len(steps) - 1) + [True]
    assert [step.tokens for step in steps] == [*range(1, len(steps)), len(steps) - 1], "the last one is no word"
    params = asked["params"]
    assert (params["model"], params["n_ctx"], params["verbosity"]) == (str(tmp_path / "x.gguf"), 64, -1)
    assert params["chat_template"] == "chatml", "the file's own is not given to llama.cpp"
    assert len(params["api_keys"][0]) == 64 and not params["ui"], "the port answers nobody"
    (last,) = list(server.steps(["Hi"], Sampling(seed=None)))[-1:]
    assert last.ended
    again = json.loads("".join(step.text for step in server.steps(["Hi"], Sampling(seed=None))))
    assert again["seed"] == -1, "another one each time"


def test_a_server_stops_when_nobody_listens(server):
    module = sys.modules["xllamacpp"]
    steps = server.steps(["endless"], GREEDY)
    assert next(steps).text == "on and " and not module.stopped.is_set()
    steps.close()
    assert module.stopped.wait(10)


def test_errors_of_a_server_are_one_line(server):
    with pytest.raises(InputError, match=r"^x.gguf: 9000 tokens .* no room for an answer in its context of 64"):
        list(server.steps(["overlong"], GREEDY))
    with pytest.raises(ModelError, match=r"^x.gguf: llama.cpp failed \(the 'server' broke in two\)$"):
        list(server.steps(["broken"], GREEDY))


def test_a_library_answers_in_whole_characters(library):
    steps = list(library.steps(["Hi"], Sampling(max_new_tokens=10_000, temperature=0.7, top_p=0.8, seed=3)))
    text = "".join(step.text for step in steps)
    assert text.startswith("sí, 日 [1000, 72, 105] "), "with a BOS token before the first text"
    assert "('temp', 0.7), ('top_k', 0), ('top_p', 0.8)" in text and "('min_p', 0.0), ('repeat_penalty', 1.0)" in text
    assert steps[-1].ended and steps[-1].tokens == len(steps) - 1 == len(text.encode())
    assert library._model.seeds == [3]


def test_a_library_adds_no_second_bos_token(library):
    assert "[7, 72, 105]" in "".join(step.text for step in library.steps([7, "Hi"], GREEDY))


def test_a_library_counts_tokens_to_the_limit(library):
    steps = list(library.steps(["Hi"], Sampling(max_new_tokens=5)))
    assert (len(steps), steps[-1].tokens, steps[-1].ended) == (5, 5, False)
    assert len(list(library.steps(["x" * 500], GREEDY))) == 512 - 501, "the end of the context is one"
    with pytest.raises(InputError, match=r"512 tokens .* no room for an answer in its context of 512"):
        list(library.steps(["x" * 511], GREEDY))


@pytest.mark.parametrize("name", ["xllamacpp", "llama_cpp"])
def test_a_file_that_does_not_load_is_one_line(monkeypatch, tmp_path, name):
    take(monkeypatch, name)
    with pytest.raises(ModelError, match=r"^strange.gguf: does not load in llama.cpp \([^\n]*\)$"):
        open_llama_cpp(tmp_path / "strange.gguf", "strange.gguf", 64)


def test_the_server_is_preferred(monkeypatch, tmp_path):
    take(monkeypatch, "xllamacpp", "llama_cpp")
    assert open_llama_cpp(tmp_path / "x.gguf", "x.gguf", 64).version == "xllamacpp 0.stand-in"


def test_a_missing_binding_says_what_to_install(monkeypatch, tmp_path):
    take(monkeypatch)
    (tmp_path / "llama_cpp.py").write_text("raise RuntimeError('no libllama.so')")
    with pytest.raises(MissingPackageError, match=r"needs llama.cpp; pip install xllamacpp$"):
        open_llama_cpp(tmp_path / "x.gguf", "x.gguf", 64)
    monkeypatch.delitem(sys.modules, "llama_cpp")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(MissingPackageError, match=r"\(llama_cpp does not import: no libllama.so\); pip install"):
        open_llama_cpp(tmp_path / "x.gguf", "x.gguf", 64)
