"""Tiny checkpoints of every quantisation method, in the layout in which its tool publishes them.

Plain numpy: nothing here imports emobake, torch or a tool, but `write_quantised`, whose float checkpoint comes from
`support.tiny`. Numbers are right (the stored weights are near the float ones) for every method that a stack here loads.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from . import awq, bitnet, bitsandbytes, codebooks, compressed_tensors, fp8, gptq, mlx, modelopt, mxfp4, torchao
from .layout import FLOATS, NAMES, Layout, Stored

METHODS: Mapping[str, Callable[..., Layout]] = {
    "bitsandbytes-4bit": bitsandbytes.four_bits,
    "bitsandbytes-8bit": bitsandbytes.eight_bits,
    "gptq": gptq.gptq,
    "gptq-act-order": lambda **options: gptq.gptq(act_order=True, **options),
    "awq": awq.awq,
    "awq-gemv": awq.gemv,
    "w4a16": compressed_tensors.w4a16,
    "w4a16-act-order": lambda **options: compressed_tensors.w4a16(act_order=True, **options),
    "w4a16-channel": compressed_tensors.w4a16_channel,
    "w4a8": lambda **options: compressed_tensors.w4a16(inputs=True, **options),
    "w8a8": compressed_tensors.w8a8,
    "w8a8-tensor": compressed_tensors.w8a8_tensor,
    "fp8-channel": compressed_tensors.fp8_channel,
    "fp8-tensor": compressed_tensors.fp8_tensor,
    "ct-fp8-block": compressed_tensors.fp8_block,
    "nvfp4": compressed_tensors.nvfp4,
    "ct-mx": compressed_tensors.mxfp4,
    "ct-mixed": compressed_tensors.mixed,
    "ct-sparse": compressed_tensors.sparse,
    "fp8-block": fp8.blocks,
    "fp8-scale-inv": lambda **options: fp8.tensor(inverse=True, **options),
    "fp8": fp8.tensor,
    "fbgemm-fp8": fp8.fbgemm,
    "modelopt-fp8": modelopt.modelopt,
    "modelopt-fp8-block": lambda **options: modelopt.modelopt("FP8_PB_WO", **options),
    "modelopt-mxfp8": lambda **options: modelopt.modelopt("MXFP8", **options),
    "modelopt-nvfp4": lambda **options: modelopt.modelopt("NVFP4", **options),
    "modelopt-mixed": modelopt.mixed,
    "mxfp4": mxfp4.mxfp4,
    "torchao": torchao.torchao,
    "hqq": codebooks.hqq,
    "aqlm": codebooks.aqlm,
    "vptq": codebooks.vptq,
    "spqr": codebooks.spqr,
    "eetq": fp8.eetq,
    "quark": fp8.quark,
    "auto-round": gptq.auto_round,
    "intel-auto-round": lambda **options: gptq.auto_round(name="intel/auto-round", **options),
    "bitnet": bitnet.bitnet,
    "bitnet-autobitlinear": lambda **options: bitnet.bitnet(linear_class="autobitlinear", **options),
    "exl2": codebooks.exl2,
    "exl3": codebooks.exl3,
    "marlin": gptq.marlin,
    "marlin-24": gptq.marlin_24,
    "mlx": mlx.mlx,
}
"""Method -> layout, whose options the functions tell."""
VARIANTS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "bitsandbytes-4bit fp4": ("bitsandbytes-4bit", {"quant_type": "fp4", "nested": False}),
    "gptq v2": ("gptq", {"version": 2}),
    "gptq asymmetric": ("gptq", {"sym": False}),
    "gptq with zero biases": ("gptq", {"zero_bias": True}),
    "gptq in quantize_config.json": ("gptq", {"config_file": "quantize_config.json"}),
    "gptq in a file of its name": ("gptq", {"file": "gptq_model-4bit-128g.safetensors", "group": 128}),
    "awq in quant_config.json": ("awq", {"config_file": "quant_config.json"}),
    "modelopt-fp8 legacy": ("modelopt-fp8", {"legacy": True}),
    "modelopt-nvfp4 legacy": ("modelopt-nvfp4", {"legacy": True}),
    "modelopt-mixed legacy": ("modelopt-mixed", {"legacy": True}),
    "torchao int8 dynamic": ("torchao", {"kind": "int8-dynamic"}),
    "torchao float8": ("torchao", {"kind": "float8"}),
}
"""Other forms of some: label -> method and options."""
SIZES = {
    "hidden_size": 256,
    "intermediate_size": 384,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 256,
}
"""All in whole blocks of 128, the heads as wide as vLLM's attention on a CPU wants them."""


