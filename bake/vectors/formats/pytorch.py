"""PyTorch's .pt: a tensor, a dict of them, or a dict with ``emotions`` and ``vectors``; persona vectors by their name.

Only tensors are loaded, never pickled code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ...core.packages import require
from ...errors import VectorError
from .found import MAX_BYTES, Found, reason
from .npz import unpack

_PERSONA = re.compile(r"(.+)_(?:response_avg|prompt_avg|prompt_last)_diff")


def read_pytorch(path: Path) -> Found:
    """Read a .pt or .pth file.

    Raises:
        BrokenFileError: not an archive (the form before PyTorch 1.6), or too large.
        VectorError: something else than tensors. MissingPackageError: PyTorch is not installed.
    """
    torch = require("torch", extra="chat", purpose=str(path))
    for _ in unpack(path):
        pass
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # From the unpickler: whatever a hostile file provokes.
        raise VectorError(
            f"{path}: holds something else than tensors, or is damaged ({reason(error)}); save the tensors alone"
        ) from None
    persona = _PERSONA.fullmatch(path.stem)
    if isinstance(loaded, torch.Tensor):
        name = persona[1] if persona else path.stem
        found = Found({name.lower(): _array(path, name, loaded)})
    elif isinstance(loaded, dict) and isinstance(loaded.get("vectors"), torch.Tensor):
        found = Found(_stacked(path, loaded))
    elif isinstance(loaded, dict) and loaded and all(isinstance(key, str) for key in loaded):
        found = Found({name: _array(path, name, table) for name, table in loaded.items()})
    else:
        raise VectorError(
            f"{path}: holds a {type(loaded).__name__}; expected a tensor [layers, hidden], a dict from emotion to one, "
            "or a dict with emotions and vectors"
        )
    if persona:
        return replace(found, site="layer_output", first_row=-1, source="persona vector")
    return found


def _stacked(path: Path, loaded: Mapping[Any, Any]) -> dict[str, np.ndarray]:
    names, vectors = loaded.get("emotions"), _array(path, "vectors", loaded["vectors"])
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise VectorError(f"{path}: its emotions are not a list of names")
    if vectors.ndim != 3 or len(vectors) != len(names) or len(set(names)) != len(names):
        raise VectorError(f"{path}: {len(names)} emotions, but vectors of shape {list(vectors.shape)}")
    return dict(zip(names, vectors, strict=True))


def _array(path: Path, name: str, tensor: Any) -> np.ndarray:
    import torch

    if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided or tensor.is_quantized:
        raise VectorError(f"{path}: {name[:60]!r} is not a plain tensor")
    if tensor.numel() * tensor.element_size() > MAX_BYTES or not tensor.is_floating_point():
        raise VectorError(f"{path}: {name[:60]!r} is {tensor.dtype} {list(tensor.shape)}, not floats [layers, hidden]")
    # numpy does not know bfloat16.
    wide = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    try:
        array: np.ndarray = tensor.detach().to(wide).numpy()
    except (RuntimeError, TypeError, NotImplementedError):  # No data (the meta device), nested, and others.
        raise VectorError(f"{path}: {name[:60]!r} is not a plain tensor") from None
    return array
