"""PyTorch's .pt: a tensor, a dict of them, or a dict with ``emotions`` and ``vectors``; persona vectors by their name.

Only tensors are loaded, never pickled code. The pickle in the archive is looked through before torch interprets it:
torch's safe subset still makes tensors of any size, and hashes what it finds.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ...core.limits import MAX_PICKLE
from ...core.packages import require
from ...errors import VectorError
from .found import Found, reason
from .npz import unpack

_CALLED = (
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "collections OrderedDict",
    "torch Size",
    "torch device",
)
_TUPLES, _PUTS, _GETS = ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"), ("BINPUT", "LONG_BINPUT"), ("BINGET", "LONG_BINGET")
_PERSONA = re.compile(r"(.+)_(?:response_avg|prompt_avg|prompt_last)_diff")


def read_pytorch(path: Path) -> Found:
    """Read a .pt or .pth file.

    Raises:
        BrokenFileError: not an archive (the form before PyTorch 1.6), or too large.
        VectorError: something else than tensors. MissingPackageError: PyTorch is not installed.
    """
    torch = require("torch", extra="chat", purpose=str(path))
    size = 0
    for member, data in unpack(path):
        size += len(data)
        if member.endswith("/data.pkl"):
            _look_through(path, data)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # From the unpickler: whatever a hostile file provokes.
        raise VectorError(
            f"{path}: holds something else than tensors, or is damaged ({reason(error)}); save the tensors alone"
        ) from None
    tensors = loaded.values() if isinstance(loaded, dict) else [loaded]
    _refuse_views(path, [tensor for tensor in tensors if isinstance(tensor, torch.Tensor)], size)
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


def _look_through(path: Path, pickled: bytes) -> None:
    """Refuse a pickle that does more than describe tensors.

    Raises:
        VectorError: it names another function, uses a tuple twice (tuples of such tuples, as keys, take for ever to
            hash), or is too long.
    """
    what = f"is longer than {MAX_PICKLE} bytes" if len(pickled) > MAX_PICKLE else ""
    tuples: set[object] = set()
    before = ""
    try:
        for code, argument, _ in pickletools.genops(pickled) if not what else ():
            if code.name == "GLOBAL" and argument not in _CALLED and not _is_type(str(argument)):
                what = f"{str(argument)[:60]!r} is not a plain tensor's"
            if code.name in _PUTS and before in _TUPLES:
                tuples.add(argument)
            elif code.name in _GETS and argument in tuples:
                what = "a tuple occurs twice"
            if what:
                break
            before = code.name
    except ValueError as error:
        what = reason(error)
    if what:
        raise VectorError(f"{path}: holds something else than tensors, or is damaged ({what}); save the tensors alone")


def _is_type(name: str) -> bool:
    """True for names of storages and dtypes of torch, which nothing calls."""
    import torch

    module, _, own = name.partition(" ")
    return module == "torch" and (own.endswith("Storage") or isinstance(getattr(torch, own, None), torch.dtype))


def _refuse_views(path: Path, tensors: Iterable[Any], size: int) -> None:
    """Refuse tensors that show the same bytes many times, and would become large as arrays.

    Raises:
        VectorError: they claim more bytes than the `size` of the archive's content.
    """
    claimed = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    if claimed > size:
        raise VectorError(
            f"{path}: its tensors claim {claimed} bytes, and it holds {size}; save them with .clone().contiguous()"
        )


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
    if not tensor.is_floating_point():
        raise VectorError(f"{path}: {name[:60]!r} is {tensor.dtype} {list(tensor.shape)}, not floats [layers, hidden]")
    # numpy does not know bfloat16.
    wide = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    try:
        array: np.ndarray = tensor.detach().to(wide).numpy()
    except (RuntimeError, TypeError, NotImplementedError):  # No data (the meta device), nested, and others.
        raise VectorError(f"{path}: {name[:60]!r} is not a plain tensor") from None
    return array
