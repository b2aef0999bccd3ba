"""A baked checkpoint beside the hook on its base, both in one stack: ``python hooked_in_stack.py REQUEST RESPONSE``.

Runs in the environment of ``stack`` (transformers, vllm or mlx), all pairs in one process. A request has ``pairs``:
``base``, ``baked``, ``rows``, a file of float32 ``[layers, hidden]``, and the ``dtype`` to compute in, or ``auto``; and
``prompts`` of token ids. The response has for each pair, by the folder ``baked``, either ``no base`` or ``refuses``
with the error, or ``wrong`` with the tensors of the base that found no place, or numbers:

- ``layer``: the largest difference between the output projections of the two on the same inputs (those of the base
  under the hook), in units of the rounding of the largest output; ``dropped``: the same for a projection without bias;
- ``end``: the largest difference of a log-probability after a prompt between the two; ``effect``: between the base
  under the hook and without; ``unsteered``: between the baked one and the base.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

PROJECTION = re.compile(r"layers\.(\d+)\.self_attn\.o_proj$")
Seen = dict[int, list[tuple[Any, Any]]]
"""Layer -> input and output of the projection, one pair for each prompt."""


class Torch:
    """A model of torch, whose projections take hooks."""

    def __init__(self, model: Any, run: Callable[[list[int]], np.ndarray], left: str = "") -> None:
        self.run = run
        self.left = left
        found = {PROJECTION.search(name): module for name, module in model.named_modules()}
        self.projections = {int(match[1]): module for match, module in found.items() if match}

    @contextlib.contextmanager
    def watched(self, rows: np.ndarray | None = None, inputs: Seen | None = None) -> Iterator[Seen]:
        """Within the context, projections have `rows` on top and take `inputs` for their own; all is written down."""
        import torch

        seen: Seen = {layer: [] for layer in self.projections}
        handles = []
        for layer, module in self.projections.items():
            row = None if rows is None else torch.from_numpy(rows[layer])

            def before(_module: Any, args: Any, layer: int = layer) -> Any:
                assert inputs is not None
                return (inputs[layer][len(seen[layer])][0], *args[1:])

            def after(_module: Any, args: Any, output: Any, layer: int = layer, row: Any = row) -> Any:
                values = output[0] if isinstance(output, tuple) else output
                if row is not None:
                    values = values + row.to(values.dtype)
                seen[layer].append((args[0].clone(), values.clone()))
                return (values, *output[1:]) if isinstance(output, tuple) else values

            if inputs is not None:
                handles.append(module.register_forward_pre_hook(before))
            handles.append(module.register_forward_hook(after))
        try:
            yield seen
        finally:
            for handle in handles:
                handle.remove()

    @staticmethod
    def floats(values: Any) -> tuple[np.ndarray, float]:
        """Values in float32, and the rounding of their dtype."""
        import torch

        return values.float().numpy(), torch.finfo(values.dtype).eps


class Mlx:
    """A model of mlx-lm, whose projections are replaced."""

    def __init__(self, model: Any) -> None:
        self.projections = {layer: block.self_attn for layer, block in enumerate(model.layers)}
        self.model = model
        self.left = ""

    def run(self, prompt: list[int]) -> np.ndarray:
        """Log-probabilities of the next token."""
        import mlx.core as mx

        row = self.model(mx.array([prompt]))[0, -1].astype(mx.float32)
        return np.array(row - mx.logsumexp(row), np.float64)

    @contextlib.contextmanager
    def watched(self, rows: np.ndarray | None = None, inputs: Seen | None = None) -> Iterator[Seen]:
        """As `Torch.watched`."""
        import mlx.core as mx

        seen: Seen = {layer: [] for layer in self.projections}
        old = {layer: attention.o_proj for layer, attention in self.projections.items()}
        for layer, attention in self.projections.items():

            def project(values: Any, layer: int = layer) -> Any:
                if inputs is not None:
                    values = inputs[layer][len(seen[layer])][0]
                output = old[layer](values)
                if rows is not None:
                    output = output + mx.array(rows[layer]).astype(output.dtype)
                seen[layer].append((values, output))
                return output

            attention.o_proj = project
        try:
            yield seen
        finally:
            for layer, attention in self.projections.items():
                attention.o_proj = old[layer]

    @staticmethod
    def floats(values: Any) -> tuple[np.ndarray, float]:
        """As `Torch.floats`."""
        import mlx.core as mx

        return np.array(values.astype(mx.float32)), float(mx.finfo(values.dtype).eps)


@contextlib.contextmanager
def in_transformers(folder: str, dtype: str) -> Iterator[Torch]:
    """The model, and which tensors found no place. Zero biases that its class does not have may be left over."""
    import torch
    from transformers import AutoModelForCausalLM

    config = json.loads(Path(folder, "config.json").read_text(encoding="utf-8"))
    options = _without_compiler(config.get("quantization_config") or {})
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, output_loading_info=True, **options)
    left = sorted(str(name) for names in info.values() for name in names if not str(name).endswith(".bias"))

    def run(prompt: list[int]) -> np.ndarray:
        with torch.inference_mode():
            return model(torch.tensor([prompt])).logits[0, -1].double().log_softmax(-1).numpy()

    yield Torch(model.eval(), run, ", ".join(left[:3]))


def _without_compiler(quantisation: Mapping[str, Any]) -> dict[str, Any]:
    """Options with which gptqmodel takes torch's operators instead of compiling its own for minutes."""
    from transformers import AwqConfig, GPTQConfig

    if quantisation.get("quant_method") == "gptq":
        return {"quantization_config": GPTQConfig(bits=4, backend="torch")}
    if quantisation.get("quant_method") == "awq":
        return {"quantization_config": AwqConfig(bits=4, backend="torch_awq")}
    return {}


