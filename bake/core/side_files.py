"""Side files of a checkpoint: the ones that an output needs, and the reason for leaving out each other one."""

from __future__ import annotations

from collections.abc import Collection
from fnmatch import fnmatchcase

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

QUANT_CONFIGS = ("hf_quant_config.json", "quantize_config.json", "quant_config.json", "quantization_config.json")
"""Files that hold a quantisation config beside config.json, or in its place."""

_LICENCES = ("license*", "licence*", "notice*", "*use_policy*", "third_party*", "thirdparty*")

CARRIED = (
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "*.tiktoken",
    "tekken.json",
    "*.model",
    "chat_template*",
    "additional_chat_templates/*.jinja",
    "*preprocessor_config.json",
    "processor_config.json",
    *QUANT_CONFIGS,
    *_LICENCES,
)
"""Patterns over lower-case paths: what a loader needs besides config and weights, and what a licence demands."""

_OF_IMAGES = ("*preprocessor_config.json", "processor_config.json", "chat_template.json")
"""The last holds the chat template of older processors."""

REPLACED = ("config.json", INDEX, "readme.md", "emobake.json", "emobake.undo")
"""Files that a bake writes itself."""

_DUPLICATES = (
    "*.bin", "*.pth", "*.pt", "*.ckpt", "*.gguf", "*.ggml", "*.h5", "*.msgpack", "*.ot", "*.onnx", "*.onnx_data",
    "*.tflite", "*.mlmodel", "*.npz", "*.safetensors", "*.bin.index.json", "*.safetensors.index.json",
    "consolidated*", "original/*", "onnx/*", "openvino/*", "coreml/*", "flax_*", "tf_*", "rust_*", "params.json",
)  # fmt: skip
_HOUSEKEEPING = (".git*", ".cache/*", ".ds_store", "__pycache__/*")


def single_file(paths: Collection[str]) -> str:
    """The file of a checkpoint that holds all of its weights; empty if an index names several, or there is none.

    Without ``model.safetensors`` and an index it is the only other file: GPTQ's first tools named theirs like
    ``gptq_model-4bit-128g.safetensors``, and vLLM loads whatever there is. Adapters and Mistral's own form are none.
    """
    if SINGLE in paths:
        return SINGLE
    none = ("adapter_", "consolidated")
    others = [path for path in paths if path.endswith(".safetensors") and not path.startswith(none)]
    return others[0] if INDEX not in paths and len(others) == 1 and "/" not in others[0] else ""


def is_carried(path: str) -> bool:
    """True if the output of a bake includes the file at `path` (relative, with ``/``)."""
    lower = path.lower()
    return _matches(lower, CARRIED) and not is_duplicate(path) and not lower.endswith(".py")


def is_duplicate(path: str) -> bool:
    """True if the file at `path` holds the weights once more, which would stay unsteered."""
    return _matches(path.lower(), _DUPLICATES) and path.lower() not in REPLACED


def is_of_images(path: str) -> bool:
    """True if the file at `path` belongs to the part of a multimodal model that prepares images."""
    return _matches(path.lower(), _OF_IMAGES)


def is_licence(path: str) -> bool:
    """True if a licence demands the file at `path`."""
    return _matches(path.lower(), _LICENCES)


def is_housekeeping(path: str) -> bool:
    """True if the file or folder (ending in ``/``) at `path` belongs to a tool, not to the model."""
    lower = path.lower()
    return _matches(lower, _HOUSEKEEPING) or _matches(lower.rstrip("/"), _HOUSEKEEPING)


def is_loaded(path: str) -> bool:
    """True if a loader would read a file at `path`, and so load something else than without it."""
    lower = path.lower()
    at_top = "/" not in path and lower.endswith((".json", ".safetensors", ".bin", ".py", ".jinja"))
    return at_top or is_duplicate(path) or (is_carried(path) and not is_licence(path))


def reason_left_out(path: str) -> str:
    """Reason for leaving a file out; empty for a file that is replaced, and for housekeeping."""
    lower = path.lower()
    if lower in REPLACED or _matches(lower, _HOUSEKEEPING):
        return ""
    if is_duplicate(path):
        return "unsteered duplicate of the weights"
    if lower.endswith(".py"):
        return "code of the checkpoint, never run"
    return "not needed to load the model"


def is_ours(path: str) -> bool:
    """True if bakes write files like the one at `path`, so that one of an earlier bake may be removed.

    A licence is not counted: a person may have added it, and it misleads no loader.
    """
    lower = path.lower()
    carried = is_carried(path) and not is_licence(path)
    return carried or lower in (*REPLACED, "adapter_config.json") or lower.endswith(".safetensors")


def is_of_a_model(path: str) -> bool:
    """True if the file at `path` belongs to a model: weights in any form, configs, tokenizers, code."""
    lower = path.lower()
    return is_ours(path) or is_duplicate(path) or lower.endswith((".py", ".json", ".jinja"))


def _matches(path: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)
