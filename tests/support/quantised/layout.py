"""A quantisation method as a writer sees it: which tensors stand for a linear weight, and what the config says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np

FLOATS = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
"""Names in config.json."""
NAMES = {
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "int8": "I8",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
    "uint8": "U8",
    "uint32": "U32",
}
"""numpy's names of dtypes -> those of safetensors."""


@dataclass(frozen=True, eq=False)
class Stored:
    """A linear module as it is stored."""

    parts: Mapping[str, np.ndarray]
    """Tensors by the end of their names, after the module's name and a dot."""
    weight: np.ndarray | None = None
    """The weight that they stand for, float32 ``[outputs, inputs]``; None where only names, dtypes and shapes are
    right."""
    algorithm: str = ""
    """What a config that lists modules says of this one."""
    separator: str = "."
    """Between the module's name and a part's: that of experts is an underscore."""


Modules = Mapping[str, Stored]
"""The quantised modules by their names."""


@dataclass(frozen=True)
class Description:
    """What the files say of the method."""

    config: Mapping[str, Any] | None
    """``quantization_config`` of config.json; None if it has none."""
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """JSON files beside config.json."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Fields of config.json besides."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Metadata of the weight file, besides its format."""


def is_linear(name: str, tensor: np.ndarray) -> bool:
    """True for the weight of a linear module inside a layer, but for routers, which no tool quantises."""
    return tensor.ndim == 2 and ".layers." in name and name.endswith(".weight") and ".router." not in name


@dataclass(frozen=True)
class Layout:
    """One method, with its options."""

    store: Callable[[str, np.ndarray], Stored]
    """From a module's name and its float32 weight ``[outputs, inputs]``."""
    describe: Callable[[Modules], Description]
    dtype: str = "bfloat16"
    """The dtype of all other tensors, unless the caller wants another; by its name in config.json."""
    file: str = "model.safetensors"
    takes: Callable[[str, np.ndarray], bool] = is_linear
    """True for the tensors that are quantised, by name and value."""
