"""SmolLM2 in plain transformers, unsteered or with the method re-stated as a hook.

Nothing here imports emobake: what the tests compare with must not come from the code under test.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers


@contextmanager
def hooked(model: Any, rows: np.ndarray) -> Iterator[None]:
    """Add ``rows[l]`` to the attention output of each layer l, at every position."""

    def adding(row: Any) -> Any:
        return lambda _module, _args, output: (output[0] + row, *output[1:])

    handles = [
        layer.self_attn.register_forward_hook(adding(torch.tensor(row)))
        for layer, row in zip(model.model.layers, rows, strict=True)
    ]
    yield
    for handle in handles:
        handle.remove()


def load(folder: Path) -> Any:
    """A checkpoint in float32; every tensor of the file found its place."""
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not any(info.values()), info
    return model.eval()


def prompt(tokenizer: Any, question: str) -> Any:
    """Inputs for a question, by the chat template."""
    messages = [{"role": "user", "content": question}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return tokenizer(text, add_special_tokens=False, return_tensors="pt")


def greedy(model: Any, inputs: Any) -> list[int]:
    """The greedy answer, at most 60 tokens."""
    with torch.inference_mode():
        out = model.generate(**inputs, do_sample=False, temperature=None, top_p=None, top_k=None, max_new_tokens=60)
    return out[0, inputs["input_ids"].shape[1] :].tolist()


def logits(model: Any, inputs: Any) -> Any:
    """Logits at every position."""
    with torch.inference_mode():
        return model(**inputs).logits
