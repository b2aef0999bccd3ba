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
    import torch
    import transformers
    from optimum.onnxruntime import ORTModelForCausalLM

    ends = request.get("eos_token_ids", [])
    greedy = transformers.GenerationConfig(
        do_sample=False,
        max_new_tokens=request["max_new_tokens"],
        eos_token_id=ends or None,
        pad_token_id=ends[0] if ends else 0,
    )
    with tempfile.TemporaryDirectory(prefix="emobake-") as name:
        folder = Path(name) / "model"
        export(request["checkpoint"], folder)
        if request.get("weights"):
            _quantise(folder)
        model = ORTModelForCausalLM.from_pretrained(folder)
        model.generation_config = greedy
        out = []
        for prompt in request["prompts"]:
            ids = torch.tensor([prompt])
            result = model.generate(ids, attention_mask=torch.ones_like(ids))
            out.append(result[0, len(prompt) :].tolist())
        import_module("log_probs").write(request, lambda text: _logits(model, text))
        return out


def _logits(model: Any, text: list[int]) -> Any:
    import torch

    ids = torch.tensor([text])
    places = torch.arange(len(text))[None]
    return model(input_ids=ids, attention_mask=torch.ones_like(ids), position_ids=places).logits[0].numpy()


def _quantise(folder: Path) -> None:
    """Quantise the weights of an exported model in place."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = folder / "model.onnx"
    quantize_dynamic(model, folder / "quantised.onnx", weight_type=QuantType.QInt8)
    (folder / "quantised.onnx").replace(model)
    (folder / "model.onnx_data").unlink(missing_ok=True)
