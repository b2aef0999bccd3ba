"""Comparing two models layer by layer, each layer on the input that it has in the first one.

What one layer rounds, the next ones and the quantisation of their activations amplify: of a quantised model, the end of
the network tells little. One layer on a given input is exact to the rounding of its output. Needs torch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import VerifyError
from ..formats.checkpoint.families import Family
from .hooks import site_modules

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class Passed:
    """One layer in one forward pass, on the CPU."""

    inputs: tuple[torch.Tensor, ...]
    """The hidden states that the module at the site was called with, each ``[1, positions, hidden]``, in order."""
    output: torch.Tensor
    """Values at the site, ``[1, positions, hidden]``, in the model's dtype."""
    branch: torch.Tensor | None
    """What the projection gave, of as many values. The site may lie behind a residual add: at the layer output, and in
    Bloom's attention. None if the module computes it by itself."""


@dataclass(frozen=True)
class Deviation:
    """The largest difference of one layer from what it should be."""

    layer: int
    roundings: float
    """In units of the rounding of the output's dtype; infinite where a value is not finite."""
    share: float | None
    """Share of the row in the difference from the first model: 1 if the row was added, 0 if not; None without a row."""


def record(model: Any, family: Family, texts: Sequence[Sequence[int]]) -> list[dict[int, Passed]]:
    """Layer -> what it got and gave at the site, for each text of token ids; layers without the site are left out."""
    return [_record(model, family, ids) for ids in texts]


def compare(
    model: Any,
    family: Family,
    texts: Sequence[Sequence[int]],
    passes: Sequence[Mapping[int, Passed]],
    rows: Mapping[int, np.ndarray],
) -> list[Deviation]:
    """Compare each layer of `model` with the recorded one plus its row, on the recorded input.

    The model is run on the texts whole, so that positions and masks are its own; only the hidden states are replaced.

    Args:
        model: a model with the same decoder layers, perhaps of another class.
        family: its family, set to the site that was recorded.
        texts: the token ids that were recorded.
        passes: what `record` returned for them.
        rows: layer -> float32 ``[hidden]``; layers without one should be as recorded.

    Raises:
        VerifyError: a layer has no site in `model`, or takes other inputs.
    """
    found: dict[int, list[_Sums]] = {}
    for ids, passed in zip(texts, passes, strict=True):
        for layer, sums in _replay(model, family, ids, passed, rows).items():
            found.setdefault(layer, []).append(sums)
    return [_deviation(layer, sums, rows.get(layer)) for layer, sums in sorted(found.items())]


@dataclass(frozen=True)
class _Sums:
    """Figures of one layer over one text."""

    roundings: float
    along: float
    """Sum over the positions of the difference's scalar product with the row."""
    positions: int


def _deviation(layer: int, sums: Sequence[_Sums], row: np.ndarray | None) -> Deviation:
    squared = 0.0 if row is None else float(np.square(row.astype(np.float64)).sum())
    whole = squared * sum(one.positions for one in sums)
    share = sum(one.along for one in sums) / whole if whole > 0 else None
    return Deviation(layer, max(one.roundings for one in sums), share)


