"""Kinds of fields in a persona: each reads a value that may be of any type, and describes itself as JSON schema.

One table of them (`emobake.core.persona_table`) is the parser, the words of its messages, and the schema for editors.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..errors import InputError
from .names import EMOTION_RULE, emotion_name, is_emotion_name, is_inside, is_plain
from .spelling import did_you_mean
from .steering import parse_layers
from .text import one_line

_SHOWN = 60
MAX_WEIGHT = 1e6
"""Weight beyond which no field of a persona goes; what destroys a model is far below."""


class Kind(Protocol):
    """A kind of value."""

    @property
    def allowed(self) -> str:
        """The values that it takes, after "it takes"."""

    def read(self, value: Any, where: str) -> Any:
        """The value as a persona holds it; `where` names file and field.

        Raises:
            InputError: another value; the line names the field, the value and what is allowed.
        """

    def schema(self) -> dict[str, Any]:
        """JSON schema of the value."""


@dataclass(frozen=True)
class Field:
    """A field of a section."""

    kind: Kind
    help: str
    """A sentence for editors."""
    required: bool = False


@dataclass(frozen=True)
class Text:
    """A text, without spaces around it."""

    what: str = "a text"
    longest: int = 100
    lines: bool = False
    """True if it may have several lines."""
    pattern: str = ""

    @property
    def allowed(self) -> str:
        """Allowed values; see `Kind.allowed`."""
        lines = "" if self.lines else "one line of "
        return f"{self.what} ({lines}at most {self.longest:,} characters)"

    def read(self, value: Any, where: str) -> str:
        """Read a value; see `Kind.read`."""
        if not isinstance(value, str):
            quoted = "" if isinstance(value, Mapping | list) else "; put it in quotes if it is meant as a text"
            raise wrong(value, where, self.allowed, quoted)
        text = value.strip()
        plain = "".join(text.split("\n")).replace("\t", " ") if self.lines else text
        fits = bool(text) and len(text) <= self.longest and is_plain(plain) and _is_encodable(text)
        if not fits or (self.pattern and not re.fullmatch(self.pattern, text, re.ASCII)):
            raise wrong(value, where, self.allowed)
        return text

    def schema(self) -> dict[str, Any]:
        """JSON schema; see `Kind.schema`."""
        found: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": self.longest}
        return found | ({"pattern": f"^({self.pattern})$"} if self.pattern else {})


@dataclass(frozen=True)
class Place:
    """A path below the folder of the outputs."""

    suffix: str = ""
    """End of the name; empty: any, but for ``.gguf``."""

    @property
    def allowed(self) -> str:
        """Allowed values; see `Kind.allowed`."""
        name = f"a name that ends in {self.suffix}" if self.suffix else "a name"
        return f"{name}, within the folder of the outputs: no absolute path, no '..'"

    def read(self, value: Any, where: str) -> str:
        """Read a value; see `Kind.read`."""
        text = value.removeprefix("./").rstrip("/") if isinstance(value, str) else ""
        is_file = text.lower().endswith(".gguf")
        if not is_inside(text) or is_file != bool(self.suffix) or len(text.encode()) > 200 or text.startswith("~"):
            raise wrong(value, where, self.allowed)
        return text

    def schema(self) -> dict[str, Any]:
        """JSON schema; see `Kind.schema`."""
        return {"type": "string", "minLength": 1} | ({"pattern": r"\.[gG][gG][uU][fF]$"} if self.suffix else {})


@dataclass(frozen=True)
class Number:
    """A finite number."""

    low: float = -MAX_WEIGHT
    high: float = MAX_WEIGHT
    above: bool = False
    """True if `low` itself is not allowed."""

    @property
    def allowed(self) -> str:
        """Allowed values; see `Kind.allowed`."""
        first = f"above {self.low:g}," if self.above else f"from {self.low:g}"
        return f"a number {first} {'at most' if self.above else 'to'} {self.high:g}"

    def read(self, value: Any, where: str) -> float:
        """Read a value; see `Kind.read`."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            unquoted = "; write it without quotes, such as 1.0" if isinstance(value, str) else ""
            raise wrong(value, where, self.allowed, unquoted)
        # Compared before it becomes a float, which has no place for an int of hundreds of digits.
        if not self.low <= value <= self.high or (self.above and value == self.low):
            raise wrong(value, where, self.allowed)
        return float(value)

    def schema(self) -> dict[str, Any]:
        """JSON schema; see `Kind.schema`."""
        return {"type": "number", "exclusiveMinimum" if self.above else "minimum": self.low, "maximum": self.high}


