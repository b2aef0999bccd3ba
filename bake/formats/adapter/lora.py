"""A LoRA as a value: the modules that it acts on, with their ranks and factors, by PEFT's own rules (0.21).

PEFT computes ``base(x) + lora_B(lora_A(x)) * scaling`` with ``scaling`` = ``lora_alpha`` / r (or / sqrt(r), with
``use_rslora``). Everything in an adapter's files is a stranger's until it is checked here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...core.limits import MAX_RANK
from ...core.names import is_plain
from ...core.tensors import FLOATS, TensorHeader, decode
from ...errors import BrokenFileError, InputError, UnsupportedModelError
from ..checkpoint.families import Family
from ..checkpoint.model import Checkpoint
from ..checkpoint.projections import find_projections, input_width, module_in_file, output_width
from .detect import CONFIG_FILE
from .open import WEIGHTS_FILE, Adapter
from .patterns import are_named, pick

PREFIX = "base_model.model."
"""Prefix that PEFT writes in front of the name of a module."""
_PART = re.compile(r"(.+)\.(lora_A\.weight|lora_B\.weight|lora_B\.bias)")
_EMBEDDINGS = ("embed_tokens.weight", "lm_head.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight")
"""Ends of names of tensors that PEFT saves besides when the vocabulary has grown."""
_BASE_KEEPING = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
"""Values of ``init_lora_weights`` that leave the base's weights alone, so that a saved adapter is a plain LoRA."""
_PLAIN = frozenset((
    "peft_type", "task_type", "base_model_name_or_path", "revision", "inference_mode", "r", "lora_alpha",
    "lora_dropout", "fan_in_fan_out", "bias", "lora_bias", "use_rslora", "target_modules", "exclude_modules",
    "modules_to_save", "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern", "auto_mapping",
    "peft_version", "runtime_config", "megatron_core", "loftq_config", "eva_config", "corda_config", "lora_ga_config",
    "qalora_group_size", "trainable_token_indices", "ensure_weight_tying", "init_lora_weights", "velora_config",
))  # fmt: skip
"""Fields that leave PEFT's arithmetic as it is above, or that are read here."""
_BESIDE = ("use_dora", "target_parameters")
"""Fields with which PEFT takes no ``lora_bias``; a second adapter can be used with them."""
_MIXED = ("LOHA", "LOKR", "OFT")
"""Other kinds of adapter beside which PEFT's mixed model runs a LoRA."""


@dataclass(frozen=True)
class LoraModule:
    """A linear module with a LoRA."""

    name: str
    """In the model that transformers builds."""
    a: TensorHeader
    """``[rank, inputs]``."""
    b: TensorHeader
    """``[outputs, rank]``."""
    bias: TensorHeader | None
    """``[outputs]``; None without ``lora_bias``."""
    scaling: float

    @property
    def rank(self) -> int:
        """Rank of the LoRA."""
        return self.a.shape[0]


@dataclass(frozen=True, eq=False)
class Lora:
    """A LoRA whose config and tensors agree with each other and with PEFT's rules."""

    adapter: Adapter
    modules: Mapping[str, LoraModule]
    """By their names in the model that transformers builds."""

    @property
    def file(self) -> str:
        """The config, for messages."""
        return f"{self.adapter.name}/{CONFIG_FILE}"

    def names(self, modules: Sequence[str]) -> list[bool]:
        """Tell for each of `modules`, which are linear, if PEFT gives it a LoRA.

        Raises:
            BrokenFileError: the config's patterns are none, or take too long.
        """
        return _targeted(self.adapter, modules)

    def excludes(self, modules: Sequence[str]) -> bool:
        """True if the config forbids a LoRA for one of `modules`."""
        excluded = self.adapter.config.get("exclude_modules")
        return bool(excluded) and any(are_named(_names(self.adapter, "exclude_modules"), modules, self.file))

    def bias(self, module: LoraModule) -> np.ndarray | None:
        """The bias of a module's ``lora_B``, float32 ``[outputs]``; None without one.

        Raises:
            BrokenFileError: it is not finite.
        """
        if module.bias is None:
            return None
        values = decode(module.bias, self.adapter.read(module.bias))
        if not np.isfinite(values).all():
            raise BrokenFileError(f"{self.adapter.name}/{WEIGHTS_FILE}: {module.bias.name} holds NaN or infinity")
        return values


