"""Log-probabilities of every next token in vLLM: ``python vllm_logprobs.py REQUEST.json RESPONSE.json``.

Runs in the environment of vLLM, all checkpoints in one process, because importing vLLM takes longest. (After a model
without experts, one with experts needs a process of its own.) A request has ``checkpoints``, ``prompts`` and, if not
float32, the ``dtype``. The response maps each checkpoint to a list per prompt, of the log-probability of each token of
the vocabulary after the prompt; or to the error, in words.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import traceback
from pathlib import Path


def logprobs(checkpoint: str, prompts: list[list[int]], dtype: str) -> list[list[float]]:
    """The tables of one checkpoint."""
    from vllm import LLM, SamplingParams
    from vllm.distributed import cleanup_dist_env_and_memory

    # Of a multimodal model the language model alone, which needs no processor.
    config = json.loads(Path(checkpoint, "config.json").read_text(encoding="utf-8"))
    options = {"language_model_only": True} if "vision_config" in config else {}
    llm = LLM(
        model=checkpoint,
        dtype=dtype,
        enforce_eager=True,
        max_model_len=64,
        max_num_seqs=4,
        max_logprobs=-1,
        skip_tokenizer_init=True,
        enable_prefix_caching=False,
        disable_log_stats=True,
        seed=0,
        **options,
    )
    try:
        sampling = SamplingParams(temperature=0.0, max_tokens=1, logprobs=-1, detokenize=False)
        outputs = llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], sampling, use_tqdm=False)
        tables = [output.outputs[0].logprobs[0] for output in outputs]
        return [[table[token].logprob for token in range(len(table))] for table in tables]
    finally:
        llm.llm_engine.engine_core.shutdown()
        del llm
        gc.collect()
        cleanup_dist_env_and_memory()


def main(request_file: str, response_file: str) -> None:
    """Answer one request."""
    for name, value in {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    }.items():
        os.environ.setdefault(name, value)
    request = json.loads(Path(request_file).read_text(encoding="utf-8"))
    found: dict[str, list[list[float]] | str] = {}
    for checkpoint in request["checkpoints"]:
        try:
            found[checkpoint] = logprobs(checkpoint, request["prompts"], request.get("dtype") or "float32")
        except Exception as error:  # one model's fault is its own
            traceback.print_exc()
            found[checkpoint] = f"{type(error).__name__}: {error}"
        Path(response_file).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:3])
