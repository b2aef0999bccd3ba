"""GGUF architectures whose bias llama.cpp adds. The data is ``architectures.toml``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

from ...core.sites import SITE, SITES, Site
from ...core.toml import shipped_tables
from ...errors import BrokenFileError, UnsupportedModelError
from .header import GgufHeader

Treatment = Literal["accepts", "required", "ignores"]

MODULES: dict[Site, str] = {"attention_output": "blk.{layer}.attn_output", "layer_output": "blk.{layer}.ffn_down"}
"""Site -> name of the tensors whose bias acts there, without ``.weight``; the same in every architecture."""


@dataclass(frozen=True)
class GgufArchitecture:
    """One table of ``architectures.toml``."""

    name: str
    sites: Mapping[str, Treatment] = field(default_factory=dict)
    """Site -> treatment of the bias there; a missing site has no tensor that acts there alone."""
    ran: tuple[str, ...] = ()
    """Sites at which a baked file was seen steered in a run of llama.cpp."""
    residual_scale: str = ""
    """Reading of a file without the scale, if a block's branches are scaled before they are added; else empty."""

    def branch_scale(self, header: GgufHeader, layers: int, site: Site) -> float:
        """Factor between the projection's output and `site`; the attention output lies before it.

        Raises:
            BrokenFileError: it is not a finite number.
        """
        if not self.residual_scale or site == SITE:
            return 1.0
        scale = header.number(f"{self.name}.residual_scale")
        if scale is None:
            return 1.0 if self.residual_scale == "absent" else 1.4 / math.sqrt(layers)
        if not math.isfinite(scale):
            raise BrokenFileError(f"{header.file}: its residual_scale is {scale}")
        # llama.cpp reads 0 as "no scale".
        return float(scale) or 1.0


@cache
def gguf_architectures() -> dict[str, GgufArchitecture]:
    """All architectures, by ``general.architecture``."""
    return {
        name: GgufArchitecture(
            name,
            {site: table[site] for site in SITES if site in table},
            tuple(table.get("ran", ())),
            table.get("residual_scale", ""),
        )
        for name, table in shipped_tables(__package__, "architectures.toml").items()
    }


def find_gguf_architecture(name: str, site: Site, file: str) -> GgufArchitecture:
    """Find an architecture that adds the bias of `site`; `file` names the model in messages.

    Raises:
        UnsupportedModelError: llama.cpp refuses such a file, or would run it unsteered.
    """
    found = gguf_architectures().get(name)
    where = site.replace("_", " ")
    if found is None or site not in found.sites:
        why = (
            f"llama.cpp refuses {name} files with a bias on the {where}'s projection ('wrong number of tensors')"
            if found is None
            else f"no tensor of a {name} file acts on the {where} alone"
        )
        raise UnsupportedModelError(f"{file}: {why}; bake the original checkpoint with `format` peft")
    if found.sites[site] == "ignores":
        raise UnsupportedModelError(
            f"{file}: llama.cpp reads that bias from {name} files and never adds it: the result would run UNSTEERED; "
            "bake the original checkpoint with `format` peft"
        )
    return found
