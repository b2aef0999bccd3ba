"""Methods with codebooks or formats of their own, which nothing here runs: right names, dtypes and shapes.

AQLM 1.1.7, VPTQ 0.0.5, SpQR 0.2, HQQ 0.2.8, EXL2 (exllamav2 0.3.2) and EXL3 (exllamav3 1.6.5).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .layout import FLOATS, Description, Layout, Modules, Stored
from .packing import asymmetric, in_groups, noise


def aqlm() -> Layout:
    """``codes`` int8 ``[outputs, inputs / 8, books]``, ``codebooks`` and ``scales`` float16 (``QuantizedLinear``)."""
    books, bits = 2, 8

    def store(_name: str, weight: np.ndarray) -> Stored:
        outputs, inputs = weight.shape
        parts = {
            "codes": noise((outputs, inputs // 8, books), np.int8),
            "codebooks": np.full((books, 2**bits, 1, 8), 0.1, np.float16),
            "scales": np.ones((outputs, 1, 1, 1), np.float16),
        }
        return Stored(parts)

    config = {
        "in_group_size": 8,
        "linear_weights_not_to_quantize": ["lm_head.weight"],
        "nbits_per_codebook": bits,
        "num_codebooks": books,
        "out_group_size": 1,
        "quant_method": "aqlm",
    }
    return Layout(store, lambda _modules: Description(config), dtype="float16")


def vptq() -> Layout:
    """``indices`` int32 ``[1, outputs / 8, inputs * bits / 32]``, ``centroids.weight`` and more (``VQuantLinear``)."""
    length, count, residual = 8, 256, 256

    def store(_name: str, weight: np.ndarray) -> Stored:
        outputs, inputs = weight.shape
        dtype = FLOATS["bfloat16"]
        parts = {
            "indices": noise((1, outputs // length, inputs * 16 // 32), np.int32),
            "centroids.weight": np.zeros((1, count * length), dtype),
            "res_centroids.weight": np.zeros((1, residual * length), dtype),
            "perm": np.arange(inputs, dtype=np.int16),
            "weight_scale": np.ones(inputs, dtype),
            "weight_bias": np.zeros(inputs, dtype),
        }
        return Stored(parts)

    def describe(modules: Modules) -> Description:
        layers = {name: _vptq_layer(module, length, count, residual) for name, module in modules.items()}
        shared = {"enable_proxy_error": False, "modules_to_not_convert": ["lm_head"], "quant_method": "vptq"}
        return Description(shared | {"config_for_layers": layers, "shared_layer_config": {}})

    return Layout(store, describe)


def _vptq_layer(module: Stored, length: int, count: int, residual: int) -> dict[str, Any]:
    inputs = len(module.parts["perm"])
    return {
        "bias": None,
        "enable_norm": True,
        "enable_perm": True,
        "group_num": 1,
        "group_size": inputs,
        "in_features": inputs,
        "indices_as_float": False,
        "is_indice_packed": True,
        "num_centroids": [-1, count],
        "num_res_centroids": [-1, residual],
        "out_features": module.parts["indices"].shape[1] * length,
        "outlier_size": 0,
        "vector_lens": [-1, length],
    }


def spqr() -> Layout:
    """``dense_weights`` int64, ``row_offsets``, ``col_vals`` and ``in_perm`` int32, all in one dimension."""

    def store(_name: str, weight: np.ndarray) -> Stored:
        outputs, inputs = weight.shape
        parts = {
            "dense_weights": noise((outputs * inputs // 16,), np.int64),
            "row_offsets": np.arange(outputs + 1, dtype=np.int32),
            "col_vals": noise((outputs,), np.int32),
            "in_perm": np.arange(inputs, dtype=np.int32),
        }
        return Stored(parts)

    def describe(modules: Modules) -> Description:
        shapes = {
            f"{name}.{part}.shape": len(value)
            for name, module in modules.items()
            for part, value in module.parts.items()
        }
        config = {"beta1": 16, "beta2": 16, "bits": 3, "modules_to_not_convert": ["lm_head"], "quant_method": "spqr"}
        return Description(config | {"shapes": shapes})

    return Layout(store, describe, dtype="float16")


def hqq(*, group: int = 64) -> Layout:
    """``W_q`` uint8 ``[outputs * inputs / group / 2, group]``, ``scale``, ``zero``, and every setting as a tensor."""

    def store(_name: str, weight: np.ndarray) -> Stored:
        codes, scales, zeros = asymmetric(weight, group, 4, np.float16)
        rows = in_groups(codes, group).reshape(-1, group).astype(np.uint8)
        half = len(rows) // 2
        flags = ("channel_wise", "encoded_state_dict", "optimize", "stores_quant_config")
        numbers = {"nbits": 4, "group_size": group, "axis": 1}
        texts = {"packing": "4bit_u8", "compute_dtype": "torch.float16", "unpack_view_dtype": "torch.uint8"}
        parts = {
            "W_q": rows[:half] << 4 | rows[half:],
            "scale": scales.reshape(-1, 1),
            "zero": zeros.reshape(-1, 1).astype(np.float16),
            "shape": np.array(weight.shape, np.int64),
            **{name: np.array(value, np.int32) for name, value in numbers.items()},
            **{name: np.frombuffer(text.encode(), np.uint8) for name, text in texts.items()},
            **{name: np.array(1, np.uint8) for name in flags},
            **{name: np.array(0, np.uint8) for name in ("offload_meta", "round_zero", "view_as_float")},
            **{name: np.array(0, np.uint8) for name in ("quant_scale", "quant_zero")},
        }
        steps = scales.astype(np.float32)[..., None]
        return Stored(parts, ((in_groups(codes, group) - zeros[..., None]) * steps).reshape(weight.shape))

    weights = {
        "axis": 1,
        "channel_wise": True,
        "group_size": group,
        "nbits": 4,
        "optimize": True,
        "round_zero": False,
        "view_as_float": False,
    }
    quant = {
        "offload_meta": False,
        "scale_quant_params": None,
        "weight_quant_params": weights,
        "zero_quant_params": None,
    }
    config = {"quant_config": quant, "quant_method": "hqq", "skip_modules": ["lm_head"]}
    return Layout(store, lambda _modules: Description(config), dtype="float16")


def exl2(*, group: int = 32) -> Layout:
    """``q_weight`` int32 ``[inputs * bits / 32, outputs]``, ``q_scale`` ``[groups, outputs / 8]`` and more."""

    def store(_name: str, weight: np.ndarray) -> Stored:
        outputs, inputs = weight.shape
        groups = inputs // group
        starts = np.stack([np.full(groups, 4), np.arange(groups) * (group // 8)], 1)
        parts = {
            "q_weight": noise((inputs // 8, outputs), np.int32),
            "q_scale": noise((groups, outputs // 8), np.int32),
            "q_scale_max": np.full(groups, 0.1, np.float16),
            "q_groups": starts.reshape(-1).astype(np.int16),
            "q_invperm": np.arange(inputs, dtype=np.int32),
        }
        return Stored(parts)

    config = {
        "bits": 4.0,
        "calibration": {"dataset": "(default)", "length": 2048, "rows": 115},
        "head_bits": 6,
        "quant_method": "exl2",
        "version": "0.3.2",
    }
    return Layout(store, lambda _modules: Description(config), dtype="float16")


def exl3(*, bits: int = 4) -> Layout:
    """``trellis`` int16 ``[inputs / 16, outputs / 16, 16 * bits]``, ``suh`` and ``svh`` float16, ``mcg`` int32.

    The storage of each module is listed in quantization_config.json (``create_quantization_config_json``).
    """

    def store(_name: str, weight: np.ndarray) -> Stored:
        outputs, inputs = weight.shape
        parts = {
            "trellis": noise((inputs // 16, outputs // 16, 16 * bits), np.int16),
            "suh": np.ones(inputs, np.float16),
            "svh": np.ones(outputs, np.float16),
            "mcg": np.array(-884393643, np.int32),
        }
        return Stored(parts)

    def describe(modules: Modules) -> Description:
        config = {
            "quant_method": "exl3",
            "version": "1.6.5",
            "bits": float(bits),
            "head_bits": 6,
            "calibration": {"rows": 250, "cols": 2048},
            "out_scales": "auto",
            "codebook": "mcg",
        }
        storage = {
            name: {
                "stored_tensors": {
                    f"{name}.{part}": {
                        "shape": list(value.shape),
                        "n_bytes": value.nbytes,
                        "dtype": f"torch.{value.dtype}",
                    }
                    for part, value in module.parts.items()
                },
                "quant_format": "exl3",
                "bits_per_weight": bits,
            }
            for name, module in modules.items()
        }
        return Description(config, {"quantization_config.json": config | {"tensor_storage": storage}})

    return Layout(store, describe, dtype="float16")
