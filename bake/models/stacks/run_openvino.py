"""Generate with OpenVINO, from what optimum-intel exports of the checkpoint.

A runner of `start.py`; needs optimum-intel and openvino. The field ``weights`` of a request is that of the
exporter, such as ``int8`` or ``int4``; without it ``fp32``.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib import import_module
from typing import Any

EXPORT = "export openvino --model {checkpoint} --task text-generation-with-past --weight-format {weights} {folder}"
"""Arguments of optimum-cli."""


def version(request: dict[str, Any]) -> str:
    """The versions of OpenVINO and optimum-intel."""
    from importlib.metadata import version

    import openvino  # noqa: F401
    import optimum.intel  # noqa: F401

    return f"{version('openvino')} (optimum-intel {version('optimum-intel')})"


def answer(request: dict[str, Any]) -> list[list[int]]:
    """Generate the tokens that follow each prompt."""
    from optimum.intel import OVModelForCausalLM

    with tempfile.TemporaryDirectory(prefix="emobake-") as folder:
        _export(request["checkpoint"], folder, request.get("weights", "fp32"))
        # The CPU would round to bfloat16 where it can.
        model = OVModelForCausalLM.from_pretrained(folder, ov_config={"INFERENCE_PRECISION_HINT": "f32"})
        found: list[list[int]] = import_module("optimum_greedy").answer(model, request)
        return found


def _export(checkpoint: str, folder: str, weights: str) -> None:
    arguments = [argument.format(checkpoint=checkpoint, weights=weights, folder=folder) for argument in EXPORT.split()]
    command = [sys.executable, "-m", "optimum.commands.optimum_cli", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
        raise RuntimeError(f"the export failed: {lines[-1] if lines else done.returncode}")
