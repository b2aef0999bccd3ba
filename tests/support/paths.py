"""Paths in the checkout and beside it."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
"""The checkout."""
TESTS = ROOT / "tests"
SCRIPTS = ROOT / "scripts"
SMOLLM2_VECTORS = ROOT / "vectors" / "smollm2-135m-instruct.safetensors"
"""The set that comes with emobake."""
SHARED = Path(os.environ.get("EMOBAKE_SHARED", ROOT.parent / "shared"))
"""The folder with the published vectors and results."""
ENVS = Path(os.environ.get("EMOBAKE_ENVS", ROOT / ".envs"))
"""The environments that `scripts/envs` makes."""
