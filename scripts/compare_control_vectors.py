"""Hold baked control vectors against llama.cpp's own run with the control vector applied at runtime.

    scripts/compare_control_vectors.py MODEL.gguf [--emobake EXE]

Needs llama-cpp-python built from its source package (its low-level API can apply a control vector; the prebuilt
bindings cannot): ``pip install --no-binary llama-cpp-python llama-cpp-python``, some ten minutes on two cores. The
control vector is written here: for each block from 1 on a direction drawn at random. Baked and runtime are compared in
strengths 1 and -0.7, by the log-probabilities of the first token and by greedy text. The text must be the same unless
the model is quantised: llama.cpp rounds activations to 8 bits for quantised weights, so that adding in another order
flips roundings. How much that alone moves is shown by a vector that is larger by a millionth.
"""

from __future__ import annotations

import argparse
import ctypes
import shutil
import subprocess
import tempfile
from pathlib import Path

import llama_cpp
import numpy as np
from gguf import GGUFWriter

PROMPTS = ("How was your day?", "Tell me what you think of rainy weather.")
STRENGTHS = (1.0, -0.7)
TOKENS = 60
SIZE = 1.5
"""Norm of each direction."""


def open_model(file: Path) -> llama_cpp.Llama:
    """The model with a float32 cache."""
    kind = llama_cpp.GGML_TYPE_F32
    return llama_cpp.Llama(str(file), n_ctx=512, n_gpu_layers=0, type_k=kind, type_v=kind, verbose=False)


def write_vector(file: Path, layers: int, hidden: int) -> np.ndarray:
    """A control vector for blocks 1 to ``layers - 1``; its rows ``[layers - 1, hidden]``."""
    rows = np.random.default_rng(0).normal(size=(layers - 1, hidden))
    rows = (SIZE * rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    writer = GGUFWriter(file, "controlvector")
    writer.add_string("controlvector.model_hint", "llama")
    writer.add_uint32("controlvector.layer_count", layers - 1)
    for layer, row in enumerate(rows, 1):
        writer.add_tensor(f"direction.{layer}", row)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return rows


def apply(model: llama_cpp.Llama, rows: np.ndarray) -> None:
    """Set `rows` as the control vector, as llama.cpp's tools do: block 1 first, layers 1 to the last."""
    data = np.ascontiguousarray(rows, np.float32)
    pointer = data.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    result = llama_cpp.llama_set_adapter_cvec(model.ctx, pointer, data.size, rows.shape[1], 1, rows.shape[0] + 1)
    if result != 0:
        raise SystemExit(f"llama.cpp did not take the control vector ({result})")


def answers(model: llama_cpp.Llama) -> list[str]:
    """Greedy answers to the prompts, in the model's chat template."""
    found = []
    for prompt in PROMPTS:
        model.reset()
        messages = [{"role": "user", "content": prompt}]
        said = model.create_chat_completion(messages, max_tokens=TOKENS, temperature=0.0, repeat_penalty=1.0)
        found.append(said["choices"][0]["message"]["content"])
    return found


def first_token(model: llama_cpp.Llama) -> np.ndarray:
    """Log-probabilities ``[prompts, vocabulary]`` of what follows each prompt as plain text."""
    found = []
    for prompt in PROMPTS:
        model.reset()
        model.eval(model.tokenize(prompt.encode()))
        logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(model.ctx, -1), (model.n_vocab(),))
        found.append(logits - np.logaddexp.reduce(logits.astype(np.float64)))
    return np.array(found)


def main() -> None:
    """Run both, print the answers, and fail when they differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--emobake", default=shutil.which("emobake") or "emobake")
    options = parser.parse_args()
    base = open_model(options.model)
    metadata = base.metadata
    layers, hidden = int(metadata["llama.block_count"]), int(metadata["llama.embedding_length"])
    plain, failed = answers(base), False
    quantised = "F32" not in options.model.name.upper()
    print(f"llama-cpp-python {llama_cpp.__version__}, {options.model.name}: {layers} blocks of {hidden}")
    with tempfile.TemporaryDirectory() as name:
        vector, baked = Path(name, "direction.gguf"), Path(name, "baked.gguf")
        rows = write_vector(vector, layers, hidden)
        for strength in STRENGTHS:
            apply(base, strength * np.roll(rows, -1, axis=0))
            shifted = first_token(base)
            apply(base, strength * rows * (1 + 1e-6))
            nudged = first_token(base)
            apply(base, strength * rows)
            wanted, runtime_first = answers(base), first_token(base)
            call = [options.emobake, "--model", str(options.model), "--vectors", str(vector), "--overwrite", "-q"]
            subprocess.run([*call, "--mix", f"direction={strength}", "--out", str(baked)], check=True)
            steered = open_model(baked)
            found, baked_first = answers(steered), first_token(steered)
            others = (baked_first, nudged, shifted)
            gap, noise, wrong = (float(np.abs(other - runtime_first).max()) for other in others)
            print(f"\nstrength {strength}: largest difference of a log-probability of the first token to the runtime's")
            print(f"  baked {gap:.1e}; runtime with the vector times 1.000001 {noise:.1e}; one block early {wrong:.1e}")
            failed |= gap > max(1e-4, 3 * noise)
            for prompt, unsteered, runtime, text in zip(PROMPTS, plain, wanted, found, strict=True):
                print(f"\nstrength {strength}, {prompt}")
                print(f"  unsteered  {unsteered!r}\n  runtime    {runtime!r}\n  baked      {text!r}")
                equal, moved = text == runtime, runtime != unsteered
                print(f"  baked equals runtime: {equal}; differs from unsteered: {moved}")
                failed |= not (moved and (equal or quantised))
    if failed:
        raise SystemExit("\nNOT EQUAL")
    if not quantised:
        print("\nevery answer of the baked files is that of llama.cpp with the control vector at runtime")


if __name__ == "__main__":
    main()
