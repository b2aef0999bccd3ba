"""Which route puts the bias where stock stacks honour it: config and site in, `Route` out.

Three routes exist. *existing*: the projection already has a bias, whose bytes are overwritten. *flag*: a
config field gives it one. *llama*: the checkpoint is exactly a ``LlamaForCausalLM`` by another name and is
saved as one, with ``attention_bias`` (and ``mlp_bias`` for vectors of the layer output). Everything else is refused
here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ...core.plan import ConfigChange, RouteKind
from ...core.stacks import STACKS, Support, check_targets, describe
from ...core.vector_set import Site
from ...errors import BrokenFileError, UnsupportedModelError
from .families import Architecture, LlamaForm, architectures

_ADAPTER_HINT = "--format peft writes an adapter that works on any Linear projection"


@dataclass(frozen=True, eq=False)
class Route:
    """How the bias gets in, and what that means for config.json and for each stack."""

    kind: RouteKind
    arch: Architecture
    config: Mapping[str, Any]
    """config.json as it will be written; every field that is not part of the change is kept, in order."""
    changes: tuple[ConfigChange, ...]
    stacks: Mapping[str, Support]
    siblings: tuple[str, ...]
    """Templates of the modules that must have a bias as well: zeros where they have none."""


def declared_classes(config: Mapping[str, Any]) -> tuple[str, ...]:
    """``architectures`` of a config; empty when it is missing or not a list of names."""
    classes = config.get("architectures")
    return tuple(classes) if isinstance(classes, list) and all(isinstance(c, str) for c in classes) else ()


def find_architecture(config: Mapping[str, Any], name: str, site: Site = "attention_output") -> Architecture:
    """The table's row for a config, and vectors that act at `site`.

    Raises:
        BrokenFileError: the config does not say what it is.
        UnsupportedModelError: not a causal language model, or an architecture that the table does not have.

    """
    model_type, classes = config.get("model_type"), declared_classes(config)
    if not isinstance(model_type, str) or not model_type:
        raise BrokenFileError(f"{name}/config.json: has no model_type; it is not a transformers config")
    if config.get("is_encoder_decoder"):
        raise UnsupportedModelError(f"{name}: {model_type} is an encoder-decoder, not a causal language model")
    if "text_config" in config:
        raise UnsupportedModelError(
            f"{name}: {model_type} is a multimodal checkpoint; bake its text model, saved on its own"
        )
    if not classes:
        raise BrokenFileError(f"{name}/config.json: has no architectures; add the class, e.g. LlamaForCausalLM")
    arch = architectures(site).get(model_type)
    if arch is None:
        if not any("CausalLM" in c or "LMHead" in c for c in classes):
            raise UnsupportedModelError(f"{name}: {classes[0]} is not a causal language model")
        raise UnsupportedModelError(
            f"{name}: the architecture {model_type} ({classes[0]}) is not in emobake's table, so nothing is known "
            f"of which stacks would honour the bias; {_ADAPTER_HINT}"
        )
    if not set(classes) & set(arch.classes):
        raise UnsupportedModelError(
            f"{name}: {classes[0]} is not the causal language model of {model_type} ({arch.classes[0]} is)"
        )
    return arch


def choose_route(
    config: Mapping[str, Any], name: str, targets: Iterable[str] = (), site: Site = "attention_output"
) -> Route:
    """The exact route that serves the most stacks, all `targets` among them, for vectors that act at `site`.

    A route that plain transformers would load unsteered is taken only on an explicit demand: with `targets`
    that leave transformers out.

    Raises:
        UnsupportedModelError: no such route; the message says why and what is left to do.
        InputError: an unknown target.

    """
    demanded = check_targets(targets)
    arch = find_architecture(config, name, site)
    candidates = [route for route in (_native(arch, config), _as_llama(arch, config, site)) if route is not None]
    wanted = demanded or ("transformers",)
    serving = [r for r in candidates if all(r.stacks[s].status == "steered" for s in wanted)]
    if serving:
        return max(serving, key=lambda r: sum(s.status == "steered" for s in r.stacks.values()))
    raise UnsupportedModelError(f"{name}: {_why_not(arch, config, candidates, wanted, bool(demanded))}")


def _why_not(
    arch: Architecture,
    config: Mapping[str, Any],
    candidates: list[Route],
    wanted: tuple[str, ...],
    demanded: bool,
) -> str:
    if demanded and candidates:
        best = max(candidates, key=lambda r: sum(r.stacks[s].status == "steered" for s in wanted))
        lacking = [s for s in wanted if best.stacks[s].status != "steered"]
        what = "; ".join(f"{s} {describe(best.stacks[s])}" for s in lacking)
        return f"no route for {arch.model_type} serves every stack of --targets: {what}. Leave it out of --targets"
    reasons = [arch.refusal] if arch.refusal else []
    if arch.llama is not None:
        reasons += [f"it is a Llama only when {reason}" for reason in llama_blockers(arch.llama, config)]
    if not reasons:
        reasons = [f"its class has no bias on {arch.projection.rpartition('.')[2]}"]
    advice = _ADAPTER_HINT
    obey = [s for r in candidates for s in STACKS if r.stacks[s].status == "steered"]
    if obey:
        advice = f"--targets {','.join(obey)} bakes for what would honour it; {advice}"
    return f"{arch.model_type} cannot be baked: {'; '.join(reasons)}. {advice}"


def _native(arch: Architecture, config: Mapping[str, Any]) -> Route | None:
    if arch.refusal or not (arch.always or arch.flag):
        return None
    new = dict(config)
    kind: RouteKind = "existing"
    if arch.flag is not None and not config.get(arch.flag, arch.flag_default):
        kind = "flag"
        new[arch.flag] = True
    _add_old_rope(new)
    return _route(kind, arch, config, new, arch.stacks, arch.siblings if kind == "flag" else ())


def _as_llama(arch: Architecture, config: Mapping[str, Any], site: Site) -> Route | None:
    if arch.llama is None or llama_blockers(arch.llama, config):
        return None
    llama, attention = architectures(site)["llama"], architectures()["llama"]
    siblings = dict.fromkeys((*attention.siblings, attention.projection, *llama.siblings))
    siblings.pop(llama.projection, None)
    new = {key: value for key, value in config.items() if key not in arch.llama.drop}
    for key, value in arch.llama.defaults.items():
        in_rope = key in ("rope_theta", "rope_scaling") and isinstance(config.get("rope_parameters"), Mapping)
        if key not in arch.llama.drop and not in_rope:
            new.setdefault(key, value)
    new["model_type"] = "llama"
    new["architectures"] = list(llama.classes[:1])
    new["attention_bias"] = True
    new["mlp_bias"] = site == "layer_output" or bool(config.get("mlp_bias", False))
    _add_new_rope(new)
    _add_old_rope(new)
    stacks = {
        name: Support(support.status, support.run and name in arch.llama.run, support.option)
        for name, support in llama.stacks.items()
    }
    return _route("llama", arch, config, new, stacks, tuple(siblings))


def _route(
    kind: RouteKind,
    arch: Architecture,
    old: Mapping[str, Any],
    new: dict[str, Any],
    stacks: Mapping[str, Support],
    siblings: tuple[str, ...],
) -> Route:
    # The checkpoint's own code is left out, and whether its class would honour the bias is not known: stacks
    # must use the class that the table was read from.
    new.pop("auto_map", None)
    changes = tuple(
        ConfigChange(key, old.get(key), new.get(key))
        for key in dict.fromkeys([*old, *new])
        if (key in old) != (key in new) or old.get(key) != new.get(key)
    )
    return Route(kind, arch, new, changes, stacks, siblings)


def llama_blockers(form: LlamaForm, config: Mapping[str, Any]) -> list[str]:
    """What keeps this config from being exactly a Llama, as clauses such as ``sliding_window is null``."""
    blockers = []
    for path, allowed in form.require.items():
        # A field that is left out means the class default; only an explicit null is null.
        value: Any = {**form.defaults, **config}
        for key in path.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        values = value if isinstance(value, list) else [value]
        if (value is not None and not all(v in allowed for v in values)) or (value is None and None not in allowed):
            wanted = " or ".join("null" if v is None else str(v).lower() for v in allowed)
            blockers.append(f"{path} is {wanted} (here it is {str(value)[:40]})")
    return blockers


def _add_new_rope(config: dict[str, Any]) -> None:
    """Write ``rope_parameters`` (transformers 5) beside ``rope_theta`` and ``rope_scaling``."""
    if isinstance(config.get("rope_parameters"), Mapping):
        return
    scaling = config.get("rope_scaling")
    parameters = dict(scaling) if isinstance(scaling, Mapping) else {}
    parameters.setdefault("rope_type", parameters.get("type", "default"))
    parameters["rope_theta"] = config.get("rope_theta", 10000.0)
    config["rope_parameters"] = parameters


def _add_old_rope(config: dict[str, Any]) -> None:
    """Write ``rope_theta`` and ``rope_scaling`` beside ``rope_parameters``.

    transformers 5 saves the latter only; mlx-lm and transformers 4 then miss the base frequency or silently
    take a default. One set of parameters per layer type (Gemma 3) has no single old spelling and stays.
    """
    parameters = config.get("rope_parameters")
    if not isinstance(parameters, Mapping) or any(isinstance(v, Mapping) for v in parameters.values()):
        return
    if "rope_theta" not in config and "rope_theta" in parameters:
        config["rope_theta"] = parameters["rope_theta"]
    if "rope_scaling" not in config and parameters.get("rope_type", "default") != "default":
        config["rope_scaling"] = {k: v for k, v in parameters.items() if k != "rope_theta"}