def write_quantised(
    folder: Path,
    method: str,
    family: str = "qwen2",
    *,
    dtype: str | None = None,
    plain: Path | None = None,
    options: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Path:
    """Write the tiny random model of a `family` of `support.tiny`, quantised by a method of `METHODS`.

    `fields` go into config.json over `SIZES`; the other arguments are those of `quantise`. Needs torch.
    """
    from ..tiny import write_tiny

    with tempfile.TemporaryDirectory() as space:
        write_tiny(family, Path(space), fields={**SIZES, **fields})
        return quantise(Path(space), folder, method, dtype=dtype, plain=plain, options=options)


def quantise(
    base: Path,
    folder: Path,
    method: str,
    *,
    dtype: str | None = None,
    plain: Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> Path:
    """Write the float checkpoint `base` into `folder`, quantised by a method of `METHODS`, and return that.

    All other tensors, and config.json, get `dtype` (default: what is usual for the method). `plain` gets a checkpoint
    in float32 of what the quantised weights stand for.
    """
    layout = METHODS[method](**(options or {}))
    dtype = dtype or layout.dtype
    tensors, values, modules = dict[str, np.ndarray](), dict[str, np.ndarray](), dict[str, Stored]()
    for name, tensor in _read(base).items():
        if not layout.takes(name, tensor):
            values[name] = tensor.astype(FLOATS[dtype])
            tensors[name] = values[name]
            continue
        module = name.removesuffix(".weight")
        modules[module] = stored = layout.store(module, tensor)
        tensors |= {f"{module}{stored.separator}{part}": value for part, value in stored.parts.items()}
        if stored.weight is not None:
            values[name] = stored.weight
    description = layout.describe(modules)
    # A tool that flattens its tensors lists the others, too.
    others = [name for name in tensors if name in values] if description.metadata else []
    metadata = {"format": "pt", **description.metadata, **dict.fromkeys(others, '{"_type": "Tensor"}')}
    if others:
        metadata["tensor_names"] = json.dumps(json.loads(metadata["tensor_names"]) + others)
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    config["dtype" if "dtype" in config else "torch_dtype"] = dtype
    said = {} if description.config is None else {"quantization_config": dict(description.config)}
    _copy_side_files(base, folder)
    _write_json(folder / "config.json", config | said | dict(description.fields))
    for name, content in description.files.items():
        _write_json(folder / name, content)
    _write_tensors(folder / layout.file, tensors, metadata)
    if plain is not None:
        if set(values) < set(_read(base)):
            raise ValueError(f"{method}: its numbers stand for nothing, so there is no plain form")
        _copy_side_files(base, plain)
        _write_json(plain / "config.json", config | {"dtype": "float32", "torch_dtype": "float32"})
        floats = {name: value.astype(np.float32) for name, value in values.items()}
        _write_tensors(plain / "model.safetensors", floats, {"format": "pt"})
    return folder


def _read(folder: Path) -> dict[str, np.ndarray]:
    """All tensors as float32."""
    found = {}
    for file in sorted(folder.glob("model*.safetensors")):
        with safe_open(file, "numpy") as opened:
            found |= {name: opened.get_tensor(name).astype(np.float32) for name in opened.keys()}  # noqa: SIM118
    return found


def _copy_side_files(base: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for file in base.iterdir():
        if file.is_file() and "safetensors" not in file.name and file.name != "config.json":
            shutil.copy(file, folder)


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _write_tensors(file: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """A safetensors file; the library's writer for numpy knows no float8."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    data = bytearray()
    # Wide numbers first, as the library does: each is aligned then.
    for name, value in sorted(tensors.items(), key=lambda item: (-item[1].itemsize, item[0])):
        start = len(data)
        data += np.ascontiguousarray(value).tobytes()
        header[name] = {
            "dtype": NAMES[value.dtype.name],
            "shape": list(value.shape),
            "data_offsets": [start, len(data)],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write_bytes(len(text).to_bytes(8, "little") + text + data)
