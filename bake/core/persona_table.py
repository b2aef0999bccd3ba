"""The fields of a persona's file: one table, by which it is read and described, and which has the words of messages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from .limits import MAX_DEVICES
from .outputs import LINK_MODES, OUTTYPES
from .persona import (
    OutputKind,
    Persona,
    PersonaAdapter,
    PersonaBase,
    PersonaOutput,
    PersonaReceipt,
    PersonaStrength,
    SamplingDefaults,
)
from .persona_fields import (
    Choice,
    Field,
    Flag,
    Kind,
    Layers,
    Number,
    Place,
    Section,
    Several,
    Text,
    Weights,
    Whole,
    choices,
    under,
    wrong,
)
from .sites import SITES
from .spelling import did_you_mean
from .stacks import STACKS

SCHEMA_URL = "https://raw.githubusercontent.com/emobake/emobake/main/vectors/persona.schema.json"
"""Address of the schema, for editors."""
_HUB_ID = r"[\w.-]+(/[\w.-]+)?"
_MAX_TOKENS = 1_000_000

_BUDGET = Section(
    {
        "kl": Field(Number(0, 100, above=True), "Budget: mean KL from the base, in nats per token.", required=True),
        "limit": Field(Whole(1, 32), "Prompts for the search; fewer are quicker and rougher."),
    }
)


@dataclass(frozen=True)
class _StrengthKind:
    """A number, ``auto``, or a budget of KL."""

    allowed: str = "a number (the factor for all weights), auto, or a budget such as {kl: 0.3}"

    def read(self, value: Any, where: str) -> PersonaStrength:
        """Read a value; see `Kind.read`."""
        if isinstance(value, Mapping):
            return PersonaStrength(**_BUDGET.read(value, where))
        if value == "auto":
            return PersonaStrength(auto=True)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise wrong(value, where, self.allowed, did_you_mean(value, ["auto"]) if isinstance(value, str) else "")
        return PersonaStrength(Number().read(value, where))

    def schema(self) -> dict[str, Any]:
        """JSON schema; see `Kind.schema`."""
        return {"anyOf": [Number().schema(), {"const": "auto"}, _BUDGET.schema()]}


_TARGETS = Field(Several(choices(tuple(STACKS)), 64), "Stacks that must load the result steered; refuse otherwise.")
_TEXT_ONLY = Field(Flag(), "Of a multimodal base, bake the language model alone.")
_HASH = Field(Flag(), "Record the sha256 of every weight file (reads them all).")
OUTPUTS: Mapping[OutputKind, tuple[Field, Mapping[str, Field]]] = {
    "folder": (
        Field(Place(), "Folder for a checkpoint.", required=True),
        {
            "link_mode": Field(choices(LINK_MODES), "Way of carrying weight files over."),
            "text_only": _TEXT_ONLY,
            "hash_files": _HASH,
            "targets": _TARGETS,
        },
    ),
    "gguf": (
        Field(Place(".gguf"), "GGUF file.", required=True),
        {
            "model": Field(Text("a GGUF file of the base", 4096, pattern=r"(?s).+\.[gG][gG][uU][fF]"),
                           "GGUF file of the base to bake into, instead of converting the base."),
            "outtype": Field(choices(OUTTYPES), "Weight type of llama.cpp's converter."),
            "keep_split": Field(Flag(), "Write a set of files if the GGUF base is a set."),
            "share": Field(Flag(), "Write a set whose second file moods of the GGUF base share."),
            "modelfile": Field(Flag(), "Write an Ollama Modelfile beside it."),
            "text_only": _TEXT_ONLY,
            "hash_files": _HASH,
            "targets": _TARGETS,
        },
    ),
    "peft": (
        Field(Place(), "Folder for a PEFT adapter.", required=True),
        {"each": Field(Flag(), "One adapter per emotion."), "hash_files": _HASH},
    ),
    "push": (
        Field(Text("a Hub repository, owner/name or owner/name@branch", 200, pattern=_HUB_ID + r"(@[\w./-]+)?"),
              "Repository on the Hub.", required=True),
        {
            "format": Field(Choice(("checkpoint", "peft")), "Form of the output."),
            "private": Field(Flag(), "Visibility of a new repository."),
            "create_pr": Field(Flag(), "Open a pull request instead of committing."),
            "commit_message": Field(Text("a message", 500), "Message of the commit."),
            "text_only": _TEXT_ONLY,
            "targets": _TARGETS,
        },
    ),
}  # fmt: skip
"""Kind of output -> the field that names its place, and its options."""


@dataclass(frozen=True)
class _OutputField:
    """An output: its place under the name of its kind, and the options of that kind."""

    allowed: str = f"a place by one of {', '.join(OUTPUTS)}, and options, such as {{folder: joyful}}"

    def read(self, value: Any, where: str) -> PersonaOutput:
        """Read a value; see `Kind.read`."""
        if not isinstance(value, Mapping):
            raise wrong(value, where, self.allowed)
        kinds = [kind for kind in OUTPUTS if kind in value]
        if len(kinds) != 1:
            named = next((name for name in value if isinstance(name, str)), "")
            says = f"names {' and '.join(kinds)}" if kinds else "names no place"
            like = "" if kinds else did_you_mean(named, OUTPUTS)
            raise InputError(f"{where} {says}; it takes exactly one of {', '.join(OUTPUTS)}{like}")
        (kind,) = kinds
        found = _section(kind).read(value, where)
        return PersonaOutput(kind, found.pop(kind), found)

    def schema(self) -> dict[str, Any]:
        """JSON schema; see `Kind.schema`."""
        return {"oneOf": [_section(kind).schema() for kind in OUTPUTS]}


def _section(kind: OutputKind) -> Section:
    place, options = OUTPUTS[kind]
    return Section({kind: place, **options})


def output_options(kind: OutputKind) -> tuple[str, ...]:
    """Names of the options of a kind of output."""
    return tuple(OUTPUTS[kind][1])


@dataclass(frozen=True)
class _As:
    """A section that becomes a value of a class."""

    section: Section
    made: type

    @property
    def allowed(self) -> str:
        """Allowed values; see `Kind.allowed`."""
        return self.section.allowed

    def read(self, value: Any, where: str) -> Any:
        """Read a value; see `Kind.read`."""
        return self.made(**self.section.read(value, where))

    def schema(self) -> dict[str, Any]:
        """JSON schema; see `Kind.schema`."""
        return self.section.schema()


_MODEL = {
    "id": Field(Text("a Hub id, such as owner/name", 200, pattern=_HUB_ID), "Hub id."),
    "revision": Field(Text("a branch, tag or commit", 200), "Branch, tag or commit on the Hub."),
    "path": Field(Text("a path", 4096), "Folder or GGUF file here; relative to the persona's file."),
}
SECTIONS: Mapping[str, tuple[Section, type]] = {
    "base": (Section(_MODEL), PersonaBase),
    "adapter": (
        Section({**_MODEL, "merge": Field(Flag(), "Merge it into the base first (needs PEFT and torch).")}),
        PersonaAdapter,
    ),
    "sampling": (
        Section(
            {
                "temperature": Field(Number(0, 100), "Randomness of the answers; 0 is greedy."),
                "top_p": Field(Number(0, 1, above=True), "Nucleus sampling."),
                "top_k": Field(Whole(1, 1_000_000), "The likeliest tokens that are drawn from."),
                "repetition_penalty": Field(Number(0, 10, above=True), "Above 1: repeated tokens become less likely."),
                "max_new_tokens": Field(Whole(1, _MAX_TOKENS), "Length of an answer at most."),
            }
        ),
        SamplingDefaults,
    ),
    "receipt": (
        Section(
            {
                "strength": Field(Number(), "Strength that was measured."),
                "emotion": Field(Number(), "The emotion in the answers there, in the unit of the scorer."),
                "emotion_of_base": Field(Number(), "The same of the base."),
                "kl": Field(Number(0), "Mean KL from the base there, in nats per token."),
                "collapsed": Field(Number(0, 1), "Share of the answers that collapsed there."),
                "command": Field(Text("a command", 1000), "Command of the measurement."),
                "source": Field(Text("a source", 1000), "Source of figures that others measured."),
                "note": Field(Text("a remark", 2000, lines=True), "What the figures are of."),
            }
        ),
        PersonaReceipt,
    ),
}
"""Field -> its section, and the class that it becomes."""


def _as(name: str) -> Kind:
    return _As(*SECTIONS[name])


FIELDS = Section(
    {
        "name": Field(Text("a name", 96), "Name of the persona, for the model card."),
        "description": Field(Text("a description", 2000, lines=True), "What it is, for the model card."),
        "license": Field(Text("a licence"), "Licence of the persona itself; that of the base holds for its weights."),
        "base": Field(_as("base"), "The model: by its Hub id, or by a path."),
        "adapter": Field(_as("adapter"), "An adapter of the base, which is baked."),
        "vectors": Field(
            Several(Text("a file, a folder, a name or a Hub repository", 4096), 32, alone=True),
            "Vector sets; without this, the set that is published for the model.",
        ),
        "vectors_for": Field(_MODEL["id"].kind, "Use the set published for this model, e.g. for a fine-tune of it."),
        "site": Field(choices(SITES), "Where the vectors act, for a file that does not say it."),
        "mix": Field(Weights(), "Weights by emotion.", required=True),
        "layers": Field(Layers(), "Layers to steer; without this, all."),
        "strength": Field(_StrengthKind(), "Factor for all weights, auto, or a budget of KL."),
        "targets": _TARGETS,
        "tensor_parallel": Field(Whole(1, MAX_DEVICES), "Devices that shall be able to share added heads."),
        "force": Field(Flag(), "Bake even if the model is destroyed, or nothing is steered."),
        "system_prompt": Field(
            Text("a system prompt", 20_000, lines=True), "Default system prompt, for conversations without one."
        ),
        "sampling": Field(_as("sampling"), "Defaults for drawing answers."),
        "examples": Field(
            Several(Text("a question", 1000), 10), "Example questions, for the model card and the Hub's page."
        ),
        "outputs": Field(Several(_OutputField(), 32), "Everything that is written.", required=True),
        "receipt": Field(_as("receipt"), "Figures of a measurement."),
    }
)
"""All fields of a persona."""


def persona_of(data: object, file: str) -> Persona:
    """Read a persona from the data of a file, which `file` names in messages.

    Raises:
        InputError: a field is unknown, missing, of a wrong type or out of range, or two contradict each other.
    """
    where = f"{file}:"
    persona = Persona(**FIELDS.read(data, where))
    for problem in _contradictions(persona, where):
        raise InputError(problem)
    return persona


def persona_schema() -> dict[str, Any]:
    """JSON schema of a persona's file."""
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$id": SCHEMA_URL,
        "title": "emobake persona",
    } | FIELDS.schema()


