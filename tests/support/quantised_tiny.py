"""Tiny quantised checkpoints that plain transformers loads on a CPU, because it dequantises them.

Nothing here imports emobake: what the tests compare with must not come from the code under test.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .tiny import write_tiny

BLOCK = 128
"""Rows and columns of a block that shares a scale, and the hidden size of `write_fp8`."""


def write_fp8(folder: Path, name: str = "llama2") -> Path:
    """The family `name` in FP8 with scales of 128x128 blocks, the rest in bfloat16; returns `folder`."""
    import torch

    write_tiny(
        name,
        folder,
        dtype="bfloat16",
        fields={"hidden_size": BLOCK, "intermediate_size": BLOCK, "head_dim": BLOCK // 4, "num_key_value_heads": 4},
    )

    def quantised(weights: dict[str, Any]) -> dict[str, Any]:
        found = {}
        for tensor, value in weights.items():
            if not tensor.endswith("_proj.weight"):
                found[tensor] = value
                continue
            rows, columns = (size // BLOCK for size in value.shape)
            blocks = value.float().reshape(rows, BLOCK, columns, BLOCK)
            scales = blocks.abs().amax((1, 3)) / 448
            found[tensor] = (blocks / scales[:, None, :, None]).reshape(value.shape).to(torch.float8_e4m3fn)
            found[f"{tensor}_scale_inv"] = scales
        return found

    fields = {"quant_method": "fp8", "weight_block_size": [BLOCK, BLOCK], "activation_scheme": "dynamic"}
    return _rewritten(folder, quantised, fields)


def write_mxfp4(folder: Path) -> Path:
    """A tiny gpt-oss whose experts are MXFP4 with random blocks, the rest in bfloat16; returns `folder`."""
    import torch

    write_tiny("gpt_oss", folder, dtype="bfloat16", fields={"hidden_size": 64, "intermediate_size": 64})
    draw = torch.Generator().manual_seed(5)

    def quantised(weights: dict[str, Any]) -> dict[str, Any]:
        found = {}
        for tensor, value in weights.items():
            if not tensor.endswith(("experts.gate_up_proj", "experts.down_proj")):
                found[tensor] = value
                continue
            experts, inputs, outputs = value.shape
            groups = (experts, outputs, inputs // 32)
            found[f"{tensor}_blocks"] = torch.randint(0, 256, (*groups, 16), generator=draw, dtype=torch.uint8)
            found[f"{tensor}_scales"] = torch.randint(121, 125, groups, generator=draw, dtype=torch.uint8)
        return found

    return _rewritten(folder, quantised, {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]})


def _rewritten(folder: Path, change: Any, fields: dict[str, Any]) -> Path:
    """Replace the weights by ``change(weights)``, and add `fields` to config.json as its quantisation."""
    from safetensors.torch import load_file, save_file

    file, config = folder / "model.safetensors", folder / "config.json"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})
    data = json.loads(config.read_text(encoding="utf-8")) | {"quantization_config": fields}
    config.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    return folder
