"""Projections in a checkpoint: their names in its files, their widths, and the dtype of a bias beside them."""

from __future__ import annotations

from typing import Any, TypeGuard

from ...core.limits import MAX_WIDTH
from ...core.tensors import FLOATS
from ...errors import BrokenFileError
from .families import Family
from .model import Checkpoint

_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64"}

# One element per number; U8 and I32 hold several.
_UNPACKED = ("F8_E4M3", "F8_E5M2", "I8")

# A quantised linear may have no `weight`: GPTQ and AWQ store `qweight`, compressed-tensors `weight_packed`.
_WEIGHT_NAMES = ("weight", "qweight", "weight_packed")


def find_projections(checkpoint: Checkpoint, family: Family) -> dict[int, str]:
    """Layer -> module name of its projection in the checkpoint's files. Layers without it (hybrids) are left out.

    Raises:
        BrokenFileError: no layer has the projection.
    """
    modules = {
        layer: module_in_file(checkpoint, family, family.projection.format(layer=layer))
        for layer in range(checkpoint.num_hidden_layers)
    }
    found = {layer: module for layer, module in modules.items() if module is not None}
    if not found:
        raise BrokenFileError(
            f"{checkpoint.name}: no tensor {family.names_of(family.projection.format(layer=0))[0]}.weight; "
            f"these are not the weights of {family.label}"
        )
    return found


def module_in_file(checkpoint: Checkpoint, family: Family, module: str) -> str | None:
    """Name under which a linear module of `family` is stored; None if it is not."""
    for name in family.names_of(module):
        if any(f"{name}.{part}" in checkpoint.tensors for part in _WEIGHT_NAMES):
            return name
    return None


def bias_dtype(checkpoint: Checkpoint, module: str) -> str:
    """Dtype of a new bias: that of the module's weight, or the config's if the weight is quantised.

    Raises:
        BrokenFileError: the weight is quantised and the config names no dtype.
    """
    weight = checkpoint.tensors.get(f"{module}.weight")
    if weight is not None and weight.dtype in FLOATS:
        return weight.dtype
    configs = (checkpoint.language_config, checkpoint.config)
    named = next((n for config in configs for key in ("dtype", "torch_dtype") if (n := config.get(key))), None)
    if isinstance(named, str) and named.removeprefix("torch.") in _DTYPES:
        return _DTYPES[named.removeprefix("torch.")]
    raise BrokenFileError(
        f"{checkpoint.name}/config.json: names no float dtype (it says {named!r}), which the bias beside the "
        f"quantised {module} needs; add torch_dtype"
    )


def output_width(checkpoint: Checkpoint, family: Family, module: str) -> int:
    """Number of outputs of a linear module, quantised or not.

    Raises:
        BrokenFileError: neither the headers nor the config tell.
    """
    tensors = checkpoint.tensors
    weight = tensors.get(f"{module}.weight") or tensors.get(f"{module}.weight_packed")
    if weight is not None and len(weight.shape) == 2 and 1 not in weight.shape:
        return _checked(checkpoint, module, weight.shape[1 if family.conv1d else 0])
    # GPTQ and AWQ: one scale per group and output.
    scales = tensors.get(f"{module}.scales")
    if scales is not None and len(scales.shape) == 2:
        return _checked(checkpoint, module, scales.shape[1])
    # bitsandbytes stores 4-bit weights as one flat column; the config has to tell.
    heads = checkpoint.language_config.get("num_attention_heads")
    kv_heads = checkpoint.language_config.get("num_key_value_heads") or heads
    head_dim = _head_dim(checkpoint, "head_dim")
    widths = {"q_proj": (heads, head_dim), "k_proj": (kv_heads, head_dim), "v_proj": (kv_heads, head_dim)}
    widths |= dict.fromkeys(("gate_proj", "up_proj"), (1, checkpoint.language_config.get("intermediate_size")))
    widths |= dict.fromkeys(("o_proj", "down_proj", family.projection.rpartition(".")[2]), (1, checkpoint.hidden_size))
    count, width = widths.get(module.rpartition(".")[2], (None, None))
    if _is_count(count) and _is_count(width) and _is_count(count * width):
        return count * width
    raise BrokenFileError(f"{checkpoint.name}: cannot tell how many outputs {module} has from its quantised form")


def input_width(checkpoint: Checkpoint, family: Family, module: str) -> int:
    """Number of inputs of a projection, quantised or not.

    Raises:
        BrokenFileError: neither the headers nor the config tell.
    """
    weight = checkpoint.tensors.get(f"{module}.weight")
    if weight is not None and len(weight.shape) == 2 and weight.dtype in (*FLOATS, *_UNPACKED):
        return _checked(checkpoint, module, weight.shape[0 if family.conv1d else 1])
    heads = checkpoint.language_config.get("num_attention_heads")
    head_dim = _head_dim(checkpoint, "v_head_dim", "head_dim")
    if module.endswith("down_proj"):
        heads, head_dim = 1, checkpoint.language_config.get("intermediate_size")
    if _is_count(heads) and _is_count(head_dim) and _is_count(heads * head_dim):
        return heads * head_dim
    raise BrokenFileError(f"{checkpoint.name}: cannot tell how many inputs {module} has from its quantised form")


def branch_scale(checkpoint: Checkpoint, family: Family) -> float:
    """Factor between the projection and the site where its vectors act; 1 for most families.

    Raises:
        BrokenFileError: the config's field is not a positive number.
    """
    value = checkpoint.language_config.get(family.branch_scale, 1.0) if family.branch_scale else 1.0
    if type(value) not in (int, float) or not 0 < value < 1e6:
        raise BrokenFileError(
            f"{checkpoint.name}/config.json: {family.branch_scale} is {value!r}, not a positive number"
        )
    return float(value)


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 < value <= MAX_WIDTH


def _checked(checkpoint: Checkpoint, module: str, width: int) -> int:
    """`width`, which a header claims: with a zero beside it, it takes no bytes of the file."""
    if not _is_count(width):
        raise BrokenFileError(f"{checkpoint.name}: {module} claims a width of {width}, not 1 to {MAX_WIDTH}")
    return width


def _head_dim(checkpoint: Checkpoint, *names: str) -> Any:
    """The first of the fields `names` that the config gives, whatever it is; else hidden size by heads."""
    heads = checkpoint.language_config.get("num_attention_heads")
    default = checkpoint.hidden_size // heads if _is_count(heads) else None
    return next((value for name in names if (value := checkpoint.language_config.get(name))), default)
