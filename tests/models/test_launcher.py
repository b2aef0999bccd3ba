"""Starting a stack and reading its answer; the stacks themselves are faked or absent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest

from emobake import InputError, MissingPackageError, ModelError
from emobake.core.stacks import STACKS
from emobake.models.stacks import (
    Generation,
    eos_token_ids,
    launcher,
    run_llama_cpp,
    run_mlx,
    run_stack,
    run_vllm,
    start,
)

# What a runner begins with: `request` is the request, `answer` writes the response.
PRELUDE = """
import json, os, sys, time
request = json.load(open(sys.argv[2]))
def answer(**fields):
    document = {"stack": "vllm", "version": "1.2", "tokens": [[1]] * len(request["prompts"])} | fields
    json.dump(document, open(sys.argv[3], "w"))
"""


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text('{"eos_token_id": 7}')
    return folder


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that puts a script of a few lines in the place of vLLM's runner."""

    def put(lines: str) -> None:
        script = tmp_path / "runner.py"
        script.write_text(f"{PRELUDE}{lines}\nsys.exit(0)\n")
        monkeypatch.setitem(STACKS, "vllm", replace(STACKS["vllm"], runner=str(script)))

    return put


def bare_python(folder: Path) -> Path:
    """An interpreter without any installed package."""
    python = folder / "bare-python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    python.chmod(0o755)
    return python


def test_every_stack_has_a_runner() -> None:
    folder = Path(launcher.__file__).parent
    assert {stack.runner for stack in STACKS.values() if stack.is_run} == {
        path.name for path in folder.glob("run_*.py")
    }
    assert all(name == stack.name for name, stack in STACKS.items())


def test_importing_stacks_loads_no_stack() -> None:
    code = (
        "import sys, emobake.models.stacks; "
        "assert not {'torch', 'transformers', 'vllm', 'mlx', 'numpy'} & set(sys.modules), sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_request_and_response(runner: Any, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner("answer(tokens=[[len(request['prompts'][0]), request['max_new_tokens']], request['eos_token_ids']])\n")
    monkeypatch.chdir(checkpoint.parent)
    result = run_stack("vllm", Path("checkpoint"), [[4, 5, 6], (8,)], max_new_tokens=9)
    assert result == Generation("vllm", "1.2", ((3, 9), ()))


def test_request_names_the_checkpoint_absolutely(
    runner: Any, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner("answer(version=request['checkpoint'] + ' ' + request['model_impl'])\n")
    monkeypatch.chdir(checkpoint.parent)
    result = run_stack("vllm", Path("checkpoint"), [[1]], options={"model_impl": "transformers"})
    assert result.version == f"{checkpoint.resolve()} transformers"


def test_only_a_trailing_eos_is_cut(runner: Any, checkpoint: Path) -> None:
    runner("answer(tokens=[[7, 1, 7], [1, 2], [7], []])\n")
    assert run_stack("vllm", checkpoint, [[1]] * 4).tokens == ((7, 1), (1, 2), (), ())


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, ()),
        ({"config.json": {"eos_token_id": 3}}, (3,)),
        ({"config.json": {"eos_token_id": [3, 4]}}, (3, 4)),
        ({"config.json": {"eos_token_id": None}}, ()),
        ({"config.json": {"text_config": {"eos_token_id": 5}}}, (5,)),
        ({"config.json": {"eos_token_id": 3}, "generation_config.json": {"eos_token_id": [0, 3]}}, (0, 3)),
        ({"config.json": {"eos_token_id": 0}, "generation_config.json": {}}, (0,)),
    ],
)
def test_eos_token_ids(files: dict[str, Any], expected: tuple[int, ...], tmp_path: Path) -> None:
    for name, document in files.items():
        (tmp_path / name).write_text(json.dumps(document))
    assert eos_token_ids(tmp_path) == expected


