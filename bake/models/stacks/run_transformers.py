"""Generate with Hugging Face transformers (4.57 or 5), on the CPU.

A runner of `start.py`; needs transformers and torch. The checkpoint is loaded in float32, the arithmetic that every
other stack is compared with, or in its own dtype if it is quantised; code of a checkpoint is never run.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def version(request: dict[str, Any]) -> str:
    """The version of transformers."""
    import torch  # noqa: F401  (without it transformers imports, but has no models)
    import transformers

    return str(transformers.__version__)


def answer(request: dict[str, Any]) -> list[list[int]]:
    """Generate the tokens that follow each prompt."""
    import transformers

    transformers.logging.set_verbosity_error()
    return greedy(
        request["checkpoint"], request["prompts"], request["max_new_tokens"], request.get("eos_token_ids", [])
    )


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
