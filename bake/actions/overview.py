"""`overview`: the ways to bake a family or a checkpoint at hand, which stacks each one serves, and what it costs.

Nothing is read of a checkpoint but its config; of a GGUF file its header.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..core.heads import Cost
from ..core.plan import RouteName
from ..core.sites import SITE, Site
from ..core.spelling import did_you_mean
from ..core.stacks import STACKS, USUAL, Stack, Support, parse_targets
from ..errors import InputError, UnsupportedModelError
from ..formats.adapter.detect import is_adapter
from ..formats.adapter.lora import why_beside
from ..formats.adapter.open import IN_PEFT, base_of, fetch_adapter
from ..formats.checkpoint.families import Family, families
from ..formats.checkpoint.language_model import language_model_config
from ..formats.checkpoint.open import open_base
from ..formats.checkpoint.quantisation import METHODS, Quantisation
from ..formats.checkpoint.routes import ROUTES, Route, all_blockers, find_family
from ..formats.checkpoint.wrappers import language_config, wrapped, wrappers
from ..storage.files import reading
from ..storage.model_name import ModelName

_REFUSED = {stack: Support("refuses") for stack in USUAL}
"""Stacks of a GGUF file, but for llama.cpp."""


@dataclass(frozen=True)
class Way:
    """One way to bake a model."""

    route: RouteName
    stacks: Mapping[str, Support]
    """Treatment of the result by each stack."""
    cost: Cost = field(default_factory=Cost)
    blockers: tuple[str, ...] = ()
    """Conditions that the checkpoint at hand does not meet, as clauses; empty if the way is open."""
    text_only: bool = False
    """True for the language model of a multimodal checkpoint alone."""
    in_gguf: bool = False
    """True for the GGUF file that llama.cpp's converter makes of the base; its cost is not known yet."""

    @property
    def is_open(self) -> bool:
        """True if the checkpoint can be baked this way."""
        return not self.blockers

    def to_json(self) -> dict[str, Any]:
        """The way as JSON data."""
        return {
            "route": self.route,
            "text_only": self.text_only,
            "in_gguf": self.in_gguf,
            "stacks": {name: {"status": s.status, "run": s.run, "said": s.clause} for name, s in self.stacks.items()},
            "cost": {"cache": self.cost.cache, "attention_weights": self.cost.attention},
            "blockers": list(self.blockers),
        }


@dataclass(frozen=True)
class Overview:
    """A family, or a checkpoint at hand, and the ways to bake it."""

    name: str
    """As it was asked for."""
    family: str
    """``model_type``; of a wrapper with that of its language model."""
    architecture: str
    """Class of transformers, or ``general.architecture`` of a GGUF file."""
    ways: tuple[Way, ...] = ()
    refusal: str = ""
    """Reason why there is no way; empty if there is one."""

    def to_json(self) -> dict[str, Any]:
        """The overview as JSON data."""
        return {
            "name": self.name,
            "family": self.family,
            "architecture": self.architecture,
            "ways": [way.to_json() for way in self.ways],
            "refusal": self.refusal or None,
        }


def overview(model: str | os.PathLike[str] | ModelName | None = None, *, site: Site = SITE) -> tuple[Overview, ...]:
    """Tell how models can be baked.

    Args:
        model: a ``model_type`` of the table; or the folder of a checkpoint or an adapter, a GGUF file or a Hub id,
            whose own fields then decide which ways are open. None: all families.
        site: where the vectors act.

    Raises:
        InputError: no such family or model; BrokenFileError: a config or header that cannot be read.
        HubError: the network failed.
    """
    known = {family.label: family for family in _all_families(site)}
    if model is None:
        return tuple(_of_family(label, family) for label, family in known.items())
    name = ModelName.parse(model)
    asked = [f for label, f in known.items() if str(name) in (label, f.model_type, f.wrapper)]
    if asked and not (name.is_local and name.path.exists()):
        return tuple(_of_family(family.label, family) for family in asked)
    if name.kind == "hub" and "/" not in str(name):
        like = did_you_mean(str(name), [f.model_type for f in known.values()])
        raise InputError(f"{name}: is no folder, no Hub id (owner/name), and no model_type of the table{like}")
    with reading():
        if is_adapter(name):
            return (_of_adapter(name, site),)
        return (_of_gguf(name, site) if name.kind == "gguf" else _of_checkpoint(name, site),)


@dataclass(frozen=True)
class StackOverview:
    """A stack, and its treatment of what is baked of each family."""

    stack: Stack
    families: Mapping[str, Mapping[str, Support]]
    """Family -> name of the route -> treatment of the result; empty for a stack that loads GGUF files only."""
    architectures: Mapping[str, Support]
    """GGUF architecture -> treatment of a file with the bias; empty for a stack that loads no such files."""

    def to_json(self) -> dict[str, Any]:
        """JSON data."""
        stack = self.stack
        return {
            "name": stack.name,
            "title": stack.label,
            "loads": sorted(stack.loads),
            "ran": stack.ran or None,
            "read": stack.read or None,
            "install": stack.install or None,
            "convert": stack.convert or None,
            "serve": stack.serve or stack.serve_folder or None,
            "verify": stack.is_run,
            "families": {
                family: {route: {"status": s.status, "run": s.run, "said": s.clause} for route, s in supports.items()}
                for family, supports in self.families.items()
            },
            "architectures": {
                name: {"status": s.status, "run": s.run, "said": s.clause} for name, s in self.architectures.items()
            },
        }


