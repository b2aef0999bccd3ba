"""Greedy tokens of a GGUF file with a LoRA in llama.cpp: ``python run_llama_cpp_lora.py REQUEST.json RESPONSE.json``.

Runs in the environment of llama.cpp. A request has ``gguf``, ``lora`` (a GGUF file, too), ``prompts`` and
``max_new_tokens``; the response has the tokens with the LoRA and without it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import xllamacpp


def tokens(request: dict[str, Any], lora: str) -> list[list[int]]:
    """The tokens that follow each prompt."""
    params = xllamacpp.CommonParams()
    params.model.path = request["gguf"]
    params.n_ctx = 128
    params.n_parallel = 1
    params.n_gpu_layers = 0
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.warmup = False
    if lora:
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(lora, 1.0)]
    server, found = xllamacpp.Server(params), []
    for prompt in request["prompts"]:
        asked = {"prompt": prompt, "max_tokens": request["max_new_tokens"], "temperature": 0.0, "cache_prompt": False}
        answer: Any = server.handle_completions(asked | {"logprobs": 1})
        answer = json.loads(answer) if isinstance(answer, str) else answer
        found.append([int(token["id"]) for token in answer["choices"][0]["logprobs"]["content"]])
    return found


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    result = {"with": tokens(given, given["lora"]), "without": tokens(given, "")}
    Path(sys.argv[2]).write_text(json.dumps(result), encoding="utf-8")
