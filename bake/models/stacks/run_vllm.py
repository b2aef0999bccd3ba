"""Generate with vLLM.

A runner of `start.py`; needs vLLM. Further fields of a request: ``model_impl`` (``"transformers"`` for vLLM's
Transformers backend), ``dtype``, ``enforce_eager``, and ``drawing`` (temperature, top_p, and a seed for each prompt),
without which decoding is greedy.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def version(request: dict[str, Any]) -> str:
    """The version of vLLM."""
    settle_environment()
    import vllm

    return str(vllm.__version__)


def settle_environment() -> None:
    """Set defaults of the variables that vLLM reads; variables that are set stay."""
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")  # GiB; the default takes a share of all memory
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    # The engine in this process: a failure is then an exception here, not a hint at another process's log.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")


def answer(request: dict[str, Any]) -> list[list[int]]:
    """Generate the tokens that follow each prompt."""
    from vllm import LLM, SamplingParams

    prompts, max_new_tokens = request["prompts"], request["max_new_tokens"]
    extra: dict[str, Any] = {"model_impl": request["model_impl"]} if request.get("model_impl") else {}
    config = json.loads((Path(request["checkpoint"]) / "config.json").read_text(encoding="utf-8"))
    if "text_config" in config:
        extra["language_model_only"] = True  # prompts without images, so no processor is needed
    llm = LLM(
        model=request["checkpoint"],
        dtype=request.get("dtype", "float32"),
        enforce_eager=request.get("enforce_eager", True),  # slower tokens, but minutes less before the first one
        max_model_len=max(map(len, prompts)) + max_new_tokens,
        max_num_seqs=min(len(prompts), 32),
        skip_tokenizer_init=True,  # token ids in, token ids out; the folder may have no tokenizer
        enable_prefix_caching=False,
        disable_log_stats=True,
        seed=0,
        **extra,
    )
    drawing = request.get("drawing") or {"temperature": 0.0, "top_p": 1.0, "seeds": [None] * len(prompts)}
    sampling = [
        SamplingParams(
            temperature=drawing["temperature"],
            top_p=drawing["top_p"],
            seed=seed,
            max_tokens=max_new_tokens,
            stop_token_ids=request.get("eos_token_ids", []),
            detokenize=False,
        )
        for seed in drawing["seeds"]
    ]
    inputs: Any = [{"prompt_token_ids": prompt} for prompt in prompts]
    return [list(output.outputs[0].token_ids) for output in llm.generate(inputs, sampling, use_tqdm=False)]
