"""Which files of a checkpoint go along with the steered weights, and why the others do not."""

from __future__ import annotations

from fnmatch import fnmatchcase

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

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
    "preprocessor_config.json",
    "processor_config.json",
    *_LICENCES,
)
"""Patterns over lower-case paths. What a loader needs beside config and weights, and what a licence asks for."""

REPLACED = ("config.json", INDEX, "readme.md", "emobake.json")
"""Written anew by the bake."""

_DUPLICATES = (
    "*.bin", "*.pth", "*.pt", "*.ckpt", "*.gguf", "*.ggml", "*.h5", "*.msgpack", "*.ot", "*.onnx", "*.onnx_data",
    "*.tflite", "*.mlmodel", "*.npz", "*.safetensors", "*.bin.index.json", "*.safetensors.index.json",
    "consolidated*", "original/*", "onnx/*", "openvino/*", "coreml/*", "flax_*", "tf_*", "rust_*", "params.json",
)  # fmt: skip
_HOUSEKEEPING = (".git*", ".cache/*", ".ds_store", "__pycache__/*")


def is_carried(path: str) -> bool:
    """Whether the file at `path` (relative, with ``/``) belongs into a steered checkpoint."""
    lower = path.lower()
    return _matches(lower, CARRIED) and not _matches(lower, _DUPLICATES) and not lower.endswith(".py")


def is_licence(path: str) -> bool:
    """Whether the file at `path` is there because of a licence."""
    return _matches(path.lower(), _LICENCES)


def reason_left_out(path: str) -> str:
    """Why a file does not go along; empty for files that are replaced or are nobody's business."""
    lower = path.lower()
    if lower in REPLACED or _matches(lower, _HOUSEKEEPING):
        return ""
    if _matches(lower, _DUPLICATES):
        return "unsteered duplicate of the weights"
    if lower.endswith(".py"):
        return "code of the checkpoint, never run"
    return "not needed to load the model"


def is_ours(path: str) -> bool:
    """Whether the file at `path` is of a kind that a bake writes, so that one from an earlier bake may be removed.

    Not so a licence: it may well be somebody's addition, and misleads no loader.
    """
    lower = path.lower()
    carried = is_carried(path) and not is_licence(path)
    return carried or lower in (*REPLACED, "adapter_config.json") or lower.endswith(".safetensors")


def is_of_a_model(path: str) -> bool:
    """Whether the file at `path` belongs to a model: weights in any form, configs, tokenizers, code."""
    lower = path.lower()
    return is_ours(path) or _matches(lower, _DUPLICATES) or lower.endswith((".py", ".json", ".jinja"))


def _matches(path: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)
