"""Planning a PEFT adapter instead of a checkpoint: LoRA of rank 1, zero A and B, ``lora_bias`` = w_l.

PEFT computes ``base(x) + (B A x + bias) * lora_alpha / r``; with A = B = 0 and ``lora_alpha = r = 1`` only the
bias is left (peft 0.14 and later). It works on any Linear projection, quantised ones included, and on
architectures whose class has no bias there. PEFT cannot merge it where the projection has none.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ..._version import __version__
from ...core.biases import strength_warnings, sum_to_add
from ...core.plan import BakePlan, LayerBias, LeftOut, Write, json_bytes
from ...core.stacks import Support
from ...core.steering import Steering
from ...core.tensors import encode
from ...core.vector_set import Site, VectorSet, fitted
from ...errors import UnsupportedModelError
from ..checkpoint.families import Architecture, architectures
from ..checkpoint.model import Checkpoint
from ..checkpoint.plan import branch_scale, warnings
from ..checkpoint.projections import check_landing, find_projections, input_width
from ..checkpoint.routes import declared_classes
from ..safetensors import serialize

_STACKS = {
    "transformers": Support("option", run=True, option="PEFT (PeftModel.from_pretrained)"),
    "vllm": Support("refuses"),
    "llama.cpp": Support("refuses"),
    "mlx": Support("refuses"),
}


def gather(plans: Mapping[str, BakePlan]) -> BakePlan:
    """One plan that writes several adapters, each complete in the folder that is its key."""
    first = next(iter(plans.values()))
    inside = [replace(file, name=f"{folder}/{file.name}") for folder, plan in plans.items() for file in plan.files]
    record = {"emobake_version": __version__, "format": "peft-each", "adapters": list(plans)}
    return replace(
        first,
        steering=replace(first.steering, weights=tuple(w for plan in plans.values() for w in plan.steering.weights)),
        layers=tuple(layer for plan in plans.values() for layer in plan.layers),
        files=(*inside, Write("emobake.json", json_bytes(record))),
    )


def _architecture(checkpoint: Checkpoint, site: Site) -> Architecture:
    """The table's row; for an unknown architecture, a row made from the tensor names."""
    known = architectures(site).get(str(checkpoint.config.get("model_type")))
    if known is not None and known.projection:
        return known
    if site != "attention_output":
        raise UnsupportedModelError(
            f"{checkpoint.name}: no bias is known that acts on the {site.replace('_', ' ')} of "
            f"{checkpoint.config.get('model_type')!r} alone; use vectors of the attention output"
        )
    pattern = re.compile(
        r"(.*\.)0(\.(?:self_attn|attn|attention|self_attention)\.(?:o_proj|out_proj|dense|c_proj))\.weight"
    )
    matches = [m for m in map(pattern.fullmatch, sorted(checkpoint.tensors)) if m is not None]
    if len(matches) != 1:
        raise UnsupportedModelError(
            f"{checkpoint.name}: cannot tell which of its tensors are the attention output projections of "
            f"{checkpoint.config.get('model_type')!r}"
        )
    return Architecture("unknown", (), f"{matches[0][1]}{{layer}}{matches[0][2]}")


def make_adapter_plan(
    checkpoint: Checkpoint,
    vectors: VectorSet,
    steering: Steering,
    *,
    base_model: str = "",
    force: bool = False,
) -> BakePlan:
    """Plan an adapter that adds w_l to every projection that acts at the set's site, on top of a bias it may have.

    Raises:
        UnsupportedModelError: no such projection can be found.
        InputError: as `make_plan`.

    """
    arch = _architecture(checkpoint, vectors.site)
    projections = find_projections(checkpoint, arch)
    vectors = fitted(vectors, checkpoint.num_hidden_layers, checkpoint.hidden_size, checkpoint.name)
    scale = branch_scale(checkpoint, arch)
    added = sum_to_add(vectors, steering, force=force) / np.float32(scale)
    check_landing(checkpoint, projections, added)
    tensors: dict[str, tuple[str, tuple[int, ...], bytes]] = {}
    layers = []
    for layer, module in projections.items():
        # PEFT names modules by the model that transformers builds, not by the names in the file.
        prefix = f"base_model.model.{arch.projection.format(layer=layer)}"
        inputs = input_width(checkpoint, arch, module)
        data = encode(added[layer], "F32")
        tensors[f"{prefix}.lora_A.weight"] = ("F32", (1, inputs), bytes(4 * inputs))
        tensors[f"{prefix}.lora_B.weight"] = ("F32", (vectors.hidden, 1), bytes(4 * vectors.hidden))
        tensors[f"{prefix}.lora_B.bias"] = ("F32", (vectors.hidden,), data)
        norm = float(np.linalg.norm(added[layer].astype(np.float64)))
        layers.append(LayerBias(layer, f"{prefix}.lora_B.bias", "F32", norm, hashlib.sha256(data).hexdigest()))
    files = (
        Write("adapter_model.safetensors", serialize(tensors, {"format": "pt"})),
        Write("adapter_config.json", json_bytes(_config(arch, base_model))),
    )
    return BakePlan(
        route="adapter",
        model_type=str(checkpoint.config.get("model_type")),
        architecture=next(iter(declared_classes(checkpoint.config)), ""),
        layers=tuple(layers),
        steering=steering,
        files=files,
        left_out=(LeftOut("the weights", "an adapter is loaded on top of the base"),),
        config_changes=(),
        stacks=_STACKS,
        added=tuple(tensors),
        warnings=(
            *strength_warnings(vectors, added),
            *warnings(checkpoint, vectors),
            "an adapter must stay one: PEFT cannot merge it into a projection that has no bias",
        ),
        branch_scale=scale,
    )


def _config(arch: Architecture, base_model: str) -> dict[str, object]:
    # A pattern over full module names: the last part alone (`dense`, `c_proj`) also names MLP modules.
    head, _, tail = arch.projection.partition("{layer}")
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model or None,
        "r": 1,
        "lora_alpha": 1,
        "lora_dropout": 0.0,
        "bias": "none",
        "lora_bias": True,
        "fan_in_fan_out": arch.conv1d,
        "inference_mode": True,
        "target_modules": f"{re.escape(head)}\\d+{re.escape(tail)}",
    }
