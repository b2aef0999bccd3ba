"""What the tools themselves store of a linear module: ``python stored_by_tools.py RESPONSE.json``.

Runs in the environment ``quantised``. The response maps methods of `support.quantised` to a map from the part of a name
to the safetensors name of the dtype and the shape, for a module of 256 inputs and 128 outputs without bias. The tools
quantise, but for gptqmodel and transformers' own modules, whose empty tensors tell the same.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

INPUTS, OUTPUTS = 256, 128
NAMES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.int8: "I8",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.uint8: "U8",
}


def _linear() -> torch.nn.Linear:
    return torch.nn.Linear(INPUTS, OUTPUTS, bias=False).to(torch.bfloat16)


def bitsandbytes_4bit() -> Mapping[str, torch.Tensor]:
    """Of bitsandbytes."""
    from bitsandbytes.nn import Linear4bit

    module = Linear4bit(INPUTS, OUTPUTS, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4")
    module.load_state_dict(_linear().state_dict())
    return module.to("cpu").state_dict()


def bitsandbytes_8bit() -> Mapping[str, torch.Tensor]:
    """Of bitsandbytes."""
    from bitsandbytes.nn import Int8Params, Linear8bitLt

    module = Linear8bitLt(INPUTS, OUTPUTS, bias=False, has_fp16_weights=False)
    weight = _linear().weight.data.half()
    module.weight = Int8Params(weight, requires_grad=False, has_fp16_weights=False).to("cpu")
    return module.state_dict()


def compressed(preset: str, form: str) -> Mapping[str, torch.Tensor]:
    """Of compressed-tensors, by one of its presets."""
    from compressed_tensors.compressors import compress_module
    from compressed_tensors.quantization import preset_name_to_scheme
    from compressed_tensors.quantization.lifecycle import initialize_module_for_quantization

    module, scheme = _linear(), preset_name_to_scheme(preset, ["Linear"])
    if preset == "W4A16":
        scheme.weights.group_size = 32
    initialize_module_for_quantization(module, scheme)
    for name, parameter in module.named_parameters():
        if "scale" in name:
            parameter.data.fill_(1.0)
    module.quantization_scheme.format = form
    compress_module(module)
    return module.state_dict()


def torchao() -> Mapping[str, torch.Tensor]:
    """Of torchao, as transformers flattens it."""
    from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    holder = torch.nn.Sequential(_linear())
    quantize_(holder, Int8WeightOnlyConfig(version=2))
    flat, _ = flatten_tensor_state_dict(holder.state_dict())
    return {name.removeprefix("0."): value for name, value in flat.items()}


def _of_gptqmodel(module: str, kind: str, **more: Any) -> Mapping[str, torch.Tensor]:
    import importlib

    sizes = {"bits": 4, "group_size": 32, "in_features": INPUTS, "out_features": OUTPUTS, "bias": False}
    found = getattr(importlib.import_module(f"gptqmodel.nn_modules.qlinear.{module}"), kind)
    return dict(found(**sizes, register_buffers=True, **more).named_buffers())


def gptq() -> Mapping[str, torch.Tensor]:
    """Of gptqmodel."""
    return _of_gptqmodel("torch", "TorchLinear", sym=True, desc_act=False, pack_dtype=torch.int32)


def awq() -> Mapping[str, torch.Tensor]:
    """Of gptqmodel."""
    return _of_gptqmodel("torch_awq", "AwqTorchLinear", sym=False, desc_act=False)


def fp8_block() -> Mapping[str, torch.Tensor]:
    """Of transformers."""
    from transformers.integrations.finegrained_fp8 import FP8Linear

    return FP8Linear(INPUTS, OUTPUTS, block_size=(128, 128)).state_dict()


def fbgemm_fp8() -> Mapping[str, torch.Tensor]:
    """Of transformers."""
    from transformers.integrations.fbgemm_fp8 import FbgemmFp8Linear

    return FbgemmFp8Linear(INPUTS, OUTPUTS, bias=False).state_dict()


def eetq() -> Mapping[str, torch.Tensor]:
    """Of transformers."""
    from transformers.integrations.eetq import EetqLinear

    return EetqLinear(INPUTS, OUTPUTS).state_dict()


def bitnet() -> Mapping[str, torch.Tensor]:
    """Of transformers."""
    from transformers.integrations.bitnet import BitLinear

    return BitLinear(INPUTS, OUTPUTS, bias=False, dtype=torch.bfloat16).state_dict()


TOOLS: Mapping[str, Callable[[], Mapping[str, torch.Tensor]]] = {
    "bitsandbytes-4bit": bitsandbytes_4bit,
    "bitsandbytes-8bit": bitsandbytes_8bit,
    "w4a16": lambda: compressed("W4A16", "pack-quantized"),
    "w8a8": lambda: compressed("W8A8", "int-quantized"),
    "fp8-channel": lambda: compressed("FP8_DYNAMIC", "float-quantized"),
    "fp8-tensor": lambda: compressed("FP8", "float-quantized"),
    "nvfp4": lambda: compressed("NVFP4", "nvfp4-pack-quantized"),
    "torchao": torchao,
    "gptq": gptq,
    "awq": awq,
    "fp8-block": fp8_block,
    "fbgemm-fp8": fbgemm_fp8,
    "eetq": eetq,
    "bitnet": bitnet,
}


def main(response_file: str) -> None:
    """Write what all tools store."""
    found = {
        method: {part: [NAMES[value.dtype], list(value.shape)] for part, value in stored().items()}
        for method, stored in TOOLS.items()
    }
    Path(response_file).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
