"""The part of a persona that its outputs keep, in their record: its words, its voice, and where they stand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from .names import is_inside
from .persona import Persona, PersonaOutput, PersonaReceipt, SamplingDefaults, section_data
from .persona_fields import Section
from .persona_table import FIELDS, OUTPUTS

ContentForm = Literal["text", "parts"]
"""Form in which a chat template takes the content of a message: a text, or a list of parts."""
_WORDS = Section(
    {
        name: FIELDS.fields[name]
        for name in ("name", "description", "license", "targets", "system_prompt", "sampling", "examples", "receipt")
    }
)
"""Fields of a persona that a record keeps as they are."""
_OF_A_RUN = ("model", "link_mode", "private", "create_pr", "commit_message", "format")
"""Options that change no byte of an output, or name a place on the machine that it was made on."""


@dataclass(frozen=True)
class RecordedPersona:
    """The persona that an output was made of; fields as in `emobake.Persona`."""

    name: str = ""
    description: str = ""
    license: str = ""
    targets: tuple[str, ...] = ()
    system_prompt: str = ""
    sampling: SamplingDefaults = field(default_factory=SamplingDefaults)
    examples: tuple[str, ...] = ()
    receipt: PersonaReceipt | None = None
    output: PersonaOutput | None = None
    """The output, without its place; that of a push is the folder that could have been pushed."""
    templates: Mapping[str, ContentForm] = field(default_factory=dict)
    """Chat template that assumes the system prompt -> form of its content. A template is named by its file, or by its
    key in the metadata of a GGUF file; of several in one file, with ``#`` and its own name behind."""

    @classmethod
    def of(cls, persona: Persona, output: PersonaOutput) -> RecordedPersona | None:
        """The part of `persona` that `output` keeps; None if it has no words, so that it describes plain bakes.

        Where the system prompt stands is found when the output is planned.
        """
        if not persona.has_words:
            return None
        options = {name: value for name, value in output.options.items() if name not in _OF_A_RUN}
        kind = output.kind
        if kind == "push":
            kind = "peft" if output.is_adapter else "folder"
        return cls(
            persona.name,
            persona.description,
            persona.license,
            tuple(options.pop("targets", persona.targets)),
            persona.system_prompt,
            persona.sampling,
            persona.examples,
            persona.receipt,
            PersonaOutput(kind, "", options),
        )

    @property
    def has_voice(self) -> bool:
        """True if there is something that stacks may take over: a system prompt, or defaults of sampling."""
        return bool(self.system_prompt or self.sampling.given)

    def to_json(self) -> dict[str, Any]:
        """The persona as JSON data."""
        found: dict[str, Any] = {
            "name": self.name,
            "description": self.description,
            "license": self.license,
            "targets": list(self.targets),
            "system_prompt": self.system_prompt,
            "sampling": section_data(self.sampling),
            "examples": list(self.examples),
            "receipt": None if self.receipt is None else section_data(self.receipt),
            "output": None if self.output is None else {"kind": self.output.kind, **self.output.options},
            "templates": dict(self.templates),
        }
        return {name: value for name, value in found.items() if value}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RecordedPersona:
        """Read a persona from a record.

        Raises:
            InputError, KeyError, TypeError, ValueError: it is none.
        """
        given = dict(data)
        templates, output = dict(given.pop("templates", {})), given.pop("output", None)
        for name, form in templates.items():
            if not is_inside(name) or form not in get_args(ContentForm):
                raise ValueError
        words = _WORDS.read(given, "record:")
        return cls(**words, output=None if output is None else _output(output), templates=templates)


def _output(data: Mapping[str, Any]) -> PersonaOutput:
    options = dict(data)
    kind = options.pop("kind")
    return PersonaOutput(kind, "", Section(OUTPUTS[kind][1]).read(options, "record: output"))
