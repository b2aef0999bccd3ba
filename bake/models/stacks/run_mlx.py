"""Generate with mlx-lm: ``python run_mlx.py REQUEST.json RESPONSE.json``.

Needs the standard library and mlx-lm, not emobake. The package's ``__init__`` describes request and response. Runs on
the CPU in float32, to agree with the other stacks as far as possible.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


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


def main(request_file: str, response_file: str) -> int:
    """Answer one request; exit code 3 when the stack cannot be imported."""
    request = json.loads(Path(request_file).read_text(encoding="utf-8"))
    try:
        import mlx.core as mx
        import mlx_lm
    except ImportError as error:
        print(f"mlx-lm cannot be imported: {error}", file=sys.stderr)
        return 3
    try:
        mx.set_default_device(mx.cpu)  # a GPU's float32 products are less exact
        tokens = greedy(
            request["checkpoint"],
            request["prompts"],
            request["max_new_tokens"],
            request.get("eos_token_ids", []),
        )
    except Exception as error:
        print(f"{type(error).__name__}: {' '.join(str(error).split())[:600]}", file=sys.stderr)
        return 1
    response = {"stack": "mlx", "version": mlx_lm.__version__, "tokens": tokens}
    Path(response_file).write_text(json.dumps(response), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
