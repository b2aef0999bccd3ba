"""Forward hooks at the site of the vectors: one reads the site's values, one adds rows to them.

The attention output is the output of the module that holds the family's projection: after the projection, before a
post-norm, a residual multiplier or the residual add. The layer output is that of the whole decoder layer. torch is
imported by the caller.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..formats.checkpoint.families import Family

if TYPE_CHECKING:
    from typing import TypeAlias

    import torch

    Row: TypeAlias = np.ndarray | torch.Tensor
    """``[hidden]``, float32: an array, or a tensor, which gradients reach."""

Scope = Literal["every", "last"]
"""``every`` position, as a bias does; or the ``last`` of each forward pass, as the paper's published code does."""


def site_module(model: torch.nn.Module, family: Family, layer: int) -> torch.nn.Module:
    """The module of decoder layer `layer` (from 0) whose output is the site of `family`.

    Raises:
        AttributeError: the layer has no such module.
    """
    if family.site == "layer_output":
        return model.get_submodule(family.live(family.block).format(layer=layer))
    return model.get_submodule(family.live(family.projection).format(layer=layer).rpartition(".")[0])


def site_modules(model: torch.nn.Module, family: Family, layers: int) -> dict[int, torch.nn.Module]:
    """Layer -> `site_module`, for layers ``0 .. layers - 1`` that have it; in a hybrid not all have attention."""
    found: dict[int, torch.nn.Module] = {}
    for layer in range(layers):
        with contextlib.suppress(AttributeError):  # Raised by torch for a missing module.
            found[layer] = site_module(model, family, layer)
    return found


@contextlib.contextmanager
def reading(
    model: torch.nn.Module, family: Family, layers: int, see: Callable[[int, torch.Tensor], None]
) -> Iterator[tuple[int, ...]]:
    """Within the context, call `see` with each layer and its values at the site, ``[batch, positions, hidden]``.

    Yields the layers that have the site, see `site_modules`.
    """

    def hook(layer: int) -> Any:
        def call(_module: torch.nn.Module, _inputs: Any, output: Any) -> None:
            see(layer, output[0] if isinstance(output, tuple) else output)

        return call

    modules = site_modules(model, family, layers)
    handles = [module.register_forward_hook(hook(layer)) for layer, module in modules.items()]
    try:
        yield tuple(modules)
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def adding(
    model: torch.nn.Module,
    family: Family,
    rows: Mapping[int, Row],
    scope: Scope = "every",
    positions: torch.Tensor | None = None,
) -> Iterator[None]:
    """Within the context, add to each layer in `rows` its row (float32 ``[hidden]``) at the site.

    A row that is a tensor gets its gradient by a backward pass.
    `positions`, bool ``[batch, positions]``, selects positions of the one forward pass to come, whatever the `scope`.
    """
    import torch

    def add(row: torch.Tensor) -> Any:
        def hook(_module: torch.nn.Module, _inputs: Any, output: Any) -> Any:
            hidden = output[0] if isinstance(output, tuple) else output
            hidden = hidden.clone()
            vector = row.to(hidden.device, hidden.dtype)
            if positions is not None:
                hidden += vector * positions.to(hidden.device)[:, :, None]
            elif scope == "every":
                hidden += vector
            else:
                hidden[:, -1:, :] += vector
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        return hook

    handles = [
        site_module(model, family, layer).register_forward_hook(
            add(row if isinstance(row, torch.Tensor) else torch.from_numpy(row.copy()))
        )
        for layer, row in rows.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
