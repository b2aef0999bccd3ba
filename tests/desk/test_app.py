"""The desk over HTTP, in a server of its own, with a GGUF file and llama.cpp's stand-in: no torch, no browser."""

import http.client
import json
import threading
import time
from types import SimpleNamespace

import pytest
from support.binding import take
from support.gguf_files import write_model

from emobake import InputError, Sampling
from emobake.actions.conversation import open_conversation
from emobake.desk.access import Access
from emobake.desk.order import Bench
from emobake.desk.session import DeskSession
from emobake.desk.setting import Setting
from emobake.storage.model_name import ModelName
from emobake.vectors.find import VectorSource

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")


class Client:
    """A browser without a page."""

    def __init__(self, access):
        self.access = access

    def open(self, path, body=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.access.port, timeout=30)
        content = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"content-type": "application/json"} if content is not None else {}
        sent |= {key.replace("_", "-"): value for key, value in headers.items()}
        method = "GET" if content is None else "POST"
        connection.request(method, f"/{self.access.token}/{path}", content, sent)
        return connection, connection.getresponse()

    def get(self, path, body=None, **headers):
        connection, response = self.open(path, body, **headers)
        content = response.read()
        connection.close()
        found = json.loads(content) if response.getheader("content-type") == "application/json" else content
        return response.status, found

    def state(self):
        return self.get("api/state")[1]

    def ask(self, question):
        _, content = self.get("api/ask", {"question": question})
        return [json.loads(part[6:]) for part in content.decode().split("\n\n") if part.startswith("data: ")]


@pytest.fixture
def served(tmp_path, monkeypatch):
    from emobake.desk.serve import bind, server_of

    take(monkeypatch, "xllamacpp")
    write_model(tmp_path / "m.gguf")
    talk = open_conversation(tmp_path / "m.gguf", sampling=Sampling(seed=None))
    desk = DeskSession(talk, Bench(ModelName.parse(tmp_path / "m.gguf"), VectorSource(), str(tmp_path)))
    listening, access = bind(Access())
    ready = threading.Event()
    server = server_of(desk, access, ready.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    assert ready.wait(20)
    yield SimpleNamespace(desk=desk, client=Client(access), server=server, access=access)
    desk.end_streams()
    server.should_exit = True
    thread.join(20)
    listening.close()
    assert not thread.is_alive()


def eventually(holds, seconds=10):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.02)
    return False


def test_the_page_and_its_files(served):
    status, page = served.client.get("")
    assert status == 200 and b"<title>emobake desk</title>" in page
    for name, kind in (("desk.css", "text/css"), ("desk.js", "text/javascript"), ("icon.svg", "image/svg+xml")):
        connection, response = served.client.open(name)
        assert response.status == 200 and response.getheader("content-type").startswith(kind)
        assert response.read() and connection.close() is None
    for path in ("docs", "openapi.json", "../m.gguf", "desk.py", "api/nothing", "%2e%2e/m.gguf"):
        assert served.client.get(path)[0] == 404, path


def test_a_question_and_what_the_desk_then_shows(served):
    found = served.client.ask("Hi?")
    assert found[0] == {"type": "question", "question": "Hi?", "sides": ["a"]}
    text = "".join(one["text"] for one in found if one["type"] == "piece")
    assert "<user>Hi?" in text and [one["type"] for one in found[-2:]] == ["said", "end"]
    state = served.client.state()
    assert state["exchanges"][0]["said"]["a"]["text"] == text and not state["answering"]
    assert state["can_steer"] is False and state["personas"] is None and state["job"] is None
    assert served.client.get("api/reset", {})[1]["exchanges"] == []


def test_an_error_of_the_model_is_an_event(served):
    assert [one["type"] for one in served.client.ask("broken")] == ["question", "error", "end"]
    assert "llama.cpp failed" in served.client.ask("broken")[1]["error"]
    assert served.client.state()["exchanges"] == []


def test_a_tab_that_is_closed_stops_its_answer(served):
    connection, response = served.client.open("api/ask", {"question": "endless"})
    assert response.readline().startswith(b"data: ")
    assert served.client.state()["answering"]
    response.close()
    connection.close()
    assert eventually(lambda: not served.desk.is_answering)
    (exchange,) = served.client.state()["exchanges"]
    assert exchange["said"]["a"]["interrupted"] and exchange["said"]["a"]["text"].startswith("on and on")
    served.client.get("api/reset", {})
    assert served.client.ask("Hi?")[-1]["type"] == "end", "and the next question is answered"


def test_two_tabs(served):
    connection, response = served.client.open("api/ask", {"question": "endless"})
    response.readline()
    status, told = served.client.get("api/ask", {"question": "Me too?"})
    assert (status, "another tab" in told["error"]) == (400, True)
    assert served.client.get("api/reset", {})[0] == 400
    assert served.client.get("api/stop", {})[0] == 200
    assert b'"interrupted": true' in response.read()
    connection.close()
    assert eventually(lambda: not served.desk.is_answering)