def stack_overview(name: str, *, site: Site = SITE) -> StackOverview:
    """Tell what a stack does with what is baked of each family.

    Args:
        name: a name of `emobake.core.stacks.STACKS`.
        site: where the vectors act.

    Raises:
        InputError: an unknown stack.
    """
    from ..formats.gguf.architectures import gguf_architectures, treatment

    (known,) = parse_targets([name])
    stack = STACKS[known]
    families = {
        each.name: {_said(way): way.stacks[known] for way in each.ways if known in way.stacks}
        for each in (overview(site=site) if "checkpoint" in stack.loads else ())
    }
    files = gguf_architectures() if "gguf" in stack.loads else ()
    return StackOverview(
        stack,
        {family: ways for family, ways in families.items() if ways},
        {architecture: treatment(architecture, site)[known] for architecture in files},
    )


def _said(way: Way) -> str:
    return f"{way.route}, as .gguf" if way.in_gguf else str(way.route)


@dataclass(frozen=True)
class MethodOverview:
    """A quantisation method, and its treatment by the stacks."""

    name: str
    label: str
    stacks: Mapping[str, Support]

    def to_json(self) -> dict[str, Any]:
        """JSON data."""
        return {
            "name": self.name,
            "label": self.label,
            "stacks": {name: {"status": s.status, "run": s.run, "said": s.clause} for name, s in self.stacks.items()},
        }


def methods() -> tuple[MethodOverview, ...]:
    """All quantisation methods of the table."""
    return tuple(MethodOverview(each.name, each.label, each.stacks) for each in METHODS.values())


def _all_families(site: Site) -> Iterator[Family]:
    yield from families(site).values()
    for wrapper in wrappers().values():
        for text in wrapper.texts.values():
            yield wrapped(wrapper, text, site)


def _of_family(name: str, family: Family) -> Overview:
    routes = [kind(family, {}) for kind in _kinds(family)]
    refusal = "" if routes else family.refusal or "no stack is known to add a bias there"
    ways = _with_gguf(family, [Way(r.name, r.stacks, r.cost) for r in routes])
    refusal = "" if ways else refusal
    return Overview(name, family.label, family.classes[0], ways, refusal)


def _of_adapter(name: ModelName, site: Site) -> Overview:
    """The way to steer an adapter itself, and those of its base, on which it is served."""
    adapter = fetch_adapter(name)
    base = _of_checkpoint(base_of(adapter, None), site)
    way = Way("adapter" if why_beside(adapter) else "lora", _REFUSED | {"transformers": IN_PEFT})
    return replace(base, name=str(name), ways=(way, *base.ways), refusal="")


def _of_checkpoint(name: ModelName, site: Site) -> Overview:
    base = open_base(name)
    config, quantisation = base.config, base.quantisation
    architecture = str((config.get("architectures") or [""])[0])
    try:
        family = find_family(config, name.name, site)
    except UnsupportedModelError as error:
        return Overview(str(name), str(config.get("model_type")), architecture, refusal=str(error))
    if quantisation is not None and quantisation.problem:
        return Overview(str(name), family.label, architecture, refusal=quantisation.problem)
    ways = list(_ways(family, config, quantisation))
    if family.wrapper:
        with contextlib.suppress(UnsupportedModelError):
            alone = language_model_config(config, name.name)
            ways += _ways(find_family(alone, name.name, site), alone, quantisation, text_only=True)
    ways = list(_with_gguf(family, ways))
    refusal = "" if any(way.is_open for way in ways) else family.refusal or "no route applies"
    return Overview(str(name), family.label, architecture, tuple(ways), refusal)


def _ways(
    family: Family, config: Mapping[str, Any], quantisation: Quantisation | None, *, text_only: bool = False
) -> Iterator[Way]:
    fields = language_config(config)
    flag_is_on = family.flag is not None and bool(fields.get(family.flag, family.flag_default))
    for kind in _kinds(family, flag_is_on=flag_is_on):
        route = kind(family, config, quantisation=quantisation)
        blockers = tuple(all_blockers(kind, family, config, quantisation))
        yield Way(route.name, route.stacks, Cost() if blockers else route.cost, blockers, text_only)


def _with_gguf(family: Family, ways: Sequence[Way]) -> tuple[Way, ...]:
    """The ways, and the one by a GGUF file where no other serves llama.cpp."""
    if not family.in_gguf or any(way.is_open and way.stacks["llama.cpp"].status == "steered" for way in ways):
        return tuple(ways)
    return (*ways, Way(family.in_gguf, _REFUSED | {"llama.cpp": Support("steered")}, in_gguf=True))


def _kinds(family: Family, *, flag_is_on: bool = False) -> list[type[Route]]:
    """The routes of a family; of those by a flag, the one for its state."""
    unfit = () if family.flag is None else ("flag",) if flag_is_on else ("existing",)
    return [kind for kind in ROUTES if kind.is_known(family) and not kind.name.startswith(unfit or "-")]


def _of_gguf(name: ModelName, site: Site) -> Overview:
    from ..formats.gguf.model import open_gguf
    from ..formats.gguf.routes import ROUTES as GGUF_ROUTES

    model = open_gguf(name.path)
    ways = []
    for kind in GGUF_ROUTES:
        blockers = tuple(filter(None, kind.blockers(model, site)))
        route = kind(model, site)
        if not blockers:
            ways.append(Way(route.name, _REFUSED | {"llama.cpp": route.support}, route.cost))
    reasons = () if ways else tuple(dict.fromkeys(b for kind in GGUF_ROUTES for b in kind.blockers(model, site) if b))
    return Overview(str(name), model.architecture, model.architecture, tuple(ways), "; ".join(reasons))
