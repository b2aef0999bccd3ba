"""Generate with Hugging Face transformers: ``python run_transformers.py REQUEST.json RESPONSE.json``.

Needs the standard library, transformers (4.57 or 5) and torch, not emobake. The package's ``__init__`` describes
request and response. The checkpoint is loaded on the CPU in float32, the arithmetic that every other stack is compared
with, or in its own dtype if it is quantised; code of a checkpoint is never run.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def greedy(checkpoint: str, prompts: list[list[int]], max_new_tokens: int, eos: list[int]) -> list[list[int]]:
    """Generate the tokens that follow each prompt, each prompt run alone so that none is padded."""
    import torch
    import transformers

    major = int(transformers.__version__.split(".")[0])
    config = json.loads((Path(checkpoint) / "config.json").read_text(encoding="utf-8"))
    quantised = any("quantization_config" in part for part in (config, config.get("text_config") or {}))
    dtype: dict[str, Any] = {"dtype" if major >= 5 else "torch_dtype": "auto" if quantised else torch.float32}
    # A multimodal wrapper loads by the class that it declares; a plain class finds random weights in its folder.
    declared = (config.get("architectures") or [""])[0] if "text_config" in config else ""
    kind = getattr(transformers, declared, transformers.AutoModelForCausalLM)
    model = kind.from_pretrained(checkpoint, trust_remote_code=False, **dtype)
    model.eval()
    # A fresh generation config: the checkpoint's own may ask for sampling or a repetition penalty.
    model.generation_config = transformers.GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        eos_token_id=eos or None,
        pad_token_id=eos[0] if eos else 0,
    )
    out = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            result = model.generate(ids, attention_mask=torch.ones_like(ids))
        out.append(result[0, len(prompt) :].tolist())
    return out


def main(request_file: str, response_file: str) -> int:
    """Answer one request; exit code 3 when the stack cannot be imported."""
    request = json.loads(Path(request_file).read_text(encoding="utf-8"))
    try:
        import torch  # noqa: F401  (without it transformers imports, but has no models)
        import transformers
    except ImportError as error:
        print(f"transformers cannot be imported: {error}", file=sys.stderr)
        return 3
    transformers.logging.set_verbosity_error()
    try:
        tokens = greedy(
            request["checkpoint"],
            request["prompts"],
            request["max_new_tokens"],
            request.get("eos_token_ids", []),
        )
    except Exception as error:
        print(f"{type(error).__name__}: {' '.join(str(error).split())[:600]}", file=sys.stderr)
        return 1
    response = {"stack": "transformers", "version": transformers.__version__, "tokens": tokens}
    Path(response_file).write_text(json.dumps(response), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
