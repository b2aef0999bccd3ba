"""Servers that send without end, byte by byte, or more than they said: an error of one line, soon."""

from __future__ import annotations

import json
import time
from pathlib import Path
from threading import Thread

import pytest
from support.hub_server import Fault, Repo, StandInHub
from support.running import BASE, TARGET, Ran, run_process

# As in earnest, but that a server is given up after one second of dripping, and after three of an answer in all.
HASTY = (
    "import sys, time\ntime.sleep = lambda s: None\nfrom emobake.storage import network_limits as n\n"
    "n.SLOW_SECONDS, n.ANSWER_SECONDS = 1, 3\nimport re\nfrom emobake.cli import main\n"
    "try: main(sys.argv[1:])\n"
    # Not getrusage: its peak is that of the tests' process until this program is started in the child.
    "finally: assert int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) < 600_000\n"
)


@pytest.fixture
def repo(hub: StandInHub, base: Path) -> Repo:
    """The base, on branch ``main``."""
    hub.repos[BASE] = Repo()
    hub.repos[BASE].commit(base)
    hub.repos[BASE].put({"tokenizer.json": b"{}" + b" " * 5000})
    return hub.repos[BASE]


@pytest.fixture
def bake(hub, repo, vectors, tmp_path):
    """``bake(*options)`` in a hasty process, for which an answer takes `seconds` at most."""

    def run(*options: str, seconds: int = 3) -> Ran:
        begun = time.monotonic()
        arguments = ("--model", BASE, "--vectors", vectors, "--mix", "joy=1", *options)
        program = HASTY.replace("ANSWER_SECONDS = 1, 3", f"ANSWER_SECONDS = 1, {seconds}")
        ran = run_process("-c", program, *arguments, env={**hub.environment(tmp_path), "HF_TOKEN": hub.allowed})
        assert time.monotonic() - begun < 40
        return ran

    return run


FILES = {
    "config": r"GET /owner/tiny/resolve/.*config.json",
    "tree": r"GET /api/models/owner/tiny/tree",
    "tokenizer": r"GET /owner/tiny/resolve/.*/tokenizer.json",
    "weights": r"GET /cdn/owner/tiny",
}


@pytest.mark.parametrize("what", ["flood", "drip", "drip headers", "zip"])
@pytest.mark.parametrize("file", FILES)
def test_a_pestering_server_is_given_up(bake, hub, tmp_path, file, what):
    hub.faults.append(Fault(FILES[file], what, times=10**6))
    line = bake("--out", str(tmp_path / "out")).one_line(code=1)
    words = {"flood": "bytes or more", "zip": "compressed"}.get(what, "too slowly")
    assert words in line and (BASE in line or "127.0.0.1" in line or "localhost" in line), line
    assert not (tmp_path / "out").exists()
    assert hub.sent < 300 * 2**20


@pytest.mark.parametrize("what", ["flood", "drip", "drip headers"])
@pytest.mark.parametrize("path", [r"GET /api/models/owner/tiny$", FILES["tree"], FILES["config"], FILES["weights"]])
def test_from_hub_to_hub(bake, hub, path, what):
    hub.faults.append(Fault(path, what, times=10**6))
    ran = bake("--push-to-hub", TARGET)
    ran.one_line(code=2 if path == FILES["weights"] and what == "flood" else 1)  # Wrong bytes, or too many.
    assert TARGET not in hub.repos


@pytest.mark.parametrize("entries", [0, 1, 5000])
@pytest.mark.parametrize("options", [("--push-to-hub", TARGET), ("--out", "out")])
def test_an_endless_list_of_files(bake, hub, tmp_path, entries, options):
    hub.endless_tree = entries
    ran = bake(*(str(tmp_path / word) if word == "out" else word for word in options))
    line = ran.one_line(code=ran.code)
    assert ran.code in (1, 2) and any(w in line for w in ("list of files", "lists more than 20000 files")), line


def test_a_config_that_says_that_it_is_large(bake, hub, repo, tmp_path):
    repo.put({"config.json": b'{"a": "' + b"x" * (65 * 2**20) + b'"}'})
    for options in (("--out", str(tmp_path / "out")), ("--push-to-hub", TARGET)):
        ran = bake(*options, seconds=30)  # By its size, not by the time that it takes.
        line = ran.one_line(code=ran.code)
        assert "config.json" in line and ("bytes or more" in line or "too many" in line)


@pytest.mark.parametrize("what", ["flood", "drip", "zip"])
def test_published_vectors(hub, tmp_path, what):
    hub.faults.append(Fault("GET /xuanfengzu", what, times=10**6))
    hub.raw = {"any": b"x" * 1000}
    answer = StandInHub._route

    def every(self, handler, body, path, token, content, query):
        return (
            handler.send(200, b"x" * 1000, body)
            if "xuanfengzu" in path
            else answer(self, handler, body, path, token, content, query)
        )

    hub._route = every.__get__(hub)
    env = {**hub.environment(tmp_path), "EMOBAKE_RAW_ENDPOINT": hub.url, "EMOBAKE_CACHE": str(tmp_path / "cache")}
    ran = run_process("-c", HASTY, "vectors", "pull", "qwen2.5-7b-instruct", env=env)
    ran.one_line("EmotionVector", code=ran.code)
    assert ran.code in (1, 2)


def test_a_wait_that_a_server_asks_for_is_shortened():
    from emobake.storage.network_limits import _shorten_waits

    headers = {"retry-after": "999999", "ratelimit": '"api";r=0;t=999999'}
    _shorten_waits(headers)
    assert headers == {"retry-after": "120", "ratelimit": '"api";r=0;t=120'}
    headers = {"retry-after": "30", "ratelimit": '"api";r=0;t=55'}
    _shorten_waits(headers)
    assert headers == {"retry-after": "30", "ratelimit": '"api";r=0;t=55'}


def test_the_clients_keep_the_limits():
    from emobake.storage.http import get_session

    client = get_session()
    if hasattr(client, "adapters"):  # huggingface_hub below 1.
        from emobake.storage.requests_limits import _Adapter, _Answer

        for prefix in ("http://", "https://"):
            adapter = client.adapters[prefix]
            assert isinstance(adapter, _Adapter)
            for manager in (adapter.poolmanager, adapter.proxy_manager_for("http://127.0.0.1:1")):
                pool = manager.connection_from_url(f"{prefix}127.0.0.1")
                assert issubclass(pool.ConnectionCls.response_class, _Answer), "headers are watched, too"
        return
    from emobake.storage.httpx_limits import _after, _Backend, _before

    assert _before in client.event_hooks["request"] and _after in client.event_hooks["response"]
    assert isinstance(client._transport._pool._network_backend, _Backend), "headers are watched, too"


@pytest.mark.parametrize("what", ["flood", "drip"])
def test_a_judge_is_given_up(monkeypatch, what):
    import http.server

    from emobake.errors import HubError
    from emobake.measure.scorers.judge import Judge
    from emobake.storage import network_limits

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            for _ in range(4096):
                try:
                    self.wfile.write(b" " if what == "drip" else b" " * 2**20)
                except OSError:
                    return
                if what == "drip":
                    time.sleep(0.05)

        def log_message(self, format, *arguments):
            """Nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{server.server_port}/v1")
    monkeypatch.setattr(network_limits, "ANSWER_SECONDS", 2)
    begun = time.monotonic()
    with pytest.raises(HubError) as caught:
        Judge("m").score(["How?"], ["So."])
    server.shutdown()
    server.server_close()
    assert time.monotonic() - begun < 20
    assert "judge m" in str(caught.value) and json.dumps(str(caught.value))