def test_eos_of_a_broken_generation_config(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text("{")
    (tmp_path / "config.json").write_text('{"eos_token_id": 3}')
    assert eos_token_ids(tmp_path) == (3,)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("open(sys.argv[3], 'w').write('{')", "malformed response"),
        ("open(sys.argv[3], 'w').write('[]')", "malformed response"),
        ("answer(stack='mlx')", "malformed response"),
        ("answer(version=None)", "malformed response"),
        ("answer(tokens=[])", "malformed response"),
        ("answer(tokens=[1])", "malformed response"),
        ("answer(tokens=[[1.5]])", "malformed response"),
        ("answer(tokens=[[True]])", "malformed response"),
        ("pass", "wrote no response"),
        ("sys.exit(9)", "exit code 9"),
        ("sys.exit('ValueError: no such layer')", "failed with exit code 1: ValueError: no such layer"),
    ],
)
def test_failures(lines: str, message: str, runner: Any, checkpoint: Path) -> None:
    runner(lines)
    with pytest.raises(ModelError) as caught:
        run_stack("vllm", checkpoint, [[1]])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not isinstance(caught.value, MissingPackageError)


def test_the_reason_is_found_in_noise(runner: Any, checkpoint: Path) -> None:
    runner(
        "print('INFO 01-01 loading')\n"
        "print('50%|##  | 1/2 [00:00<00:00, 2.0it/s]\\rOSError: weights are cut short', file=sys.stderr)\n"
        "print('shutting down\\n\\n', file=sys.stderr)\n"
        "sys.exit(1)"
    )
    with pytest.raises(ModelError, match=r"exit code 1: OSError: weights are cut short$"):
        run_stack("vllm", checkpoint, [[1]])


def test_without_an_exception_the_last_lines_are_the_reason(runner: Any, checkpoint: Path) -> None:
    runner("print('a\\nb\\nc\\n100%|##########| 2/2\\nd'); sys.exit(1)")
    with pytest.raises(ModelError, match=r"exit code 1: b \| c \| d$"):
        run_stack("vllm", checkpoint, [[1]])


def test_noise_is_captured_unless_asked_for(runner: Any, checkpoint: Path, capfd: pytest.CaptureFixture[str]) -> None:
    runner("print('loading', flush=True); print('!', file=sys.stderr); answer()")
    run_stack("vllm", checkpoint, [[1]])
    assert capfd.readouterr() == ("", "")
    run_stack("vllm", checkpoint, [[1]], verbose=True)
    assert capfd.readouterr() == ("", "loading\n!\n")


def test_the_child_sees_nothing_of_ours(runner: Any, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(checkpoint))
    monkeypatch.setenv("KEEP", "kept")
    runner(
        "names = ('PYTHONPATH', 'HF_HUB_OFFLINE', 'KEEP')\n"
        "answer(version=repr([os.environ.get(n) for n in names] + [os.environ['PATH'].split(os.pathsep)[0]]))"
    )
    result = run_stack("vllm", checkpoint, [[1]])
    assert result.version == repr([None, "1", "kept", str(Path(sys.executable).parent)])


def test_timeout_ends_the_child_and_its_workers(runner: Any, checkpoint: Path, tmp_path: Path) -> None:
    note = tmp_path / "worker"
    runner(
        "import subprocess\n"
        "worker = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"open({str(note)!r}, 'w').write(str(worker.pid))\n"
        "time.sleep(60)"
    )
    start = time.monotonic()
    with pytest.raises(ModelError, match=r"vllm \(.*\) did not finish within 2 s and was stopped"):
        run_stack("vllm", checkpoint, [[1]], timeout=2)
    assert time.monotonic() - start < 20
    assert not is_running(int(note.read_text()))


def is_running(pid: int) -> bool:
    """True if a process still runs; an orphan that waits to be reaped does not."""
    for _ in range(50):
        try:
            os.kill(pid, 0)
            state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
        except ProcessLookupError:
            return False
        if state.stdout.strip().startswith("Z") or not state.stdout.strip():
            return False
        time.sleep(0.1)
    return True


