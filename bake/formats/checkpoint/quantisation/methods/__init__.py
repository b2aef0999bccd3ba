"""The methods, one module for each tool; a further one is a file and a line in `QUANTISERS`."""

from __future__ import annotations

from ..method import Method, Quantiser
from .gptq import QUANTISER as GPTQ

QUANTISERS: tuple[Quantiser, ...] = (GPTQ,)
METHODS: dict[str, Method] = {method.name: method for one in QUANTISERS for method in one.methods}
"""All methods by their names."""
