"""Personas as plain values: a recipe of a bake with everything that belongs to it.

`emobake.core.persona_table` says which fields a file has, reads them and describes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

OutputKind = Literal["folder", "gguf", "peft", "push"]


@dataclass(frozen=True)
class PersonaBase:
    """The model that a persona steers, or an adapter: on the Hub, or here."""

    id: str = ""
    """Hub id; of a local model the one to name as the base."""
    revision: str = ""
    path: str = ""
    """Folder of a checkpoint, or a GGUF file."""


@dataclass(frozen=True)
class PersonaAdapter(PersonaBase):
    """The adapter that is baked, or on whose base a bake is made."""

    merge: bool = False
    """Merge it into the base first."""


@dataclass(frozen=True)
class PersonaStrength:
    """The factor for all weights, or the way to find it."""

    scale: float = 1.0
    auto: bool = False
    """Take the strength that was measured for the set."""
    kl: float | None = None
    """Budget in nats per token, for which the factor is searched."""
    limit: int | None = None
    """Number of prompts for that search; None: all."""

    @property
    def data(self) -> Any:
        """The strength as a persona's file says it."""
        if self.auto:
            return "auto"
        if self.kl is None:
            return self.scale
        return {"kl": self.kl} | ({} if self.limit is None else {"limit": self.limit})


@dataclass(frozen=True)
class SamplingDefaults:
    """The way in which answers are drawn unless a request says otherwise; None: as the base."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    max_new_tokens: int | None = None

    @property
    def given(self) -> dict[str, float | int]:
        """The ones that are set, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class PersonaReceipt:
    """The figures of a measurement of the steering; None and empty where nothing was measured."""

    strength: float | None = None
    emotion: float | None = None
    """The emotion in the answers, in the unit of the command's scorer."""
    emotion_of_base: float | None = None
    kl: float | None = None
    collapsed: float | None = None
    command: str = ""
    source: str = ""
    note: str = ""


@dataclass(frozen=True)
class PersonaOutput:
    """One output."""

    kind: OutputKind
    place: str
    """Path relative to the folder of the outputs, or the repository of a push."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of a bake."""

    @property
    def data(self) -> dict[str, Any]:
        """The output as a persona's file says it."""
        return {self.kind: self.place, **{k: list(v) if isinstance(v, tuple) else v for k, v in self.options.items()}}

    @property
    def is_adapter(self) -> bool:
        """True if an adapter is written."""
        return self.kind == "peft" or self.options.get("format") == "peft"


@dataclass(frozen=True)
class Persona:
    """A recipe: a base, vectors, weights, the outputs, and the voice and the words that go along."""

    mix: tuple[tuple[str, float], ...]
    outputs: tuple[PersonaOutput, ...]
    name: str = ""
    description: str = ""
    license: str = ""
    base: PersonaBase | None = None
    """None: the user names it when the persona is baked."""
    adapter: PersonaAdapter | None = None
    vectors: tuple[str, ...] = ()
    """Empty: the set of the model."""
    vectors_for: str = ""
    site: str = ""
    layers: str | None = None
    strength: PersonaStrength = field(default_factory=PersonaStrength)
    targets: tuple[str, ...] = ()
    tensor_parallel: int = 1
    force: bool = False
    system_prompt: str = ""
    sampling: SamplingDefaults = field(default_factory=SamplingDefaults)
    examples: tuple[str, ...] = ()
    receipt: PersonaReceipt | None = None
    folder: str = field(default="", compare=False)
    """Absolute path of the folder of its file, to which paths are relative; empty if it is shipped."""

    @property
    def label(self) -> str:
        """Its name in messages."""
        return self.name or "the persona"

    @property
    def has_words(self) -> bool:
        """True if it says more than which bakes are made."""
        said = (self.name, self.description, self.license, self.system_prompt, self.sampling.given, self.examples)
        return any(said) or self.receipt is not None

    @property
    def data(self) -> dict[str, Any]:
        """The persona as its file says it, in the order of `emobake.core.persona_table.FIELDS`."""
        found = {
            "name": self.name,
            "description": self.description,
            "license": self.license,
            "base": self.base,
            "adapter": self.adapter,
            "vectors": list(self.vectors),
            "vectors_for": self.vectors_for,
            "site": self.site,
            "mix": dict(self.mix),
            "layers": self.layers,
            "strength": self.strength.data,
            "targets": list(self.targets),
            "tensor_parallel": None if self.tensor_parallel == 1 else self.tensor_parallel,
            "force": self.force,
            "system_prompt": self.system_prompt,
            "sampling": self.sampling,
            "examples": list(self.examples),
            "outputs": [one.data for one in self.outputs],
            "receipt": self.receipt,
        }
        plain = {
            name: section_data(value) if isinstance(value, PersonaBase | SamplingDefaults | PersonaReceipt) else value
            for name, value in found.items()
        }
        return {name: value for name, value in plain.items() if _is_given(value)}


def section_data(section: PersonaBase | SamplingDefaults | PersonaReceipt) -> dict[str, Any]:
    """A section as a persona's file says it."""
    return {name: value for name, value in asdict(section).items() if _is_given(value)}


def _is_given(value: Any) -> bool:
    """True unless a value says the same as a field that is left out; 0 does not."""
    return value is not None and value is not False and value not in ("", [], {})