@pytest.mark.parametrize("stack", [name for name, stack in STACKS.items() if stack.is_run])
def test_stack_missing(stack: str, checkpoint: Path, tmp_path: Path) -> None:
    """The real runners: they need nothing but the standard library to say what is missing."""
    python = bare_python(tmp_path)
    with pytest.raises(MissingPackageError) as caught:
        run_stack(stack, checkpoint, [[1]], python=python)
    message = str(caught.value)
    assert f"{stack} is not installed for {python}" in message
    assert ("No module named" if "pip" in STACKS[stack].install else "no package") in message
    assert f"{STACKS[stack].install} there" in message
    assert "\n" not in message


def test_interpreter_missing(checkpoint: Path) -> None:
    with pytest.raises(ModelError, match="cannot start the interpreter /nowhere/python for mlx"):
        run_stack("mlx", checkpoint, [[1]], python=Path("/nowhere/python"))


@pytest.mark.parametrize(
    ("stack", "prompts", "options", "message"),
    [
        ("tgi", [[1]], {}, "no stack 'tgi' can be run: choose from transformers, vllm"),
        ("mlx", [], {}, "at least one token"),
        ("mlx", [[1], []], {}, "at least one token"),
        ("mlx", [[1]], {"model_impl": "transformers"}, "model_impl is no option of mlx"),
        ("mlx", [[1]], {"drawing": {}}, "drawing is no option of mlx"),
        ("vllm", [[1]], {"converter": "c"}, "converter is no option of vllm"),
    ],
)
def test_refused_requests(stack: str, prompts: Any, options: Any, message: str, checkpoint: Path) -> None:
    with pytest.raises(InputError, match=message):
        run_stack(stack, checkpoint, prompts, options=options)


# The runners, in this process, with fakes for what they import.


def run_main(module: ModuleType, folder: Path, **request: Any) -> tuple[int, Any]:
    """Exit code and response of a runner."""
    asked = {"stack": "stack", "checkpoint": str(folder), "prompts": [[4, 5], [6]]}
    asked |= {"max_new_tokens": 3, "eos_token_ids": [7]} | request
    question, answer = folder / "request.json", folder / "response.json"
    question.write_text(json.dumps(asked))
    with patch.object(start, "load", lambda file: module):
        code = start.main("runner.py", str(question), str(answer))
    return code, json.loads(answer.read_text()) if answer.exists() else None


def fake(monkeypatch: pytest.MonkeyPatch, name: str, **content: Any) -> SimpleNamespace:
    """Let ``import name`` give a module with this content."""
    module = SimpleNamespace(__version__="9.9", **content)
    monkeypatch.setitem(sys.modules, name, module)  # type: ignore[arg-type]
    return module


