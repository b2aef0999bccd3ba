"""Environments of the stacks, SmolLM2's published vectors, and greedy decoding; a missing one fails the test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .paths import ENVS, SHARED

Tokens = list[tuple[int, ...]]


def interpreter(name: str) -> Path:
    """The python of one of the environments that scripts/envs makes."""
    python = ENVS / name / "bin" / "python"
    if not python.exists():
        pytest.fail(f"{python} is missing: run scripts/envs {name}, or set EMOBAKE_ENVS", pytrace=False)
    return python


def published_vectors() -> Path:
    """The folder with SmolLM2's vectors."""
    folder = SHARED / "smollm2-ev"
    if not folder.is_dir():
        pytest.fail(f"{folder} is missing: set EMOBAKE_SHARED", pytrace=False)
    return folder


def greedy(model: Any, prompts: list[list[int]], new_tokens: int) -> Tokens:
    """Greedy continuation of each prompt, a trailing EOS cut off as `generate` does."""
    import torch

    eos = model.generation_config.eos_token_id
    out = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        result = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=new_tokens, pad_token_id=0
        )
        tokens = result[0, len(prompt) :].tolist()
        out.append(tuple(tokens[:-1] if tokens and tokens[-1] == eos else tokens))
    return out