@dataclass(frozen=True)
class Whole:
    """A whole number."""

    low: int
    high: int

    @property
    def allowed(self) -> str:
        """Allowed values; see `Kind.allowed`."""
        return f"a whole number from {self.low} to {self.high}"

    def read(self, value: Any, where: str) -> int:
        """Read a value; see `Kind.read`."""
        if type(value) is not int or not self.low <= value <= self.high:
            raise wrong(value, where, self.allowed)
        return value

    def schema(self) -> dict[str, Any]:
        """JSON schema; see `Kind.schema`."""
        return {"type": "integer", "minimum": self.low, "maximum": self.high}


@dataclass(frozen=True)
class Flag:
    """True or false."""

    allowed: str = "true or false"

    def read(self, value: Any, where: str) -> bool:
        """Read a value; see `Kind.read`."""
        if not isinstance(value, bool):
            raise wrong(value, where, self.allowed)
        return value

    def schema(self) -> dict[str, Any]:
        """JSON schema; see `Kind.schema`."""
        return {"type": "boolean"}


@dataclass(frozen=True)
class Choice:
    """One of several words."""

    words: tuple[str, ...]

    @property
    def allowed(self) -> str:
        """Allowed values; see `Kind.allowed`."""
        return f"one of {', '.join(self.words)}"

    def read(self, value: Any, where: str) -> str:
        """Read a value; see `Kind.read`."""
        if not isinstance(value, str) or value not in self.words:
            raise wrong(value, where, self.allowed, did_you_mean(value, self.words) if isinstance(value, str) else "")
        return value

    def schema(self) -> dict[str, Any]:
        """JSON schema; see `Kind.schema`."""
        return {"enum": list(self.words)}


@dataclass(frozen=True)
class Layers:
    """A list of layers; a single number is one, too."""

    allowed: str = "layers that count from 0, such as 8-27 or 0,4-6"

    def read(self, value: Any, where: str) -> str:
        """Read a value; see `Kind.read`."""
        text = str(value) if type(value) is int and 0 <= value < 10_000 else value
        try:
            if not isinstance(text, str) or len(text) > 5000:
                raise InputError("no list")
            parse_layers(text)
        except InputError:
            raise wrong(value, where, self.allowed) from None
        return text

    def schema(self) -> dict[str, Any]:
        """JSON schema; see `Kind.schema`."""
        return {
            "type": ["string", "integer"],
            "pattern": r"^\s*\d{1,4}\s*(-\s*\d{1,4}\s*)?(,\s*\d{1,4}\s*(-\s*\d{1,4}\s*)?)*$",
        }


@dataclass(frozen=True)
class Weights:
    """Weights by the names of emotions, in their order."""

    allowed: str = "weights by emotion, such as {joy: 1, anger: -0.5}"

    def read(self, value: Any, where: str) -> tuple[tuple[str, float], ...]:
        """Read a value; see `Kind.read`."""
        if not isinstance(value, Mapping) or not value:
            raise wrong(value, where, self.allowed)
        found: dict[str, float] = {}
        for name, weight in value.items():
            emotion = emotion_name(name) if isinstance(name, str) else ""
            if not is_emotion_name(emotion):
                raise InputError(f"{where} has {shown(name)}, which cannot be the name of an emotion; {EMOTION_RULE}")
            if emotion in found:
                raise InputError(f"{where} has the emotion {emotion!r} twice; give it one weight")
            found[emotion] = Number().read(weight, f"{where}.{emotion}")
        return tuple(found.items())

    def schema(self) -> dict[str, Any]:
        """JSON schema; see `Kind.schema`."""
        return {"type": "object", "minProperties": 1, "additionalProperties": Number().schema()}


