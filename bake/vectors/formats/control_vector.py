"""Control vectors of llama.cpp: GGUF files with 1-D F32 tensors ``direction.N``, added to the output of block N.

llama.cpp counts blocks from 0 and refuses a ``direction.0`` (common/common.cpp), so the first block has none.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from ...core.limits import MAX_LAYERS
from ...core.spelling import did_you_mean
from ...core.tensors import TensorHeader, decode
from ...core.vector_set import VectorSet, check_dimensions
from ...errors import VectorError
from ...storage.files import read_at
from .found import Found

_VERSION = 3
"""Of GGUF, in files that are written."""


def read_control_vector(path: Path) -> Found:
    """Read a control vector.

    Raises:
        BrokenFileError: a wrong header. VectorError: another GGUF, or tensors that are no directions.
        MissingPackageError: the gguf package is not installed.
    """
    from ...formats.gguf.header import parse_gguf

    read = read_at(path)
    header = parse_gguf(str(path), path.stat().st_size, read)
    architecture = header.text("general.architecture")
    if architecture != "controlvector":
        raise VectorError(f"{path}: is a GGUF of {architecture or '?'}, not of a control vector")
    directions: dict[int, np.ndarray] = {}
    for tensor in header.tensors:
        layer = _layer(path, tensor)
        if layer in directions:
            raise VectorError(f"{path}: direction.{layer} occurs twice in it")
        check_dimensions(f"{path}: {tensor.name}", layer + 1, tensor.shape[0])
        directions[layer] = decode(tensor, read(tensor.start, tensor.size))
    if not directions:
        raise VectorError(f"{path}: holds no direction.N")
    hidden = next(iter(directions.values())).shape
    table = np.zeros((max(directions) + 1, *hidden), np.float32)
    for layer, row in directions.items():
        if row.shape != hidden:
            raise VectorError(f"{path}: direction.{layer} has {row.size} floats, others have {hidden[0]}")
        table[layer] = row
    hint = header.text("controlvector.model_hint")
    source = f"control vector{f' for {hint}' if hint else ''}"
    return Found({path.stem.lower(): table}, "layer_output", 0, source, open_ended=True)


def write_control_vector(vectors: VectorSet, emotion: str) -> bytes:
    """Write one `emotion` of a set; it may be left out if the set has only one.

    Raises:
        VectorError: the set acts at the attention output, has a vector for layer 0, or has no such emotion.
        MissingPackageError: the gguf package is not installed.
    """
    from ...formats.gguf.header import DEFAULT_ALIGNMENT, Described, serialize_gguf, text_field, uint32_field

    if vectors.site != "layer_output":
        raise VectorError(
            f"{vectors.name}: acts at the attention output, and llama.cpp adds a control vector to the layer output; "
            "bake it instead"
        )
    if not emotion and len(vectors.emotions) > 1:
        raise VectorError(f"{vectors.name}: a .gguf holds one emotion; choose one of {', '.join(vectors.emotions)}")
    if emotion and emotion not in vectors.emotions:
        like = did_you_mean(emotion, vectors.emotions)
        raise VectorError(f"{vectors.name}: has no vectors for {emotion} (it has {', '.join(vectors.emotions)}){like}")
    rows = vectors.rows[vectors.emotions.index(emotion) if emotion else 0]
    if rows[0].any():
        raise VectorError(
            f"{vectors.name}: has a vector for layer 0, and llama.cpp refuses a direction.0; it would be lost"
        )
    directions = {f"direction.{layer}": row.astype("<f4").tobytes() for layer, row in enumerate(rows) if layer}
    hint = [text_field("controlvector.model_hint", vectors.base_model)] if vectors.base_model else []
    count = uint32_field("controlvector.layer_count", len(directions))
    fields = [text_field("general.architecture", "controlvector"), *hint, count]
    described = [Described(name, "F32", (rows.shape[1],), len(data)) for name, data in directions.items()]
    padded = (data + bytes(-len(data) % DEFAULT_ALIGNMENT) for data in directions.values())
    return serialize_gguf(_VERSION, DEFAULT_ALIGNMENT, fields, described) + b"".join(padded)


def _layer(path: Path, tensor: TensorHeader) -> int:
    match = re.fullmatch(r"direction\.(\d{1,4})", tensor.name, re.ASCII)
    if match is None or int(match[1]) >= MAX_LAYERS:
        raise VectorError(f"{path}: {tensor.name[:60]!r} is not a direction.N of a layer")
    if int(match[1]) == 0:
        raise VectorError(f"{path}: has a direction.0, which llama.cpp refuses: layers may be off by one")
    if tensor.dtype != "F32" or len(tensor.shape) != 1:
        raise VectorError(f"{path}: {tensor.name} is {tensor.dtype} {list(tensor.shape)}, not F32 [hidden]")
    return int(match[1])
