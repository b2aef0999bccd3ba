"""Tiny models in plain transformers, unsteered or with the method re-stated as a hook.

The published method: a hook adds w_l to the output of each layer's attention module, at every position. Nothing here
imports emobake.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .tiny import VOCAB

TOLERANCE = 1e-5
"""Largest difference of a logit, relative to the largest logit. Measured: 0 where the bias is new, at most 5e-7 where
it is added to an old one (one rounding fewer); steered and unsteered differ by 0.8 or more."""


def load(path: Path) -> tuple[Any, dict[str, Any]]:
    """The model in float32, and what transformers tells about the names of its tensors."""
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    return model.eval(), info


def token_ids() -> Any:
    """Two sequences of 12 random tokens."""
    return torch.randint(3, VOCAB, (2, 12), generator=torch.Generator().manual_seed(1))


def logits(model: Any) -> np.ndarray:
    """Logits at every position of `token_ids`."""
    with torch.no_grad():
        return model(token_ids()).logits.float().numpy()


@contextmanager
def hooked(model: Any, o_proj: str, added: dict[int, np.ndarray]) -> Iterator[None]:
    """Within the context, `added` is on top of the attention module's output, layer by layer."""
    handles = []
    for layer, row in added.items():
        w = torch.from_numpy(row)

        def add(module: Any, args: Any, output: Any, w: Any = w) -> Any:
            return (output[0] + w, *output[1:]) if isinstance(output, tuple) else output + w

        attention = model.get_submodule(o_proj.format(layer=layer).rpartition(".")[0])
        handles.append(attention.register_forward_hook(add))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def hooked_logits(model: Any, o_proj: str, added: dict[int, np.ndarray]) -> np.ndarray:
    """Logits with `added` on top of the attention module's output, layer by layer."""
    with hooked(model, o_proj, added):
        return logits(model)


def assert_same(got: np.ndarray, expected: np.ndarray, unsteered: np.ndarray, tolerance: float = TOLERANCE) -> None:
    """Assert that `got` equals `expected` and differs from `unsteered`."""
    scale = np.abs(expected).max()
    assert np.isfinite(got).all()
    assert scale > 0.1, "logits too small to mean anything"
    assert np.abs(got - unsteered).max() > 100 * tolerance * scale, "the vectors change nothing"
    assert np.abs(got - expected).max() <= tolerance * scale
