"""Generate with ONNX Runtime GenAI, whose model builder converts the checkpoint first.

A runner of `start.py`; needs onnxruntime-genai, and onnx, transformers and torch for the builder. The field
``weights`` of a request is that of the builder, such as ``int4``; without it ``fp32``.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any


def version(request: dict[str, Any]) -> str:
    """The version of onnxruntime-genai."""
    import onnx_ir  # noqa: F401
    import onnxruntime_genai
    import torch  # noqa: F401
    import transformers  # noqa: F401

    return str(onnxruntime_genai.__version__)


def answer(request: dict[str, Any]) -> list[list[int]]:
    """Generate the tokens that follow each prompt."""
    import onnxruntime_genai

    with tempfile.TemporaryDirectory(prefix="emobake-") as name:
        folder = str(Path(name) / "model")
        places = ["-i", request["checkpoint"], "-o", folder, "-c", name]
        kind = ["-p", request.get("weights", "fp32"), "-e", "cpu"]
        command = [sys.executable, "-m", "onnxruntime_genai.models.builder", *places, *kind]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if done.returncode:
            lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
            raise RuntimeError(f"the model builder failed: {lines[-1] if lines else done.returncode}")
        model = onnxruntime_genai.Model(folder)
        import_module("log_probs").write(request, lambda text: _logits(model, text))
        return [_greedy(model, prompt, request) for prompt in request["prompts"]]


def _logits(model: Any, text: list[int]) -> Any:
    import onnxruntime_genai

    params = onnxruntime_genai.GeneratorParams(model)
    params.set_search_options(max_length=len(text) + 1, do_sample=False)
    generator = onnxruntime_genai.Generator(model, params)
    generator.append_tokens(text)
    return generator.get_output("logits")[0]


def _greedy(model: Any, prompt: list[int], request: dict[str, Any]) -> list[int]:
    import onnxruntime_genai

    params, ends = onnxruntime_genai.GeneratorParams(model), request.get("eos_token_ids", [])
    params.set_search_options(max_length=len(prompt) + request["max_new_tokens"], do_sample=False)
    generator = onnxruntime_genai.Generator(model, params)
    generator.append_tokens(prompt)
    tokens: list[int] = []
    while len(tokens) < request["max_new_tokens"] and not generator.is_done():
        generator.generate_next_token()
        tokens.append(int(generator.get_next_tokens()[0]))
        if tokens[-1] in ends:
            break
    return tokens