def _record(model: Any, family: Family, ids: Sequence[int]) -> dict[int, Passed]:
    found: dict[int, Passed] = {}
    inputs: dict[int, tuple[torch.Tensor, ...]] = {}
    branches: dict[int, torch.Tensor] = {}
    width = int(model.config.get_text_config().hidden_size)
    modules = _sites(model, family)

    def before(layer: int) -> Any:
        def hook(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = _hidden_states(args, kwargs, width)
            inputs[layer] = tuple(_kept(value) for value in given.values())

        return hook

    def after(layer: int) -> Any:
        def hook(_module: Any, _args: Any, output: Any) -> None:
            found[layer] = Passed(inputs[layer], _kept(_values(output)), branches.get(layer))

        return hook

    def branch(layer: int) -> Any:
        def hook(_module: Any, _args: Any, output: Any) -> None:
            branches[layer] = _kept(output)

        return hook

    with _hooked(modules, before, after), contextlib.ExitStack() as stack:
        for layer in modules:
            module = model.get_submodule(family.live(family.projection).format(layer=layer))
            stack.callback(module.register_forward_hook(branch(layer)).remove)
        _pass(model, ids)
    return found


def _replay(
    model: Any, family: Family, ids: Sequence[int], passed: Mapping[int, Passed], rows: Mapping[int, np.ndarray]
) -> dict[int, _Sums]:
    found: dict[int, _Sums] = {}
    width = int(model.config.get_text_config().hidden_size)
    modules = _sites(model, family)
    if modules.keys() != passed.keys():
        layer = min(modules.keys() ^ passed.keys())
        raise VerifyError(f"layer {layer} has the site in one of the two models only, so they cannot be compared")

    def before(layer: int) -> Any:
        def hook(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
            given, wanted = _hidden_states(args, kwargs, width), passed[layer].inputs
            if [value.shape for value in given.values()] != [value.shape for value in wanted] or not given:
                raise VerifyError(f"layer {layer} takes other inputs in the two models, so they cannot be compared")
            new = {
                place: value.to(own.device, own.dtype)
                for (place, own), value in zip(given.items(), wanted, strict=True)
            }
            return tuple(new.get(i, arg) for i, arg in enumerate(args)), {k: new.get(k, v) for k, v in kwargs.items()}

        return hook

    def after(layer: int) -> Any:
        def hook(_module: Any, _args: Any, output: Any) -> None:
            found[layer] = _sums(_kept(_values(output)), passed[layer], rows.get(layer))

        return hook

    with _hooked(modules, before, after):
        _pass(model, ids)
    return found


def _sums(output: torch.Tensor, passed: Passed, row: np.ndarray | None) -> _Sums:
    """Compare the output of one layer with the recorded one plus the row.

    A value is rounded in the output's dtype, relative to itself or to what is added to a residual. Besides, a
    kernel sums in float32 at best, whose rounding is relative to the largest value of the position, and may hold values
    in float16, whose steps have a smallest one (bitsandbytes 0.50 does in its 8-bit form).
    """
    import torch

    added = torch.zeros(output.shape[-1], dtype=torch.float64)
    if row is not None:
        added = torch.from_numpy(row.astype(np.float64))
    after, before = output.double(), passed.output.double()
    sizes = [after.abs(), before.abs(), added.abs().expand_as(after)]
    if passed.branch is not None:
        sizes.append(passed.branch.double().abs().reshape(after.shape))
    size = torch.stack(sizes).amax(0)
    step = max(torch.finfo(one.dtype).eps for one in (output, passed.output))
    unit = step * size + _FLOAT32 * size.amax(-1, keepdim=True) + _LEAST_FLOAT16
    roundings = ((after - before - added).abs() / unit).nan_to_num(nan=np.inf, posinf=np.inf)
    return _Sums(float(roundings.max()), float(((after - before) @ added).sum()), after.shape[0] * after.shape[1])


_FLOAT32 = 2.0**-23
"""Rounding of float32, relative to a value."""
_LEAST_FLOAT16 = 2.0**-24
"""The smallest positive float16."""


def _sites(model: Any, family: Family) -> dict[int, torch.nn.Module]:
    return site_modules(model, family, int(model.config.get_text_config().num_hidden_layers))


def _hidden_states(args: tuple[Any, ...], kwargs: Mapping[str, Any], width: int) -> dict[int | str, torch.Tensor]:
    """Place or name -> argument, for those that are hidden states: floats ``[batch, positions, hidden]``."""
    import torch

    named: Iterator[tuple[int | str, Any]] = iter([*enumerate(args), *kwargs.items()])
    return {
        place: value
        for place, value in named
        if isinstance(value, torch.Tensor)
        and value.is_floating_point()
        and value.dim() == 3
        and value.shape[-1] == width
    }


def _kept(value: torch.Tensor) -> torch.Tensor:
    return value.detach().to("cpu", copy=True)


def _values(output: Any) -> torch.Tensor:
    values: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return values


@contextlib.contextmanager
def _hooked(modules: Mapping[int, torch.nn.Module], before: Any, after: Any) -> Iterator[None]:
    """Within the context, call ``before(layer)`` and ``after(layer)`` before and after each module."""
    handles = []
    for layer, module in modules.items():
        handles.append(module.register_forward_pre_hook(before(layer), with_kwargs=True))
        handles.append(module.register_forward_hook(after(layer)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _pass(model: Any, ids: Sequence[int]) -> None:
    import torch

    device = model.get_input_embeddings().weight.device
    with torch.inference_mode():
        model(torch.tensor([list(ids)], device=device), use_cache=False)
