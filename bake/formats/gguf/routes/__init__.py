"""Routes: the exact ways to make llama.cpp add the rows. One module each; a further route is a file and a line here."""

from __future__ import annotations

from collections.abc import Sequence

from ....core.sites import Site
from ....errors import BrokenFileError, UnsupportedModelError
from ..model import GgufModel
from .base import GgufRoute
from .head import HeadRoute
from .llama import LlamaRoute
from .tensor import ExistingRoute, TensorRoute
from .value import ValueRoute

__all__ = ["ROUTES", "GgufRoute", "choose_route", "route_by_name"]

ROUTES: tuple[type[GgufRoute], ...] = (ExistingRoute, TensorRoute, LlamaRoute, HeadRoute, ValueRoute)
"""Routes, the one that costs least first."""


def choose_route(
    model: GgufModel, site: Site, *, tensor_parallel: int = 1, routes: Sequence[type[GgufRoute]] = ROUTES
) -> GgufRoute:
    """Choose the first of `routes` that applies to `model`, for vectors that act at `site`.

    Raises:
        UnsupportedModelError: none does; says why. BrokenFileError: the file contradicts itself.
    """
    if not model.architecture:
        raise BrokenFileError(f"{model.name}: does not name its architecture (general.architecture); it is not a model")
    reasons: list[str] = []
    for kind in routes:
        found = kind.blockers(model, site)
        if not found:
            return kind(model, site, tensor_parallel)
        reasons += found
    said = list(dict.fromkeys(filter(None, reasons))) or [f"no route for {model.architecture} files"]
    raise UnsupportedModelError(f"{model.name}: {'; '.join(said)}; bake the original checkpoint with `format` peft")


def route_by_name(name: str, model: GgufModel, site: Site, *, tensor_parallel: int = 1) -> GgufRoute:
    """Return the route of a bake that was made before.

    Raises:
        UnsupportedModelError: the file does not allow this route.
    """
    kinds = [kind for kind in ROUTES if kind.name == name]
    if not kinds:
        raise UnsupportedModelError(f"{model.name}: there is no route {name[:40]!r}")
    return choose_route(model, site, tensor_parallel=tensor_parallel, routes=kinds)
