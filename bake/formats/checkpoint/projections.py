"""Projections in a checkpoint: their names in its files, their widths, and the dtype of a bias beside them."""

from __future__ import annotations

from typing import Any, TypeGuard

from ...core.limits import MAX_WIDTH
from ...core.tensors import FLOATS
from ...errors import BrokenFileError
from .families import Family
from .model import Checkpoint
from .quantisation import is_float, method_of

_PLAIN_FLOAT8 = ("F8_E4M3", "F8_E5M2")
_USUAL = frozenset(("weight", "bias"))
_READERS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64"}


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
    """Name under which a linear module of `family` is stored, quantised or not; None if it is not."""
    return next((name for name in family.names_of(module) if checkpoint.modules.get(name, {}).keys() - {"bias"}), None)


def bias_dtype(checkpoint: Checkpoint, module: str) -> str:
    """Dtype of a new bias: that of the module's weight; if it is quantised, the method's or the config's.

    Raises:
        BrokenFileError: the weight is quantised and the config names no dtype.
    """
    parts = checkpoint.modules[module]
    if is_float(parts):
        return parts["weight"].dtype
    method = None if checkpoint.quantisation is None else checkpoint.quantisation.method
    like = [parts[part].dtype for part in ([] if method is None else method.bias_like) if part in parts]
    if like and like[0] in FLOATS:
        return like[0]
    configs = (checkpoint.language_config, checkpoint.config)
    named = next((n for config in configs for key in ("dtype", "torch_dtype") if (n := config.get(key))), None)
    if isinstance(named, str) and named.removeprefix("torch.") in _DTYPES:
        return _DTYPES[named.removeprefix("torch.")]
    raise BrokenFileError(
        f"{checkpoint.name}/config.json: names no float dtype (it says {named!r:.60}), which the bias beside the "
        f"quantised {module} needs; add torch_dtype"
    )


def output_width(checkpoint: Checkpoint, family: Family, module: str) -> int:
    """Number of outputs of a linear module, quantised or not.

    Raises:
        BrokenFileError: neither the headers nor the config tell, or they disagree.
    """
    parts = checkpoint.modules[module]
    if is_float(parts):
        return _checked(checkpoint, module, parts["weight"].shape[1 if family.conv1d else 0])
    told, by_config = _shape(checkpoint, module), _output_by_config(checkpoint, family, module)
    last = module.rpartition(".")[2]
    if told is not None:
        width = _checked(checkpoint, module, told[0])
        if last == family.projection.rpartition(".")[2] and width != checkpoint.hidden_size:
            raise BrokenFileError(
                f"{checkpoint.name}: the quantised {module} has {width} outputs, and config.json says a hidden size of "
                f"{checkpoint.hidden_size}"
            )
        return width
    if by_config is not None:
        return by_config
    raise BrokenFileError(f"{checkpoint.name}: cannot tell how many outputs {module} has from its quantised form")


def input_width(checkpoint: Checkpoint, family: Family, module: str) -> int:
    """Number of inputs of a projection, quantised or not.

    Raises:
        BrokenFileError: neither the headers nor the config tell.
    """
    parts = checkpoint.modules[module]
    if is_float(parts):
        return _checked(checkpoint, module, parts["weight"].shape[0 if family.conv1d else 1])
    told = _shape(checkpoint, module)
    if told is not None:
        return _checked(checkpoint, module, told[1])
    heads = checkpoint.language_config.get("num_attention_heads")
    head_dim = _head_dim(checkpoint, "v_head_dim", "head_dim")
    if module.endswith("down_proj"):
        heads, head_dim = 1, checkpoint.language_config.get("intermediate_size")
    if _is_count(heads) and _is_count(head_dim) and _is_count(heads * head_dim):
        return heads * head_dim
    raise BrokenFileError(f"{checkpoint.name}: cannot tell how many inputs {module} has from its quantised form")


def check_quantisation(checkpoint: Checkpoint) -> None:
    """Check that the weights are quantised as the config says, and floats if it says nothing.

    Raises:
        BrokenFileError: they are not; a stack would fail, or run on numbers that it misreads.
    """
    found = checkpoint.quantisation
    if found is None:
        for module, parts in checkpoint.modules.items():
            # Most modules are matrices of floats and norms.
            usual = parts.keys() <= _USUAL and all(header.dtype in FLOATS for header in parts.values())
            method = None if usual else method_of(parts)
            if method is not None:
                raise BrokenFileError(
                    f"{checkpoint.name}/config.json: says nothing of a quantisation, but {module} is quantised "
                    f"({', '.join(sorted(parts))}, as {method.label} has it); put its quantization_config there"
                )
    elif found.method is not None and not any(map(found.method.holds, checkpoint.modules.values())):
        raise BrokenFileError(
            f"{checkpoint.name}/{found.file}: says {found.label}, but no tensor is quantised so; take the "
            "quantization_config out if the weights are floats"
        )


def _shape(checkpoint: Checkpoint, module: str) -> tuple[int, int] | None:
    """Outputs and inputs of a quantised module by its headers; None where they do not tell.

    Raises:
        BrokenFileError: the module is not stored as the method does it.
    """
    found, parts = checkpoint.quantisation, checkpoint.modules[module]
    if found is None:
        weight = parts.get("weight")
        if (
            weight is None
            or len(weight.shape) != 2
            or 1 in weight.shape
            or weight.dtype not in (*FLOATS, *_PLAIN_FLOAT8)
        ):
            stored = ", ".join(f"{part} {h.dtype} {list(h.shape)}" for part, h in sorted(parts.items()))[:200]
            raise BrokenFileError(
                f"{checkpoint.name}: {module} is stored as {stored}, which is no matrix of floats, and config.json "
                "says nothing of a quantisation"
            )
        return weight.shape[0], weight.shape[1]
    if found.method is None:
        return None
    if not found.method.holds(parts):
        raise BrokenFileError(
            f"{checkpoint.name}: {module} is stored as {', '.join(sorted(parts))[:200]}, which is not how "
            f"{found.label} ({found.file}) stores a module"
        )
    return found.method.shape(parts, found.fields)


def _output_by_config(checkpoint: Checkpoint, family: Family, module: str) -> int | None:
    """Number of outputs of a module whose headers do not tell its shape; None if the config does not either."""
    found, last = checkpoint.quantisation, module.rpartition(".")[2]
    if last in ("o_proj", "down_proj", family.projection.rpartition(".")[2]):
        return checkpoint.hidden_size
    # A module that reads the residual stream: its number of weights tells more than the config's heads, which a gate
    # may double.
    method = None if found is None else found.method
    elements = None if method is None else method.elements(checkpoint.modules[module])
    if elements is not None and last in _READERS and elements % checkpoint.hidden_size == 0:
        return _checked(checkpoint, module, elements // checkpoint.hidden_size)
    heads = checkpoint.language_config.get("num_attention_heads")
    kv_heads = checkpoint.language_config.get("num_key_value_heads") or heads
    head_dim = _head_dim(checkpoint, "head_dim")
    widths = {"q_proj": (heads, head_dim), "k_proj": (kv_heads, head_dim), "v_proj": (kv_heads, head_dim)}
    widths |= dict.fromkeys(("gate_proj", "up_proj"), (1, checkpoint.language_config.get("intermediate_size")))
    count, width = widths.get(last, (None, None))
    return count * width if _is_count(count) and _is_count(width) and _is_count(count * width) else None


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
