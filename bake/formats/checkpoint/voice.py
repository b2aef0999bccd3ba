"""The voice of a persona in a checkpoint: chat templates that assume its system prompt, and generation_config.json.

transformers and vLLM take defaults of sampling from generation_config.json (read in transformers 5.23.0 and vLLM
0.32.0), mlx-lm 0.32.2 the ids of end tokens alone. All three render the chat template, in which a default system prompt
is a few lines of the template itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from ...core.names import is_inside
from ...core.persona import SamplingDefaults
from ...core.plan import BakePlan, ConfigChange
from ...core.recorded_persona import RecordedPersona
from ...core.strict_json import json_bytes, parse_json_object
from ...errors import BrokenFileError
from ..system_prompt import assuming, find_forms
from .model import Checkpoint

GENERATION_CONFIG = "generation_config.json"
_TOKENIZER_CONFIG, _TOKENS = "tokenizer_config.json", "special_tokens_map.json"
_PROCESSOR = "chat_template.json"
_JINJA = "chat_template.jinja"
_END_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
_OF_DRAWING = ("temperature", "top_p", "top_k", "min_p", "typical_p")
"""Fields of generation_config.json that greedy decoding has no use for."""


def find_templates(checkpoint: Checkpoint, persona: RecordedPersona) -> tuple[RecordedPersona, tuple[str, ...]]:
    """Find the chat templates of a checkpoint that have a place for the system prompt of `persona`.

    Returns the persona with them, and a sentence on those that have none.

    Raises:
        MissingPackageError: the jinja2 package is not installed. BrokenFileError: a file of the base is broken.
    """
    if not persona.system_prompt:
        return persona, ()
    found, notes = find_forms(templates_of(checkpoint), _tokens(checkpoint), persona.system_prompt)
    return replace(persona, templates=found), notes


def templates_of(checkpoint: Checkpoint) -> dict[str, str]:
    """Name -> source of each chat template that loaders may take.

    Raises:
        BrokenFileError: a file is not what its name says.
    """
    found: dict[str, str] = {}
    for name in sorted({*checkpoint.side_files, *checkpoint.new_files}):
        if name == _JINJA or (name.startswith("additional_chat_templates/") and name.endswith(".jinja")):
            content = checkpoint.new_files.get(name)
            try:
                found[name] = (checkpoint.read_side(name) if content is None else content).decode()
            except UnicodeDecodeError:
                raise BrokenFileError(f"{checkpoint.name}/{name}: is not valid text; fetch it again") from None
        elif name == _PROCESSOR and not checkpoint.text_only:
            template = _json(checkpoint, name).get("chat_template")
            found |= {name: template} if isinstance(template, str) else {}
    told = checkpoint.tokenizer_config.get("chat_template")
    if isinstance(told, str):
        found[_TOKENIZER_CONFIG] = told
    for one in told if isinstance(told, list) else ():
        given = one if isinstance(one, Mapping) else {}
        place = f"{_TOKENIZER_CONFIG}#{given.get('name')}"
        if isinstance(given.get("template"), str) and is_inside(place):
            found[place] = given["template"]
    return found


def with_voice(checkpoint: Checkpoint, persona: RecordedPersona | None, config: Mapping[str, Any]) -> Checkpoint:
    """The checkpoint with the side files that the voice of `persona` changes; `config` is config.json of the output.

    Raises:
        BrokenFileError: a file of the base is broken.
    """
    if persona is None or not persona.has_voice:
        return checkpoint
    contents: dict[str, bytes] = {}
    tokenizer = dict(checkpoint.tokenizer_config)
    sources = templates_of(checkpoint)
    for place, form in persona.templates.items():
        name, _, own = place.partition("#")
        if place not in sources:
            continue  # Of a record that tells of another base; the comparison of files will say so.
        template = assuming(sources[place], persona.system_prompt, form)
        if name == _PROCESSOR:
            contents[name] = json_bytes({**_json(checkpoint, name), "chat_template": template})
        elif name != _TOKENIZER_CONFIG:
            contents[name] = template.encode()
        elif own:
            several = tokenizer["chat_template"]
            tokenizer["chat_template"] = [
                {**one, "template": template} if isinstance(one, Mapping) and one.get("name") == own else one
                for one in several
            ]
        else:
            tokenizer["chat_template"] = template
    if tokenizer != checkpoint.tokenizer_config:
        contents[_TOKENIZER_CONFIG] = json_bytes(tokenizer)
    if persona.sampling.given:
        contents[GENERATION_CONFIG] = json_bytes(_generation(checkpoint, persona.sampling, config))
    own_files = {name: content for name, content in contents.items() if name in checkpoint.side_files}
    new = {name: content for name, content in contents.items() if name not in own_files}
    return replace(
        checkpoint,
        tokenizer_config=tokenizer,
        changed_files={**checkpoint.changed_files, **own_files},
        new_files={**checkpoint.new_files, **new},
    )


def voice_changes(
    checkpoint: Checkpoint, persona: RecordedPersona | None, config: Mapping[str, Any]
) -> tuple[ConfigChange, ...]:
    """The changes that `with_voice` makes, for a summary; arguments as there."""
    if persona is None:
        return ()
    changes = [ConfigChange(f"{name} system prompt", None, persona.system_prompt) for name in persona.templates]
    if persona.sampling.given:
        old = _json(checkpoint, GENERATION_CONFIG)
        new = _generation(checkpoint, persona.sampling, config)
        fields = dict.fromkeys(("do_sample", *persona.sampling.given, *_OF_DRAWING))
        changes += [
            ConfigChange(f"{GENERATION_CONFIG} {name}", old.get(name), new.get(name))
            for name in fields
            if old.get(name) != new.get(name)
        ]
    return tuple(changes)


def voice_warnings(persona: RecordedPersona | None, plan: BakePlan) -> Iterator[str]:
    """Sentences on what stacks of a baked checkpoint do not take over."""
    serves = "mlx" in plan.shown and plan.shown["mlx"].status in ("steered", "option")
    if persona is not None and persona.sampling.given and serves:
        yield "mlx-lm takes no sampling defaults from a model, so the persona's are ignored there; give them each time"


def _generation(checkpoint: Checkpoint, sampling: SamplingDefaults, config: Mapping[str, Any]) -> dict[str, Any]:
    """generation_config.json: the base's with the defaults."""
    fields = _json(checkpoint, GENERATION_CONFIG)
    if not fields:
        # Without the file, transformers takes the ids of end tokens from config.json; with one, from there alone.
        places = (checkpoint.language_config, config)
        fields = {key: each[key] for key in _END_TOKENS for each in places if each.get(key) is not None}
    given = sampling.given
    if sampling.temperature == 0:
        # vLLM looks at the temperature, transformers at `do_sample`.
        fields = {name: value for name, value in fields.items() if name not in _OF_DRAWING}
        return fields | given | {"do_sample": False}
    draws = {"do_sample": True} if {"temperature", "top_p", "top_k"} & given.keys() else {}
    return fields | draws | given


def _json(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    """A JSON file of the base; empty without it."""
    if name not in checkpoint.side_files:
        return {}
    return parse_json_object(checkpoint.read_side(name), f"{checkpoint.name}/{name}")


def _tokens(checkpoint: Checkpoint) -> dict[str, Any]:
    """The special tokens, as variables of a chat template."""
    told = {**_json(checkpoint, _TOKENS), **checkpoint.tokenizer_config}
    found = {}
    for name, value in told.items():
        text = value.get("content") if isinstance(value, Mapping) else value
        if name.endswith("_token") and isinstance(text, str):
            found[name] = text
    return found
