"""Completion in a shell, through the variables that click's own scripts set."""

import pytest
from support.checkpoints import write_vectors
from support.paths import SMOLLM2_VECTORS
from support.running import run_process

EMOTIONS = ["anger", "disgust", "fear", "joy", "sadness"]


def completed(*words, shell="bash"):
    """What the shell is offered for the last of these words."""
    names = {"bash": "bash_complete", "zsh": "zsh_complete", "fish": "fish_complete"}
    typed = " ".join(map(str, ("emobake", *words)))
    env = {"_EMOBAKE_COMPLETE": names[shell], "COMP_WORDS": typed, "COMP_CWORD": str(len(words))}
    if shell == "fish":
        env["COMP_CWORD"] = str(words[-1])
    if not words[-1]:
        env["COMP_WORDS"] += " "
    lines = run_process("-m", "emobake", env=env).ok().out.splitlines()
    if shell == "bash":
        return [tuple(line.split(",", 1)) for line in lines]
    return lines


def plain(*words):
    return [value for kind, value in completed(*words) if kind == "plain"]


def test_commands_and_options():
    assert {"bake", "chat", "eval", "push", "vectors"} <= set(plain(""))
    assert plain("vectors", "ex") == ["extract"]
    assert plain("bake", "--link") == plain("--link") == ["--link-mode"], "the short form has the options of bake"
    assert set(plain("--model", "x", "--mi")) == {"--mix"}
    assert "--mix" in plain("--model", "x", "--mix", "joy=1", "--mi"), "it may be given again"
    assert plain("--format", "p") == ["peft"]


@pytest.mark.parametrize(
    "before", [("--vectors",), ("bake", "--vectors"), ("verify", "x", "--vectors"), ("vectors", "show")], ids=" ".join
)
def test_names_of_sets_and_files(before):
    assert plain(*before, "smol") == ["smollm2-135m-instruct", "smollm2-135m-instruct-tuned"]
    assert completed(*before, "./smol") == [("file", "./smol")]
    assert {"file", "plain"} == {kind for kind, _ in completed(*before, "")}


def test_models():
    assert completed("--model", "./Smol") == [("file", "./Smol")] and completed("chat", "--model", "") == [("file", "")]
    assert "HuggingFaceTB/SmolLM2-135M-Instruct" in plain("--model", "Hugging")
    assert plain("--vectors-for", "Qwen/") == ["Qwen/Qwen2.5-7B-Instruct"]
    assert plain("vectors", "pull", "Qwen/") == ["Qwen/Qwen2.5-7B-Instruct"]
    assert completed("verify", "./o") == [("file", "./o")]


def test_emotions(tmp_path):
    assert plain("--mix", "") == [f"{name}=1" for name in EMOTIONS]
    assert plain("--mix", "an") == ["anger=1"]
    assert plain("eval", "--emotions", "joy,") == [f"joy,{name}" for name in EMOTIONS if name != "joy"]
    assert plain("vectors", "extract", "--emotions", "f") == ["fear"]
    own = write_vectors(tmp_path / "ev", emotions=("calm", "awe"))
    assert plain("--vectors", own, "--mix", "") == ["awe=1", "calm=1"]
    assert plain("--vectors", own, "--vectors", SMOLLM2_VECTORS, "--mix", "a") == ["awe=1", "anger=1"]
    assert plain("vectors", "mix", own, "--name", "x", "--mix", "c") == ["calm=1"]
    assert plain("--vectors", "minicpm3-4b", "--mix", "j") == ["joy=1"], "nothing is fetched for it"
    (tmp_path / "broken.safetensors").write_bytes(b"?")
    assert plain("--vectors", tmp_path / "broken.safetensors", "--mix", "j") == ["joy=1"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_every_shell(shell):
    script = run_process("-m", "emobake", env={"_EMOBAKE_COMPLETE": f"{shell}_source"}).out
    assert "_EMOBAKE_COMPLETE" in script and "emobake" in script


def test_completion_is_quick():
    """It loads nothing that a terminal would have to wait for."""
    code = "import sys; from emobake.cli.completion import models; models(None, None, 'x'); print(*sys.modules)"
    assert not {"numpy", "torch", "rich", "huggingface_hub"} & set(run_process("-c", code).ok().out.split())
