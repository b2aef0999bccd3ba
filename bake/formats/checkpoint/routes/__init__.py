"""Routes: the exact ways to make the bias act. One module each; a further route is a file and a line in `ROUTES`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import Any

from ....core.elsewhere import list_titles, reads_gguf
from ....core.names import is_plain
from ....core.sites import SITE, Site
from ....core.stacks import USUAL, Support, parse_targets
from ....errors import BrokenFileError, UnsupportedModelError
from ..families import Family, families
from ..quantisation import Quantisation
from ..wrappers import TEXT, family_of, language_config, wrappers
from .backend import BackendRoute, ExistingBackendRoute, FlagBackendRoute
from .base import Route
from .existing import ExistingRoute
from .flag import FlagRoute
from .gear import GearRoute
from .granitemoe import GraniteMoeBackendRoute, GraniteMoeRoute
from .head import HeadRoute
from .laguna import LagunaRoute
from .llama import LlamaRoute
from .other_class import OtherClassRoute
from .value import ValueRoute

__all__ = [
    "ROUTES",
    "Route",
    "all_blockers",
    "choose_route",
    "declared_classes",
    "find_family",
    "may_have_heads",
    "other_routes",
    "route_by_name",
    "treatment_as_saved",
]

ROUTES: tuple[type[Route], ...] = (
    ExistingRoute,
    FlagRoute,
    LlamaRoute,
    GraniteMoeRoute,
    ExistingBackendRoute,
    FlagBackendRoute,
    GraniteMoeBackendRoute,
    LagunaRoute,
    GearRoute,
    HeadRoute,
    ValueRoute,
)
"""Routes, the preferred ones first among those that cost as little and serve as many stacks."""

_IN_GGUF = "give an `out` that ends in .gguf: the file that llama.cpp's converter makes of it can be baked"
_ADAPTER_HINT = "`format` peft writes an adapter that works on any Linear projection"


def choose_route(
    config: Mapping[str, Any],
    name: str,
    targets: Iterable[str] = (),
    site: Site = SITE,
    *,
    tensor_parallel: int = 1,
    columns: Mapping[int, int] | None = None,
    quantisation: Quantisation | None = None,
) -> Route:
    """Choose the route that costs least, and among those the one that serves the most stacks.

    It serves all `targets`. A route that plain transformers would load unsteered is chosen only on explicit demand:
    with `targets` that leave transformers out. Of a quantisation that transformers does not load, the same holds for
    the first stack that does.

    Args:
        config: config.json of the base.
        name: its name in messages.
        targets: stacks that must load the result steered.
        site: where the vectors act.
        tensor_parallel: devices that shall be able to share the heads, where a route adds some.
        columns: `Checkpoint.columns` of the base.
        quantisation: that of the base.

    Raises:
        UnsupportedModelError: no such route, or an unknown quantisation; says why, and what is left to do.
        InputError: an unknown target, or devices that can share no number of heads.
    """
    demanded = parse_targets(targets)
    family, fields = find_family(config, name, site), language_config(config)
    if quantisation is not None and quantisation.problem:
        raise UnsupportedModelError(f"{name}/{quantisation.problem}; {_ADAPTER_HINT}")
    candidates = _candidates(family, config, demanded, tensor_parallel, columns or {}, quantisation)
    wanted = demanded or _default_targets(quantisation)
    serving = [r for r in candidates if all(_treated(r, s, demanded).status == "steered" for s in wanted)]
    if serving:
        return min(serving, key=lambda r: (r.cost.cache, r.cost.attention, -_served(r)))
    if demanded and candidates:
        in_floats = _candidates(family, config, demanded, tensor_parallel, columns or {}, None) if quantisation else []
        raise UnsupportedModelError(f"{name}: {_unserved(family, candidates, wanted, in_floats)}")
    raise UnsupportedModelError(f"{name}: {_unbakeable(family, fields, candidates, quantisation)}")


def other_routes(config: Mapping[str, Any], name: str, chosen: Route) -> dict[str, Route]:
    """Stack that the `chosen` route does not serve -> the route that would, the cheapest first."""
    found = {}
    for stack in USUAL:
        if chosen.stacks[stack].status != "steered":
            with contextlib.suppress(UnsupportedModelError):
                found[stack] = choose_route(
                    config,
                    name,
                    [stack],
                    chosen.family.site,
                    tensor_parallel=chosen.tensor_parallel,
                    columns=chosen.columns,
                    quantisation=chosen.quantisation,
                )
    return found


def may_have_heads(config: Mapping[str, Any], name: str, site: Site = SITE) -> bool:
    """True if an earlier bake may have added heads, which only the record beside `config` can tell.

    Raises:
        InputError: (its subclasses) as `find_family`.
    """
    head = find_family(config, name, site).head
    return head is not None and all(language_config(config).get(flag) for flag in head.flags)


def route_by_name(
    route: str,
    config: Mapping[str, Any],
    name: str,
    site: Site = SITE,
    *,
    tensor_parallel: int = 1,
    columns: Mapping[int, int] | None = None,
    quantisation: Quantisation | None = None,
) -> Route:
    """Return the route of a bake that was made before; arguments as for `choose_route`.

    Raises:
        UnsupportedModelError: the config does not allow this route; BrokenFileError: it does not say what it is.
    """
    family = find_family(config, name, site)
    kind = next((kind for kind in ROUTES if kind.name == route), None)
    if kind is None:
        raise UnsupportedModelError(f"{name}: there is no route {route[:40]!r}")
    blockers = [] if kind is HeadRoute and columns else all_blockers(kind, family, config, quantisation)
    if blockers:
        raise UnsupportedModelError(f"{name}: the route {route} does not apply, because {blockers[0]}")
    return kind(family, config, tensor_parallel, columns or {}, quantisation)


def all_blockers(
    kind: type[Route], family: Family, config: Mapping[str, Any], quantisation: Quantisation | None
) -> list[str]:
    """Reasons why a route does not apply to a checkpoint, as clauses: those of its config, then of its weights."""
    fields = language_config(config)
    blockers = kind.blockers(family, fields)
    if blockers or quantisation is None or quantisation.method is None:
        return blockers
    return kind.quantised_blockers(family, fields, quantisation)


def find_family(config: Mapping[str, Any], name: str, site: Site = SITE) -> Family:
    """Find the family of a config, for vectors that act at `site`.

    Raises:
        BrokenFileError: the config does not say what it is.
        UnsupportedModelError: not a causal language model, or an unknown family.
    """
    model_type, classes = config.get("model_type"), declared_classes(config)
    if not isinstance(model_type, str) or not model_type or not is_plain(model_type):
        raise BrokenFileError(f"{name}/config.json: has no model_type; it is not a transformers config")
    if config.get("is_encoder_decoder"):
        raise UnsupportedModelError(f"{name}: {model_type} is an encoder-decoder, not a causal language model")
    if not classes:
        raise BrokenFileError(f"{name}/config.json: has no architectures; add the class, e.g. LlamaForCausalLM")
    family = family_of(config, site)
    if family is None and isinstance(config.get(TEXT), Mapping):
        raise UnsupportedModelError(
            f"{name}: {_unknown_wrapper(config)}, so it is not known which stacks would add the bias"
        )
    if family is None:
        if not any("CausalLM" in c or "LMHead" in c for c in classes):
            raise UnsupportedModelError(f"{name}: {classes[0]} is not a causal language model")
        raise UnsupportedModelError(
            f"{name}: the architecture {model_type} ({classes[0]}) is not in emobake's table, so it is not "
            f"known which stacks would add the bias; {_ADAPTER_HINT}"
        )
    # A stack takes the first class that it knows, and each one treats the bias in its own way.
    strange = [declared for declared in classes if declared not in family.known_classes]
    if strange:
        raise UnsupportedModelError(
            f"{name}: {strange[0]} is not the causal language model of {model_type} ({family.classes[0]} is)"
        )
    fields = language_config(config)
    flags = (
        *(() if family.head is None else family.head.flags),
        *(() if family.value is None else (family.value.flag,)),
    )
    for flag in filter(None, (family.flag, *flags)):
        if not isinstance(fields.get(flag), bool | None):
            raise BrokenFileError(f"{name}/config.json: {flag} is {fields[flag]!r:.60}, not true or false")
    return family


def treatment_as_saved(family: Family, config: Mapping[str, Any]) -> dict[str, Support]:
    """Treatment of a model of `family` by the usual stacks, where it may be one of another class by another name."""
    forms = [form for each in families(family.site).values() for form in each.forms.values()]
    found = {stack: family.stacks.get(stack, Support("unknown")) for stack in USUAL}
    for kind in ROUTES:
        if issubclass(kind, OtherClassRoute) and kind.target == family.model_type and kind.is_saved(config):
            for form in forms:
                found |= form.stacks if form.target == kind.target else {}
    return found


def declared_classes(config: Mapping[str, Any]) -> tuple[str, ...]:
    """``architectures`` of a config; empty if it is missing or not a list of names."""
    classes = config.get("architectures")
    return tuple(classes) if isinstance(classes, list) and all(isinstance(c, str) for c in classes) else ()


def _candidates(
    family: Family,
    config: Mapping[str, Any],
    demanded: tuple[str, ...],
    tensor_parallel: int,
    columns: Mapping[int, int],
    quantisation: Quantisation | None,
) -> list[Route]:
    """The routes that apply. Where an earlier bake has added a head, its column is the place of the bias."""
    if columns:
        known = HeadRoute.is_known(family)
        return [HeadRoute(family, config, tensor_parallel, columns, quantisation)] if known else []
    kinds = [kind for kind in ROUTES if _is_wanted(kind, family, config, demanded)]
    return [
        kind(family, config, tensor_parallel, quantisation=quantisation)
        for kind in kinds
        if not all_blockers(kind, family, config, quantisation)
    ]


def _default_targets(quantisation: Quantisation | None) -> tuple[str, ...]:
    """The stack that must load the result steered where the user names none."""
    method = None if quantisation is None else quantisation.method
    loading = [s for s in USUAL if method is not None and method.stacks[s].status in ("steered", "option")]
    return tuple(loading[:1]) if loading and "transformers" not in loading else ("transformers",)


def _treated(route: Route, stack: str, demanded: tuple[str, ...]) -> Support:
    """Treatment by a stack; if it is not demanded and does not know the method, that of the same family in floats.

    No stack here loads some methods, which others do (ExLlama): the class decides whether the bias is added.
    """
    method = None if route.quantisation is None else route.quantisation.method
    if demanded or method is None or method.stacks[stack].status in ("steered", "option"):
        return route.stacks[stack]
    return route.treatment[stack]


def _served(route: Route) -> int:
    """Number of usual stacks that load the result steered."""
    return sum(route.stacks[stack].status == "steered" for stack in USUAL)


def _is_wanted(kind: type[Route], family: Family, config: Mapping[str, Any], demanded: Iterable[str]) -> bool:
    """False for a route that names vLLM's backend where vLLM does not matter, or does not where the base does."""
    backend = issubclass(kind, BackendRoute)
    if family.backend is not None and declared_classes(config)[0] == family.backend.name:
        return backend
    return not backend or not demanded or "vllm" in demanded