def why_beside(adapter: Adapter) -> str:
    """The reason why PEFT cannot carry a bias in this adapter, as a clause; empty if it can.

    Raises:
        UnsupportedModelError: it cannot, and it is not known that a second adapter beside it is exact.
        BrokenFileError: a field of another type than PEFT writes.
    """
    config, file = adapter.config, f"{adapter.name}/{CONFIG_FILE}"
    if config.get("task_type") not in (None, "CAUSAL_LM"):
        raise UnsupportedModelError(
            f"{file}: task_type is {config['task_type']!r:.60}; only adapters of causal language models are steered"
        )
    kind = adapter.kind
    if kind in _MIXED:
        return f"it is a {kind}, which has no such bias"
    if kind != "LORA":
        raise UnsupportedModelError(f"{file}: peft_type {kind}: no bias can be added beside it; `merge` may merge it")
    if config.get("layer_replication"):
        raise UnsupportedModelError(f"{file}: layer_replication makes other layers of the base; bake a plain LoRA")
    strange = [name for name, value in config.items() if name not in (*_PLAIN, *_BESIDE) and _is_set(value)]
    if strange:
        raise UnsupportedModelError(
            f"{file}: {strange[0][:60]!r} changes what PEFT computes in a way that is not known here; `merge` merges "
            "the adapter with PEFT first"
        )
    reasons = [f"{name} takes no bias" for name in _BESIDE if config.get(name)]
    init = config.get("init_lora_weights", True)
    if not isinstance(init, bool | str):
        raise BrokenFileError(f"{file}: init_lora_weights is {init!r:.60}, not a name or true")
    if isinstance(init, str) and init.lower() not in _BASE_KEEPING:
        reasons.append(f"init_lora_weights {init[:40]!r} changes the base's weights as PEFT loads it")
    if any(".lora_embedding_" in name for name in adapter.tensors):
        reasons.append("PEFT adds no bias to the LoRA of an embedding")
    return next(iter(reasons), "")


def read_lora(adapter: Adapter) -> Lora:
    """Read an adapter as a LoRA, and check it against itself.

    Raises:
        BrokenFileError: a field or a tensor is not what PEFT writes, or one contradicts another.
    """
    config, file, weights = adapter.config, f"{adapter.name}/{CONFIG_FILE}", f"{adapter.name}/{WEIGHTS_FILE}"
    parts: dict[str, dict[str, TensorHeader]] = {}
    for name, header in adapter.tensors.items():
        match = _PART.fullmatch(name)
        if match is not None and name.startswith(PREFIX):
            parts.setdefault(match[1].removeprefix(PREFIX), {})[match[2]] = header
        elif not _belongs(name, config):
            raise BrokenFileError(
                f"{weights}: {name[:120]!r} is no tensor of this LoRA; load and save the adapter with a current PEFT"
            )
    if not parts:
        raise BrokenFileError(f"{weights}: holds no LoRA, no tensor {PREFIX}*.lora_A.weight")
    names = list(parts)
    if odd := next((name for name, named in zip(names, _targeted(adapter, names), strict=True) if not named), None):
        raise BrokenFileError(f"{weights}: holds a LoRA of {odd[:120]!r}, which target_modules of {file} does not name")
    rank, alpha = _rank(config.get("r", 8), "r", file), _alpha(config.get("lora_alpha", 8), "lora_alpha", file)
    ranks = {key: _rank(value, "rank_pattern", file) for key, value in _pattern(config, "rank_pattern", file).items()}
    alphas = {
        key: _alpha(value, "alpha_pattern", file) for key, value in _pattern(config, "alpha_pattern", file).items()
    }
    rooted, biased = _flag(config, "use_rslora", file), _flag(config, "lora_bias", file)
    modules = {}
    for name, r, factor in zip(names, pick(ranks, names, rank, file), pick(alphas, names, alpha, file), strict=True):
        scaling = factor / math.sqrt(r) if rooted else factor / r
        modules[name] = _module(name, parts[name], r, scaling, biased, weights)
    return Lora(adapter, modules)


