"""torchao 0.18 through transformers 5.23: tensor subclasses, flattened into a safetensors file and its metadata."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from .layout import Description, Layout, Modules, Stored
from .packing import FP8_MAX, float8

_BY_ROW = {"_type": "PerRow", "_version": 1, "_data": {"dim": -1}}
_SYMMETRIC = {"_type": "MappingType", "_data": "SYMMETRIC"}
_KWARGS = {"granularity": {"_type": "PerRow", "_data": {"dim": -1}}, "mapping_type": _SYMMETRIC, "reduce_range": False}
_CONFIGS: dict[str, dict[str, Any]] = {
    "int8-weight-only": {
        "_type": "Int8WeightOnlyConfig",
        "_data": {"group_size": None, "granularity": _BY_ROW, "set_inductor_config": True},
    },
    "int8-dynamic": {
        "_type": "Int8DynamicActivationInt8WeightConfig",
        "_data": {
            "act_mapping_type": _SYMMETRIC,
            "weight_only_decode": False,
            "granularity": _BY_ROW,
            "set_inductor_config": True,
            "reduce_range": False,
        },
    },
    "float8": {
        "_type": "Float8WeightOnlyConfig",
        "_data": {
            "weight_dtype": {"_type": "torch.dtype", "_data": "float8_e4m3fn"},
            "set_inductor_config": True,
            "granularity": _BY_ROW,
        },
    },
}
_TENSORS: dict[str, dict[str, Any]] = {
    "int8-weight-only": {"act_quant_kwargs": None, "reduce_range": False},
    "int8-dynamic": {
        "act_quant_kwargs": {"_type": "QuantizeTensorToInt8Kwargs", "_data": _KWARGS},
        "reduce_range": False,
    },
    "float8": {
        "mm_config": None,
        "act_quant_kwargs": None,
        "kernel_preference": {"_type": "KernelPreference", "_data": "AUTO"},
    },
}


def torchao(kind: str = "int8-weight-only") -> Layout:
    """``_weight_qdata`` ``[outputs, inputs]``, ``_weight_scale`` float32 ``[outputs, 1]`` and, of int8, zero points."""

    def store(_name: str, weight: np.ndarray) -> Stored:
        top = FP8_MAX if kind == "float8" else 127
        scales = (np.abs(weight).max(-1, keepdims=True) / top).astype(np.float32)
        codes = float8(weight / scales) if kind == "float8" else np.rint(weight / scales).astype(np.int8)
        parts = {"_weight_qdata": codes, "_weight_scale": scales}
        if kind != "float8":
            parts["_weight_zero_point"] = np.zeros((len(weight), 1), np.int8)
        return Stored(parts, codes.astype(np.float32) * scales)

    def describe(modules: Modules) -> Description:
        config = {
            "include_input_output_embeddings": False,
            "modules_to_not_convert": None,
            "quant_method": "torchao",
            "quant_type": {"default": _CONFIGS[kind] | {"_version": 2}},
            "quant_type_kwargs": {},
            "untie_embedding_weights": False,
        }
        names = ["qdata", "scale"] if kind == "float8" else ["zero_point", "qdata", "scale"]
        metadata = {"tensor_names": json.dumps([f"{name}.weight" for name in modules])}
        for name, module in modules.items():
            data = _TENSORS[kind] | {
                "block_size": [1, module.parts["_weight_qdata"].shape[1]],
                "dtype": {"_type": "torch.dtype", "_data": "bfloat16"},
            }
            said = {
                "_type": "Float8Tensor" if kind == "float8" else "Int8Tensor",
                "_data": data,
                "_tensor_data_names": names,
            }
            metadata[f"{name}.weight"] = json.dumps(said)
        return Description(config, metadata=metadata)

    return Layout(store, describe)