def _contradictions(persona: Persona, where: str) -> Iterator[str]:
    """Sentences on fields that do not go together."""
    for name in ("base", "adapter"):
        model: PersonaBase | None = getattr(persona, name)
        if model is not None and not (model.id or model.path):
            yield f"{under(where, name)} names no model; give its id or its path"
        if model is not None and model.revision and (model.path or not model.id):
            yield f"{under(where, name)}.revision {model.revision} goes with an id, and without a path"
    if persona.vectors and persona.vectors_for:
        yield f"{where} vectors and vectors_for are two ways to name a set; give one"
    sampling = persona.sampling
    if sampling.temperature == 0 and (sampling.top_p is not None or sampling.top_k is not None):
        yield f"{where} sampling.temperature is 0, which is greedy; leave top_p and top_k out, or raise it"
    yield from _of_outputs(persona, where)


def _of_outputs(persona: Persona, where: str) -> Iterator[str]:
    """Sentences on outputs that do not go together, or with the rest."""
    base_is_gguf = persona.base is not None and persona.base.path.lower().endswith(".gguf")
    yield from _of_places(persona, where)
    for number, output in enumerate(persona.outputs):
        at = f"{where} outputs[{number}]"
        if output.kind == "gguf":
            yield from _of_gguf(output, persona.system_prompt, at, base_is_gguf=base_is_gguf)
        elif base_is_gguf:
            yield f"{at}.{output.kind}: base.path is a GGUF file, of which only gguf outputs are made"
    if persona.strength.kl is not None and persona.adapter is not None:
        yield f"{where} strength.kl is searched with the base alone, without the adapter; give strength a number"
    if persona.strength.kl is not None and base_is_gguf:
        yield f"{where} strength.kl is searched with a checkpoint, and base.path is a GGUF file; give strength a number"


