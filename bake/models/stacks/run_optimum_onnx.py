"""Generate with onnxruntime, from the graph that optimum-onnx exports of the checkpoint.

A runner of `start.py`; needs optimum-onnx. The field ``weights`` of a request, ``int8``, has the weights
quantised as they are used; without it they are float32.
"""

from __future__ import annotations

import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any


def version(request: dict[str, Any]) -> str:
    """The versions of optimum-onnx and onnxruntime."""
    from importlib.metadata import version

    import onnxruntime
    import optimum.onnxruntime  # noqa: F401

    return f"{version('optimum-onnx')} (onnxruntime {onnxruntime.__version__})"


def export(checkpoint: str, folder: Path) -> None:
    """Export a checkpoint in float32."""
    from optimum.exporters.onnx import main_export

    main_export(checkpoint, folder, task="text-generation-with-past", dtype="fp32", trust_remote_code=False)


def answer(request: dict[str, Any]) -> list[list[int]]:
    """Generate the tokens that follow each prompt."""
    from optimum.onnxruntime import ORTModelForCausalLM

    with tempfile.TemporaryDirectory(prefix="emobake-") as name:
        folder = Path(name) / "model"
        export(request["checkpoint"], folder)
        if request.get("weights"):
            _quantise(folder)
        model = ORTModelForCausalLM.from_pretrained(folder)
        found: list[list[int]] = import_module("optimum_greedy").answer(model, request)
        return found


def _quantise(folder: Path) -> None:
    """Quantise the weights of an exported model in place."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = folder / "model.onnx"
    quantize_dynamic(model, folder / "quantised.onnx", weight_type=QuantType.QInt8)
    (folder / "quantised.onnx").replace(model)
    (folder / "model.onnx_data").unlink(missing_ok=True)