def _unknown_wrapper(config: Mapping[str, Any]) -> str:
    """The multimodal checkpoint or its language model, which the table does not have, in words."""
    model_type, inner = config.get("model_type"), config[TEXT].get("model_type")
    known = wrappers().get(str(model_type))
    if known is None:
        return f"{model_type} is a multimodal checkpoint that is not in emobake's table"
    return f"{model_type} with the language model {inner!r:.40} is not in emobake's table ({', '.join(known.texts)} is)"


def _unserved(family: Family, candidates: list[Route], wanted: tuple[str, ...], in_floats: list[Route]) -> str:
    best = max(candidates, key=lambda r: sum(r.stacks[s].status == "steered" for s in wanted))
    lacking = [s for s in wanted if best.stacks[s].status != "steered"]
    what = "; ".join(f"{s} {best.stacks[s].clause}" for s in lacking)
    advice = ", or bake its language model with `text_only`" if _has_plain_form(family) else ""
    converts = any(route.stacks["llama.cpp"].status == "steered" for route in candidates)
    if converts and all(reads_gguf(stack, best.result.model_type) for stack in lacking):
        advice += f", or bake a .gguf, which {list_titles(lacking)} loads steered"
    if family.in_gguf and lacking == ["llama.cpp"]:
        advice += f", or {_IN_GGUF}"
    served = [route for route in in_floats if all(route.stacks[s].status == "steered" for s in wanted)]
    if served:
        advice += f", or bake the model from before it was quantised, which the route {served[0].name} serves there"
    return f"no route for {family.label} serves every stack of `targets`: {what}. Leave it out of `targets`{advice}"