def _of_places(persona: Persona, where: str) -> Iterator[str]:
    """Sentences on outputs of which one is in the place of another; case is ignored, as some disks do."""
    places: dict[str, int] = {}
    for number, output in enumerate(persona.outputs):
        at = f"{where} outputs[{number}]"
        parts = output.place.lower().split("/") if output.kind != "push" else [f"hub:{output.place.lower()}"]
        for end in range(1, len(parts) + 1):
            other = places.get("/".join(parts[:end]))
            if other is not None:
                yield f"{at}.{output.kind} {output.place} is or lies in that of outputs[{other}]; give it another name"
        inside = next((n for place, n in places.items() if place.startswith("/".join(parts) + "/")), None)
        if inside is not None:
            yield f"{at}.{output.kind} {output.place} contains that of outputs[{inside}]; give it another name"
        places["/".join(parts)] = number


def _of_gguf(output: PersonaOutput, prompt: str, at: str, *, base_is_gguf: bool) -> Iterator[str]:
    """Sentences on options of a GGUF output that do not go together, or with its base."""
    options = output.options
    of_gguf = base_is_gguf or "model" in options
    if of_gguf and "outtype" in options:
        named = "model" if "model" in options else "base.path"
        yield f"{at}.outtype goes with a checkpoint, and {named} is a GGUF file"
    for name in ("keep_split", "share"):
        if options.get(name) and not of_gguf:
            yield f"{at}.{name} goes with a GGUF file as base.path or model"
    if options.get("keep_split") and options.get("share"):
        yield f"{at}: keep_split and share both say which set is written; give one"
    if options.get("modelfile") and ('"""' in prompt or prompt.endswith('"')):
        yield f'{at}.modelfile: a Modelfile cannot hold a system_prompt with """ in it, or with a quote at its end'
