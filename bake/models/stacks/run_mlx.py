"""Generate with mlx-lm, on the CPU in float32, to agree with the other stacks as far as possible.

A runner of `start.py`; needs mlx-lm.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


def version(request: dict[str, Any]) -> str:
    """The version of mlx-lm."""
    import mlx.core  # noqa: F401
    import mlx_lm

    return str(mlx_lm.__version__)


def answer(request: dict[str, Any]) -> list[list[int]]:
    """Generate the tokens that follow each prompt."""
    import mlx.core as mx

    mx.set_default_device(mx.cpu)  # a GPU's float32 products are less exact
    return greedy(
        request["checkpoint"], request["prompts"], request["max_new_tokens"], request.get("eos_token_ids", [])
    )


def greedy(checkpoint: str, prompts: list[list[int]], max_new_tokens: int, eos: list[int]) -> list[list[int]]:
    """Generate the tokens that follow each prompt, up to and including the first end-of-sequence token."""
    import mlx.core as mx
    from mlx_lm.generate import generate_step
    from mlx_lm.utils import load_model

    model, _ = load_model(Path(checkpoint))  # `mlx_lm.load` without the tokenizer, which is not needed
    model.set_dtype(mx.float32)
    out = []
    for prompt in prompts:
        tokens: list[int] = []
        for token, _ in generate_step(
            mx.array(prompt), model, max_tokens=max_new_tokens, stream=mx.default_stream(mx.cpu)
        ):
            tokens.append(int(token))
            if tokens[-1] in eos:
                break
        out.append(tokens)
    return out
