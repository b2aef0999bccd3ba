"""Fixtures for every test: small checkpoints, vector sets, and the command line in and out of process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from support.checkpoints import tree, write_checkpoint, write_vectors
from support.hub_server import Repo, StandInHub
from support.paths import SCRIPTS
from support.running import BASE, IMPATIENT, TARGET, TIMES, Ran, Run, run_process


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Run:
    """``cli(*arguments)`` runs the command line in this process, which is fast."""

    def run(*arguments: object) -> Ran:
        from emobake.cli.app import main

        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(a) for a in arguments])
        captured = capsys.readouterr()
        return Ran(int(stop.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def refused(cli: Run, tmp_path: Path) -> Callable[..., str]:
    """``refused(model, vectors, *words, more=())`` bakes, and wants one line with `words` and no trace on the disk."""

    def run(
        model: object, vectors: object, *words: str, more: tuple[object, ...] = (), times: tuple[object, ...] = TIMES
    ) -> str:
        before = tree(tmp_path)
        folders = set(tmp_path.rglob("*"))
        ran = cli("--model", model, "--vectors", vectors, *times, "--out", tmp_path / "out", *more)
        line = ran.one_line(*words)
        assert set(tmp_path.rglob("*")) == folders, "something was left behind"
        assert tree(tmp_path) == before, "something was changed"
        return line

    return run


@pytest.fixture
def run_cli() -> Run:
    """``run_cli(*arguments, env={})`` runs the command line in a process of its own."""

    def run(*arguments: object, env: Mapping[str, str] | None = None) -> Ran:
        return run_process("-m", "emobake", *arguments, env=env)

    return run


# Root reads and writes what the modes forbid, by two capabilities. A process may always give its own up, and
# then the modes bind it as they bind everybody; an ordinary user has none, and the call changes nothing.
_UNPRIVILEGED = """
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
header = (ctypes.c_uint32 * 2)(0x20080522, 0)
sets = (ctypes.c_uint32 * 6)()
assert libc.capget(header, sets) == 0
for i in (0, 1):
    sets[i] &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
assert libc.capset(header, sets) == 0
from emobake.cli.app import main
main(sys.argv[1:])
"""


@pytest.fixture
def run_unprivileged() -> Run:
    """Run as `run_cli` does, bound by the modes of files even if the tests run as root."""
    return lambda *arguments: run_process("-c", _UNPRIVILEGED, *arguments)


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[Callable[[Path, int], Path]]:
    """``closed(path, mode)`` sets a mode until the end of the test, and resets it before pytest removes `tmp_path`."""
    changed: list[tuple[Path, int]] = []

    def close(path: Path, mode: int) -> Path:
        changed.append((path, path.stat().st_mode))
        path.chmod(mode)
        return path

    yield close
    for path, mode in reversed(changed):
        path.chmod(mode)


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    """A stand-in for the Hub."""
    with StandInHub() as server:
        yield server


@pytest.fixture
def online(hub: StandInHub, tmp_path: Path) -> Run:
    """``online(*arguments, env={})`` runs the command line in a process that takes `hub` for the Hub."""

    def run(*arguments: object, env: Mapping[str, str] | None = None) -> Ran:
        settings = hub.environment(tmp_path) | {"HF_TOKEN": hub.allowed, "EMOBAKE_CACHE": str(tmp_path / "cache")}
        return run_process("-c", IMPATIENT, *arguments, env=settings | dict(env or {}))

    return run


@pytest.fixture
def online_without_copies(online: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """``online`` with a huggingface_hub that cannot have files copied between repositories."""
    patch = "from emobake.storage.hub import snapshot\nsnapshot.COPIES = False\n"
    monkeypatch.setattr(f"{__name__}.IMPATIENT", patch + IMPATIENT)
    return online


@pytest.fixture
def repo(hub: StandInHub, sharded: Path) -> Repo:
    """The base, in three shards."""
    hub.repos[BASE] = Repo()
    hub.repos[BASE].commit(sharded)
    return hub.repos[BASE]


@pytest.fixture
def copies() -> None:
    """Skip the test where huggingface_hub cannot have files copied between repositories."""
    from emobake.storage.hub.snapshot import COPIES

    if not COPIES:
        pytest.skip("huggingface_hub is too old to have files copied between repositories")


@pytest.fixture
def over(online: Run, vectors: Path, repo: Repo, copies: None) -> Run:
    """``over(*options, model=BASE, mix="joy=1")`` bakes from Hub to Hub."""

    def run(
        *options: object,
        model: str = BASE,
        mix: str = "joy=1",
        target: str = TARGET,
        env: Mapping[str, str] | None = None,
    ) -> Ran:
        arguments = ("--model", model, "--vectors", vectors, "--mix", mix, "--push-to-hub", target, *options)
        return online(*arguments, env=env)

    return run


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A Llama in one file, without biases, with side files and duplicates."""
    return write_checkpoint(tmp_path / "base")


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """The same in three shards."""
    return write_checkpoint(tmp_path / "sharded", shards=3)


@pytest.fixture
def biased(tmp_path: Path) -> Path:
    """A GPT-2 as published: names without their first part, every projection with a bias."""
    return write_checkpoint(tmp_path / "biased", "gpt2", dtype="F32")


@pytest.fixture
def vectors(tmp_path: Path) -> Path:
    """A set in the published form that fits all of the above."""
    return write_vectors(tmp_path / "ev")


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M-Instruct as a checkpoint in float32."""
    folder = tmp_path_factory.mktemp("smollm2") / "SmolLM2-135M-Instruct"
    subprocess.run([sys.executable, SCRIPTS / "make_smollm2.py", folder], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def tiny_chat(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama with the tokenizer and chat template of SmolLM2: what it says is nonsense, but soon said."""
    import shutil

    import torch
    import transformers

    folder = tmp_path_factory.mktemp("tiny") / "tiny-chat"
    torch.manual_seed(0)
    config = transformers.AutoConfig.from_pretrained(smollm2)
    config.update({"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "initializer_range": 0.3})
    config.update({"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8})
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        shutil.copy(smollm2 / name, folder)
    return folder


@pytest.fixture(scope="session")
def tiny_vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Vectors that fit `tiny_chat`."""
    import numpy as np

    import emobake

    rows = np.random.default_rng(0).standard_normal((5, 3, 32)).astype(np.float32) / 4
    file = tmp_path_factory.mktemp("tiny-ev") / "tiny.safetensors"
    emobake.write_set(emobake.VectorSet(("anger", "disgust", "fear", "joy", "sadness"), rows), file)
    return file


@pytest.fixture
def quiet() -> Iterator[None]:
    """Two threads, and no advice from transformers about tiny configs."""
    import logging

    import torch

    threads, logger = torch.get_num_threads(), logging.getLogger("transformers")
    level = logger.level
    torch.set_num_threads(2)
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(level)
    torch.set_num_threads(threads)
