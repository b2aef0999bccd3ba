"""GGUF architectures whose bias llama.cpp adds. The data is ``architectures.toml``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

from ...core.elsewhere import Biases, elsewhere
from ...core.sites import SITE, SITES, Site
from ...core.stacks import Status, Support
from ...core.toml import shipped_tables
from ...errors import BrokenFileError
from .header import GgufHeader

Treatment = Literal["accepts", "required", "ignores"]
Evidence = Literal["", "read", "ran"]
"""How it is known that llama.cpp adds a bias of the values: by its source, or by a run as well."""

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
    head: Evidence = ""
    """A bias of the values is added, and the output projection is as wide as the heads: a head can be added."""
    value: Evidence = ""
    """A bias of the values is added."""
    gated: bool = False
    """Each query comes with a gate, in the rows behind it; the sigmoid of a gate of zero halves the output."""
    scores_by_heads: int = 0
    """Number of blocks of the files whose scores are scaled by the number of heads; 0: in none."""
    residual_scale: str = ""
    """Reading of a file without the scale, if a block's branches are scaled before they are added; else empty."""

    @property
    def constant(self) -> float:
        """The first value of a head that is added; a gate of zero halves it."""
        return 2.0 if self.gated else 1.0

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
            table.get("head", ""),
            table.get("value", ""),
            table.get("gated", False),
            table.get("scores_by_heads", 0),
            table.get("residual_scale", ""),
        )
        for name, table in shipped_tables(__package__, "architectures.toml").items()
    }


def treatment(name: str, site: Site) -> Mapping[str, Support]:
    """Treatment of files of a known architecture with the bias of `site` by each stack that reads GGUF files."""
    found = gguf_architectures()[name]
    how = found.sites.get(site)
    status: Status = "unsteered" if how == "ignores" else "refuses" if how is None else "steered"
    usual = {"llama.cpp": Support(status, run=site in found.ran)}
    return usual | elsewhere("gguf", name, Biases("o" if site == SITE else "d"), usual)


def bias_blocker(name: str, site: Site) -> str:
    """The reason why llama.cpp adds no bias of `site` in files of an architecture, as a clause; empty if it does."""
    found = gguf_architectures().get(name, GgufArchitecture(name))
    treatment, where = found.sites.get(site), site.replace("_", " ")
    if treatment == "ignores":
        return f"llama.cpp reads that bias from {name} files and never adds it: the result would run UNSTEERED"
    if treatment is None and found.sites:
        return f"no tensor of a {name} file acts on the {where} alone"
    if treatment is None:
        return f"llama.cpp refuses {name} files with a bias on the {where}'s projection ('wrong number of tensors')"
    return ""
