"""The output projections in any checkpoint: by its family, or by the names that all families have for them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

from ...core.sites import Site
from .families import families
from .model import Checkpoint
from .projections import module_in_file
from .quantisation import Parts
from .wrappers import family_of

_OTHER_TOWERS = ("vision", "visual", "vit.", "image", "audio", "speech", "encoder", "mtp")
"""Parts of the names of modules that are not of the language model's layers."""


def find_outputs(checkpoint: Checkpoint, site: Site) -> dict[int, str]:
    """Layer -> module of the projection whose bias acts at `site`, or next to it; empty if there is none.

    Where the table does not know the family, or no such module of it, all names are tried that other families have.

    Raises:
        BrokenFileError: the config does not tell the number of layers.
    """
    family, layers = family_of(checkpoint.config, site), checkpoint.num_hidden_layers
    found: dict[int, str] = {}
    if family is not None and family.projection:
        for layer in range(layers):
            module = module_in_file(checkpoint, family, family.projection.format(layer=layer))
            if module is not None:
                found[layer] = module
    return found or _by_name(checkpoint, site, layers)


def biased_beside(checkpoint: Checkpoint, outputs: Mapping[int, str], others: Mapping[int, str]) -> tuple[str, ...]:
    """The biases of further projections in the layers of `outputs`: names of tensors, without those of `others`.

    Norms have biases, too, and are left out.
    """
    own, blocks = {*outputs.values(), *others.values()}, set(map(_block, outputs.values()))
    return tuple(
        f"{module}.bias"
        for module, parts in checkpoint.modules.items()
        if "bias" in parts and module not in own and _is_projection(parts) and _block(module) in blocks
    )


def _block(module: str) -> str:
    """The name of a module up to its first number, which is that of its layer; empty if it has none."""
    # A pattern would take for ever with a name of a million digits.
    parts = module.split(".")
    number = next((at for at, part in enumerate(parts) if part.isascii() and part.isdigit()), None)
    return "" if number is None else ".".join(parts[: number + 1])


def _is_projection(parts: Parts) -> bool:
    """True for a linear module, quantised or not: its weight is no vector."""
    weight = parts.get("weight")
    return len(parts) > 1 and (weight is None or len(weight.shape) != 1)


def _by_name(checkpoint: Checkpoint, site: Site, layers: int) -> dict[int, str]:
    """The modules under one prefix that has the most layers."""
    groups: dict[str, dict[int, str]] = {}
    for module, parts in checkpoint.modules.items():
        match = _names(site).fullmatch(module)
        if match is None or not parts.keys() - {"bias"} or any(word in match[1].lower() for word in _OTHER_TOWERS):
            continue
        if int(match[2]) < layers:
            groups.setdefault(f"{match[1]}/{match[3]}", {})[int(match[2])] = module
    return max((groups[name] for name in sorted(groups)), key=len, default={})


@cache
def _names(site: Site) -> re.Pattern[str]:
    """The names of a projection: what stands before the layer's number, the number, and the module in the layer."""
    found = {f.projection.partition("{layer}.")[2] for f in families(site).values() if f.projection}
    return re.compile(rf"(.*?)(\d{{1,4}})\.({'|'.join(map(re.escape, sorted(found)))})")
