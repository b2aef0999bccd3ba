"""The bodies of requests. pydantic validates them, and refuses fields that nobody knows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from ..models.hooks import Scope
from .order import Form
from .setting import Beside, History, Setting, Settings

_KNOWN_ONLY: dict[str, Any] = {"extra": "forbid"}


@dataclass(frozen=True)
class SettingIn:
    """A mood."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _KNOWN_ONLY
    weights: dict[str, float] = field(default_factory=dict)
    scale: float = 1.0
    layers: str = ""
    scope: Scope = "every"

    @property
    def setting(self) -> Setting:
        """The value."""
        return Setting(self.weights, self.scale, self.layers.strip(), self.scope)


@dataclass(frozen=True)
class SettingsIn:
    """Both moods, and what is shown beside the first."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _KNOWN_ONLY
    a: SettingIn
    b: SettingIn
    beside: Beside
    history: History

    @property
    def settings(self) -> Settings:
        """The value."""
        return Settings(self.a.setting, self.b.setting, self.beside, self.history)


@dataclass(frozen=True)
class SamplingIn:
    """How answers are drawn."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _KNOWN_ONLY
    max_new_tokens: int
    temperature: float
    system: str = ""


@dataclass(frozen=True)
class QuestionIn:
    """A question; null asks the last one again."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _KNOWN_ONLY
    question: str | None


@dataclass(frozen=True)
class LineIn:
    """A chat command."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _KNOWN_ONLY
    line: str


@dataclass(frozen=True)
class OrderIn:
    """A bake to be planned."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _KNOWN_ONLY
    side: Literal["a", "b"]
    form: Form
    name: str
    overwrite: bool = False
    private: bool | None = None


@dataclass(frozen=True)
class KeyIn:
    """A bake that was planned."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _KNOWN_ONLY
    key: str


@dataclass(frozen=True)
class PersonaIn:
    """A persona to load or to keep."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _KNOWN_ONLY
    name: str
    overwrite: bool = False


@dataclass(frozen=True)
class NothingIn:
    """No fields."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _KNOWN_ONLY
