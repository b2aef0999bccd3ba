"""Small adapters made of numpy alone, in the form in which PEFT saves them. Nothing here imports emobake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .checkpoints import numbers, write_json, write_safetensors

Tensors = dict[str, tuple[str, np.ndarray]]


def lora_tensors(modules: dict[str, tuple[int, int]], *, rank: int = 2, dtype: str = "F32") -> Tensors:
    """Tensors of a LoRA of `modules`, name -> (outputs, inputs), in a Llama of two layers."""
    tensors: Tensors = {}
    for layer in range(2):
        for module, (outputs, inputs) in modules.items():
            name = f"base_model.model.model.layers.{layer}.{module}"
            tensors[f"{name}.lora_A.weight"] = (dtype, numbers(f"{name}.A", (rank, inputs)))
            tensors[f"{name}.lora_B.weight"] = (dtype, numbers(f"{name}.B", (outputs, rank)))
    return tensors


QV = {"self_attn.q_proj": (8, 8), "self_attn.v_proj": (4, 8)}
"""Modules of the Llama of `write_checkpoint`, with their outputs and inputs."""


def write_adapter(
    folder: Path,
    base: Path | str | None,
    tensors: Tensors | None = None,
    *,
    files: dict[str, str] | None = None,
    **config: Any,
) -> Path:
    """Write a LoRA of rank 2 with `tensors` (default: of q and v); `config` overlays its config."""
    folder.mkdir(parents=True)
    fields: dict[str, Any] = {
        "base_model_name_or_path": None if base is None else str(base),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": 4,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "peft_version": "0.21.2",
        "r": 2,
        "revision": None,
        "target_modules": ["q_proj", "v_proj"],
        "task_type": "CAUSAL_LM",
    } | config
    write_json(folder / "adapter_config.json", {key: value for key, value in fields.items() if value is not ...})
    write_safetensors(folder / "adapter_model.safetensors", lora_tensors(QV) if tensors is None else tensors)
    for name, text in (files or {}).items():
        (folder / name).write_text(text)
    return folder
