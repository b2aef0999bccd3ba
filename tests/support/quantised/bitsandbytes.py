"""bitsandbytes 0.50 through transformers 5.23: 4 bits in blocks of 64, and LLM.int8."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from .layout import Description, Layout, Modules, Stored
from .packing import nibbles_in_bytes

BLOCK, NESTED_BLOCK = 64, 256
NF4 = np.array([
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0], np.float32)  # fmt: skip
_POSITIVE = [0.0, 0.0052083334885537624, 2 / 3, 1.0, 1 / 3, 0.5, 1 / 6, 0.25]
MAPS = {"nf4": NF4, "fp4": np.array([*_POSITIVE, *(-x for x in _POSITIVE)], np.float32)}
"""Type -> value of each code, as a part of one."""


def dynamic_map() -> np.ndarray:
    """The 256 values of an 8-bit code of bitsandbytes (``create_dynamic_map``)."""
    values = [0.0, 1.0]
    for exponent in range(7):
        edges = np.linspace(0.1, 1, 2**exponent + 1, dtype=np.float32)
        middles = (edges[:-1] + edges[1:]) / 2 * 10 ** (exponent - 6)
        values += [*middles, *-middles]
    return np.sort(np.array(values, np.float32))


def _nearest(values: np.ndarray, table: np.ndarray) -> np.ndarray:
    return np.abs(values[..., None] - table).argmin(-1).astype(np.uint8)


def four_bits(quant_type: str = "nf4", nested: bool = True) -> Layout:
    """``weight`` uint8 ``[outputs * inputs / 2, 1]`` and the state beside it; `nested` is ``double_quant``."""
    table = MAPS[quant_type]

    def store(_name: str, weight: np.ndarray) -> Stored:
        blocks = weight.reshape(-1, BLOCK)
        largest = np.abs(blocks).max(-1)
        state: dict[str, Any] = {
            "quant_type": quant_type,
            "blocksize": BLOCK,
            "dtype": "bfloat16",
            "shape": list(weight.shape),
        }
        parts = {"weight.absmax": largest, "weight.quant_map": table}
        if nested:
            offset = float(largest.mean())
            padded = np.pad(largest - offset, (0, -len(largest) % NESTED_BLOCK)).reshape(-1, NESTED_BLOCK)
            scales, map8 = np.abs(padded).max(-1), dynamic_map()
            codes = _nearest(padded / scales[:, None], map8)
            parts["weight.absmax"] = codes.reshape(-1)[: len(largest)]
            parts |= {"weight.nested_absmax": scales, "weight.nested_quant_map": map8}
            state |= {"nested_blocksize": NESTED_BLOCK, "nested_dtype": "float32", "nested_offset": offset}
            largest = (map8[codes] * scales[:, None]).reshape(-1)[: len(largest)] + np.float32(offset)
        codes = _nearest(blocks / largest[:, None], table)
        parts["weight"] = nibbles_in_bytes(codes.reshape(-1), low_first=False).reshape(-1, 1)
        parts[f"weight.quant_state.bitsandbytes__{quant_type}"] = np.frombuffer(json.dumps(state).encode(), np.uint8)
        return Stored(parts, (table[codes] * largest[:, None]).reshape(weight.shape))

    return Layout(store, lambda _modules: Description(_config(load_in_4bit=True, quant_type=quant_type, nested=nested)))


def eight_bits() -> Layout:
    """``weight`` int8 ``[outputs, inputs]``, its largest numbers ``SCB`` float32 ``[outputs]``."""

    def store(_name: str, weight: np.ndarray) -> Stored:
        largest = np.abs(weight).max(-1).astype(np.float32)
        codes = np.rint(weight * (127 / largest[:, None])).astype(np.int8)
        parts = {"weight": codes, "SCB": largest, "weight_format": np.array(0, np.uint8)}
        return Stored(parts, codes * (largest[:, None] / 127))

    return Layout(store, _describe_eight, dtype="float16")


def _describe_eight(_modules: Modules) -> Description:
    return Description(_config(load_in_4bit=False, quant_type="fp4", nested=False))


def _config(*, load_in_4bit: bool, quant_type: str, nested: bool) -> dict[str, Any]:
    return {
        "_load_in_4bit": load_in_4bit,
        "_load_in_8bit": not load_in_4bit,
        "bnb_4bit_compute_dtype": "bfloat16" if load_in_4bit else "float32",
        "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_quant_type": quant_type,
        "bnb_4bit_use_double_quant": nested,
        "llm_int8_enable_fp32_cpu_offload": False,
        "llm_int8_has_fp16_weight": False,
        "llm_int8_skip_modules": None,
        "llm_int8_threshold": 6.0,
        "load_in_4bit": load_in_4bit,
        "load_in_8bit": not load_in_4bit,
        "quant_method": "bitsandbytes",
    }
