"""Adapters of tiny models, made by PEFT with random weights as if they were trained. Nothing here imports emobake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import torch

from .tiny_runs import load

_TRAINED = ("lora_", "hada_", "lokr_", "oft_")


def write_lora(base: Path, folder: Path, *, kind: str = "LoraConfig", seed: int = 0, **fields: Any) -> Path:
    """Write an adapter of `base`, which it names, into `folder`; `fields` are those of its config."""
    model, _ = load(base)
    adapted = peft.get_peft_model(model, getattr(peft, kind)(**{"task_type": "CAUSAL_LM"} | fields))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if any(part in name for part in _TRAINED):
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    adapted.save_pretrained(folder)
    return folder


def with_adapter(base: Path, adapter: Path, **options: Any) -> tuple[Any, Any]:
    """`base` with an adapter in it, and PEFT's wrapper of it."""
    model, _ = load(base)
    return model, peft.PeftModel.from_pretrained(model, adapter, **options).eval()