def check_base(lora: Lora, base: Checkpoint, family: Family) -> None:
    """Compare the shapes of a LoRA with the modules of its base, by the headers of both.

    Raises:
        InputError: it is the LoRA of another base: no module is there, or one has other widths.
    """
    found = 0
    projections = {
        family.live(family.projection.format(layer=layer)): module
        for layer, module in find_projections(base, family).items()
    }
    remedy = "the adapter was made for another base; name its own with `base`"
    for name, module in lora.modules.items():
        in_file = projections.get(name) or module_of(base, family, name)
        if in_file is None:
            continue
        found += 1
        weight = base.tensors.get(f"{in_file}.weight")
        if name in projections:
            widths = output_width(base, family, in_file), input_width(base, family, in_file)
        elif weight is not None and weight.dtype in FLOATS and len(weight.shape) == 2:
            widths = weight.shape[family.conv1d], weight.shape[not family.conv1d]
        else:
            continue  # Quantised: the header does not tell.
        own = module.b.shape[0], module.a.shape[1]
        if own != widths:
            raise InputError(
                f"{lora.adapter.name}/{WEIGHTS_FILE}: {name} maps {own[1]} to {own[0]} values, and "
                f"{widths[1]} to {widths[0]} in {base.name}; {remedy}"
            )
    head = family.live(family.block).partition("{layer}")[0]
    layers = [int(m[1]) for name in lora.modules if (m := re.match(re.escape(head) + r"(\d{1,6})\.", name))]
    if not found or max(layers, default=0) >= base.num_hidden_layers:
        what = f"has a LoRA of layer {max(layers)}" if found else f"names {next(iter(lora.modules))[:120]!r}"
        raise InputError(f"{lora.adapter.name}/{WEIGHTS_FILE}: {what}, which {base.name} does not have; {remedy}")


def module_of(base: Checkpoint, family: Family, live: str) -> str | None:
    """Name in the base's files of a module of the model that transformers builds; None if it is not known."""
    if family.wrapper:
        if not live.startswith(family.live_prefix):
            return None
        live = f"model.{live.removeprefix(family.live_prefix)}"
    return module_in_file(base, family, live)


def _module(
    name: str, parts: Mapping[str, TensorHeader], rank: int, scaling: float, biased: bool, file: str
) -> LoraModule:
    a, b, bias = (parts.get(part) for part in ("lora_A.weight", "lora_B.weight", "lora_B.bias"))
    if a is None or b is None:
        raise BrokenFileError(f"{file}: {name[:120]!r} lacks its lora_{'B' if b is None else 'A'}.weight")
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != rank or b.shape[1] != rank:
        raise BrokenFileError(
            f"{file}: {name[:120]!r} has the shapes {list(a.shape)} and {list(b.shape)}, which are not of rank {rank}"
        )
    if any(header.dtype not in FLOATS for header in parts.values()):
        raise BrokenFileError(f"{file}: {name[:120]!r} is stored as {a.dtype}, not as floats")
    if bias is not None and (bias.shape != (b.shape[0],) or not biased):
        said = "though lora_bias is off" if not biased else f"of shape {list(bias.shape)}"
        raise BrokenFileError(f"{file}: {name[:120]!r} has a lora_B.bias {said}")
    return LoraModule(name, a, b, bias, scaling)