@pytest.fixture
def own_environ(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VLLM_CPU_KVCACHE_SPACE", "VLLM_LOGGING_LEVEL", "VLLM_NO_USAGE_STATS"):
        monkeypatch.setenv(name, "to be restored")
        monkeypatch.delenv(name)
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")


@pytest.mark.usefixtures("own_environ")
def test_run_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    class LLM:
        def __init__(self, **options: Any) -> None:
            asked.update(options)

        def generate(self, inputs: Any, sampling: Any, use_tqdm: bool) -> Any:
            asked["sampling"] = sampling
            return [SimpleNamespace(outputs=[SimpleNamespace(token_ids=i["prompt_token_ids"])]) for i in inputs]

    fake(monkeypatch, "vllm", LLM=LLM, SamplingParams=dict)
    (tmp_path / "config.json").write_text("{}")
    expected = {"stack": "stack", "version": "9.9", "tokens": [[4, 5], [6]]}
    assert run_main(run_vllm, tmp_path) == (0, expected)
    assert asked["dtype"] == "float32"
    assert asked["max_model_len"] == 5
    assert [one["temperature"] for one in asked["sampling"]] == [0, 0], "one for each prompt"
    assert all(one["stop_token_ids"] == [7] and one["seed"] is None for one in asked["sampling"])
    assert "model_impl" not in asked
    assert "trust_remote_code" not in asked
    assert os.environ["VLLM_CPU_KVCACHE_SPACE"] == "2"
    assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "1", "what the user has set stays"
    drawing = {"temperature": 0.5, "top_p": 0.9, "seeds": [3, 4]}
    run_main(run_vllm, tmp_path, model_impl="transformers", drawing=drawing, dtype="auto", enforce_eager=False)
    assert asked["model_impl"] == "transformers" and asked["dtype"] == "auto" and not asked["enforce_eager"]
    assert [one["seed"] for one in asked["sampling"]] == [3, 4]
    assert all((one["temperature"], one["top_p"]) == (0.5, 0.9) for one in asked["sampling"])


def test_a_runner_names_the_exception(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_: object) -> None:
        raise RuntimeError("two\nlines")

    fake(monkeypatch, "mlx")
    fake(monkeypatch, "mlx.core", set_default_device=refuse, cpu="cpu")
    sys.modules["mlx"].core = sys.modules["mlx.core"]  # type: ignore[attr-defined]
    fake(monkeypatch, "mlx_lm")
    assert run_main(run_mlx, tmp_path) == (1, None)
    assert capsys.readouterr().err == "RuntimeError: two lines\n"


def test_run_mlx_stops_at_eos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    devices: list[str] = []
    dtypes: list[str] = []
    core = fake(
        monkeypatch,
        "mlx.core",
        set_default_device=devices.append,
        default_stream=lambda device: device,
        cpu="cpu",
        float32="float32",
        array=lambda tokens: tokens,
    )
    fake(monkeypatch, "mlx", core=core)
    fake(monkeypatch, "mlx_lm")

    def steps(prompt: list[int], _model: object, max_tokens: int, stream: str) -> Any:
        return ((token, None) for token in ([1, 7, 2] if len(prompt) == 2 else [1, 2, 3, 4])[:max_tokens])

    fake(monkeypatch, "mlx_lm.generate", generate_step=steps)
    fake(monkeypatch, "mlx_lm.utils", load_model=lambda path: (SimpleNamespace(set_dtype=dtypes.append), {}))
    assert run_main(run_mlx, tmp_path) == (0, {"stack": "stack", "version": "9.9", "tokens": [[1, 7], [1, 2, 3]]})
    assert devices == ["cpu"]
    assert dtypes == ["float32"]


class Server:
    """xllamacpp's server: echoes the first token of each prompt, then stops or not."""

    def __init__(self, params: Any) -> None:
        self.gguf = Path(params.model.path)
        assert self.gguf.read_text() == "f32"
        assert params.cache_type_k == params.cache_type_v == "f32"

    def handle_completions(self, asked: dict[str, Any]) -> Any:
        assert asked["temperature"] == 0
        ids = [asked["prompt"][0], 2]
        if ids[0] == 0:
            return json.dumps({"error": "too long"})
        content = [{"id": i} for i in ids]
        reason = "stop" if ids[0] == 4 else "length"
        return {"choices": [{"logprobs": {"content": content}, "finish_reason": reason}]}


@pytest.fixture
def llama_cpp(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A fake binding, and the path of a converter that writes the type it was asked for."""
    fake(
        monkeypatch,
        "xllamacpp",
        CommonParams=lambda: SimpleNamespace(model=SimpleNamespace()),
        ggml_type=SimpleNamespace(GGML_TYPE_F32="f32"),
        Server=Server,
    )
    converter = tmp_path / "convert_hf_to_gguf.py"
    converter.write_text("import sys\nopen(sys.argv[3], 'w').write(sys.argv[5])\n")
    monkeypatch.setattr(run_llama_cpp.tempfile, "tempdir", str(tmp_path))
    return converter


def test_run_llama_cpp(llama_cpp: Path, tmp_path: Path) -> None:
    code, answer = run_main(run_llama_cpp, tmp_path, converter=str(llama_cpp))
    assert code == 0
    assert answer == {"stack": "stack", "version": "xllamacpp 9.9", "tokens": [[4], [6, 2]]}
    assert not list(tmp_path.glob("emobake-*")), "the GGUF file is gone"


def test_run_llama_cpp_refusal(llama_cpp: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(run_llama_cpp, tmp_path, converter=str(llama_cpp), prompts=[[0]]) == (1, None)
    assert "too long" in capsys.readouterr().err


def test_run_llama_cpp_failed_conversion(llama_cpp: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    llama_cpp.write_text("print('log'); raise NotImplementedError('no such architecture')")
    assert run_main(run_llama_cpp, tmp_path, converter=str(llama_cpp)) == (1, None)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == ("RuntimeError: convert_hf_to_gguf.py failed: NotImplementedError: no such architecture")


def test_a_converter_with_its_interpreter(tmp_path: Path) -> None:
    script = tmp_path / "convert hf.py"
    script.write_text("")
    assert run_llama_cpp.find_converter(f"{sys.executable} '{script}'") == [sys.executable, str(script)]
    assert run_llama_cpp.find_converter(str(script)) == [sys.executable, str(script)]
    for command in (f"{sys.executable} none.py", f"nosuch '{script}'"):
        with pytest.raises(
            run_llama_cpp.NotInstalledError, match=command.split()[0] if "nosuch" in command else "none"
        ):
            run_llama_cpp.find_converter(command)


def test_run_llama_cpp_without_converter(llama_cpp: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(run_llama_cpp, tmp_path, converter=str(tmp_path / "none")) == (3, None)
    assert "no llama.cpp converter" in capsys.readouterr().err


def test_run_llama_cpp_takes_the_other_binding(
    llama_cpp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    fake(monkeypatch, "llama_cpp")
    monkeypatch.setattr(run_llama_cpp, "with_llama_cpp", lambda gguf, prompts, new: [[new] for _ in prompts])
    _, answer = run_main(run_llama_cpp, tmp_path, converter=str(llama_cpp))
    assert answer == {"stack": "stack", "version": "llama-cpp-python 9.9", "tokens": [[3], [3]]}


@pytest.mark.parametrize("name", run_llama_cpp.CONVERTERS)
def test_converters_are_found_on_the_path(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / name
    program.write_text("")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    expected = ["/nowhere/python", str(program)] if name.endswith(".py") else [str(program)]
    assert run_llama_cpp.find_converter(None) == expected


def test_llama_cpp_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Llama:
        model = None

        def __init__(self, **options: Any) -> None:
            assert options["type_k"] == options["type_v"] == 0
            assert options["n_ctx"] >= 5

        def generate(self, prompt: list[int], temp: float, repeat_penalty: float) -> Any:
            assert temp == 0
            return iter([5, 9, 7, 1] if len(prompt) == 2 else [1, 2, 3, 4])

    fake(
        monkeypatch,
        "llama_cpp",
        Llama=Llama,
        GGML_TYPE_F32=0,
        llama_model_get_vocab=lambda model: None,
        llama_vocab_is_eog=lambda vocab, token: token == 7,
    )
    assert run_llama_cpp.with_llama_cpp(tmp_path, [[4, 5], [6]], 3) == [[5, 9], [1, 2, 3]]


@pytest.mark.torch
def test_run_transformers_ignores_sampling(tmp_path: Path) -> None:
    """A checkpoint may ask for sampling and penalties; the tokens are still the largest logits, up to EOS."""
    import torch
    from support.tiny import write_tiny
    from transformers import AutoModelForCausalLM

    folder = write_tiny("llama2", tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(folder)
    prompts, expected = [[5, 6, 7], [8]], []
    for prompt in prompts:
        ids = list(prompt)
        for _ in range(12):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        expected.append(tuple(ids[len(prompt) :]))
    eos = expected[0][6]
    expected = [tokens[: tokens.index(eos)] if eos in tokens else tokens for tokens in expected]
    wishes = {"do_sample": True, "temperature": 5.0, "repetition_penalty": 3.0, "eos_token_id": [eos]}
    (folder / "generation_config.json").write_text(json.dumps(wishes))
    result = run_stack("transformers", folder, prompts, max_new_tokens=12)
    assert list(result.tokens) == expected
