"""The check of Ollama, against stand-ins of its command, its server, and llama.cpp."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.gguf_files import HIDDEN, LAYERS, write_model
from support.paths import SCRIPTS

from emobake import VectorSet
from emobake.vectors.write import write_set

# Records its calls; keeps each model's Modelfile where the server finds it.
COMMAND = """#!{python}
import pathlib, sys
folder = pathlib.Path({folder!r})
words = sys.argv[1:]
with (folder / "calls").open("a") as log:
    log.write(" ".join(words[:2]) + "\\n")
if words == ["--version"]:
    print("ollama version is 9.8.7")
elif words[0] == "create":
    text = pathlib.Path(words[3]).read_text()
    kind = "base" if text.startswith("FROM") else "baked"
    if (folder / ("refuse-" + kind)).exists():
        sys.exit("transferring\\nError: unknown architecture")
    file = next(line for line in text.splitlines() if line.startswith("FROM "))[5:]
    assert (pathlib.Path(words[3]).parent / file).is_file()
    (folder / words[1]).write_text(kind)
elif words[0] == "rm":
    (folder / words[1]).unlink()
"""
# In the place of an interpreter with llama.cpp; the tokens are those of the tiny model's vocabulary.
LLAMA_CPP = """#!{python}
import json, sys
request = json.load(open(sys.argv[3]))
tokens = {tokens}["baked" if request["checkpoint"].endswith("baked.gguf") else "base"]
answer = {{"stack": "llama.cpp", "version": "stand-in 1", "tokens": [tokens] * len(request["prompts"])}}
json.dump(answer, open(sys.argv[4], "w"))
"""
TOKENS = {"base": [3, 4, 5, 6], "baked": [3, 4, 7, 8]}
TEXTS = {"base": "<t0><t1><t2><t3>", "baked": "<t0><t1><t4><t5>"}


@dataclass
class Server:
    """A stand-in of the server: answers by the kind of model, and keeps the requests."""

    folder: Path
    answers: dict[str, str] = field(default_factory=lambda: dict(TEXTS))
    requests: list[dict[str, Any]] = field(default_factory=list)
    port: int = 0

    def answer(self, request: dict[str, Any]) -> tuple[int, dict[str, str]]:
        self.requests.append(request)
        text = self.answers.get((self.folder / request["model"]).read_text())
        return (500, {"error": "llama runner has terminated"}) if text is None else (200, {"response": text})


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    stand_in = Server(tmp_path / "ollama")
    stand_in.folder.mkdir()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply(200, {"version": "9.8.7"})

        def do_POST(self) -> None:
            assert self.path == "/api/generate"
            self.reply(*stand_in.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"])))))

        def reply(self, code: int, document: dict[str, str]) -> None:
            self.send_response(code)
            self.end_headers()
            self.wfile.write(json.dumps(document).encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        stand_in.port = http.server_port
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield stand_in
        http.shutdown()
        thread.join()


def program(path: Path, text: str, **values: object) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text.format(python=sys.executable, **values))
    path.chmod(0o755)
    return path


def run(
    server: Server, *, tokens: dict[str, list[int]] = TOKENS, path: str = "", host: str = ""
) -> tuple[int, list[str], str]:
    """Run the script: its exit code, its lines, and what it says on stderr."""
    folder = server.folder.parent
    write_model(folder / "base.gguf")
    write_set(VectorSet(("joy",), np.ones((1, LAYERS, HIDDEN), np.float32)), folder / "v.safetensors", overwrite=True)
    program(folder / "bin" / "ollama", COMMAND, folder=str(server.folder))
    python = program(folder / "python", LLAMA_CPP, tokens=tokens)
    call = [SCRIPTS / "check_ollama.py", folder / "base.gguf", "--vectors", folder / "v.safetensors", "--mix", "joy=1"]
    done = subprocess.run(
        [sys.executable, *map(str, call), "--python", str(python)],
        env=os.environ
        | {
            "PATH": path or str(folder / "bin"),
            "OLLAMA_HOST": host or f"127.0.0.1:{server.port}",
            "http_proxy": "http://127.0.0.1:9",  # Not for this machine.
        },
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout.splitlines(), done.stderr


def calls(server: Server) -> list[list[str]]:
    return [line.split() for line in (server.folder / "calls").read_text().splitlines()]


def assert_all_removed(server: Server) -> None:
    made = [words[1] for words in calls(server) if words[0] == "create"]
    removed = [words[1] for words in calls(server) if words[0] == "rm"]
    assert made and sorted(removed) == sorted(made)
    assert all(name.startswith("emobake-check-") for name in made)
    assert not list(server.folder.glob("emobake-check-*"))


def test_steered(server: Server) -> None:
    # Spaces in front are the server's to trim, and rounding parts the ends.
    server.answers["baked"] = " <t0><t1><t4><t9>"
    code, lines, errors = run(server)
    assert (code, errors) == (0, "")
    assert lines[-1] == ("steered: ollama version is 9.8.7, compared with stand-in 1 on 2 texts: steered, steered")
    assert_all_removed(server)
    assert len({request["model"] for request in server.requests}) == 2 and len(server.requests) == 4
    for request in server.requests:
        assert request["raw"] is True and request["stream"] is False
        assert request["options"] | {"temperature": 0, "repeat_penalty": 1.0} == request["options"]
        assert request["options"]["num_predict"] > 0 and "seed" in request["options"]


@pytest.mark.parametrize(
    ("baked", "verdict"),
    [
        (TEXTS["base"], "UNSTEERED"),
        ("<t0><t1><t2><t9>", "UNSTEERED"),  # As the base, but for rounding at the end.
        ("<t0><t1>", "WRONG"),  # Ends where the two part.
        ("<t9>", "WRONG"),
    ],
)
def test_not_steered(server: Server, baked: str, verdict: str) -> None:
    server.answers["baked"] = baked
    code, lines, _ = run(server)
    assert code == 1
    assert lines[-1].startswith(f"{verdict}: ollama version is 9.8.7")
    assert_all_removed(server)


@pytest.mark.parametrize("kind", ["base", "baked"])
def test_create_fails(server: Server, kind: str) -> None:
    (server.folder / f"refuse-{kind}").touch()
    code, lines, errors = run(server)
    assert (code, errors) == (1, "")
    assert len(lines) == 1 and lines[0].startswith("not run: `ollama create emobake-check-")
    assert lines[0].endswith("failed: Error: unknown architecture")
    assert_all_removed(server)


def test_the_server_cannot_run_the_baked_file(server: Server) -> None:
    del server.answers["baked"]
    code, lines, errors = run(server)
    assert (code, errors) == (1, "")
    assert len(lines) == 1 and "says 500" in lines[0] and "llama runner has terminated" in lines[0]
    assert_all_removed(server)


def test_llama_cpp_answers_alike(server: Server) -> None:
    code, lines, _ = run(server, tokens={"base": [3, 4], "baked": [3, 4]})
    assert code == 1 and lines[-1].startswith("not run: llama.cpp itself answers alike")
    assert_all_removed(server)


def test_no_ollama(server: Server, tmp_path: Path) -> None:
    code, lines, errors = run(server, path=str(tmp_path / "empty"))
    assert (code, errors) == (2, "")
    assert len(lines) == 1 and lines[0].startswith("not run: no `ollama` on the PATH: install Ollama (https://")


@pytest.mark.parametrize("host", ["127.0.0.1:1", "http://127.0.0.1:1/", "127.0.0.1:port"])
def test_no_server(server: Server, host: str) -> None:
    code, lines, errors = run(server, host=host)
    assert (code, errors) == (2, "")
    assert len(lines) == 1 and lines[0].startswith("not run: ") and not (server.folder / "calls").exists()


@pytest.mark.parametrize(
    ("kind", "pieces", "text"),
    [
        ("gpt2", ["ĠI", "Ġfeel", "ĠÃ©", "tÃ", "©", "Ċ"], "I feel été\n"),
        ("llama", ["▁I", "▁feel", "▁ét", "<0xC3>", "<0xA9>", "<0x0A>"], "I feel été\n"),
    ],
)
def test_text_of_tokens(kind: str, pieces: list[str], text: str) -> None:
    script = runpy.run_path(str(SCRIPTS / "check_ollama.py"))
    header = SimpleNamespace(file="x.gguf", text=lambda _: kind, text_of=lambda _, token: pieces[token])
    assert script["text_of"](header, range(len(pieces))) == text
    kind = "rwkv"
    with pytest.raises(script["NotRunError"], match="the kind 'rwkv' is not read"):
        script["text_of"](header, [0])


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("", "http://127.0.0.1:11434"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("box:8080", "http://box:8080"),
        (":8080", "http://127.0.0.1:8080"),
        ("http://box", "http://box:80"),
        ("https://box/ollama/", "https://box:443/ollama"),
        ("[::1]:7", "http://[::1]:7"),
    ],
)
def test_address(host: str, url: str) -> None:
    assert runpy.run_path(str(SCRIPTS / "check_ollama.py"))["address"](host) == url