def _targeted(adapter: Adapter, names: Sequence[str]) -> list[bool]:
    """Tell for each of `names` if PEFT gives it a LoRA."""
    file = f"{adapter.name}/{CONFIG_FILE}"
    layers = _layers(adapter)
    containers = _names(adapter, "layers_pattern") if adapter.config.get("layers_pattern") else []
    containers = [containers] if isinstance(containers, str) else containers
    if odd := next((name for name in containers if not re.fullmatch(r"\w+", name)), None):
        raise BrokenFileError(f"{file}: layers_pattern {odd[:60]!r} is no plain name")
    targets = _names(adapter, "target_modules")
    if isinstance(targets, str) and layers is not None:
        raise BrokenFileError(f"{file}: layers_to_transform goes with a list of target_modules")
    named = are_named(targets, names, file, layers=layers, containers=containers)
    if adapter.config.get("exclude_modules"):
        excluded = are_named(_names(adapter, "exclude_modules"), names, file)
        named = [wanted and not out for wanted, out in zip(named, excluded, strict=True)]
    saved = tuple(_saved(adapter))
    return [wanted and not _is_saved(name, saved) for name, wanted in zip(names, named, strict=True)]


def replaces(adapter: Adapter, modules: Sequence[str]) -> bool:
    """True if ``modules_to_save`` holds one of `modules` whole, or something that it is in."""
    saved = tuple(_saved(adapter))
    return any(_is_saved(name, saved) for name in modules)


def _is_saved(name: str, saved: Sequence[str]) -> bool:
    return any(f".{module}." in f".{name}." for module in saved)


def _saved(adapter: Adapter) -> Iterator[str]:
    saved = adapter.config.get("modules_to_save") or []
    if not isinstance(saved, list) or not all(isinstance(m, str) and re.fullmatch(r"[\w.]{1,200}", m) for m in saved):
        raise BrokenFileError(f"{adapter.name}/{CONFIG_FILE}: modules_to_save is no list of names")
    yield from saved


def _layers(adapter: Adapter) -> list[int] | None:
    value = adapter.config.get("layers_to_transform")
    layers = [value] if type(value) is int else value
    if layers is not None and not (isinstance(layers, list) and all(type(layer) is int for layer in layers)):
        raise BrokenFileError(f"{adapter.name}/{CONFIG_FILE}: layers_to_transform is {value!r:.60}, not layers")
    return layers


def _names(adapter: Adapter, key: str) -> str | list[str]:
    value = adapter.config.get(key)
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) and is_plain(name) for name in names):
        raise BrokenFileError(f"{adapter.name}/{CONFIG_FILE}: {key} is {value!r:.60}, not a pattern or a list of names")
    return value if isinstance(value, str) else names


def _pattern(config: Mapping[str, Any], key: str, file: str) -> Mapping[str, Any]:
    value = config.get(key) or {}
    if not isinstance(value, dict):
        raise BrokenFileError(f"{file}: {key} is {value!r:.60}, not an object")
    return value


def _rank(value: object, key: str, file: str) -> int:
    if type(value) is not int or not 0 < value <= MAX_RANK:
        raise BrokenFileError(f"{file}: {key} is {value!r:.60}, not a rank from 1 to {MAX_RANK}")
    return value


def _alpha(value: object, key: str, file: str) -> float:
    if type(value) not in (int, float) or not 1e-9 <= abs(value) <= 1e9:  # type: ignore[arg-type]
        raise BrokenFileError(f"{file}: {key} is {value!r:.60}, not a number by which a LoRA can be multiplied")
    return float(value)  # type: ignore[arg-type]


def _flag(config: Mapping[str, Any], key: str, file: str) -> bool:
    value = config.get(key, False)
    if not isinstance(value, bool):
        raise BrokenFileError(f"{file}: {key} is {value!r:.60}, not true or false")
    return value


def _belongs(name: str, config: Mapping[str, Any]) -> bool:
    """True if a tensor that is none of a LoRA can be part of the adapter: PEFT loads it as it is."""
    if config.get("use_dora") and ".lora_magnitude_vector" in name:
        return True
    if ".lora_" in name:
        return False
    saved = config.get("modules_to_save") or config.get("trainable_token_indices")
    return bool(saved) or name.endswith(_EMBEDDINGS) or (config.get("bias") != "none" and name.endswith(".bias"))


def _is_set(value: object) -> bool:
    return value not in (None, False, [], {}, "")
