"""Run GGUF files in llama.cpp, in the environment that has it: ``python run_gguf.py REQUEST.json RESPONSE.json``.

Request: ``files``, ``prompts`` (token ids, or text for the chat template), ``tokens`` to generate greedily, ``top``:
how many log-probabilities of the next token are wanted, ``threads`` (default: llama.cpp's). Response: per file and
prompt, ``text``, and ``top`` as a map from token id to log-probability. Everything in float32 but what the file holds
otherwise.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import xllamacpp


def _server(file: str, threads: int) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = file
    params.n_ctx = 512
    params.n_parallel = 1
    params.n_gpu_layers = 0
    params.warmup = False
    if threads:
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    return xllamacpp.Server(params)


def _answer(answer: Any) -> Any:
    return json.loads(answer) if isinstance(answer, str) else answer


def run(server: Any, prompt: Any, tokens: int, top: int) -> dict[str, Any]:
    """One prompt's answer."""
    common = {"temperature": 0.0, "cache_prompt": False}
    if isinstance(prompt, str):
        messages = [{"role": "user", "content": prompt}]
        said = _answer(server.handle_chat_completions({"messages": messages, "max_tokens": tokens, **common}))
        return {"text": said["choices"][0]["message"]["content"]}
    said = _answer(server.handle_completions({"prompt": prompt, "max_tokens": 1, "logprobs": top, **common}))
    first = said["choices"][0]["logprobs"]["content"][0]
    return {"top": {entry["id"]: entry["logprob"] for entry in first["top_logprobs"]}}


def main() -> None:
    """Answer the request."""
    request = json.loads(Path(sys.argv[1]).read_text())
    found = {}
    for file in request["files"]:
        server = _server(file, request.get("threads", 0))
        found[file] = [
            run(server, prompt, request.get("tokens", 1), request.get("top", 1)) for prompt in request["prompts"]
        ]
        del server
    Path(sys.argv[2]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