def test_every_tab_is_told_of_changes(served):
    streams = [served.client.open("api/events") for _ in range(2)]
    first = [json.loads(response.readline()[6:]) for _, response in streams]
    served.client.ask("Hi?")
    for (connection, response), before in zip(streams, first, strict=True):
        response.readline()
        assert json.loads(response.readline()[6:])["revision"] > before["revision"]
        connection.close()


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("ask", {}, 422, "question"),
        ("ask", {"question": 3}, 422, "question"),
        ("ask", {"question": "Hi?", "extra": 1}, 422, "extra"),
        ("ask", {"question": " "}, 400, "write a question"),
        ("ask", {"question": "x" * 30_000}, 400, "too many"),
        ("ask", b"{", 422, "JSON"),
        ("ask", b"[]", 422, ""),
        ("sampling", {"max_new_tokens": 0, "temperature": 1}, 400, "max new tokens"),
        ("sampling", {"max_new_tokens": 5, "temperature": -1}, 400, "temperature"),
        ("sampling", {"max_new_tokens": 1.5, "temperature": 1}, 422, "max_new_tokens"),
        ("settings", {"a": {}, "b": {}, "beside": "c", "history": "same"}, 422, "beside"),
        ("settings", {"a": {"scope": "some"}, "b": {}, "beside": "off", "history": "same"}, 422, "scope"),
        ("settings", {"a": {"weights": {"joy": "x"}}, "b": {}, "beside": "off", "history": "same"}, 422, "joy"),
        ("settings", {"a": {"weights": {"joy": 1}}, "b": {}, "beside": "off", "history": "same"}, 400, "baked into it"),
        ("bake/plan", {"side": "a", "form": "cake", "name": "x"}, 422, "form"),
        ("bake/plan", {"side": "a", "form": "folder", "name": "x"}, 400, "emobake --model"),
        ("bake/start", {"key": "x"}, 400, "dry run"),
        ("personas/load", {"name": "x"}, 400, "no personas"),
        ("command", {"line": "/dance"}, 400, "no such command"),
    ],
)
def test_wrong_requests_are_one_line(served, path, body, status, words):
    found, told = served.client.get(f"api/{path}", body)
    assert found == status and words in told["error"] and "\n" not in told["error"] and "`" not in told["error"]


def test_nothing_to_draw(served):
    assert served.client.get("api/dose.svg?number=0")[1] == {"error": "no cost was measured for this answer"}
    assert served.client.get("api/dose.svg?number=x")[0] == 422
    assert "baked in" in served.client.get("api/cosines.svg")[1]["error"] and served.client.get("api/sets")[1] == []
    assert served.client.get("api/cosines.svg?theme=pink")[0] == 422


def test_settings_of_drawing_and_commands(served):
    _, state = served.client.get("api/sampling", {"max_new_tokens": 7, "temperature": 0, "system": "Be brief."})
    assert state["sampling"] == {"max_new_tokens": 7, "temperature": 0.0, "system": "Be brief."}
    assert "<system>Be brief." in served.client.ask("Hi?")[-2]["said"]["text"]
    assert "greedy, at most 7" in " ".join(served.client.get("api/command", {"line": "/show"})[1]["lines"])


def test_personas(served, monkeypatch):
    class Store:
        def names(self):
            return ["sunny"]

        def load(self, name):
            raise InputError(f"{name}: `overwrite` is no persona")

        def save(self, name, setting, *, overwrite):
            assert setting == Setting() and not overwrite

    served.desk.personas = Store()
    assert served.client.state()["personas"] == ["sunny"]
    assert served.client.get("api/personas/load", {"name": "sunny"})[1]["error"] == "sunny: Replace is no persona"
    assert served.client.get("api/personas/save", {"name": "sunny"})[0] == 200


def test_an_unexpected_failure_is_one_line(served, monkeypatch, capfd):
    monkeypatch.setattr(DeskSession, "reset", lambda _: 1 / 0)
    status, told = served.client.get("api/reset", {})
    assert (status, told) == (500, {"error": "unexpected ZeroDivisionError: division by zero"})
    assert "Traceback" not in capfd.readouterr().err


def test_others_do_not_reach_it(served):
    assert served.client.get("api/state", Host="evil.example")[0] == 421
    assert served.client.get("api/ask", {"question": "Hi?"}, Origin="http://evil.example")[0] == 403
    stranger = Client(Access(port=served.access.port, token="guess"))
    assert stranger.get("api/state")[0] == 404
    assert served.desk.exchanges == ()


def test_the_end_of_the_server_ends_streams_at_once(served):
    connection, response = served.client.open("api/events")
    response.readline()
    talk, answer = served.client.open("api/ask", {"question": "endless"})
    answer.readline()
    start = time.monotonic()
    served.server.handle_exit(2, None)
    assert b'"interrupted": true' in answer.read() and response.read() is not None
    assert time.monotonic() - start < 5
    connection.close()
    talk.close()
