"""Which GGUF architectures llama.cpp adds a projection's bias for, and when a file is another architecture's by name.

``architectures.json`` holds one row per architecture that reads the tensor, from the source of llama.cpp as
vendored in llama-cpp-python 0.3.36 (src/models/): for each site whether the bias may stand in a file, must, or is read
and never added. An architecture without a row refuses a file that has it ("wrong number of tensors").
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Literal

from ...errors import BrokenFileError, UnsupportedModelError
from .header import GgufHeader

Support = Literal["accepts", "required", "ignores"]

MODULES = {"attention_output": "blk.{layer}.attn_output", "layer_output": "blk.{layer}.ffn_down"}
"""Site -> name of the tensors whose bias acts there, without ``.weight``; the same in every architecture."""


@dataclass(frozen=True)
class GgufArchitecture:
    """One row of the table."""

    name: str
    sites: Mapping[str, Support] = field(default_factory=dict)
    """Site -> what becomes of the bias there; a site that is missing has no tensor that acts there alone."""
    run: tuple[str, ...] = ()
    """Sites at which a baked file was seen steered in a run of llama.cpp."""
    residual_scale: str = ""
    """Set where a block's branches are scaled before they are added: what a file without the scale is read with."""

    def branch_scale(self, header: GgufHeader, layers: int, site: str) -> float:
        """What the projection's output is multiplied by on its way to `site`: the attention output lies before it.

        Raises:
            BrokenFileError: it is not a finite number.

        """
        if not self.residual_scale or site == "attention_output":
            return 1.0
        scale = header.number(f"{self.name}.residual_scale")
        if scale is None:
            return 1.0 if self.residual_scale == "absent" else 1.4 / math.sqrt(layers)
        if not math.isfinite(scale):
            raise BrokenFileError(f"{header.file}: its residual_scale is {scale}")
        # llama.cpp takes 0 for "no scale".
        return float(scale) or 1.0


@cache
def gguf_architectures() -> dict[str, GgufArchitecture]:
    """The whole table, by ``general.architecture``."""
    text = resources.files(__package__).joinpath("architectures.json").read_text(encoding="utf-8")
    rows = {}
    for raw in json.loads(text):
        sites = {site: raw[site] for site in MODULES if site in raw}
        row = GgufArchitecture(raw["architecture"], sites, tuple(raw.get("run", ())), raw.get("residual_scale", ""))
        rows[row.name] = row
    return rows


def find_gguf_architecture(name: str, site: str, file: str) -> GgufArchitecture:
    """The row of an architecture that adds the bias of `site`.

    Raises:
        UnsupportedModelError: llama.cpp refuses such a file, or would run it unsteered.

    """
    row = gguf_architectures().get(name)
    where = site.replace("_", " ")
    if row is None or site not in row.sites:
        why = (
            f"llama.cpp refuses {name} files with a bias on the {where}'s projection ('wrong number of tensors')"
            if row is None
            else f"no tensor of a {name} file acts on the {where} alone"
        )
        raise UnsupportedModelError(f"{file}: {why}; bake the original checkpoint with --format peft")
    if row.sites[site] == "ignores":
        raise UnsupportedModelError(
            f"{file}: llama.cpp reads that bias from {name} files and never adds it: the result would run UNSTEERED; "
            "bake the original checkpoint with --format peft"
        )
    return row
