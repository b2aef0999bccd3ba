"""Greedy generation with the classes of optimum, which run exported models as transformers runs its own."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def answer(model: Any, request: dict[str, Any]) -> list[list[int]]:
    """Generate the tokens that follow each prompt of a request, and write the log probabilities that it asks for."""
    import torch
    import transformers

    ends = request.get("eos_token_ids", [])
    model.generation_config = transformers.GenerationConfig(
        do_sample=False,
        max_new_tokens=request["max_new_tokens"],
        eos_token_id=ends or None,
        pad_token_id=ends[0] if ends else 0,
    )
    out = []
    for prompt in request["prompts"]:
        ids = torch.tensor([prompt])
        result = model.generate(ids, attention_mask=torch.ones_like(ids))
        out.append(result[0, len(prompt) :].tolist())
    import_module("log_probs").write(request, lambda text: _logits(model, text))
    return out


def _logits(model: Any, text: list[int]) -> Any:
    import torch

    ids = torch.tensor([text])
    places = torch.arange(len(text))[None]
    return model(input_ids=ids, attention_mask=torch.ones_like(ids), position_ids=places).logits[0].numpy()