@contextlib.contextmanager
def in_vllm(folder: str, dtype: str) -> Iterator[Torch]:
    """The model in vLLM on a CPU, in this process."""
    from vllm import LLM, SamplingParams
    from vllm.distributed import cleanup_dist_env_and_memory

    llm = LLM(
        model=folder,
        dtype=dtype,
        enforce_eager=True,
        max_model_len=64,
        max_num_seqs=4,
        max_logprobs=-1,
        skip_tokenizer_init=True,
        enable_prefix_caching=False,
        disable_log_stats=True,
        seed=0,
    )

    def run(prompt: list[int]) -> np.ndarray:
        sampling = SamplingParams(temperature=0.0, max_tokens=1, logprobs=-1, detokenize=False)
        table = llm.generate([{"prompt_token_ids": prompt}], sampling, use_tqdm=False)[0].outputs[0].logprobs[0]
        return np.array([table[token].logprob for token in range(len(table))])

    try:
        yield Torch(llm.apply_model(lambda model: model)[0], run)
    finally:
        llm.llm_engine.engine_core.shutdown()
        gc.collect()
        cleanup_dist_env_and_memory()


@contextlib.contextmanager
def in_mlx(folder: str, dtype: str) -> Iterator[Mlx]:
    """The model in mlx-lm on a CPU."""
    import mlx.core as mx
    from mlx_lm.utils import load_model

    mx.set_default_device(mx.cpu)
    model, _ = load_model(Path(folder))
    if dtype == "float32":
        model.set_dtype(mx.float32)
    yield Mlx(model)


STACKS = {"transformers": in_transformers, "vllm": in_vllm, "mlx": in_mlx}


def compared(stack: str, pair: Mapping[str, str], prompts: list[list[int]]) -> dict[str, Any]:
    """One pair's answer."""
    rows = np.load(pair["rows"])
    try:
        with STACKS[stack](pair["base"], pair["dtype"]) as base:
            if base.left:
                return {"wrong": f"no place for {base.left}"}
            plain = np.array([base.run(prompt) for prompt in prompts])
            with base.watched(rows) as wanted:
                hooked = np.array([base.run(prompt) for prompt in prompts])
    except Exception as error:  # One model's fault is its own.
        traceback.print_exc()
        return {"no base": _line(error)}
    try:
        with STACKS[stack](pair["baked"], pair["dtype"]) as baked:
            free = np.array([baked.run(prompt) for prompt in prompts])
            with baked.watched(inputs=wanted) as got:
                for prompt in prompts:
                    baked.run(prompt)
    except Exception as error:
        traceback.print_exc()
        return {"refuses": _line(error)}
    units, dropped = [], []
    for layer, outputs in wanted.items():
        for (_, one), (_, other) in zip(outputs, got[layer], strict=True):
            (target, eps), (value, _) = base.floats(one), baked.floats(other)
            unit = eps * np.abs(target).max()
            units.append(float(np.abs(value - target).max() / unit))
            dropped.append(float(np.abs(rows[layer]).max() / unit))
    return {
        "layer": max(units),
        "dropped": min(dropped),
        "end": float(np.abs(free - hooked).max()),
        "effect": float(np.abs(hooked - plain).max()),
        "unsteered": float(np.abs(free - plain).max()),
    }


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def main(request_file: str, response_file: str) -> None:
    """Answer one request."""
    for name, value in {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_ALLOW_INSECURE_SERIALIZATION": "1",
        "TORCHDYNAMO_DISABLE": "1",  # Compiling takes longer than all runs.
    }.items():
        os.environ.setdefault(name, value)
    request = json.loads(Path(request_file).read_text(encoding="utf-8"))
    found: dict[str, dict[str, Any]] = {}
    for pair in request["pairs"]:
        found[pair["baked"]] = compared(request["stack"], pair, request["prompts"])
        Path(response_file).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:3])