def _has_plain_form(family: Family) -> bool:
    """True if the language model of a multimodal checkpoint can be baked alone."""
    if not family.wrapper:
        return False
    plain = families(family.site).get(wrappers()[family.wrapper].texts[family.model_type].like)
    return plain is not None and not plain.refusal


def _unbakeable(
    family: Family, config: Mapping[str, Any], candidates: list[Route], quantisation: Quantisation | None
) -> str:
    reasons = [family.refusal] if family.refusal else []
    for kind in ROUTES:
        if issubclass(kind, OtherClassRoute | HeadRoute | ValueRoute) and kind.is_known(family):
            reasons += all_blockers(kind, family, config, quantisation)
    reasons = list(dict.fromkeys(reasons))
    reasons = reasons or ExistingRoute.blockers(family, config)
    reasons = reasons or [f"its class has no bias on {family.projection.rpartition('.')[2]}"]
    advice = _ADAPTER_HINT
    if _has_plain_form(family):
        advice = f"`text_only` bakes its language model alone; {advice}"
    if family.in_gguf:
        advice = f"{_IN_GGUF}; {advice}"
    obey = [s for r in candidates for s in USUAL if r.stacks[s].status == "steered"]
    if obey:
        advice = f"`targets` {','.join(obey)} bakes for the stacks that would add it; {advice}"
    return f"{family.label} cannot be baked: {'; '.join(reasons)}. {advice}"
