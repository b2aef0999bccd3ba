"""Log-probabilities of every next token in mlx-lm: ``python mlx_logprobs.py REQUEST.json RESPONSE.json``.

Runs in the environment of mlx-lm; request and response are those of ``vllm_logprobs.py``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import mlx.core as mx
from mlx_lm.utils import load_model


def logprobs(checkpoint: str, prompts: list[list[int]]) -> list[list[float]]:
    """The tables of one checkpoint, in float32."""
    model, _ = load_model(Path(checkpoint))
    model.set_dtype(mx.float32)
    rows = [model(mx.array([prompt]))[0, -1] for prompt in prompts]
    return [(row - mx.logsumexp(row)).tolist() for row in rows]


def main(request_file: str, response_file: str) -> None:
    """Answer one request."""
    mx.set_default_device(mx.cpu)  # A GPU's float32 products are less exact.
    request = json.loads(Path(request_file).read_text(encoding="utf-8"))
    found: dict[str, list[list[float]] | str] = {}
    for checkpoint in request["checkpoints"]:
        try:
            found[checkpoint] = logprobs(checkpoint, request["prompts"])
        except Exception as error:  # One model's fault is its own.
            found[checkpoint] = f"{type(error).__name__}: {error}"
    Path(response_file).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:3])
