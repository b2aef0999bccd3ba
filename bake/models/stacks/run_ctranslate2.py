"""Generate with CTranslate2, which converts the checkpoint first.

A runner of `start.py`; needs ctranslate2, and transformers with torch for the converter. The field ``quantization`` of
a request is that of the converter, such as ``int8``; without it the weights are float32.
"""

from __future__ import annotations

import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any


def version(request: dict[str, Any]) -> str:
    """The version of CTranslate2."""
    import ctranslate2
    import torch  # noqa: F401
    import transformers  # noqa: F401

    return str(ctranslate2.__version__)


def answer(request: dict[str, Any]) -> list[list[int]]:
    """Generate the tokens that follow each prompt."""
    import ctranslate2
    import numpy as np
    from ctranslate2.converters import TransformersConverter
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory(prefix="emobake-") as name:
        folder = Path(name) / "model"
        quantization = request.get("weights", "float32")
        TransformersConverter(request["checkpoint"]).convert(str(folder), quantization=quantization)
        # An int8 model multiplies integers; all else stays in float32.
        model = ctranslate2.Generator(str(folder), compute_type="int8_float32" if quantization == "int8" else "float32")
        tokenizer = AutoTokenizer.from_pretrained(request["checkpoint"])
        ends = [tokenizer.convert_ids_to_tokens(end) for end in request.get("eos_token_ids", [])]
        results = model.generate_batch(
            [tokenizer.convert_ids_to_tokens(prompt) for prompt in request["prompts"]],
            max_length=request["max_new_tokens"],
            sampling_topk=1,
            include_prompt_in_result=False,
            end_token=ends or None,
            max_batch_size=1,  # so that no prompt is padded
        )
        import_module("log_probs").write(
            request,
            lambda text: np.array(model.forward_batch([tokenizer.convert_ids_to_tokens(text)]))[0],
        )
        return [list(result.sequences_ids[0]) for result in results]