@dataclass(frozen=True)
class Several:
    """A list of values of one kind."""

    kind: Kind
    most: int
    least: int = 1
    alone: bool = False
    """True if one value may stand without the list."""

    @property
    def allowed(self) -> str:
        """Allowed values; see `Kind.allowed`."""
        alone = f"{self.kind.allowed}, or " if self.alone else ""
        return f"{alone}a list of {self.least} to {self.most}, each {self.kind.allowed}"

    def read(self, value: Any, where: str) -> tuple[Any, ...]:
        """Read a value; see `Kind.read`."""
        if self.alone and isinstance(value, str):
            return (self.kind.read(value, where),)
        if not isinstance(value, list) or not self.least <= len(value) <= self.most:
            raise wrong(value, where, self.allowed)
        return tuple(self.kind.read(one, f"{where}[{number}]") for number, one in enumerate(value))

    def schema(self) -> dict[str, Any]:
        """JSON schema; see `Kind.schema`."""
        items = self.kind.schema()
        listed = {"type": "array", "items": items, "minItems": self.least, "maxItems": self.most}
        return {"anyOf": [items, listed]} if self.alone else listed


@dataclass(frozen=True)
class Section:
    """Fields by name."""

    fields: Mapping[str, Field] = field(default_factory=dict)

    @property
    def allowed(self) -> str:
        """Allowed values; see `Kind.allowed`."""
        return f"fields, of {', '.join(self.fields)}"

    def read(self, value: Any, where: str) -> dict[str, Any]:
        """As `Kind.read`; only the fields that are given."""
        if not isinstance(value, Mapping):
            raise wrong(value, where, self.allowed)
        for name in value:
            if not isinstance(name, str) or name not in self.fields:
                like = did_you_mean(name, self.fields) if isinstance(name, str) else ""
                raise InputError(
                    f"{under(where, name)} is no field; {_whose(where)} takes {', '.join(self.fields)}{like}"
                )
        for name, each in self.fields.items():
            if each.required and name not in value:
                raise InputError(f"{under(where, name)} is missing; it takes {each.kind.allowed}")
        return {
            name: each.kind.read(value[name], under(where, name)) for name, each in self.fields.items() if name in value
        }

    def schema(self) -> dict[str, Any]:
        """JSON schema; see `Kind.schema`."""
        required = [name for name, each in self.fields.items() if each.required]
        return {
            "type": "object",
            "properties": {name: {"description": each.help} | each.kind.schema() for name, each in self.fields.items()},
            "additionalProperties": False,
        } | ({"required": required} if required else {})


def under(where: str, name: object) -> str:
    """The place of the field `name` in the section `where`: ``persona.yaml: sampling.top_p``."""
    text = name if isinstance(name, str) and re.fullmatch(r"[\w-]{1,60}", name) else shown(name)
    return f"{where}{' ' if where.endswith(':') else '.'}{text}"


def shown(value: Any) -> str:
    """A wrong value on one line, cut off where it is long."""
    if isinstance(value, Mapping) and not value:
        return "empty"
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (TypeError, ValueError, RecursionError):
        text = type(value).__name__
    return one_line(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")


def wrong(value: Any, where: str, allowed: str, more: str = "") -> InputError:
    """The error on a value that a field does not take."""
    if isinstance(value, float) and not math.isfinite(value):
        return InputError(f"{where} is {value}; it takes {allowed}{more}")
    return InputError(f"{where} is {'empty' if value is None else shown(value)}; it takes {allowed}{more}")


def _whose(where: str) -> str:
    """The section that `where` names, without the file."""
    section = where.rpartition(": ")[2] if ": " in where else ""
    return section or "a persona"


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def choices(words: Sequence[str]) -> Choice:
    """A choice among `words`."""
    return Choice(tuple(words))
