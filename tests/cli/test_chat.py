"""`emobake chat` at a real terminal (a pseudo terminal, by pexpect): every command, Ctrl-C in an answer, the end."""

import json
import re
import sys

import pytest
from support.paths import SMOLLM2_VECTORS

pexpect = pytest.importorskip("pexpect")
pytest.importorskip("torch")

pytestmark = pytest.mark.real


class Terminal:
    """A session, with what was printed since the last prompt."""

    def __init__(self, smollm2, cwd, *more, columns=120):
        words = [
            "-m",
            "emobake",
            "chat",
            "--model",
            str(smollm2),
            "--vectors",
            str(SMOLLM2_VECTORS),
            "--greedy",
            *map(str, more),
        ]
        self.child = pexpect.spawn(
            sys.executable,
            words,
            cwd=str(cwd),
            dimensions=(50, columns),
            encoding="utf-8",
            timeout=120,
            env=environment(),
        )
        self.greeting = self.shown()

    def shown(self):
        self.child.expect_exact(["\r\n> ", "\r> ", "> "])
        return clean(self.child.before)

    def __call__(self, line):
        self.child.sendline(line)
        self.child.expect_exact(line.split(" ")[0])
        return self.shown()

    def gone(self):
        self.child.expect(pexpect.EOF)
        self.child.close()
        assert self.child.exitstatus == 0, self.child.before
        return clean(self.child.before)


def environment():
    import os

    return {**os.environ, "TERM": "xterm", "INPUTRC": "/dev/null", "NO_COLOR": "1"}


def clean(text):
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text).replace("\r", "")


def test_every_command(smollm2, tmp_path):
    chat = Terminal(smollm2, tmp_path, "--max-new-tokens", 12)
    assert "anger, disgust, fear, joy, sadness" in chat.greeting and "the model is unsteered" in chat.greeting
    helped = chat("/help")
    for command in ("/times", "/mix", "/scale", "/scope", "/compare", "/bake", "/show", "/reset", "/quit"):
        assert command in helped
    assert "12 tokens" in chat("How was your day?")
    assert "all weights are zero" in chat("/compare")
    assert "nothing to bake" in chat("/bake ./none")
    assert "2 x joy" in chat("/times 0 0 0 2 0")
    assert "five numbers" in chat("/times 1 two")
    assert "1.5 x joy + -0.5 x anger" in chat("/mix joy=1.5,anger=-0.5")
    assert "envy" in chat("/mix envy=1")
    assert "0.5 x (1.5 x joy" in chat("/scale 0.5")
    assert "not a number" in chat("/scale much")
    assert "last position of each forward pass" in chat("/scope last")
    assert "choose every or last" in chat("/scope first")
    assert "at every position" in chat("/scope every")
    both = chat("/compare")
    assert "unsteered" in both and "0.5 x (1.5 x joy" in both and both.count("tokens/s") >= 2
    shown = chat("/show")
    assert "1 answered questions" in shown and "greedy, at most 12 new tokens" in shown
    baked = chat("/bake ./found")
    assert "Baked 0.5 x (1.5 x joy + -0.5 x anger) into found" in baked
    record = json.loads((tmp_path / "found" / "emobake.json").read_text())
    assert (record["weights"], record["scale"]) == ({"joy": 1.5, "anger": -0.5}, 0.5)
    assert "exists" in chat("/bake ./found")
    assert "forgotten" in chat("/reset")
    assert "0 answered questions" in chat("/show")
    assert "no such command" in chat("/dance")
    assert "tokens" in chat(" /dance is a question here")
    chat.child.sendline("/quit")
    chat.gone()


def test_ctrl_c_stops_an_answer_and_ctrl_d_leaves(smollm2, tmp_path):
    chat = Terminal(smollm2, tmp_path, "--max-new-tokens", 2000, "--mix", "joy=2")
    chat.child.sendline("Tell me a long story.")
    chat.child.expect_exact("story.")
    chat.child.expect(r"\w+ \w+ \w+")  # the answer is on its way
    chat.child.sendintr()
    stopped = chat.shown()
    assert "(stopped)" in stopped and int(re.search(r"(\d+) tokens \(stopped\)", stopped)[1]) < 2000
    assert "1 answered questions" in chat("/show")
    chat.child.sendintr()  # nothing to stop
    assert "Ctrl-D leaves" in chat.shown()
    chat.child.sendeof()
    chat.gone()


def test_a_narrow_terminal_compares_one_after_the_other(smollm2, tmp_path):
    chat = Terminal(smollm2, tmp_path, "--max-new-tokens", 12, "--mix", "joy=2", columns=60)
    both = chat("/compare What is a good name for a cat?")
    assert "unsteered" in both and "2 x joy" in both
    assert all(len(line) <= 60 for line in both.splitlines())
    chat.child.sendeof()
    chat.gone()
