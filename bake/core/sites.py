"""Sites: the places in a decoder layer where vectors act."""

from __future__ import annotations

from typing import Literal

Site = Literal["attention_output", "layer_output"]
"""The attention module's output, or the residual stream after a decoder block."""
SITE: Site = "attention_output"
"""Site of the paper's vectors, and of the bias of an attention output projection."""
SITES: tuple[Site, ...] = (SITE, "layer_output")
