"""The voice of a persona in a GGUF file: chat templates that assume its system prompt, and ``general.sampling``.

llama.cpp renders the file's Jinja template (llama-server by default; with ``--no-jinja`` it takes a template of its own
and no system prompt), and takes defaults of sampling from ``general.sampling`` unless the command line says otherwise;
there is no key for the length of an answer. Ollama takes both from a Modelfile.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace

from ...core.plan import ConfigChange
from ...core.recorded_persona import RecordedPersona
from ..system_prompt import assuming, find_forms, without_assumed
from .header import Field, GgufHeader, text_field

TEMPLATE = "tokenizer.chat_template"
SAMPLING = {
    "temperature": "general.sampling.temp",
    "top_p": "general.sampling.top_p",
    "top_k": "general.sampling.top_k",
    "repetition_penalty": "general.sampling.penalty_repeat",
}
"""Default of sampling -> key of the metadata."""
_INT32, _FLOAT32 = 5, 6
_TOKENS = ("bos", "eos", "eot", "unk", "sep", "pad", "cls", "mask")


def find_templates(header: GgufHeader, persona: RecordedPersona) -> tuple[RecordedPersona, tuple[str, ...]]:
    """Find the chat templates of a file that have a place for the system prompt of `persona`.

    Returns the persona with them, and a sentence on those that have none.

    Raises:
        MissingPackageError: the jinja2 package is not installed.
    """
    if not persona.system_prompt:
        return persona, ()
    tokens = {f"{name}_token": header.special_token(name) for name in _TOKENS}
    found, notes = find_forms(templates_of(header), tokens, persona.system_prompt)
    return replace(persona, templates=found), notes


def templates_of(header: GgufHeader) -> dict[str, str]:
    """Key -> source of each chat template: the one for talk, and those with names of their own."""
    keys = [key for key in header.by_key if key == TEMPLATE or key.startswith(f"{TEMPLATE}.")]
    return {key: header.text(key) for key in keys if header.text(key)}


def voice_fields(header: GgufHeader, persona: RecordedPersona | None) -> dict[str, Field]:
    """Key -> the entry of the metadata that the voice of `persona` changes or adds."""
    if persona is None:
        return {}
    sources = templates_of(header)
    fields = {
        key: text_field(key, assuming(sources[key], persona.system_prompt, form))
        for key, form in persona.templates.items()
        if key in sources
    }
    for name, value in persona.sampling.given.items():
        if key := SAMPLING.get(name, ""):
            whole = name == "top_k"
            fields[key] = Field(key, _INT32 if whole else _FLOAT32, struct.pack("<i" if whole else "<f", value))
    return fields


def voice_changes(header: GgufHeader, persona: RecordedPersona | None) -> tuple[ConfigChange, ...]:
    """The changes that `voice_fields` makes, for a summary."""
    if persona is None:
        return ()
    changes = [ConfigChange(f"{key} system prompt", None, persona.system_prompt) for key in persona.templates]
    changes += [
        ConfigChange(key, header.number(key), persona.sampling.given[name])
        for name, key in SAMPLING.items()
        if name in persona.sampling.given
    ]
    return tuple(changes)


def voice_warnings(persona: RecordedPersona | None) -> Iterator[str]:
    """Sentences on what llama.cpp does not take over."""
    if persona is not None and persona.sampling.max_new_tokens is not None:
        yield (
            "a GGUF file has no place for max_new_tokens, so llama.cpp ignores the persona's; a Modelfile has one "
            "(`modelfile`), for Ollama"
        )


def without_voice(header: GgufHeader, persona: RecordedPersona | None) -> GgufHeader:
    """The header with the chat templates that it had before `voice_fields` changed them."""
    if persona is None or not persona.templates:
        return header
    own = {
        key: text_field(key, without_assumed(header.text(key), persona.system_prompt, form))
        for key, form in persona.templates.items()
        if key in header.by_key
    }
    return replace(header, fields=tuple(own.get(field.key, field) for field in header.fields))
