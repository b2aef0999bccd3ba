"""Greedy tokens of a checkpoint with a LoRA in vLLM: ``python run_vllm_lora.py REQUEST.json RESPONSE.json``.

Runs in the environment of vLLM. A request has ``checkpoint``, ``adapter``, ``rank``, ``prompts`` and
``max_new_tokens``; the response has the tokens with the LoRA and without it.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def main(request_file: str, response_file: str) -> None:
    """Answer one request."""
    for name, value in {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    }.items():
        os.environ.setdefault(name, value)
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    request = json.loads(Path(request_file).read_text(encoding="utf-8"))
    llm = LLM(
        model=request["checkpoint"],
        dtype="float32",
        enforce_eager=True,
        max_model_len=128,
        max_num_seqs=4,
        skip_tokenizer_init=True,
        enable_prefix_caching=False,
        enable_lora=True,
        max_lora_rank=request["rank"],
        seed=0,
    )
    sampling = SamplingParams(temperature=0.0, max_tokens=request["max_new_tokens"], detokenize=False)
    prompts = [{"prompt_token_ids": prompt} for prompt in request["prompts"]]
    lora = LoRARequest("lora", 1, request["adapter"])
    found = {
        name: [list(output.outputs[0].token_ids) for output in llm.generate(prompts, sampling, lora_request=lora)]
        for name, lora in (("with", lora), ("without", None))
    }
    Path(response_file).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:3])
