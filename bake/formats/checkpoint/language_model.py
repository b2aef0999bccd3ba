"""The language model of a multimodal checkpoint on its own: renamed tensors, and a config of the plain class.

Some wrappers build a text model of their own, which has no bias (Qwen2-VL); and some stacks load only the language
model. Nothing is computed: the tensors' bytes are the wrapper's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...core.strict_json import parse_json_object
from ...errors import BrokenFileError, InputError, UnsupportedModelError
from .families import families
from .model import Checkpoint
from .wrappers import TEXT, Text, Wrapper, language_config, wrapper_of

_OUTER = ("torch_dtype", "dtype", "quantization_config", "bos_token_id", "eos_token_id", "pad_token_id")
"""Fields that the language model takes from the wrapper where it has none of its own."""
_IMAGES = (
    "vision_config",
    "image_token_id",
    "video_token_id",
    "vision_start_token_id",
    "vision_end_token_id",
    "vision_token_id",
)
"""Fields of a config that has those of the language model beside them."""
_TEMPLATE, _PROCESSOR_TEMPLATE = "chat_template.jinja", "chat_template.json"
_HEADS = ("lm_head.", "language_model.lm_head.")


def language_model_config(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """config.json of the language model alone, but for ``tie_word_embeddings``, which the tensors decide.

    Raises:
        InputError: not a multimodal checkpoint; UnsupportedModelError: no plain class is this language model.
    """
    _, text = _find(config, name)
    plain = families()[text.like]
    fields = dict(language_config(config))
    for key in _OUTER:
        if fields.get(key) is None and config.get(key) is not None:
            fields[key] = config[key]
    for key in _IMAGES:
        fields.pop(key, None)
    if text.like != text.model_type:
        _drop_mrope(fields)
    return fields | dict(text.alone) | {"model_type": plain.model_type, "architectures": list(plain.classes[:1])}


def language_model(checkpoint: Checkpoint) -> Checkpoint:
    """The language model of a multimodal `checkpoint`: its tensors under plain names, in the same files.

    Raises:
        InputError: not a multimodal checkpoint; its subclasses for one whose language model has no plain class, or
            whose files do not hold it.
    """
    wrapper, _ = _find(checkpoint.config, checkpoint.name)
    config = language_model_config(checkpoint.config, checkpoint.name)
    prefix = next((p for p in wrapper.prefixes if any(n.startswith(f"{p}layers.") for n in checkpoint.tensors)), None)
    if prefix is None:
        raise BrokenFileError(
            f"{checkpoint.name}: no tensor {wrapper.prefixes[0]}layers.0; its language model is missing"
        )
    names = {name: f"model.{name.removeprefix(prefix)}" for name in checkpoint.tensors if name.startswith(prefix)}
    heads = {
        name: f"lm_head.{name.removeprefix(h)}" for h in _HEADS for name in checkpoint.tensors if name.startswith(h)
    }
    # The config may say otherwise in one of its two places; what is on disk decides, as in transformers 5.
    config["tie_word_embeddings"] = not heads
    names |= heads
    tensors = {new: replace(checkpoint.tensors[old], name=new) for old, new in names.items()}
    files = {tensor.file for tensor in tensors.values()}
    return replace(
        checkpoint,
        config=config,
        tensors=tensors,
        weights=tuple(weight for weight in checkpoint.weights if weight.name in files),
        text_only=True,
        new_files=_new_files(checkpoint),
    )


def _new_files(checkpoint: Checkpoint) -> dict[str, bytes]:
    """The processor's chat template as the tokenizer's, where nothing else holds one."""
    files = checkpoint.side_files
    if _PROCESSOR_TEMPLATE not in files or _TEMPLATE in files or checkpoint.tokenizer_config.get("chat_template"):
        return {}
    file = f"{checkpoint.name}/{_PROCESSOR_TEMPLATE}"
    template = parse_json_object(checkpoint.read_side(_PROCESSOR_TEMPLATE), file).get("chat_template")
    if not isinstance(template, str):
        return {}
    try:
        return {_TEMPLATE: template.encode()}
    except UnicodeEncodeError:
        raise BrokenFileError(f"{file}: its chat_template is not valid text") from None


def _find(config: Mapping[str, Any], name: str) -> tuple[Wrapper, Text]:
    wrapper = wrapper_of(config)
    if wrapper is None:
        if isinstance(config.get(TEXT), Mapping):
            raise UnsupportedModelError(
                f"{name}: {config.get('model_type')} is not in the table of multimodal checkpoints"
            )
        raise InputError(f"{name}: is not a multimodal checkpoint; leave `text_only` out")
    text = wrapper.text_of(config)
    if text is None or text.like not in families():
        kind = config.get("model_type") if text is None else text.model_type
        raise UnsupportedModelError(f"{name}: no plain class is known for the language model of {kind}")
    return wrapper, text


def _drop_mrope(fields: dict[str, Any]) -> None:
    """Take positions of images out of the rotary embedding: on text alone, all its sections have the same position."""
    for key in ("rope_scaling", "rope_parameters"):
        rope = fields.get(key)
        if isinstance(rope, Mapping):
            kept = {name: value for name, value in rope.items() if name not in ("mrope_section", "mrope_interleaved")}
            for kind in ("type", "rope_type"):
                if kept.get(kind) == "mrope":
                    kept[kind] = "default"
            only_default = (
                key == "rope_scaling"
                and set(kept) <= {"type", "rope_type"}
                and all(value == "default" for value in kept.values())
            )
            fields[key] = None if only_default else kept
